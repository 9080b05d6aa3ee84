"""Who takes part in a workload: einfall, its unfused form, and the peers that are installed.

A workload registers each peer with the decorator :meth:`Field.peer` on a function that sets it up and returns the call
that is timed. What a peer cannot set up, because it is missing, lacks an operator or was left out on the command line, is
noted and ends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

import einfall as ef

EXAMPLES = Path(__file__).parents[1] / "examples"

Array = np.ndarray
Call = Callable[[], object]
"""Computes a workload into memory that is there already, and returns the result."""

OURS, PLAIN = "einfall", "unfused"
SAME = "the same code as chosen"
PEERS = ("torch", "torch packed", "torch.compile", "onnxruntime")
"""What a speed is measured against, in the order of the table. NumPy is shown, and competes with nobody."""
ORDER = (OURS, PLAIN, *PEERS, "numpy")


class Field:
    """The contestants of one workload: their ``calls`` by name, and why the ``absent`` ones are."""

    def __init__(self, without: Collection[str] = ()) -> None:
        self.calls: dict[str, Call] = {}
        self.absent: dict[str, str] = {}
        self._without = without

    def kernel(
        self,
        program: str,
        *inputs: Array,
        results: Sequence[Array],
        bind: Mapping[str, Array | float] | None = None,
        unfused: bool = False,
        dtype: str = "f32",
        **sizes: int,
    ) -> None:
        """einfall's part: the kernel with these inputs and results, its constants bound. With ``unfused`` also the form that
        has the passes over the data of the program: no online form, no parts, no chunks; noted as the same where it was the
        one that was chosen. Raises EinfallError."""
        chosen = ""
        for name, online in ((OURS, True), (PLAIN, False)):
            if name in self._without or not (online or unfused):
                continue
            kernel = compiled(program, online=online, dtype=dtype, **sizes)
            if name == PLAIN and kernel.source("asm") == chosen:
                self.absent[PLAIN] = SAME
                continue
            chosen = kernel.source("asm")
            self.calls[name] = _into(kernel.bind(**bind) if bind else kernel, inputs, [r.copy() for r in results])

    def peer(self, name: str) -> Callable[[Callable[[], Call]], Callable[[], Call]]:
        """Set up a peer with the decorated function, at once. What stops a peer is kept in ``absent``."""

        def register(make: Callable[[], Call]) -> Callable[[], Call]:
            if name in self._without:
                return make
            try:
                self.calls[name] = make()
            except Exception as failure:  # a peer fails in any way it likes
                self.absent[name] = reason(failure)
            return make

        return register


def reason(failure: Exception) -> str:
    """The first line of a failure, with its kind."""
    return f"{type(failure).__name__}: {str(failure).strip().partition(chr(10))[0][:200]}"


def text_of(path: str, dtype: str = "f32") -> str:
    """A program under examples/ whose floats have another type."""
    return (EXAMPLES / path).read_text("utf-8").replace("f32", dtype)


def constant(path: str, *weights: str) -> str:
    """An example whose weights are marked as constants, so that they can be packed when they are bound."""
    text = text_of(path)
    for weight in weights:
        text = text.replace(f" {weight}: ", f" const {weight}: ", 1)
    return text


def compiled(program: str, *, online: bool = True, dtype: str = "f32", **sizes: int) -> ef.Kernel:
    """The kernel of a program's text, or of a file under examples/, compiled for the host and these sizes."""
    text = text_of(program, dtype) if program.endswith(".ecs") else program
    return ef.compile(text, target="cpu", online=online, **sizes)


def _into(kernel: ef.Kernel, inputs: Sequence[Array], results: Sequence[Array]) -> Call:
    out = results[0] if len(results) == 1 else tuple(results)
    return lambda: kernel(*inputs, out=out)


def normal(*shape: int, seed: int = 0, scale: float = 1.0, dtype: str = "f32") -> Array:
    """Seeded normal values: f32, or bf16 as einfall takes them from NumPy."""
    values = np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(scale)
    return values if dtype == "f32" else values.astype(storage(dtype))


def integers(*shape: int, low: int, high: int, dtype: DTypeLike, seed: int = 0) -> Array:
    """Seeded whole numbers from ``low`` to ``high``, both included."""
    return np.random.default_rng(seed).integers(low, high + 1, shape, dtype=dtype)


def empty(*shape: int, dtype: str = "f32") -> Array:
    """Memory for a result, touched once: the first writing of a page costs more than the kernel."""
    return np.zeros(shape, storage(dtype))


def storage(dtype: str) -> DTypeLike:
    """NumPy's element type for einfall's name of one."""
    if dtype == "bf16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return {"f32": np.float32, "i8": np.int8, "u8": np.uint8, "i32": np.int32}[dtype]


def difference(value: object, reference: object) -> float:
    """The relative difference of two results in the Frobenius norm; the largest of them for several results."""
    if isinstance(value, tuple) or isinstance(reference, tuple):
        assert isinstance(value, tuple) and isinstance(reference, tuple) and len(value) == len(reference)
        return max(difference(v, r) for v, r in zip(value, reference, strict=True))
    a, b = _array(value), _array(reference)
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm((a - b).ravel()) / max(float(np.linalg.norm(b.ravel())), 1e-30))


def _array(value: object) -> Array:
    if hasattr(value, "float"):  # a PyTorch tensor: NumPy has no bf16
        value = value.float().numpy()
    return np.asarray(value, np.float32)

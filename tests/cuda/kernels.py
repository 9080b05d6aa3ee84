"""Kernels for a GPU, compiled and called as a user would, in a process whose GPU is the emulator (tests/cuda_emulation)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.cuda_emulation.device import compiled, in_every_order, set_order


def emulate() -> None:
    """Makes the toolkit compile for the emulator."""
    from einfall.codegen.cuda import toolkit

    def compile_source(source: str, arch: str) -> toolkit.DeviceCode:
        return toolkit.DeviceCode(arch="sm_90", ptx="", cubin=compiled(source), usage=())  # what the emulator says it is

    toolkit.compile_source = compile_source


def run(
    source: Path | str,
    arguments: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    target: str,
    *,
    fixed: Mapping[str, int] | None = None,
    every_order: bool = False,
) -> list[np.ndarray]:
    """The results of a kernel; with ``every_order`` they must be the same bits in every order of the threads."""
    import einfall as ef

    emulate()
    kernel = ef.compile(source, target=target, cache=False, **(fixed or {}))
    given = {name: value if value.ndim == 0 else on_gpu(value) for name, value in arguments.items()}

    def once() -> list[np.ndarray]:
        found = kernel(**given, **sizes)
        return [back(each) for each in (found if isinstance(found, tuple) else (found,))]

    if not every_order:
        set_order(0, 0)
        return once()
    first, *others = in_every_order(once)
    for other in others:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, other, strict=True))
    return first


def on_gpu(array: np.ndarray) -> object:
    """A copy in the memory of GPU 0."""
    import tvm

    return tvm.runtime.tensor(np.ascontiguousarray(array), tvm.cuda(0))


def back(array: object) -> np.ndarray:
    """A copy in the CPU's memory."""
    import tvm

    return tvm.runtime.tensor(array).numpy() if not hasattr(array, "numpy") else array.numpy()

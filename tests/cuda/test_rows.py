"""Rows that are read once and stay in registers: softmax, norms and losses, by few threads of a warp up to a whole block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.codegen.cuda import toolkit
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.ir.expr import Size, children, integer, op
from einfall.ir.target import Target
from einfall.ir.tile import When, walk
from einfall.ir.types import INDEX
from einfall.passes.pipeline import lower
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

EXAMPLES = Path(ef.__file__).parent / "examples"
TWO = """\
kernel two(X: f32[M, N], W: f32[M, N]) -> (Y: f32[M, N], Z: f32[M], A: i32[M]) {
    S[m]    = X[m, n] * W[m, n]
    B[m]    = W[m, n] :: max(n)
    Z[m]    = exp(X[m, n] - S[m])
    A[m]    = X[m, n] :: argmax(n)
    Y[m, n] = exp(X[m, n] - S[m]) * W[m, n] + B[m]   where X[m, n] > -1.0
}
"""
SCALED = """\
kernel scaled(X: f32[M, N]) -> (Q: i8[M, N], S: f32[M]) {
    S[m]    = abs(X[m, n]) :: max(n)
    Q[m, n] = cast(i8, round(X[m, n] / S[m] * 127))
}
"""
INTEGERS = """\
kernel integers(X: i8[M, N]) -> (Y: u8[M, N], S: i32[M]) {
    T[m]    = X[m, n] :: max(n)
    D[m, n] = cast(i32, X[m, n]) - cast(i32, T[m])
    Q[m, n] = -D[m, n] // 11
    R[m, n] = D[m, n] + Q[m, n] * 11
    P[m, n] = ((R[m, n] * R[m, n] * 7 + R[m, n] * 181 + 2048) << 10) >> Q[m, n]
    S[m]    = P[m, n]
    Y[m, n] = cast(u8, min(P[m, n] * 255 // max(S[m], 1), 255))
}
"""
REVERSED = """\
kernel reversed(Z: f32[T, D]) -> (Y: f32[T, D], S: f32[D]) {
    H: f32[T + 1, D]
    H[0, d]   = 0
    H[t+1, d] = Z[T - 1 - t, d] * H[t, d] + 1
    Y[t, d]   = H[T - t, d]
    S[d]      = H[t+1, d] :: +(t)
}
"""


def check(
    gpu: Worker,
    source: Path | str,
    rows: int,
    length: int,
    dtype: str = "f32",
    *,
    holes: tuple[float, ...] = (),
    fixed: bool = True,
    every_order: bool = True,
) -> None:
    """A kernel over rows of so many elements, beside the interpreter; ``fixed``: of which the compiler knows."""
    text = (source.read_text() if isinstance(source, Path) else source).replace("f32", dtype)
    cascade, rng = read_program(text).select(None), np.random.default_rng(length)
    sizes = {name: rows if name in ("M", "B", "T") else length for name in ("M", "B", "T", "N", "K", "V")}
    given = {}
    for tensor in cascade.parameters:
        shape = [sizes[str(getattr(e, "name", ""))] for e in tensor.shape]
        made = rng.standard_normal(shape) if tensor.value.is_float else rng.integers(0, max(length, 1), shape)
        given[tensor.name] = np.asarray(made).astype(tensor.value.storage)
    first = given[cascade.parameters[0].name].reshape(-1)
    for n, hole in enumerate(holes):
        first[3 + n :: 41] = hole
    named = {str(getattr(e, "name", "")) for t in cascade.parameters for e in t.shape}
    known = {n: s for n, s in sizes.items() if n in named and n in ("N", "K", "V")} if fixed else {}
    found = gpu.run(kernels.run, text, given, {}, "cuda:sm_90", fixed=known, every_order=every_order)
    comparison = compare(cascade, given, found)
    assert comparison.passed, comparison


def test_a_warp_for_each_row(gpu: Worker) -> None:
    check(gpu, EXAMPLES / "norms/softmax.ecs", 9, 129)


def test_a_block_for_each_row(gpu: Worker) -> None:
    check(gpu, EXAMPLES / "norms/layernorm.ecs", 2, 1100)


def test_what_a_pass_has_stored(gpu: Worker) -> None:
    check(gpu, EXAMPLES / "norms/add_rmsnorm.ecs", 3, 45, "bf16")


def test_numbers_that_are_results(gpu: Worker) -> None:
    check(gpu, SCALED, 6, 75)


def test_rows_of_free_length(gpu: Worker) -> None:
    check(gpu, TWO, 5, 67, fixed=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "dtype"),
    [
        *(("norms/softmax", dtype) for dtype in ("f32", "bf16", "f16", "f64")),
        *((f"norms/{name}", dtype) for name in ("layernorm", "add_rmsnorm") for dtype in ("f32", "bf16")),
        ("losses/cross_entropy", "bf16"),
    ],
)
def test_lengths(gpu: Worker, path: str, dtype: str) -> None:
    for rows, length in [(1, 1), (9, 2), (0, 8), (3, 7), (33, 64), (7, 513), (5, 1024), (2, 4096), (2, 4099)]:
        check(gpu, EXAMPLES / f"{path}.ecs", rows, length, dtype)
    for rows, length in [(1, 1), (3, 0), (9, 512), (5, 67), (2, 1025), (2, 3001), (1, 9001)]:
        check(gpu, EXAMPLES / f"{path}.ecs", rows, length, dtype, fixed=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_holes(gpu: Worker, dtype: str) -> None:
    for path in ("norms/softmax", "norms/rmsnorm", "norms/log_softmax"):
        for holes in ((np.nan,), (np.inf,), (-np.inf,), (np.nan, np.inf)):
            check(gpu, EXAMPLES / f"{path}.ecs", 6, 130, dtype, holes=holes)
    check(gpu, TWO, 4, 203, dtype, holes=(np.nan,))


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [True, False])
def test_two_tensors(gpu: Worker, fixed: bool) -> None:
    for rows, length in [(3, 1), (9, 30), (2, 1000), (1, 5000)]:
        check(gpu, TWO, rows, length, fixed=fixed)


@pytest.mark.slow
def test_long_rows(gpu: Worker) -> None:
    """32768 elements by 1024 threads, and more than registers hold: chunks of a row, one after the other."""
    check(gpu, EXAMPLES / "norms/softmax.ecs", 198, 32768, "bf16", every_order=False)
    for path in ("norms/layernorm", "losses/cross_entropy"):
        check(gpu, EXAMPLES / f"{path}.ecs", 198, 32773, fixed=False, every_order=False)


@pytest.mark.parametrize(("path", "most"), [("norms/softmax", 32768), ("losses/cross_entropy", 16384)])
def test_rows_that_a_block_holds_alone_on_a_multiprocessor(path: str, most: int) -> None:
    """Only those that are needed again for a result are held; others come to several blocks, a piece at a time."""
    cascade = read_program((EXAMPLES / f"{path}.ecs").read_text()).select(None)
    program = lower(cascade, target=Target.parse("cuda:sm_90")).program
    length = Size(name="N" if "N" in cascade.sizes else "V", dtype=INDEX)
    limits = {n.condition for n in walk(program.body) if isinstance(n, When) and length in children(n.condition)}
    assert op("le", length, integer(most)) in limits


@pytest.mark.slow
def test_parts_of_long_rows_that_are_not_aligned(gpu: Worker) -> None:
    check(gpu, EXAMPLES / "losses/cross_entropy.ecs", 3, 12345, fixed=False)
    check(gpu, EXAMPLES / "norms/softmax.ecs", 3, 12345, "bf16")


@pytest.mark.slow
def test_a_row_of_minus_infinity(gpu: Worker) -> None:
    """Of which the maximum is no number to subtract: NaN, as the interpreter says."""
    text = (EXAMPLES / "norms/softmax.ecs").read_text()
    cascade = read_program(text).select(None)
    given = {"X": np.full((3, 100), -np.inf, np.float32)}
    given["X"][1, 7] = 0.0
    found = gpu.run(kernels.run, text, given, {}, "cuda:sm_90", fixed={"N": 100})
    assert compare(cascade, given, found).passed


def test_much_arithmetic_on_small_integers_is_not_written_out_for_all_that_registers_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        toolkit, "compile_source", lambda source, arch: toolkit.DeviceCode(arch=arch, ptx="", cubin=b"", usage=())
    )
    source = ef.compile(INTEGERS, target="cuda:sm_80", cache=False).source("cuda")
    assert "held_ptr" in source
    assert source.count("\n") < 20_000


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_recurrence_of_few_known_steps(gpu: Worker, steps: int) -> None:
    given = {"Z": np.random.default_rng(steps).standard_normal((steps, 3)).astype(np.float32)}
    found = gpu.run(kernels.run, REVERSED, given, {}, "cuda:sm_80", fixed={"T": steps, "D": 3})
    comparison = compare(read_program(REVERSED).select(None), given, found)
    assert comparison.passed, comparison

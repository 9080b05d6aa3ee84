"""Kernels that memory bounds: chunks of 16 bytes at rows of any length, reductions by several threads, attention in parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

EXAMPLES = Path(ef.__file__).parent / "examples"
COLUMNS = """\
kernel columns(X: f32[M, N], b: f32[N]) -> (Y: f32[N], Z: f32[N]) {
    Y[n] = X[m, n] + b[n] :: +(m)
    Z[n] = X[m, n] * b[n] :: max(m)
}
"""
ROWS = """\
kernel rows(X: f32[M, N], b: f32[N]) -> (Y: f32[M], A: i32[M], S: f32[M, N]) {
    Y[m]    = X[m, n] * b[n]
    A[m]    = X[m, n] :: argmax(n)
    S[m, n] = X[m, n] + b[n]
}
"""
LONG = ["norms/softmax", "norms/layernorm", "losses/cross_entropy", "losses/logsumexp", "others/variance"]
KINDS = [None, np.nan, np.inf, -np.inf]


def check(
    gpu: Worker,
    source: str,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str = "f32",
    *,
    hole: float | None = None,
    **fixed: int,
) -> None:
    """Compares with the interpreter, in every order of the threads; ``hole`` is put into some places of the first tensor."""
    text = source.replace("f32", dtype)
    cascade, rng = read_program(text).select(None), np.random.default_rng(1)
    given = {t.name: rng.standard_normal(shapes[t.name]).astype(t.value.storage) for t in cascade.parameters}
    if hole is not None:
        first = given[next(iter(shapes))].reshape(-1)
        first[3::7] = hole
    found = gpu.run(kernels.run, text, given, {}, "cuda:sm_90", fixed=fixed, every_order=True)
    comparison = compare(cascade, given, found)
    assert comparison.passed, comparison


def matrix(m: int, n: int) -> dict[str, tuple[int, ...]]:
    return {"X": (m, n), "b": (n,)}


def test_rows_of_odd_length(gpu: Worker) -> None:
    check(gpu, ROWS, matrix(5, 203))


def test_doubles_keep_all_digits(gpu: Worker) -> None:
    """Of constants too, the smallest and those with no short decimal."""
    check(gpu, "kernel scaled(X: f64[N]) -> (Y: f64[N]) { Y[n] = X[n] * 1e-20 + X[n] / 513 * 7e-21 }", {"X": (3,)}, N=3)


def test_columns(gpu: Worker) -> None:
    check(gpu, COLUMNS, matrix(70, 37))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64"])
@pytest.mark.parametrize("program", [ROWS, COLUMNS], ids=["rows", "columns"])
def test_edges(gpu: Worker, program: str, dtype: str) -> None:
    for m, n in [(1, 1), (0, 5), (5, 0), (3, 7), (9, 64), (33, 129), (2, 1100)]:
        check(gpu, program, matrix(m, n), dtype)
    for hole in KINDS:
        check(gpu, program, matrix(40, 71), dtype, hole=hole)
    check(gpu, program, matrix(11, 48), dtype, M=11, N=48)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["norms/softmax", "norms/layernorm", "losses/cross_entropy", "losses/logsumexp", "others/variance"]
)
def test_few_long_rows_in_parts(gpu: Worker, path: str) -> None:
    cascade = read_program(EXAMPLES / f"{path}.ecs").select(None)
    rng = np.random.default_rng(2)
    known = {"M": 2, "N": 9001, "K": 9001, "V": 9001, "T": 2, "B": 2}
    given = {}
    for tensor in cascade.parameters:
        shape = [known.get(str(getattr(e, "name", "")), 3) for e in tensor.shape]
        made = rng.standard_normal(shape) if tensor.value.is_float else rng.integers(0, 9001, shape)
        given[tensor.name] = np.asarray(made).astype(tensor.value.storage)
    found = gpu.run(kernels.run, EXAMPLES / f"{path}.ecs", given, {}, "cuda:sm_90")
    comparison = compare(cascade, given, found)
    assert comparison.passed, comparison


def decode(gpu: Worker, positions: int, width: int, dtype: str, *, hole: float | None = None) -> None:
    """One query for each of two heads."""
    shapes = {"K": (2, positions, width), "Q": (2, 1, width), "V": (2, positions, width)}
    text = (EXAMPLES / "attention/attention.ecs").read_text()
    check(gpu, text, shapes, dtype, hole=hole, P=1, E=width, F=width)


def test_one_query_in_parts(gpu: Worker) -> None:
    decode(gpu, 600, 32, "bf16")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_one_query(gpu: Worker, dtype: str) -> None:
    for positions, width in [(0, 8), (1, 8), (511, 8), (512, 30), (1025, 64)]:
        decode(gpu, positions, width, dtype)
    decode(gpu, 600, 32, dtype, hole=np.nan)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(0, 700), (3, 650)])
def test_grouped_queries_of_a_cache(gpu: Worker, lengths: tuple[int, int]) -> None:
    path = EXAMPLES / "attention/decode_attention.ecs"
    rng = np.random.default_rng(3)
    shapes = {"Q": (2, 4, 32), "K": (2, 2, 700, 32), "V": (2, 2, 700, 32)}
    given: dict[str, np.ndarray] = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    given["length"] = np.array(lengths, np.int32)
    found = gpu.run(kernels.run, path, given, {}, "cuda:sm_90", every_order=True)
    comparison = compare(read_program(path).select(None), given, found)
    assert comparison.passed, comparison


FEW_ROWS = """\
kernel few(X: {t}[B, K], W: {t}[N, K]) -> (Y: {r}[B, N]) {{
    Y[b, n] = X[b, k] * W[n, k]
}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_few_rows_times_a_matrix(gpu: Worker, rows: int) -> None:
    for t, r in (("f32", "f32"), ("bf16", "f32")):
        for n, k in [(37, 67), (1, 1), (0, 8), (9, 0), (20, 256)]:
            check(gpu, FEW_ROWS.format(t=t, r=r), {"X": (rows, k), "W": (n, k)}, B=rows)
    check(gpu, FEW_ROWS.format(t="bf16", r="f32"), {"X": (rows, 128), "W": (37, 128)}, B=rows, K=128)


STATISTICS = """\
kernel statistics(X: f32[N, C]) -> (Y: f32[N, C], MU: f32[C], VAR: f32[C], TOP: f32[C]) {
    MU[c]   = X[n, c] / N
    VAR[c]  = (X[n, c] - MU[c]) ** 2 / N
    TOP[c]  = X[n, c] :: max(n)
    Y[n, c] = (X[n, c] - MU[c]) * rsqrt(VAR[c] + 0.001)
}
"""


def test_columns_are_not_left_to_a_block_each() -> None:
    from einfall.ir.target import Target
    from einfall.ir.tile_printer import tile_to_source
    from einfall.passes.pipeline import lower

    text = STATISTICS.replace("N, C]", "4096, C]").replace("/ N", "/ 4096")
    program = lower(read_program(text).select(None), target=Target.parse("cuda:sm_90")).program
    assert "in parallel over c" in tile_to_source(program) and "ceildiv(C, 1)" not in tile_to_source(program)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (300, 37), (5, 200), (70, 128)])
def test_statistics_of_columns(gpu: Worker, shape: tuple[int, int]) -> None:
    check(gpu, STATISTICS, {"X": shape})


PATHS = """\
kernel paths(X: f32[B, T], s: f32[B]) -> (Y: f32[B, T], Z: f32[B]) {
    U[b, 0]   = s[b]
    V[b, 0]   = 0
    U[b, t+1] = max(U[b, t] * 0.5, V[b, t] - X[b, t])
    V[b, t+1] = V[b, t] + U[b, t+1] * X[b, t]   where X[b, t] > -1
    Y[b, t]   = V[b, t+1] ?? 7
    Z[b]      = U[b, T]
}
"""


@pytest.mark.slow
def test_steps_by_one_thread_each(gpu: Worker) -> None:
    for b, t in [(1, 1), (3, 40), (70, 5), (2, 0), (0, 3)]:
        check(gpu, PATHS, {"X": (b, t), "s": (b,)})


def test_a_prefix_sum_is_no_launch_for_each_step() -> None:
    from einfall.codegen.cuda.build import build
    from einfall.ir.target import Target
    from einfall.passes.pipeline import lower

    target = Target.parse("cuda:sm_90")
    program = lower(read_program(EXAMPLES / "recurrences/prefix_sum.ecs").select(None), target=target).program
    host = build(program, target).lowered["main"].script()
    # The steps, and their rest, are loops of the kernels.
    assert host.count("blockIdx") < 8
    assert host.index("blockIdx") < host.index("for rest")
    assert host.index("blockIdx") < host.index(" for ")


def test_when_a_row_is_split() -> None:
    from einfall.ir.target import Target
    from einfall.passes.pipeline import lower

    cascade = read_program(EXAMPLES / "norms/softmax.ecs").select(None)
    program = lower(cascade, target=Target.parse("cuda:sm_90")).program
    chosen = next(d for d in program.decisions if d.made_by == "split")
    assert chosen.chosen == "up to 264 parts, side by side, if M < 198 and N >= 8192"


FILTERED = """\
kernel filtered(X: f32[P, I, J], d: i32[I], e: i32[P]) -> (Y: f32[P]) {
    Y[p] = X[p, i, j] where d[i] == e[p]
}
"""


def test_a_condition_on_another_reduced_rank_than_that_of_the_chunks(gpu: Worker) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 64)).astype(np.float32)
    given = {"X": x, "d": np.array([0, 1, 1, 2, 0], np.int32), "e": np.array([0, 1, 3], np.int32)}
    found = gpu.run(kernels.run, FILTERED, given, {}, "cuda:sm_90")
    comparison = compare(read_program(FILTERED).select(None), given, found)
    assert comparison.passed, str(comparison)

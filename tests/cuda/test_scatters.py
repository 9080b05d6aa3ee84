"""Scatters by all threads at once: every type with every reduction, targets in shared memory and in the GPU's."""

from __future__ import annotations

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

SUM = "kernel scatter(X: f32[E], d: i32[E]) -> (Y: f32[S]) {\n    Y[d[e]] = X[e] :: +(e)\n}\n"
NAMES = {"+": "P", "*": "Q", "max": "T", "min": "U", "argmax": "V", "argmin": "W"}
FLOATS = ["f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2", "f6_e3m2", "f4_e2m1"]
WHOLE = ["i64", "u64", "i32", "u32"]
NARROW = ["i16", "u16", "i8", "u8", "i4", "u4"]
TRUTH = """\
kernel truth(X: bool[E], d: i32[E]) -> (A: bool[S], B: bool[S], C: bool[S], D: bool[S], N: bool[S]) {
    A[d[e]] = X[e] :: and(e)
    B[d[e]] = X[e] :: or(e)
    C[d[e]] = X[e] :: max(e)
    D[d[e]] = X[e] :: min(e)
    N[d[e]] = X[e] :: +(e)
}
"""


def program(dtype: str, result: str | None = None) -> str:
    """All reductions of one type, into results of ``result`` where it is another one."""

    def held(operator: str) -> str:
        wide = operator.startswith("arg") or (operator in "+*" and dtype in NARROW)
        return result or ("i32" if wide and dtype not in FLOATS else dtype)

    results = ", ".join(f"{name}: {held(o)}[S]" for o, name in NAMES.items())
    lines = "".join(f"    {name}[d[e]] = X[e] :: {o}(e)\n" for o, name in NAMES.items())
    return f"kernel scatter(X: {dtype}[E], d: i32[E]) -> ({results}) {{\n{lines}}}\n"


def check(gpu: Worker, text: str, few: int, *, hole: bool = False) -> None:
    """Whole numbers, whose sums and products are the same in every order; some go to no element, to some goes none.

    Up to 300 elements are combined in shared memory, of more there are fewer points than elements.
    """
    cascade, rng = read_program(text).select(None), np.random.default_rng(4)
    dtype = cascade.by_name["X"].value
    low, high = (0, 2) if dtype.is_bool else (-3 if dtype.is_signed or dtype.is_float else 0, 4)
    values = rng.integers(low, high, 300).astype(dtype.storage)
    if hole:
        values[5::40] = np.nan
    given = {"X": values, "d": (np.arange(300) * 7 % 6 - 1).astype(np.int32) * (few // 6)}
    held = {**given, "X": values.view(np.uint8)} if dtype.is_float and dtype.bits < 8 else given  # TVM would pack these
    found = gpu.run(kernels.run, text, held, {"S": few}, "cuda:sm_90", every_order=True)
    types = [result.value.storage for result in cascade.results]
    seen = [each.view(t) if each.itemsize == np.dtype(t).itemsize else each for each, t in zip(found, types, strict=True)]
    comparison = compare(cascade, given, seen, sizes={"S": few})
    assert comparison.passed, comparison


def test_a_scatter_by_all_threads(gpu: Worker) -> None:
    check(gpu, program("bf16"), 6, hole=True)


def test_a_scatter_into_a_matrix(gpu: Worker) -> None:
    """The dimensions of the identity that fills it have numbers in the place of names."""
    text = "kernel pairs(X: i32[E], d: i32[E]) -> (Y: i32[S, T]) {\n    Y[d[e], d[e] // 2] = X[e] :: +(e)\n}\n"
    cascade, sizes = read_program(text).select(None), {"S": 5, "T": 3}
    given = {"X": np.arange(40, dtype=np.int32), "d": (np.arange(40) * 7 % 6 - 1).astype(np.int32)}
    found = gpu.run(kernels.run, text, given, sizes, "cuda:sm_90", every_order=True)
    comparison = compare(cascade, given, found, sizes=sizes)
    assert comparison.passed, comparison


@pytest.mark.slow
@pytest.mark.parametrize("few", [7, 400])
@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE, *NARROW])
def test_types(gpu: Worker, dtype: str, few: int) -> None:
    check(gpu, program(dtype), few, hole=dtype in ("f64", "f32", "f16", "bf16"))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "result"), [("f32", "bf16"), ("bf16", "f32"), ("i8", "f16"), ("i32", "i64"), ("u8", "i32")])
def test_results_of_another_type(gpu: Worker, dtype: str, result: str) -> None:
    check(gpu, program(dtype, result), 6)


@pytest.mark.slow
def test_truth_values(gpu: Worker) -> None:
    check(gpu, TRUTH, 7)


def test_all_threads_share_narrow_extremes() -> None:
    text = ef.compile(program("i8"), target="cuda:sm_80", cache=False).source("cuda")
    assert "einfall_scatter_max_int32" in text and "einfall_scatter_min_int32" in text


def test_a_scattered_sum_says_that_its_order_is_open() -> None:
    from einfall.ir.target import Target
    from einfall.passes.pipeline import lower

    decisions = lower(read_program(SUM).select(None), target=Target.parse("cuda:sm_90")).program.decisions
    assert [d.subject for d in decisions if d.made_by == "scatter"] == ["Y"]

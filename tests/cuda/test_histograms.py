"""Many points into few elements: blocks count in shared memory."""

from __future__ import annotations

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

COUNT = """
kernel count(bin: i32[N]) -> (C: i32[200]) {
    C[bin[n]] = 1 :: +(n)
}
"""
BEST = """
kernel best(bin: i32[N], X: i32[N, 3]) -> (C: i32[40, 3]) {
    C[bin[n], j] = X[n, j] :: max(n)
}
"""
FREE = COUNT.replace("200", "B")
WEIGHTS = """
kernel weigh(bin: i32[N], X: f32[N]) -> (C: f32[B], D: f32[B]) {
    C[bin[n]] = X[n] :: +(n)
    D[bin[n]] = X[n] :: max(n)
}
"""


def check(gpu: Worker, source: str, n: int, *, bins: int = 200, every_order: bool = False) -> None:
    cascade = read_program(source).select(None)
    rng = np.random.default_rng(3)
    # Some points lie outside, and most of the others meet.
    arguments = {"bin": np.minimum(rng.integers(-5, 230, size=n), rng.integers(0, 230, size=n)).astype(np.int32)}
    if source == BEST:
        arguments["X"] = rng.integers(-(2**31), 2**31, size=(n, 3)).astype(np.int32)
    if source == WEIGHTS:
        arguments["X"] = rng.integers(-99, 100, size=n).astype(np.float32)
        arguments["X"][7::97] = np.inf
    sizes = {"B": bins} if "C: i32[B]" in source or source == WEIGHTS else {}
    found = gpu.run(kernels.run, source, arguments, sizes, "cuda:sm_80", every_order=every_order)
    comparison = compare(cascade, arguments, found, sizes=sizes)
    assert comparison.passed, f"{n}: {comparison}"


@pytest.mark.parametrize("source", [COUNT, WEIGHTS], ids=["count", "weigh"])
def test_counts_are_the_same_in_every_order(gpu: Worker, source: str) -> None:
    check(gpu, source, 9001, every_order=True)


@pytest.mark.slow
@pytest.mark.parametrize("bins", [0, 1, 200, 4096, 4097])
@pytest.mark.parametrize("source", [FREE, WEIGHTS], ids=["count", "weigh"])
def test_the_sizes_of_a_call_decide(gpu: Worker, source: str, bins: int) -> None:
    check(gpu, source, 9001, bins=bins)


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 1, 300, 20000])
@pytest.mark.parametrize("source", [COUNT, BEST], ids=["count", "best"])
def test_points_of_any_number(gpu: Worker, source: str, n: int) -> None:
    check(gpu, source, n)


@pytest.mark.parametrize(("source", "inside"), [(COUNT, True), (FREE, True), (COUNT.replace("200", "9000"), False)])
def test_few_elements_are_in_shared_memory(source: str, inside: bool) -> None:
    assert ("C_bins" in ef.compile(source, target="cuda:sm_80", cache=False).source("cuda")) is inside

"""Products of bytes where there is no matrix: four at a time by ``dp4a``."""

from __future__ import annotations

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

GEMV = """
kernel gemv(A: LEFT[M, K], x: RIGHT[K]) -> (Y: i32[M]) {
    Y[m] = cast(i32, A[m, k]) * cast(i32, x[k])
}
"""
SKINNY = """
kernel skinny(A: LEFT[M, K], X: RIGHT[P, K]) -> (Y: i32[P, M]) {
    Y[p, m] = cast(i32, A[m, k]) * cast(i32, X[p, k])
}
"""
ROWS = """
kernel rows(A: LEFT[M, K], X: RIGHT[M, K]) -> (Y: i32[M]) {
    Y[m] = cast(i32, A[m, k]) * cast(i32, X[m, k])
}
"""
KERNELS = {"gemv": GEMV, "skinny": SKINNY, "rows": ROWS}
SIGNS = [("i8", "i8"), ("u8", "u8"), ("i8", "u8"), ("u8", "i8")]


def text(name: str, left: str, right: str) -> str:
    return KERNELS[name].replace("LEFT", left).replace("RIGHT", right)


def extremes(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes of the whole range, the ends among them."""
    low, high = (-128, 127) if dtype == "i8" else (0, 255)
    found = rng.integers(low, high + 1, size=shape)
    return np.where(rng.random(shape) < 0.2, np.where(rng.random(shape) < 0.5, low, high), found).astype(
        np.int8 if dtype == "i8" else np.uint8
    )


def check(gpu: Worker, name: str, left: str, right: str, m: int, k: int, p: int = 4, *, every_order: bool = False) -> None:
    source = text(name, left, right)
    cascade = read_program(source).select(None)
    rng = np.random.default_rng(5)
    shape = {"gemv": (k,), "skinny": (p, k), "rows": (m, k)}[name]
    arguments = {"A": extremes(rng, left, (m, k)), ("x" if name == "gemv" else "X"): extremes(rng, right, shape)}
    fixed = {"P": p} if name == "skinny" else {}
    found = gpu.run(kernels.run, source, arguments, {}, "cuda:sm_80", fixed=fixed, every_order=every_order)
    comparison = compare(cascade, arguments, found, sizes={})
    assert comparison.passed, f"{name} {left} {right} {m} {k}: {comparison}"


@pytest.mark.parametrize(("name", "left", "right"), [("gemv", "i8", "i8"), ("skinny", "u8", "i8")])
def test_sums_of_products(gpu: Worker, name: str, left: str, right: str) -> None:
    check(gpu, name, left, right, 5, 700, every_order=True)


@pytest.mark.slow
@pytest.mark.parametrize(("left", "right"), SIGNS)
@pytest.mark.parametrize(("m", "k"), [(1, 1), (3, 37), (40, 1024), (2, 0), (9, 5000)])
@pytest.mark.parametrize("name", KERNELS)
def test_sums_of_products_of_all_signs(gpu: Worker, name: str, m: int, k: int, left: str, right: str) -> None:
    check(gpu, name, left, right, m, k)


@pytest.mark.slow
@pytest.mark.parametrize("p", [2, 8])
def test_few_rows(gpu: Worker, p: int) -> None:
    check(gpu, "skinny", "i8", "i8", 7, 333, p)


@pytest.mark.parametrize(("name", "left", "right"), [("gemv", "u8", "i8"), ("rows", "i8", "i8"), ("skinny", "u8", "u8")])
def test_four_products_are_one_instruction(name: str, left: str, right: str) -> None:
    fixed = {"P": 4} if name == "skinny" else {}
    source = ef.compile(text(name, left, right), target="cuda:sm_80", cache=False, **fixed).source("cuda")
    signs = sorted({"i8": "s", "u8": "u"}[each] for each in (left, right))
    assert any(f"dp4a.{a}32.{b}32" in source for a, b in (signs, signs[::-1]))

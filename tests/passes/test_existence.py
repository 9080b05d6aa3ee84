"""Conditions from which ranks are eliminated hold just where some point of the ranks fulfils them: all points are tried."""

from __future__ import annotations

import numpy as np
import pytest

from einfall.ir.expr import Expr, ranks_of
from einfall.ir.interpreter import interpret
from einfall.ir.printer import expr_to_source
from einfall.passes.analysis.existence import exists

from .comparison import only

SIGNATURE = "kernel k(X: f32[P, M, N], n: i32[P], keep: bool[M]) -> (O: bool[P])"


def eliminated(mask: str) -> Expr | None:
    """The condition over p that some m and j are left by a mask."""
    (einsum,) = only(f"{SIGNATURE} {{ O[p] = X[p, m, j] == X[p, m, j] :: or(m, j) where {mask} }}").einsums
    extents = {r: einsum.extent(r) for r in einsum.reduced}
    return exists((*einsum.point_filter, *einsum.output_filter), extents, {})


@pytest.mark.parametrize(
    "mask",
    [
        "m <= p",
        "m <= p + M - P",
        "m < p - 2",
        "m > p",
        "p - m < 3 and m <= p",
        "m >= p + 2 and m < n[p]",
        "m < n[p]",
        "n[p] >= m",
        "m == p + 1",
        "m == n[p] and m < 3",
        "m <= p - 2 or m < n[p]",
        "(m < 2 or m > p) and m < n[p]",
        "m + 2 == p or m == 2 and p > 1 or m > 5",
        "p > 1 and m > p",
        "p > 1",
        "m < p and j > p",
        "m < p and j < n[p] or j == p",
        "m < 0",
        "m < 4 or m >= 4",
        "-m < p - 4",
    ],
)
def test_all_points_are_tried(mask: str) -> None:
    condition = eliminated(mask)
    assert condition is not None
    assert set(ranks_of(condition)) <= {"p"}
    tried = only(f"{SIGNATURE} {{ O[p] = X[p, m, j] == X[p, m, j] :: or(m, j) where {mask} }}")
    told = only(f"{SIGNATURE} {{ O[p] = {expr_to_source(condition)} }}")
    rng = np.random.default_rng(1)
    for P, M, N in [(6, 5, 3), (4, 7, 1), (3, 1, 2), (1, 1, 1), (5, 0, 2), (5, 3, 0), (2, 9, 4)]:
        arguments = {"X": np.zeros((P, M, N)), "n": rng.integers(-2, 8, P), "keep": rng.integers(0, 2, M) > 0}
        expected, found = (interpret(kernel, arguments)["O"] for kernel in (tried, told))
        np.testing.assert_array_equal(found, expected, err_msg=f"P={P} M={M} N={N}: {expr_to_source(condition)}")


@pytest.mark.parametrize(
    "mask",
    [
        "keep[m]",  # data
        "m % 2 == p",
        "2 * m < p",  # some whole number below p / 2, not just some number
        "m < j",
        "m != p",
        "m < p or keep[m]",
        "(m < 2 or m > p) and (m < 3 or m > n[p]) and (m < 4 or m > 7)",  # too many cases
    ],
)
def test_what_is_not_a_bound_is_not_told(mask: str) -> None:
    assert eliminated(mask) is None


def test_the_condition_is_short() -> None:
    told = {m: expr_to_source(e) for m in ("m <= p", "m < 4 or m <= p", "m <= p - 2") if (e := eliminated(m)) is not None}
    assert told == {
        "m <= p": "0 < M and 0 < N",
        "m < 4 or m <= p": "0 < M and 0 < N",
        "m <= p - 2": "0 < M and 0 < p - 1 and 0 < N",
    }

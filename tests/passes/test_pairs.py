"""Sums of exponentials as pairs of mantissa and exponent, beside the program as written."""

from __future__ import annotations

import numpy as np
import pytest

import einfall
from einfall.compiler.checking import compare
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.passes.shifting.pairs import LANES, paired

from .comparison import check_equal, check_form, only
from .test_unified import LOGSUMEXP, SOFTMAX, WEIGHTED, rows

AVERAGE = """kernel average(X: f32[N, M], V: f32[M]) -> (Y: f32[N]) {
    Z[n, m] = X[n, m] * 2          where m < 3 * n + 3
    G[n]    = Z[n, m]              :: max(m)
    S[n]    = exp2(Z[n, m] - G[n])
    T[n]    = exp2(Z[n, m] - G[n]) * V[m]
    Y[n]    = T[n] / S[n]
}
"""


def pair(text: str):
    cascade = only(text)
    found = paired(cascade)
    check_form(found.cascade)
    return cascade, found


@pytest.mark.parametrize("m", [0, 1, LANES - 1, LANES, 2 * LANES + 3])
@pytest.mark.parametrize("text", [SOFTMAX, LOGSUMEXP, LOGSUMEXP.replace("exp(", "exp2(").replace("log(", "log2(")])
def test_every_row_is_what_the_program_says(text: str, m: int) -> None:
    cascade, found = pair(text)
    assert found.cascade != cascade
    with np.errstate(all="ignore"):
        expected = interpret(cascade, rows(m))
        result = interpret(found.cascade, rows(m))
    for name in expected:
        # ln 2 is written as two numbers of f32: a thousandfold exponent shows their error.
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-8, atol=1e-300)


def test_lanes_that_a_mask_empties_hold_nothing() -> None:
    cascade, found = pair(AVERAGE)
    x = np.random.default_rng(1).normal(size=(9, 2 * LANES + 5)) * 30
    check_equal(cascade, found.cascade, {"X": x, "V": x[0]})


def test_numbers_of_wide_range_need_no_maximum() -> None:
    _, found = pair(SOFTMAX)
    x = np.linspace(-7000, 7000, 3 * LANES, dtype=np.float32)[None].repeat(2, 0).astype(np.float64)
    x[1] = x[1, ::-1]
    result = interpret(found.cascade, {"X": x})["Y"]
    expected = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(result, expected / expected.sum(1, keepdims=True), rtol=1e-7, atol=1e-300)


def test_the_maximum_is_looked_for_only_without_the_flag() -> None:
    _, found = pair(SOFTMAX)
    text = to_source(found.cascade)
    assert "RNG[m1+1, n, m0] = max(RNG[m1, n, m0], BN[n, m1, m0])" in text
    assert "if OK[n] then -inf else X[n, m]" in text


def test_refusals() -> None:
    cascade, found = pair(WEIGHTED)
    assert found.cascade == cascade and "weighted sums" in found.decisions[0].because
    cascade, found = pair(SOFTMAX.replace("E[n, m] / S[n]", "E[n, m]"))
    assert found.cascade == cascade and "changes with the shift" in found.decisions[0].because
    both = """kernel k(X: f32[A, B, N]) -> (Y: f32[N]) {
        G[n] = X[a, b, n]               :: max(a, b)
        S[n] = exp(X[a, b, n] - G[n])
        Y[n] = log(S[n]) + G[n]
    }
    """
    cascade, found = pair(both)
    assert found.cascade == cascade and "one rank" in found.decisions[0].because


def test_nothing_is_done_twice() -> None:
    _, found = pair(SOFTMAX)
    again = paired(found.cascade)
    assert again.cascade == found.cascade


@pytest.mark.parametrize("m", [1, 300])
def test_compiled(m: int) -> None:
    cascade, found = pair(SOFTMAX)
    kernel = einfall.compile(to_source(found.cascade))
    data = rows(m)["X"]
    for x in (data, np.ascontiguousarray(data[[0, 5, 9, 10, 11]])):
        comparison = compare(cascade, {"X": x}, [np.asarray(kernel(x))])
        assert comparison.passed, comparison

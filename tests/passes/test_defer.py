"""Deferral: which factors move out of a sum, and that empty sums stay 0."""

from __future__ import annotations

import numpy as np
import pytest

from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.passes.online.defer import defer

from .comparison import check_equal, check_form, only

rng = np.random.default_rng(3)

ATTENTION = """
kernel attention(X: f32[P, M], V: f32[M, F]) -> (O: f32[P, F]) {{
    S[p, m]  = X[p, m]                  {where}
    GM[p]    = S[p, m]                  :: max(m)
    SN[p, m] = exp(S[p, m] - GM[p])
    SD[p]    = SN[p, m]
    A[p, m]  = SN[p, m] / SD[p]
    O[p, f]  = A[p, m] * V[m, f]
}}
"""


def body(text: str) -> str:
    deferred = defer(only(text))
    assert deferred is not None
    check_form(deferred)
    return to_source(deferred)


def test_a_division_is_applied_once_for_each_result() -> None:
    text = body(ATTENTION.format(where=""))
    assert "SO[p, f] = SN[p, m] * V[m, f]" in text
    assert "O[p, f]  = if M > 0 then SO[p, f] / SD[p] else 0.0" in text


def test_the_guard_is_the_emptiness_of_the_row_not_the_denominator() -> None:
    assert "if 0 < M and 0 < p - 1 then" in body(ATTENTION.format(where="where m <= p - 2"))
    assert "if GM[p] != -inf then" in body(ATTENTION.format(where="where X[p, m] != 3.0"))


def test_a_row_of_scores_that_are_all_infinite_is_nan_as_written_whatever_the_mask_hides() -> None:
    written = only(ATTENTION.format(where="where m <= p - 2"))
    deferred = defer(written)
    assert deferred is not None
    X = rng.normal(size=(5, 4))
    X[2, 0] = -np.inf  # all that row 2 sees
    X[3, 1] = -np.inf
    arguments = {"X": X, "V": rng.normal(size=(4, 3))}
    expected, found = (interpret(kernel, arguments)["O"] for kernel in (written, deferred))
    assert np.isnan(expected[2]).all() and (expected[:2] == 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("where", ["", "where m <= p - 2", "where m < 0"])
@pytest.mark.parametrize("sizes", [(4, 7), (3, 1), (2, 0)])
def test_fully_masked_rows_are_zero(where: str, sizes: tuple[int, int]) -> None:
    P, M = sizes
    written = only(ATTENTION.format(where=where))
    deferred = defer(written)
    assert deferred is not None
    arguments = {"X": rng.normal(size=(P, M)) * 100, "V": rng.normal(size=(M, 3))}
    found = check_equal(written, deferred, arguments)
    assert np.isfinite(found["O"]).all()
    if where:
        assert (found["O"][:2] == 0).all()


def test_a_flag_is_carried_where_no_extreme_sees_the_same_points() -> None:
    text = """
    kernel k(X: f32[P, M], V: f32[N, F], at: i32[M]) -> (O: f32[P, F]) {
        SD[p]   = X[p, m] * X[p, m]
        O[p, f] = X[p, m] / SD[p] * V[at[m], f]
    }
    """
    written = only(text)
    deferred = defer(written)
    assert deferred is not None
    check_form(deferred)
    assert ":: or(m)" in to_source(deferred)
    arguments = {
        "X": np.zeros((2, 3)),
        "V": rng.normal(size=(4, 2)),
        "at": np.array([9, 9, 9]),  # outside: no term is present, and the denominator is 0
    }
    assert (check_equal(written, deferred, arguments)["O"] == 0).all()


def test_a_sum_of_terms_with_different_factors_splits() -> None:
    text = """
    kernel k(X: f32[P, M], Y: f32[P, M]) -> (O: f32[P]) {
        A[p] = X[p, m] * X[p, m]
        B[p] = Y[p, m] * Y[p, m]
        O[p] = (X[p, m] / A[p] - Y[p, m] / B[p]) * X[p, m]
    }
    """
    written = only(text)
    deferred = defer(written)
    assert deferred is not None
    check_form(deferred)
    check_equal(written, deferred, {"X": rng.normal(size=(3, 5)), "Y": rng.normal(size=(3, 5))})


def test_a_shift_is_never_split() -> None:
    """Σ (x - μ) w as Σ x w - μ Σ w would cancel: that is the closure's work."""
    text = """
    kernel k(X: f32[P, M], W: f32[M]) -> (O: f32[P]) {
        MU[p] = X[p, m] / M
        O[p]  = (X[p, m] - MU[p]) * W[m]
    }
    """
    assert defer(only(text)) is None


def test_an_exponential_that_only_the_factor_keeps_small_stays() -> None:
    text = """
    kernel k(X: f32[P, M]) -> (O: f32[P]) {
        A[p] = exp(X[p, m])
        O[p] = exp(X[p, m]) / A[p] * X[p, m]
    }
    """
    assert defer(only(text)) is None


def test_a_forced_rounding_is_not_looked_through() -> None:
    text = """
    kernel k(X: f32[P, M], V: f32[M]) -> (O: f32[P]) {
        D[p]          = X[p, m] * X[p, m]
        A: f16[p, m]  = X[p, m] / D[p]
        O[p]          = A[p, m] * V[m]
    }
    """
    assert defer(only(text)) is None

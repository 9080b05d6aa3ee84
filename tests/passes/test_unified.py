"""The unified maximum: which maxima only shift, and rows of every kind beside the program as written."""

from __future__ import annotations

import numpy as np
import pytest

import einfall
from einfall.compiler.checking import compare
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.passes.analysis.structure import Structure
from einfall.passes.shifting.shifts import shifts
from einfall.passes.shifting.unified import unified

from .comparison import check_equal, check_form, only

SOFTMAX = """kernel softmax(X: f32[N, M]) -> (Y: f32[N, M]) {
    G[n]    = X[n, m]             :: max(m)
    E[n, m] = exp(X[n, m] - G[n])
    S[n]    = E[n, m]
    Y[n, m] = E[n, m] / S[n]
}
"""

LOGSUMEXP = """kernel logsumexp(X: f32[N, M]) -> (L: f32[N]) {
    G[n] = X[n, m]             :: max(m)
    S[n] = exp(X[n, m] - G[n])
    L[n] = log(S[n]) + G[n]
}
"""

WEIGHTED = """kernel weighted(X: f32[N, M], W: f32[M, F]) -> (Y: f32[N, F]) {
    G[n]    = X[n, m]             :: max(m)
    E[n, m] = exp(X[n, m] - G[n])
    S[n]    = E[n, m]
    T[n, f] = E[n, m] * W[m, f]
    Y[n, f] = T[n, f] / S[n]
}
"""

CAUSAL = """kernel causal(X: f32[N, M], V: f32[M]) -> (Y: f32[N]) {
    Z[n, m] = X[n, m] * 2          where m < n
    G[n]    = Z[n, m]              :: max(m)
    S[n]    = exp(Z[n, m] - G[n])
    T[n]    = exp(Z[n, m] - G[n]) * V[m]
    Y[n]    = if S[n] > 0 then T[n] / S[n] else 0
}
"""

TOLERANT = "@tolerance(0.001)\n"


def rows(m: int = 13) -> dict[str, np.ndarray]:
    """Rows within the range of exp and far outside of it, with infinities and NaN."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, m)).astype(np.float32)
    x[1] += 1e4
    x[2] -= 1e4
    x[3] *= 1e37
    x[3, ::2] *= 10
    x[4] = -np.inf
    if m:
        x[5, 0] = -np.inf
        x[6, 0] = np.nan
        x[7, -1] = np.inf
        x[8, m // 2] = 3e38
        x[9] += 85
        x[10] -= 95
    return {"X": x}


def unify(text: str):
    cascade = only(TOLERANT + text)
    found = unified(cascade)
    check_form(found.cascade)
    return cascade, found


@pytest.mark.parametrize("m", [0, 1, 2, 13, 67])
@pytest.mark.parametrize("text", [SOFTMAX, LOGSUMEXP])
def test_every_row_is_what_the_program_says(text: str, m: int) -> None:
    cascade, found = unify(text)
    assert found.cascade != cascade
    with np.errstate(all="ignore"):
        expected = interpret(cascade, rows(m))
        result = interpret(found.cascade, rows(m))
    for name in expected:
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-9, atol=1e-300)


def test_weighted_sums_keep_one_shift_for_all_columns() -> None:
    cascade, found = unify(WEIGHTED)
    w = np.random.default_rng(0).normal(size=(13, 3))
    w[:, 1] *= 1e300  # its own column would overflow before the shift is known
    with np.errstate(all="ignore"):
        for x in (rows()["X"][[0, 1, 2, 5, 9, 10]], rows()["X"][[0]]):
            check_equal(cascade, found.cascade, {"X": x, "W": w})


def test_no_maximum_is_read_where_the_flag_holds() -> None:
    _, found = unify(SOFTMAX)
    text = to_source(found.cascade)
    assert "US[n]   = exp(X[n, m])" in text
    assert "if OK[n] then -inf else X[n, m]" in text
    (decision,) = found.decisions
    assert decision.subject == "G" and decision.chosen.startswith("no maximum")


def test_masked_rows_stay_empty() -> None:
    cascade, found = unify(CAUSAL)
    # A condition on the sum itself is no shift-free reader.
    assert found.cascade == cascade
    assert "changes with the shift" in found.decisions[0].because
    plain = CAUSAL.replace("if S[n] > 0 then T[n] / S[n] else 0", "T[n] / S[n]")
    cascade, found = unify(plain)
    assert found.cascade != cascade
    x = np.random.default_rng(1).normal(size=(5, 5))
    with np.errstate(all="ignore"):
        check_equal(cascade, found.cascade, {"X": x, "V": x[0]})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SOFTMAX.replace("E[n, m] / S[n]", "E[n, m]"), "`Y` changes with the shift"),
        (LOGSUMEXP.replace("log(S[n]) + G[n]", "log(S[n]) + 2 * G[n]"), "`L` changes with the shift"),
        (LOGSUMEXP.replace("(L: f32[N])", "(L: f32[N], G: f32[N])"), "`G` is a result itself"),
        (LOGSUMEXP.replace("X: f32", "X: bf16"), "smaller than f32"),
        (LOGSUMEXP.replace("+ G[n]", "+ G[n] where G[n] > 0"), "a condition of `L` depends on it"),
    ],
)
def test_refusals_say_who_sees_the_shift(text: str, reason: str) -> None:
    cascade, found = unify(text)
    assert found.cascade == cascade
    assert any(reason in d.because for d in found.decisions), found.decisions


@pytest.mark.parametrize(
    "value", ["exp(2 * X[n, m] - G[n])", "exp(X[n, m] - G[n]) * G[n]", "exp(G[n] - X[n, m])", "exp((X[n, m] - G[n]) * 0.5)"]
)
def test_what_is_no_shifted_exponential_is_left_alone(value: str) -> None:
    text = LOGSUMEXP.replace("exp(X[n, m] - G[n])", value)
    cascade, found = unify(text)
    assert found.cascade == cascade


def test_without_a_tolerance_nothing_changes() -> None:
    cascade = only(SOFTMAX)
    found = unified(cascade)
    assert found.cascade == cascade
    assert "@tolerance" in found.decisions[0].because


def test_the_shift_names_its_parts() -> None:
    (shift,), refused = shifts(Structure(only(WEIGHTED)))
    assert not refused
    assert shift.target == "G" and shift.function == "exp"
    cascade = shift.structure.cascade
    assert [cascade.einsums[s.index].target for s in shift.sums] == ["S", "T"]


@pytest.mark.parametrize("m", [1, 13, 300])
def test_compiled_rows_with_and_without_recomputation(m: int) -> None:
    cascade, found = unify(SOFTMAX)
    kernel = einfall.compile(to_source(found.cascade))
    data = rows(m)
    for x in (data["X"], np.delete(data["X"], [1, 2, 3, 4, 6, 7, 8, 9, 10], axis=0)):
        comparison = compare(cascade, {"X": x}, [np.asarray(kernel(np.ascontiguousarray(x)))])
        assert comparison.passed, comparison
    # The bad rows are done as the program has them: their neighbours do not change with them.
    good = np.ascontiguousarray(data["X"][[0, 5, 11]])
    np.testing.assert_array_equal(kernel(data["X"])[[0, 5, 11]], kernel(good))


def test_compiled_weighted_sums() -> None:
    cascade, found = unify(WEIGHTED)
    kernel = einfall.compile(to_source(found.cascade))
    w = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)
    x = np.ascontiguousarray(rows()["X"][[0, 1, 2, 5, 9, 10, 11]])
    comparison = compare(cascade, {"X": x, "W": w}, [np.asarray(kernel(x, w))])
    assert comparison.passed, comparison


def decided(**sizes: int) -> list[str]:
    """What selection chose for the softmax with a tolerance."""
    decisions = einfall.compile(TOLERANT + SOFTMAX, **sizes).explain().decisions
    return [d.chosen for d in decisions if d.made_by == "select"]


def test_long_rows_are_compiled_without_a_maximum() -> None:
    assert decided(N=256, M=1 << 18) == ["without a maximum"]
    assert "without a maximum" not in decided(N=256, M=64)
    assert decided(N=256) == ["as written, and without a maximum for long rows"]


def test_a_long_row_of_any_kind() -> None:
    kernel = einfall.compile(TOLERANT + SOFTMAX)
    x = np.random.default_rng(2).normal(size=(4, 1 << 17)).astype(np.float32)
    x[1] += 200
    x[2] = -np.inf
    x[2, 5] = 3e38
    x[3] -= 200
    found = np.asarray(kernel(x)).astype(np.float64)
    exact = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(found, exact / exact.sum(1, keepdims=True), rtol=1e-4, atol=1e-12)

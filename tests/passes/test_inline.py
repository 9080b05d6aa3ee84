"""What is computed where it is read, and that this changes no result."""

import numpy as np
import pytest

import einfall as ef
from einfall.frontend import load
from einfall.passes.tiling.inline import inline

SIZES = [(1, 1), (3, 17), (5, 0), (2, 130)]


def removed(text: str) -> dict[str, str]:
    (cascade,) = load(text, "test.ecs").values()
    return {d.subject: d.because for d in inline(cascade).decisions}


VIEW = """
kernel k(X: f32[M, N]) -> (S: f32[M], Q: f32[M]) {
    let N0 = 4
    let N1 = ceildiv(N, N0)
    B: f32[M, N1, N0]
    B[m, n1, n0] = X[m, n1*N0 + n0]
    S[m] = B[m, n1, n0]
    Q[m] = B[m, n1, n0] ** 2
}
"""
ONCE = """
kernel k(X: f32[M, N]) -> (S: f32[M]) {
    E[m, n] = exp(X[m, n]) * 2
    S[m] = E[m, n]
}
"""
CHEAP = """
kernel k(X: f32[M, N]) -> (V: f32[M], Y: f32[M, N]) {
    U[m] = X[m, n] / N
    D[m, n] = X[m, n] - U[m]
    V[m] = D[m, n] ** 2
    Y[m, n] = D[m, n] * V[m]
}
"""
MASKED = """
kernel k(X: f32[M, N]) -> (S: f32[M]) {
    E[m, n] = exp(X[m, n]) where n <= m
    S[m] = E[m, n]
}
"""
OPERAND = """
kernel k(X: f32[M, N], W: f32[N, K]) -> (Y: f32[M, K]) {
    E[m, n] = exp(X[m, n])
    Y[m, k] = E[m, n] * W[n, k]
}
"""
DEAR = """
kernel k(X: f32[M, N]) -> (S: f32[M], T: f32[M]) {
    E[m, n] = exp(X[m, n])
    S[m] = E[m, n]
    T[m] = E[m, n] :: max(n)
}
"""
ROUNDED = """
kernel k(X: f32[M, N]) -> (S: f32[M]) {
    E: bf16[M, N]
    E[m, n] = X[m, n] * 1.5
    S[m] = E[m, n]
}
"""
SHIFTED = """
kernel k(X: f32[M, N]) -> (S: f32[M]) {
    E[m, n] = X[m, n] + 1
    S[m] = E[m, n+1] + E[m, n]
}
"""


def test_a_view_of_a_parameter_is_read_in_place():
    assert removed(VIEW) == {"B": "it is a view of `X`"}


def test_a_value_that_is_read_once_stays_in_a_register():
    assert removed(ONCE) == {"E": "only `S` reads it, each element once"}


def test_a_cheap_value_is_computed_again():
    assert removed(CHEAP) == {"D": "computing it again is cheaper than storing it"}


@pytest.mark.parametrize(
    "text", [MASKED, OPERAND, DEAR, ROUNDED, SHIFTED], ids=["masked", "operand", "dear", "rounded", "shifted"]
)
def test_what_stays(text):
    assert removed(text) == {}


@pytest.mark.parametrize("m, n", SIZES)
@pytest.mark.parametrize("name", ["VIEW", "ONCE", "CHEAP", "MASKED", "DEAR", "ROUNDED", "SHIFTED"])
def test_results_are_the_same(name, m, n):
    x = np.random.default_rng(m * 131 + n).standard_normal((m, n)).astype(np.float32)
    found, expected = ef.compile(globals()[name])(X=x), ef.interpret(globals()[name], mode="typed", X=x)
    for a, b in zip(_all(found), _all(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def _all(results):
    return results if isinstance(results, tuple) else (results,)

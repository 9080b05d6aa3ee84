"""Conditions on coordinates, in vectors whose lanes run along one of them."""

from __future__ import annotations

import numpy as np
import pytest

from .kernels import agrees, normal


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("sides", ["j {} i + S", "i + S {} j", "2 * i {} 3 - j", "2 * j {} i"])
def test_borders_of_a_mask(sign: str, sides: str) -> None:
    condition = sides.format(sign)
    text = f"""kernel f(X: f32[M, N]) -> (Y: f32[M, N], m: f32[M]) {{
        Y[i, j] = X[i, j] where {condition}
        m[i] = X[i, j] :: max(j) where {condition}
    }}""".replace("S", "5")
    for shape in ((1, 1), (3, 16), (40, 37), (2, 130)):
        agrees(text, X=normal(*shape))


def test_coordinates_far_apart() -> None:
    text = "kernel f(X: f32[N]) -> (Y: f32[N]) { Y[j] = X[j] where j + 5000000000 > 5000000007 }"
    found = agrees(text, X=normal(40))[0]
    assert np.count_nonzero(found) == 32


def test_a_sum_beside_the_masked_values_that_it_adds_up() -> None:
    """Values outside of the mask are absent whatever they would be: infinite, or no number."""
    text = """kernel f(X: f32[M, N], V: f32[N, F]) -> (O: f32[M, F]) {
        G[i]    = X[i, j] :: max(j) where j <= i
        S[i, j] = exp(X[i, j] - G[i]) where j <= i
        D[i]    = S[i, j]
        A[i, j] = S[i, j] / D[i]
        O[i, f] = A[i, j] * V[j, f]
    }"""
    x = normal(70, 300)
    x[np.triu_indices(70, 1, 300)] = np.inf
    x[3, 7:9], x[10, 200] = np.nan, -np.inf
    found = agrees(text, X=x, V=normal(300, 20, seed=1))[0]
    assert np.isfinite(found).all()


@pytest.mark.parametrize("condition", ["m <= p + M - P", "m <= p + M - P and m > p + M - P - 3", "m < n[p]"])
def test_rows_that_see_nothing_are_zero_and_rows_that_see_infinity_are_no_number(condition: str) -> None:
    text = f"""kernel f(Q: f32[P, E], K: f32[M, E], V: f32[M, F], n: i32[P]) -> (O: f32[P, F]) {{
        QK[p, m] = Q[p, e] * K[m, e] where {condition}
        GM[p]    = QK[p, m] :: max(m)
        SN[p, m] = exp(QK[p, m] - GM[p])
        SD[p]    = SN[p, m]
        A[p, m]  = SN[p, m] / SD[p]
        O[p, f]  = A[p, m] * V[m, f]
    }}"""
    q, k = np.abs(normal(37, 8)), normal(30, 8, seed=1)
    k[0] = -np.inf
    found = agrees(text, Q=q, K=k, V=normal(30, 20, seed=2), n=np.arange(-6, 31, dtype=np.int32))[0]
    assert (found[:7] == 0).all() and np.isnan(found[7]).all() and np.isfinite(found[10:]).all()

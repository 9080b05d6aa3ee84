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

"""Maxima and minima along rows: NaN anywhere gives NaN, masked points do not count, the ends of the range do."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import einfall
from einfall.runtime.kernel import Kernel

TEXT = """kernel extremes(X: {dtype}[P, N], limit: i32[P]) -> (A: {dtype}[P], B: {dtype}[P], C: {dtype}[P]) {{
    A[p] = X[p, n]    :: max(n)
    B[p] = X[p, n]    :: min(n)
    C[p] = X[p, n]    :: max(n) where n < limit[p]
}}
"""


@cache
def compiled(dtype: str) -> Kernel:
    return einfall.compile(TEXT.format(dtype=dtype), cache=False)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("n", [1, 7, 16, 17, 63, 64, 65, 128, 130])
def test_a_nan_at_every_place(dtype: str, n: int) -> None:
    x = np.random.default_rng(n).standard_normal((n + 1, n)).astype("f4" if dtype == "f32" else "f8")
    for p in range(n):
        x[p, p] = np.nan
    x[n, 0] = -np.inf
    limit = np.arange(n + 1, dtype=np.int32)  # each row up to its NaN; the last has none
    found = compiled(dtype)(x, limit)
    np.testing.assert_array_equal(found[0], x.max(axis=1))
    np.testing.assert_array_equal(found[1], x.min(axis=1))
    expected = [x[p, :p].max() if p else -np.inf for p in range(n + 1)]
    np.testing.assert_array_equal(found[2], np.array(expected, x.dtype))


def test_infinities_are_not_nan() -> None:
    x = np.full((2, 96), -np.inf, np.float32)
    x[1, 40] = np.inf
    found = compiled("f32")(x, np.full(2, 96, np.int32))
    np.testing.assert_array_equal(found[0], [-np.inf, np.inf])
    np.testing.assert_array_equal(found[1], [-np.inf, -np.inf])

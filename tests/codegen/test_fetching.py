"""Prefetches change no value, and follow only rows that lie one after the other."""

from __future__ import annotations

import numpy as np
import pytest

import einfall

MOMENTS = """kernel moments(X: {type}[M, N]) -> (Y: {type}[M, N], S: {type}[M]) {{
    Y[m, n] = X[m, n] * 2.0
    S[m]    = X[m, n] :: max(n)
}}
"""


@pytest.mark.parametrize(("name", "dtype"), [("f32", np.float32), ("f64", np.float64), ("f16", np.float16)])
def test_values_are_the_same_with_any_rows(name: str, dtype: type) -> None:
    kernel = einfall.compile(MOMENTS.format(type=name))
    assert "prefetch" in kernel.source("asm")
    memory = np.random.default_rng(1).standard_normal((37, 1 << 17)).astype(dtype)
    for x in (memory, memory[:, :100_000], memory[::2, 3:], memory[:0], memory[:5, :1], memory[:1, 7:7]):
        y, s = kernel(x)
        np.testing.assert_array_equal(y, x * dtype(2))
        np.testing.assert_array_equal(s, x.max(1, initial=-np.inf))

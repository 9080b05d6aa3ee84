"""Division of a row by one number of its own, which is done by its inverse: every quotient as IEEE 754 division gives it."""

from __future__ import annotations

import numpy as np
import pytest

import einfall

ROWS = """kernel rows(X: {type}[N, M], S: {type}[N]) -> (Y: {type}[N, M]) {{
    Y[n, m] = X[n, m] / S[n]
}}
"""


@pytest.mark.parametrize(("type_", "dtype"), [("f32", np.float32), ("f64", np.float64)])
def test_quotients_are_those_of_ieee_division(type_: str, dtype: type) -> None:
    limits = np.finfo(dtype)
    rng = np.random.default_rng(5)
    special = [0.0, -0.0, 1.0, -1.0, 3.0, 49.0, np.inf, -np.inf, np.nan, limits.tiny, limits.smallest_subnormal, limits.max]
    special += [-limits.max, limits.max / 2, limits.tiny * 3, limits.smallest_subnormal * 12345, 1 / 3, limits.eps]
    spread = rng.normal(size=200) * 2.0 ** rng.integers(limits.minexp, limits.maxexp - 2, 200)
    s = np.array([*special, *spread], dtype)
    x = np.concatenate([np.array([*special, *spread], dtype), rng.normal(size=77).astype(dtype), s * dtype(0.7)])
    x = np.ascontiguousarray(np.broadcast_to(x, (len(s), len(x))))
    kernel = einfall.compile(ROWS.format(type=type_))
    found = np.asarray(kernel(x, s))
    with np.errstate(all="ignore"):
        expected = x / s[:, None]
    # Where the remainder of a tiny number is subnormal, the last place may differ; nowhere else.
    tiny = (np.abs(x) < limits.tiny * 2.0 ** (limits.nmant + 2)) | (np.abs(expected) < limits.tiny)
    tolerance = np.where(tiny & np.isfinite(expected), np.spacing(np.abs(expected)), 0)
    with np.errstate(invalid="ignore"):
        near = np.abs(found - expected) <= tolerance
    same = (found == expected) | (np.isnan(found) & np.isnan(expected)) | near
    assert same.all(), [(x[i, j], s[i], found[i, j], expected[i, j]) for i, j in np.argwhere(~same)[:5]]
    ordinary = np.abs(expected) >= limits.tiny
    np.testing.assert_array_equal(np.signbit(found)[ordinary], np.signbit(expected)[ordinary])


@pytest.mark.parametrize(("type_", "dtype"), [("f32", np.float32), ("f64", np.float64)])
@pytest.mark.parametrize("divisor", ["3.0", "-7.0", "8.0", "sqrt(2.0)", "1e-30", "2e38"])
def test_quotients_by_a_known_number(divisor: str, type_: str, dtype: type) -> None:
    kernel = einfall.compile(f"kernel known(X: {type_}[N]) -> (Y: {type_}[N]) {{\n    Y[n] = X[n] / {divisor}\n}}\n")
    limits = np.finfo(dtype)
    s = dtype(eval(divisor, {"sqrt": lambda v: np.sqrt(dtype(v))}))
    rng = np.random.default_rng(6)
    special = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, limits.tiny, limits.smallest_subnormal, limits.max, -limits.max]
    spread = rng.normal(size=4000) * 2.0 ** rng.integers(limits.minexp, limits.maxexp - 2, 4000)
    with np.errstate(all="ignore"):
        whole = np.arange(-500, 500, dtype=dtype) * s
        x = np.concatenate([np.array([*special, *spread], dtype), rng.normal(size=4001).astype(dtype), whole])
        expected = x / s
        found = np.asarray(kernel(x))
        near = np.abs(found - expected) <= np.spacing(np.maximum(np.abs(expected), limits.tiny))
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    assert (same | near).all(), [(x[i], found[i], expected[i]) for i in np.flatnonzero(~(same | near))[:5]]
    ordinary = np.isfinite(expected) & (np.abs(expected) > limits.tiny * 2.0**limits.nmant)
    ordinary &= np.abs(x) > limits.tiny * 2.0 ** (limits.nmant + 2)
    assert np.mean(same[ordinary]) > 0.999
    exact = slice(len(x) - len(whole), None)
    if np.all(np.isfinite(whole)) and np.all(np.abs(whole[whole != 0]) > limits.tiny):
        products = same[exact] | (expected[exact] != np.arange(-500, 500, dtype=dtype))
        assert products.all()

"""The corners of arithmetic: NaN, infinities, wrap-around, division by zero, 16-bit floats, conversions."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from .kernels import agrees, normal

SPECIAL = [0.0, -0.0, 1.0, -1.5, np.nan, np.inf, -np.inf, 1e-45, 3.4e38, 65504.0, -2.5]


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16", "f8_e5m2"])
def test_comparisons_and_extremes_with_nan(dtype: str) -> None:
    text = f"""
    kernel k(X: {dtype}[M], Y: {dtype}[N]) -> (equal: bool[M, N], differ: bool[M, N], less: bool[M, N], atleast: bool[M, N],
        neither: bool[M, N], high: {dtype}[M, N], low: {dtype}[M, N], clamped: {dtype}[M], self: bool[M], truth: bool[M]) {{
        equal[m, n]   = X[m] == Y[n]
        differ[m, n]  = X[m] != Y[n]
        less[m, n]    = X[m] < Y[n]
        atleast[m, n] = X[m] >= Y[n]
        neither[m, n] = not (X[m] < Y[n]) and not (X[m] >= Y[n])
        high[m, n]    = max(X[m], Y[n])
        low[m, n]     = min(X[m], Y[n])
        clamped[m]    = clamp(X[m], -1, 1)
        self[m]       = X[m] != X[m]
        truth[m]      = cast(bool, X[m])
    }}
    """
    storage = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
    with np.errstate(all="ignore"):
        x = np.array(SPECIAL * 2, np.float64).astype(storage.get(dtype, ml_dtypes.float8_e5m2))
        found = agrees(text, X=x, Y=x)
    np.testing.assert_array_equal(found[1], x[:, None] != x[None])
    np.testing.assert_array_equal(found[8], np.isnan(x.astype(np.float64)))
    either = np.isnan(x.astype(np.float64))[:, None] | np.isnan(x.astype(np.float64))[None]
    np.testing.assert_array_equal(np.isnan(found[5].astype(np.float64)), either)
    np.testing.assert_array_equal(np.isnan(found[6].astype(np.float64)), either)


@pytest.mark.parametrize("place", [0, 1, 15, 16, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reductions_propagate_nan_from_every_lane(place: int, dtype: type) -> None:
    name = "f32" if dtype is np.float32 else "f64"
    text = f"""
    kernel k(X: {name}[M, N]) -> (high: {name}[M], low: {name}[M], columns: {name}[N],
        where_: i32[M], least: i32[M], down: i32[N]) {{
        high[m]    = X[m, n]    :: max(n)
        low[m]     = X[m, n]    :: min(n)
        columns[n] = X[m, n]    :: max(m)
        where_[m]  = X[m, n]    :: argmax(n)
        least[m]   = X[m, n]    :: argmin(n)
        down[n]    = X[m, n]    :: argmax(m)
    }}
    """
    x = normal(3, 41, dtype=dtype)
    x[1, place] = np.nan
    x[2, :] = x[2, 0]
    high, low, columns, where_, least, down = agrees(text, X=x)
    assert np.isnan(high[1]) and np.isnan(low[1]) and not np.isnan(high[[0, 2]]).any()
    assert np.isnan(columns[place]) and np.isnan(columns).sum() == 1
    assert where_[1] == least[1] == place and where_[2] == least[2] == 0 and down[place] == 1


@pytest.mark.parametrize("value", ["0 * X[k]", "X[k] * cast(f32, 0)", "X[k] - X[k]", "0 / X[k]", "X[k] / X[k]"])
def test_nothing_is_simplified_that_nan_and_infinity_forbid(value: str) -> None:
    text = f"""
    kernel k(X: f32[K]) -> (Y: f32[K], H: f32[K + 1], S: f32, T: f32) {{
        Y[k]   = {value}
        H[0]   = 0
        H[k+1] = max(H[k], {value})
        S      = {value}      :: max(k)
        T      = {value}      :: +(k)
    }}
    """
    with np.errstate(all="ignore"):
        for x in ([1, np.inf, 2], [0, 1, 0], [np.nan], [-np.inf, np.nan] * 20, [3, -0.0, 2] * 11):
            agrees(text, X=np.array(x, np.float32))


def test_an_infinity_at_the_end_of_a_strided_column() -> None:
    """Lanes beyond the depth of a product of few columns must not meet the padding zeros of the other operand."""
    text = "kernel k(A: f32[M, K], B: f32[K, N]) -> (C: f32[M, N]) {\n C[m, n] = A[m, k] * B[k, n]\n}\n"
    for m, k, n in [(20, 5, 1), (30, 1, 1), (20, 3, 3), (1, 9, 40), (64, 7, 64)]:
        for row in {0, k - 1}:
            b = np.ones((k, n), np.float32)
            b[row, 0] = np.inf
            (found,) = agrees(text, A=np.ones((m, k), np.float32), B=b)
            assert (found[:, 0] == np.inf).all() and (found[:, 1:] == k).all()


INTEGERS = ["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"]


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_wrap_and_division_by_zero_is_absent(name: str) -> None:
    text = f"""
    kernel k(X: {name}[M], Y: {name}[M], W: {name}[M, N]) -> (
        added: {name}[M], subtracted: {name}[M], multiplied: {name}[M], negated: {name}[M], quotient: {name}[M],
        rest: {name}[M], defaulted: {name}[M], real: f32[M],
        left: {name}[M], right: {name}[M], power: {name}[M], magnitude: {name}[M],
        bits: {name}[M], total: i32, wide: i64[M], up: {name}[M]) {{
        added[m]      = X[m] + Y[m]
        subtracted[m] = X[m] - Y[m]
        multiplied[m] = X[m] * Y[m]
        negated[m]    = -X[m]
        quotient[m]   = X[m] // Y[m]
        rest[m]       = X[m] % Y[m]
        defaulted[m]  = (X[m] // Y[m]) ?? 7
        real[m]       = X[m] / Y[m]
        left[m]       = X[m] << Y[m]
        right[m]      = X[m] >> Y[m]
        power[m]      = X[m] ** 3
        magnitude[m]  = abs(X[m])
        bits[m]       = (X[m] & Y[m]) ^ (X[m] | 5)
        total         = cast(i32, X[m] // Y[m])     :: +(m)
        wide[m]       = cast(i64, W[m, n]) * cast(i64, W[m, n])
        up[m]         = ceildiv(X[m], Y[m])
    }}
    """
    dtype = np.dtype(name.replace("i", "int") if name[0] == "i" else name.replace("u", "uint"))
    info = np.iinfo(dtype)
    edges = [v for v in (info.min, info.min + 1, -2, -1, 0, 1, 2, 3, 7, 8, 31, 63, info.max - 1, info.max) if info.min <= v]
    pairs = np.array([(a, b) for a in edges for b in edges], dtype=object)
    x, y = (pairs[:, i].astype(dtype) for i in (0, 1))
    w = np.random.default_rng(0).integers(info.min, info.max, (len(x), 3), dtype=dtype, endpoint=True)
    names = ["added", "subtracted", "multiplied", "negated", "quotient", "rest", "defaulted"]
    with np.errstate(all="ignore"):
        found = dict(zip(names, agrees(text, X=x, Y=y, W=w)[: len(names)], strict=True))
        np.testing.assert_array_equal(found["added"], x + y)
        np.testing.assert_array_equal(found["multiplied"], x * y)
    zero = y == 0
    assert (found["quotient"][zero] == 0).all() and (found["defaulted"][zero] == 7).all() and (found["rest"][zero] == 0).all()


@pytest.mark.parametrize("name", ["i4", "u4", "i2", "u3"])
def test_integers_below_a_byte_wrap_too(name: str) -> None:
    text = f"""
    kernel k(X: {name}[M], Y: {name}[M]) -> (a: {name}[M], s: {name}[M], p: {name}[M], n: {name}[M], sum: i32, high: {name}) {{
        a[m] = X[m] + Y[m]
        s[m] = X[m] - Y[m]
        p[m] = X[m] * Y[m]
        n[m] = -X[m]
        sum  = X[m] * Y[m]
        high = X[m] + Y[m]     :: max(m)
    }}
    """
    bits = int(name[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if name[0] == "i" else (0, (1 << bits) - 1)
    values = np.arange(low, high + 1)
    x, y = (g.ravel().astype(np.int8 if name[0] == "i" else np.uint8) for g in np.meshgrid(values, values))
    agrees(text, X=x, Y=y)


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_sixteen_bit_floats_in_and_out(name: str) -> None:
    text = f"""
    kernel k(A: {name}[M, K], B: {name}[K, N]) -> (C: {name}[M, N], S: {name}[M], D: f32[M, N], E: {name}[M, K]) {{
        D[m, n] = A[m, k] * B[k, n]
        C[m, n] = A[m, k] * B[k, n]
        S[m]    = A[m, k]             :: max(k)
        E[m, k] = exp(A[m, k]) / 3
    }}
    """
    dtype = np.float16 if name == "f16" else ml_dtypes.bfloat16
    for shape in [(1, 1, 1), (5, 33, 17), (40, 70, 40)]:
        m, k, n = shape
        a, b = normal(m, k).astype(dtype), normal(k, n, seed=1).astype(dtype)
        c, s, d, e = agrees(text, A=a, B=b)
        assert c.dtype == s.dtype == e.dtype == dtype
        np.testing.assert_array_equal(s, a.max(axis=1))
        np.testing.assert_allclose(d, a.astype(np.float32) @ b.astype(np.float32), rtol=1e-4, atol=1e-4)
    assert c.dtype == dtype


def test_sums_of_narrow_integers_do_not_wrap_early() -> None:
    text = "kernel k(A: i8[M, K], B: u8[K]) -> (Y: i32[M], Z: i32) {\n Y[m] = A[m, k] * B[k]\n Z = A[m, k] :: +(m, k)\n}\n"
    a, b = np.full((3, 200), -128, np.int8), np.full(200, 255, np.uint8)
    y, z = agrees(text, A=a, B=b)
    assert (y == -128 * 255 * 200).all() and z == -128 * 600


def test_casts_saturate_and_truncate() -> None:
    text = """
    kernel k(X: f32[M]) -> (a: i8[M], b: u8[M], c: i32[M], d: i64[M], e: u32[M], f: bool[M], g: f8_e4m3[M],
        h: f8_e5m2[M], i: f16[M]) {
        a[m] = cast(i8, X[m])
        b[m] = cast(u8, X[m])
        c[m] = cast(i32, X[m])
        d[m] = cast(i64, X[m])
        e[m] = cast(u32, X[m])
        f[m] = cast(bool, X[m])
        g[m] = cast(f8_e4m3, X[m])
        h[m] = cast(f8_e5m2, X[m])
        i[m] = cast(f16, X[m])
    }
    """
    x = np.array(
        [
            0,
            -0.0,
            0.9,
            -0.9,
            127.5,
            128,
            -129,
            255.5,
            256,
            2.0**31,
            -(2.0**31),
            2.0**63,
            1e30,
            -1e30,
            np.nan,
            np.inf,
            -np.inf,
            449,
            6e4,
        ],
        np.float32,
    )
    found = agrees(text, X=x)
    assert found[0][14] == 0 and found[0][12] == 127 and found[1][13] == 0
    assert found[6][17] == 448 and found[6][15] == 448 and found[7][15] == np.inf and found[7][18] == 57344


def test_division_by_a_literal_zero() -> None:
    """TVM divides literals when it makes the node, and refuses zero."""
    text = """
    kernel k(X: f32[M], I: i32[M]) -> (a: f32[M], b: f32[M], c: f32[M], d: f32[M], e: f32[M], f: i32[M]) {
        a[m] = X[m] / 0
        b[m] = X[m] // -0.0
        c[m] = X[m] % 0
        d[m] = I[m] / 0
        e[m] = X[m] * 0.0 ** -2
        f[m] = (I[m] // 0) ?? 5
    }
    """
    found = agrees(text, X=np.array([1, -1, 0, np.nan, np.inf, 3], np.float32), I=np.arange(-3, 3, dtype=np.int32))
    assert found[0][0] == np.inf and found[0][1] == -np.inf and np.isnan(found[0][2])
    assert (found[5] == 5).all()

"""Small kernels of every kind through the whole compiler, against the interpreter."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest

import einfall as ef

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def whole(low: int, high: int, size: int | tuple[int, ...], dtype: type) -> np.ndarray:
    return RNG.integers(low, high, size, dtype=dtype)


ATTENTION = """kernel k(Q: {t}[H, P, E], K: {t}[H, M, E], V: {t}[H, M, F]) -> (AV: {t}[H, P, F]) {{
    QK[h, p, m] = Q[h, p, e] * K[h, m, e] / sqrt(E){mask}
    GM[h, p]    = QK[h, p, m] :: max(m)
    SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
    SD[h, p]    = SN[h, p, m]
    A[h, p, m]  = SN[h, p, m] / SD[h, p]
    AV[h, p, f] = A[h, p, m] * V[h, m, f]
}}"""

KERNELS: dict[str, tuple[str, Mapping[str, object], float]] = {
    "packed signed integers wrap": (
        "kernel k(X: i4[N]) -> (Z: i4[N], S: i32) {\n Z[n] = X[n] + X[n]\n S = X[n]\n}",
        {"X": whole(-8, 8, 37, np.int8)},
        0,
    ),
    "scalar parameters": (
        "kernel k(X: f32[N], s: f32, n0: i32, flag: bool) -> (Z: f32[N]) {\n Z[n] = if flag then X[n]*s + n0 else 0\n}",
        {"X": normal(37), "s": 2.5, "n0": 3, "flag": True},
        1e-6,
    ),
    "multiplication by bit patterns": (
        (
            "def lmul(a, b) = bitcast(f32, bitcast(i32, a) + bitcast(i32, b) - 0x3F780000)\n"
            "kernel k(X: f32[M, K], W: f32[N, K]) -> (Z: f32[M, N]) {\n Z[m, n] = lmul(X[m, k], W[n, k])\n}"
        ),
        {"X": normal(5, 33), "W": normal(7, 33)},
        1e-4,
    ),
    "sums of narrow integers": (
        "kernel k(X: i8[M, K], W: i8[N, K]) -> (Z: i32[M, N]) {\n Z[m, n] = X[m, k] * W[n, k]\n}",
        {"X": whole(-128, 128, (5, 83), np.int8), "W": whole(-128, 128, (6, 83), np.int8)},
        0,
    ),
    "truth values and coordinates": (
        (
            "kernel k(X: f32[N]) -> (Z: bool[N], A: i32, B: bool, C: u8[N]) {\n"
            " Z[n] = X[n] > 0 and not (X[n] > 1)\n A = X[n] :: argmax(n)\n B = X[n] > 3 :: or(n)\n"
            " C[n] = cast(u8, X[n]*200)\n}"
        ),
        {"X": normal(100)},
        0,
    ),
    "integer division is floored, by zero absent": (
        (
            "kernel k(A: i64[N], B: i64[N]) -> (Z: i64[N], W: i64[N]) {\n"
            " Z[n] = (A[n] // B[n]) ?? -7\n W[n] = (A[n] % B[n]) ?? 99\n}"
        ),
        {"A": whole(-50, 50, 64, np.int64), "B": whole(-3, 4, 64, np.int64)},
        0,
    ),
    "unsigned integers wrap": (
        (
            "kernel k(X: u32[N], Y: u32[N]) -> (Z: u32[N], W: u32[N]) {\n"
            " Z[n] = X[n]*Y[n] - Y[n]\n W[n] = (X[n] << (Y[n] % 40)) ^ (X[n] >> 3)\n}"
        ),
        {"X": whole(0, 2**32, 50, np.uint32), "Y": whole(0, 2**32, 50, np.uint32)},
        0,
    ),
    "a recurrence forwards": (
        "kernel k(X: f32[T, D]) -> (S: f32[T, D]) {\n S[t, d] = (S[t-1, d] ?? 0) * 0.9 + X[t, d]\n}",
        {"X": normal(33, 70)},
        1e-5,
    ),
    "a recurrence backwards": (
        "kernel k(X: f32[T, D]) -> (S: f32[T, D]) {\n S[t, d] = (S[t+1, d] ?? 0) * 0.9 + X[t, d]\n}",
        {"X": normal(33, 70)},
        1e-5,
    ),
    "gather, scatter, out of range": (
        (
            "kernel k(X: f32[N], I: i32[M]) -> (Z: f32[M], Y: f32[N], C: f32[N]) {\n"
            " Z[m] = X[I[m]] ?? -1\n Y[I[m]] = 1.5 :: +(m)\n C[I[m]] = X[I[m]]*m :: max(m)\n}"
        ),
        {"X": normal(11), "I": whole(-3, 15, 40, np.int32)},
        1e-6,
    ),
    "a scattered place as a float, unsigned constants": (
        (
            "kernel k(X: f32[N], I: i32[N]) -> (A: f32[N], U: u8[N], V: u4[N]) {\n"
            " A[I[n]] = X[n] :: argmax(n)\n U[n] = if X[n] > 0 then -cast(u8, 1) else 2\n V[n] = -cast(u4, 1)\n}"
        ),
        {"X": normal(40), "I": whole(-3, 15, 40, np.int32)},
        1e-6,
    ),
    "four dimensions transposed": (
        (
            "kernel k(X: f32[A, B, C, D]) -> (Y: f32[D, C, B, A], S: f32[B, D]) {\n"
            " Y[d, c, b, a] = X[a, b, c, d]*2\n S[b, d] = X[a, b, c, d]\n}"
        ),
        {"X": normal(3, 4, 5, 6)},
        1e-5,
    ),
    "a maximum of distances without the diagonal": (
        "kernel k(A: f32[I, K], B: f32[J, K]) -> (C: f32[I, J]) {\n C[i, j] = abs(A[i, k]-B[j, k]) :: max(k) where i != j\n}",
        {"A": normal(9, 40), "B": normal(21, 40)},
        1e-6,
    ),
    "double precision": (
        (
            "kernel k(X: f64[M, N]) -> (Z: f64[N], V: f64[M]) {\n"
            " Z[n] = exp(X[m, n]) :: *(m)\n V[m] = log(abs(X[m, n])) + tanh(X[m, n]) :: max(n)\n}"
        ),
        {"X": RNG.normal(size=(5, 19))},
        1e-13,
    ),
    "deviations": (
        (
            "kernel k(X: f32[N, M]) -> (Y: f32[N], V: f32[N]) {\n"
            " MU[n] = X[n, m]/M\n V[n] = (X[n, m]-MU[n])**2/M\n Y[n] = abs(X[n, m]-MU[n])\n}"
        ),
        {"X": normal(9, 300) + 100},
        1e-4,
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_equals_the_interpreter(name: str) -> None:
    text, arguments, tolerance = KERNELS[name]
    agree(ef.compile(text, cache=False)(**arguments), ef.interpret(text, **arguments), tolerance)


@pytest.mark.parametrize(
    ("dtype", "mask", "online", "tolerance"),
    [
        ("f32", "", True, 2e-6),
        ("f32", " where m <= p - 3", True, 2e-6),
        ("f32", " where m <= p - 3", False, 2e-6),
        ("bf16", " where m <= p", True, 1e-2),
        ("f16", "", False, 2e-3),
    ],
)
def test_attention_in_every_form(dtype: str, mask: str, online: bool, tolerance: float) -> None:
    storage = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}[dtype]
    text = ATTENTION.format(t=dtype, mask=mask)
    kernel = ef.compile(text, cache=False, online=online)
    for p, m in ((130, 131), (1, 65), (3, 0), (5, 64)):
        arguments = {n: normal(2, s, 16).astype(storage) for n, s in (("Q", p), ("K", m), ("V", m))}
        agree(kernel(**arguments), ef.interpret(text, **arguments), tolerance)


def test_masked_values_do_not_leak() -> None:
    """A row that no mask lets through is 0, and a NaN behind the mask stays there."""
    text = ATTENTION.format(t="f32", mask=" where m <= p - 3")
    q, k, v = (normal(1, 70, 8) for _ in range(3))
    v[0, 60] = np.nan
    found = ef.compile(text, cache=False)(q, k, v)
    assert (found[0, :3] == 0).all()
    assert np.isfinite(found[0, :63]).all()
    assert np.isnan(found[0, 63:]).all()


def agree(found: object, expected: object, tolerance: float) -> None:
    ours, theirs = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        x, y = np.asarray(a).astype(np.float64), np.asarray(b).astype(np.float64)
        np.testing.assert_allclose(
            x, y, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(y[np.isfinite(y)]).max(initial=0)))
        )

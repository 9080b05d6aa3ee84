"""Absent points: masked rows are exactly 0, and what a mask hides, NaN included, reaches no result."""

from __future__ import annotations

import numpy as np
import pytest

from .kernels import agrees, kernel, normal

CAUSAL = """
kernel causal(Q: f32[P, E], K: f32[M, E], V: f32[M, F]) -> (AV: f32[P, F]) {
    QK[p, m] = Q[p, e] * K[m, e] / sqrt(E)     where m + SHIFT <= p
    GM[p]    = QK[p, m]                         :: max(m)
    SN[p, m] = exp(QK[p, m] - GM[p])
    SD[p]    = SN[p, m]
    A[p, m]  = SN[p, m] / SD[p]
    AV[p, f] = A[p, m] * V[m, f]
}
"""
DEFERRED = """
kernel causal(Q: f32[P, E], K: f32[M, E], V: f32[M, F]) -> (AV: f32[P, F]) {
    QK[p, m]  = Q[p, e] * K[m, e] / sqrt(E)    where m + SHIFT <= p
    GM[p]     = QK[p, m]                        :: max(m)
    SN[p, m]  = exp(QK[p, m] - GM[p])
    SD[p]     = SN[p, m]
    SNV[p, f] = SN[p, m] * V[m, f]
    AV[p, f]  = SNV[p, f] / SD[p]
}
"""


@pytest.mark.parametrize("extents", [(5, 5, 4, 3), (33, 33, 16, 17), (130, 150, 8, 20)], ids=str)
@pytest.mark.parametrize("shift", [0, 2])
def test_fully_masked_rows_are_exactly_zero(extents: tuple[int, int, int, int], shift: int) -> None:
    p, m, e, f = extents
    text = CAUSAL.replace("SHIFT", str(shift))
    (found,) = agrees(text, Q=normal(p, e), K=normal(m, e, seed=1), V=normal(m, f, seed=2))
    assert (found[:shift] == 0).all()
    assert (found[shift:] != 0).any()


@pytest.mark.parametrize("m", [37, 300])
def test_masked_rows_are_zero_where_the_sizes_are_known(m: int) -> None:
    """Rows whose scores are all at hand are divided by their sum once the product is done: not by that of no points."""
    text = CAUSAL.replace("[M, ", f"[{m}, ").replace("m + SHIFT <= p", "m + 5 <= p and m > 2")
    (found,) = agrees(text, Q=normal(37, 16), K=normal(m, 16, seed=1), V=normal(m, 8, seed=2))
    assert (found[:8] == 0).all()
    assert (found[8:] != 0).all()


@pytest.mark.parametrize("factor", ["/ d[m]", "/ sqrt(K)", "* d[m] / 0"])
def test_a_sum_of_no_points_is_zero_whatever_it_is_divided_by(factor: str) -> None:
    text = "kernel scaled(X: f32[M, K], W: f32[N, K], d: f32[M]) -> (Y: f32[M, N]) {\n    Y[m, n] = X[m, k] * W[n, k] FACTOR\n}"
    for fixed in (text.replace("FACTOR", factor), text.replace("FACTOR", factor.replace("K", "0")).replace(", K]", ", 0]")):
        x, w, d = np.zeros((30, 0), np.float32), np.zeros((40, 0), np.float32), np.zeros(30, np.float32)
        (found,) = agrees(fixed, X=x, W=w, d=d)
        assert (found == 0).all()


@pytest.mark.parametrize("text", [CAUSAL, DEFERRED], ids=["divided scores", "deferred division"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [6, 40, 200])
def test_what_the_mask_hides_does_not_leak(text: str, value: float, size: int) -> None:
    """Row p sees V and K up to p only: a NaN in a later row of either changes nothing."""
    text = text.replace("SHIFT", "0")
    q, k, v = (normal(size, 8, seed=s) for s in range(3))
    (clean,) = agrees(text, Q=q, K=k, V=v)
    spoiled_k, spoiled_v = k.copy(), v.copy()
    at = size // 2
    spoiled_v[at, 3] = value
    spoiled_k[at, 1] = value
    with np.errstate(all="ignore"):
        (found,) = agrees(text, Q=q, K=k, V=spoiled_v)
        np.testing.assert_allclose(found[:at], clean[:at], rtol=1e-5, atol=1e-6)
        assert not np.isfinite(found[at:, 3]).all()
        others = [f for f in range(8) if f != 3]
        np.testing.assert_allclose(found[:, others], clean[:, others], rtol=1e-5, atol=1e-6)
        (found,) = agrees(text, Q=q, K=spoiled_k, V=v)
        np.testing.assert_allclose(found[:at], clean[:at], rtol=1e-5, atol=1e-6)


def test_a_document_without_keys_attends_to_nothing() -> None:
    text = """
    kernel documents(Q: f32[H, P, E], K: f32[H, M, E], V: f32[H, M, F], asks: i32[P], has: i32[M]) -> (AV: f32[H, P, F]) {
        QK[h, p, m] = Q[h, p, e] * K[h, m, e] / sqrt(E)    where m <= p and has[m] == asks[p]
        GM[h, p]    = QK[h, p, m]                          :: max(m)
        SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
        SD[h, p]    = SN[h, p, m]
        A[h, p, m]  = SN[h, p, m] / SD[h, p]
        AV[h, p, f] = A[h, p, m] * V[h, m, f]
    }
    """
    for p, m in [(12, 12), (70, 150)]:
        asks, has = (np.repeat(np.arange(p), 4)[:p].astype(np.int32), np.repeat(np.arange(m), 4)[:m].astype(np.int32))
        asks[4:8] = -1
        q, k, v = normal(2, p, 4), normal(2, m, 4, seed=1), normal(2, m, 5, seed=2)
        (found,) = agrees(text, Q=q, K=k, V=v, asks=asks, has=has)
        assert (found[:, 4:8] == 0).all() and (found[:, :4] != 0).all()


def test_a_derived_form_keeps_rows_that_a_condition_empties() -> None:
    """0 / 0 of an empty row is NaN as written: dividing later may not make it absent."""
    text = """
    kernel k(X: f64[N, N], V: f64[N, F]) -> (Y: f64[N, F]) {
        S[n, m] = X[n, m]              where n != n // 2 and m > 0
        G[n]    = S[n, m] * S[n, m]    :: +(m)
        A[n, m] = abs(S[n, m]) * rsqrt(G[n] + 0.125)
        D[n]    = A[n, m]
        C[n, f] = A[n, m] * V[m, f]
        Y[n, f] = C[n, f] / D[n]
    }
    """
    with np.errstate(all="ignore"):
        (found,) = agrees(text, X=normal(9, 9, dtype=float), V=normal(9, 5, seed=1, dtype=float))
    assert np.isnan(found[0]).all() and np.isfinite(found[1:]).all()


WHERE = """
kernel k(X: f32[M, N], keep: bool[M], length: i32[M]) -> (
    masked: f32[M, N], total: f32[M], top: f32[M], place: i32[M], product: f32[M], least: i32[M], none: bool[M]) {
    masked[m, n] = X[m, n]                            where n < length[m]
    total[m]     = masked[m, n]
    top[m]       = masked[m, n]      :: max(n)
    place[m]     = masked[m, n]      :: argmax(n)
    product[m]   = masked[m, n]      :: *(n)          where keep[m]
    least[m]     = cast(i32, n)      :: min(n)        where X[m, n] > 0 and n < length[m]
    none[m]      = X[m, n] > 0       :: or(n)         where n >= length[m]
}
"""


def test_reductions_over_nothing_give_the_identity() -> None:
    x = normal(4, 21)
    x[2, 5:] = np.nan
    found = agrees(WHERE, X=x, keep=np.array([True, False, True, True]), length=np.array([0, 21, 5, 1], np.int32))
    masked, total, top, place, product, least, none = found
    assert (masked[0] == 0).all() and total[0] == 0 and top[0] == -np.inf and place[0] == -1
    assert product[0] == 1 and product[1] == 0 and least[0] == np.iinfo(np.int32).max and not none[1]
    assert np.isfinite(total).all()


PADDED = """
kernel k(X: f32[C, H, W], F: f32[K, C, 3, 3]) -> (Y: f32[K, H, W], S: f32[H, W], D: f32[H, W]) {
    Y[k, h, w] = X[c, h + r - 1, w + s - 1] * F[k, c, r, s]
    S[h, w]    = X[0, h - 1, w + 1] ?? -1
    D[h, w]    = X[0, h + 1, w] - X[0, h, w - 1]
}
"""


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 19), (3, 1, 33), (1, 17, 2)], ids=str)
def test_reads_outside_are_padding(shape: tuple[int, int, int]) -> None:
    found = agrees(PADDED, X=normal(*shape), F=normal(4, shape[0], 3, 3))
    assert found[1][0, -1] == -1
    assert (found[2][-1] == 0).all() and (found[2][:, 0] == 0).all()


WRITTEN = """
kernel k(X: f32[M, N]) -> (later: f32[M, N], earlier: f32[M, N], spread: f32[M, N], back: f32[M, N], sums: f32[M]) {
    later[m, n + 2]     = X[m, n]
    earlier[m - 1, n]   = X[m, n]
    spread[m, 2*n + 1]  = X[m, n] + 1
    back[m, 9 - n]      = X[m, n]
    sums[m]             = later[m, n]       :: min(n)
}
"""


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (4, 10), (5, 37)], ids=str)
def test_coordinates_outside_the_target_are_not_written(shape: tuple[int, int]) -> None:
    x = normal(*shape) + 10
    later, earlier, spread, back, _ = agrees(WRITTEN, X=x)
    m, n = shape
    wanted = np.zeros((4, m, n), np.float32)
    wanted[0, :, 2:] = x[:, :-2] if n > 2 else 0
    wanted[1, :-1] = x[1:]
    wanted[2, :, 1::2] = x[:, : n // 2] + 1
    for j in range(n):
        if 0 <= 9 - j < n:
            wanted[3, :, 9 - j] = x[:, j]
    for found, expected in zip((later, earlier, spread, back), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_scatters_keep_their_output_conditions() -> None:
    text = """
    kernel k(X: f32[E, F], dst: i32[E]) -> (Y: f32[V, F], Z: f32[V, F], total: f32[F], best: i32[V, F]) {
        Y[dst[e], f]     = X[e, f]       :: max(e)     where f != 1
        Z[dst[e], f + 1] = X[e, f]       :: +(e)       where X[e, f] > 0
        total[f]         = Y[v, f]       :: +(v)       where v < 3
        best[dst[e], f]  = X[e, f]       :: argmax(e)
    }
    """
    x = normal(30, 5)
    x[3, 2] = x[7, 2] = np.nan
    dst = np.random.default_rng(0).integers(-1, 5, 30).astype(np.int32)
    dst[dst == 2] = 3
    y, z, _, best = agrees(text, X=x, dst=dst, sizes={"V": 4})
    assert (y[:, 1] == 0).all() and (z[:, 0] == 0).all()
    assert (y[2, [0, 2, 3]] == -np.inf).all() and (best[2] == -1).all()
    assert best[dst[3], 2] == (3 if dst[3] != dst[7] else min(3, 7))


SIZES = """
kernel k(X: f32[M, K], W: f32[K, N], i: i32[K]) -> (
    product: f32[M, N], rows: f32[M], top: f32[M], place: i32[M], all: bool, mass: f32[M, K],
    scattered: f32[N], state: f32[K + 1, N]) {
    product[m, n]   = X[m, k] * W[k, n]
    rows[m]         = X[m, k] * X[m, k]
    top[m]          = X[m, k]                    :: max(k)
    place[m]        = X[m, k]                    :: argmax(k)
    all             = X[m, k] < 100              :: and(m, k)
    mass[m, k]      = exp(X[m, k] - top[m])
    scattered[i[k]] = X[m, k]                    :: +(k, m)
    state[0, n]     = 1
    state[k+1, n]   = state[k, n] * 0.5 + W[k, n]
}
"""


@pytest.mark.parametrize("m", [0, 1, 3])
@pytest.mark.parametrize("k", [0, 1, 17])
@pytest.mark.parametrize("n", [0, 1, 33])
def test_extents_of_zero_and_one(m: int, k: int, n: int) -> None:
    index = np.zeros(k, np.int32)
    found = agrees(SIZES, X=normal(m, k), W=normal(k, n), i=index)
    assert [f.shape for f in found] == [(m, n), (m,), (m,), (m,), (), (m, k), (n,), (k + 1, n)]
    fixed = kernel(SIZES, M=m, K=k, N=n)(X=normal(m, k), W=normal(k, n), i=index)
    for a, b in zip(found, fixed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

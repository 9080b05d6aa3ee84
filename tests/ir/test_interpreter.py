"""The interpreter against independent NumPy code, and against the sentences of the language page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import ml_dtypes
import numpy as np
import pytest

from einfall.frontend import load
from einfall.ir.diagnostics import EinfallError
from einfall.ir.interpreter import interpret

Arrays = dict[str, np.ndarray]


def run(
    text: str,
    sizes: Mapping[str, int] | None = None,
    mode: Literal["exact", "typed"] = "exact",
    **arguments: np.ndarray | float,
) -> Arrays:
    (cascade,) = load(text, "test.ecs").values()
    return interpret(cascade, arguments, sizes=sizes, mode=mode)


def one(text: str, **arguments: np.ndarray | float) -> np.ndarray:
    (value,) = run(text, **arguments).values()
    return value


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def test_matmul(rng: np.random.Generator) -> None:
    X, W = normal(rng, 5, 7), normal(rng, 7, 3)
    Y = one("kernel mm(X: f32[M, K], W: f32[K, N]) -> (Y: f32[M, N]) {\n    Y[m, n] = X[m, k] * W[k, n]\n}\n", X=X, W=W)
    np.testing.assert_allclose(Y, X.astype(np.float64) @ W.astype(np.float64), rtol=1e-14)


def test_a_grid_larger_than_a_block_gives_the_same(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "kernel mm(X: f32[M, K], W: f32[K, N]) -> (Y: f32[M, N]) {\n    Y[m, n] = X[m, k] * W[k, n]\n}\n"
    scatter = "kernel s(X: f32[N], I: i32[N], Z: f32[V]) -> (Y: f32[V]) {\n    Y[I[n]] = X[n]    :: +(n)\n}\n"
    X, W = normal(rng, 9, 7), normal(rng, 7, 5)
    I = rng.integers(0, 4, 9).astype(np.int32)
    whole = one(text, X=X, W=W), one(scatter, X=X[:, 0], I=I, Z=X[:4, 0])
    monkeypatch.setattr("einfall.ir.interpreter._BLOCK", 10)
    np.testing.assert_array_equal(one(text, X=X, W=W), whole[0])
    np.testing.assert_allclose(one(scatter, X=X[:, 0], I=I, Z=X[:4, 0]), whole[1], rtol=1e-15)


ATTENTION = """
kernel attention(Q: f32[H, P, E], K: f32[H, M, E], V: f32[H, M, F], keep: bool[P, M]) -> (AV: f32[H, P, F]) {
    QK[h, p, m] = Q[h, p, e] * K[h, m, e] / sqrt(E)    where keep[p, m]
    GM[h, p]    = QK[h, p, m]                          :: max(m)
    SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
    SD[h, p]    = SN[h, p, m]
    A[h, p, m]  = SN[h, p, m] / SD[h, p]
    AV[h, p, f] = A[h, p, m] * V[h, m, f]
}
"""


@pytest.mark.parametrize("mode", ["exact", "typed"])
def test_masked_attention_and_its_empty_rows(rng: np.random.Generator, mode: Literal["exact", "typed"]) -> None:
    Q, K, V = normal(rng, 2, 4, 3), normal(rng, 2, 5, 3), normal(rng, 2, 5, 6)
    keep = rng.random((4, 5)) < 0.5
    keep[1] = False
    AV = run(ATTENTION, mode=mode, Q=Q, K=K, V=V, keep=keep)["AV"]
    scores = np.einsum("hpe,hme->hpm", Q.astype("f8"), K.astype("f8")) / np.sqrt(3)
    weights = np.where(keep, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    total = weights.sum(-1, keepdims=True)
    expected = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0) @ V.astype("f8")
    np.testing.assert_allclose(AV, expected, rtol=1e-12 if mode == "exact" else 1e-4, atol=1e-6 * (mode == "typed"))
    assert (AV[:, 1] == 0).all()


def test_convolution_is_padded_by_absence(rng: np.random.Generator) -> None:
    I, W = normal(rng, 2, 6, 5), normal(rng, 3, 2, 3, 3)
    text = """
kernel conv(I: f32[C, Y, X], W: f32[K, C, 3, 3]) -> (O: f32[K, Y, X]) {
    O[k, p, q] = I[c, p + r - 1, q + s - 1] * W[k, c, r, s]
}
"""
    padded = np.pad(I.astype("f8"), ((0, 0), (1, 1), (1, 1)))
    expected = np.zeros((3, 6, 5))
    for r in range(3):
        for s in range(3):
            expected += np.einsum("cyx,kc->kyx", padded[:, r : r + 6, s : s + 5], W[:, :, r, s].astype("f8"))
    np.testing.assert_allclose(one(text, I=I, W=W), expected, rtol=1e-12)


def test_scatter_drops_targets_outside_and_fills_with_the_identity() -> None:
    text = """
kernel scatter(X: f32[N], I: i32[N]) -> (S: f32[5], G: f32[5], A: i32[5]) {
    S[I[n]] = X[n]    :: +(n)
    T: f32[5]
    T[I[n]] = X[n]    :: max(n)
    G[v] = if T[v] == -inf then -1.0 else T[v]
    A[I[n]] = X[n]    :: argmax(n)
}
"""
    X = np.array([1, 2, 4, 8, 16, 4], np.float32)
    I = np.array([0, 3, 3, -1, 5, 3], np.int32)
    results = run(text, X=X, I=I)
    assert results["S"].tolist() == [1, 0, 0, 10, 0]
    assert results["G"].tolist() == [1, -1, -1, 4, -1]
    assert results["A"].tolist() == [0, -1, -1, 2, -1]


def test_prefix_sum_forwards_and_backwards() -> None:
    text = """
kernel scan(X: f32[N]) -> (P: f32[N], R: f32[N]) {
    S[0]   = 0
    S[n+1] = S[n] + X[n]
    P[n]   = S[n+1]
    B[N]   = 0
    B[n]   = B[n+1] + X[n]
    R[n]   = B[n]
}
"""
    X = np.arange(1, 8, dtype=np.float32)
    results = run(text, X=X)
    assert results["P"].tolist() == np.cumsum(X).tolist()
    assert results["R"].tolist() == np.cumsum(X[::-1])[::-1].tolist()
    assert run(text, X=X[:0])["P"].shape == (0,)


def test_lstm(rng: np.random.Generator) -> None:
    text = """
kernel lstm(X: f32[T, D], W: f32[4, N, D], U: f32[4, N, N]) -> (Y: f32[T, N]) {
    XW[t, g, n] = X[t, d] * W[g, n, d]
    HU[t, g, n] = H[t, m] * U[g, n, m]
    G[t, g, n]  = XW[t, g, n] + HU[t, g, n]
    H[0, n]     = 0
    C[0, n]     = 0
    C[t+1, n]   = sigmoid(G[t, 1, n]) * C[t, n] + sigmoid(G[t, 0, n]) * tanh(G[t, 2, n])
    H[t+1, n]   = sigmoid(G[t, 3, n]) * tanh(C[t+1, n])
    Y[t, n]     = H[t+1, n]
}
"""
    X, W, U = normal(rng, 6, 3), normal(rng, 4, 5, 3), normal(rng, 4, 5, 5)
    h = c = np.zeros(5)
    rows = []
    for x in X.astype("f8"):
        i, f, g, o = W.astype("f8") @ x + U.astype("f8") @ h
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        rows.append(h)
    np.testing.assert_allclose(one(text, X=X, W=W, U=U), np.array(rows), rtol=1e-12)


def test_edit_distance() -> None:
    text = """
kernel edit(S: i32[N], T: i32[M]) -> (d: i32) {
    D[i, 0] = i
    D[0, j] = j
    D: i32[i+1, j+1] = min(D[i, j] + (if S[i] == T[j] then 0 else 1), min(D[i, j+1], D[i+1, j]) + 1)
    d = D[N, M]
}
"""

    def letters(word: str) -> np.ndarray:
        return np.array([ord(letter) for letter in word], np.int32)

    assert one(text, S=letters("kitten"), T=letters("sitting")) == 3
    assert one(text, S=letters(""), T=letters("abc")) == 3
    assert one(text, S=letters("same"), T=letters("same")) == 0


def test_dynamic_time_warping(rng: np.random.Generator) -> None:
    text = """
kernel dtw(C: f32[N, M]) -> (cost: f32) {
    D[i, 0]     = inf
    D[0, j]     = inf
    D[0, 0]     = 0
    D[i+1, j+1] = C[i, j] + min(D[i, j+1], min(D[i+1, j], D[i, j]))
    cost        = D[N, M]
}
"""
    C = rng.random((6, 9)).astype(np.float32)
    D = np.full((7, 10), np.inf)
    D[0, 0] = 0
    for i in range(6):
        for j in range(9):
            D[i + 1, j + 1] = C[i, j] + min(D[i, j + 1], D[i + 1, j], D[i, j])
    assert one(text, C=C) == pytest.approx(D[6, 9], rel=1e-14)


def test_all_shortest_paths(rng: np.random.Generator) -> None:
    text = """
kernel floyd(W: f32[V, V]) -> (Y: f32[V, V]) {
    D[0, i, j]   = if i == j then 0 else W[i, j]
    D[k+1, i, j] = min(D[k, i, j], D[k, i, k] + D[k, k, j])
    Y[i, j]      = D[V, i, j]
}
"""
    W = rng.random((6, 6)).astype(np.float32)
    D = W.astype("f8") * (1 - np.eye(6))
    for k in range(6):
        D = np.minimum(D, D[:, k : k + 1] + D[k : k + 1])
    np.testing.assert_allclose(one(text, W=W), D, rtol=1e-14)


def test_argmax_takes_the_first_and_minus_one_over_nothing() -> None:
    text = """
kernel best(X: f32[M, N], keep: bool[M, N]) -> (A: i32[M], B: i32[M]) {
    A[m] = X[m, n]    :: argmax(n)  where keep[m, n]
    B[m] = X[m, n]    :: argmin(n)  where keep[m, n]
}
"""
    X = np.array([[3, 7, 7, 1], [1, 1, 1, 1], [-np.inf, -np.inf, 0, 0], [np.nan, 9, 9, 9], [2, np.nan, 9, 9]], "f4")
    keep = np.ones(X.shape, bool)
    keep[1] = False
    keep[2, [0, 2, 3]] = False
    results = run(text, X=X, keep=keep)
    assert results["A"].tolist() == [1, -1, 1, 0, 1]
    assert results["B"].tolist() == [3, -1, 1, 0, 1]
    assert results["A"].dtype == np.int32


def test_reductions_over_nothing_give_identities() -> None:
    text = """
kernel empty(X: f32[M, N], I: i8[M, N]) -> (a: f32[M], b: f32[M], c: bool[M], d: bool[M], e: bool[M], f: bool[M]) {
    a[m] = X[m, n]                  :: +(n)
    b[m] = X[m, n]                  :: *(n)
    G[m] = X[m, n]                  :: max(n)
    c[m] = G[m] == -inf
    L[m] = I[m, n]                  :: min(n)
    d[m] = L[m] == 127
    e[m] = X[m, n] > 0              :: and(n)
    f[m] = X[m, n] > 0              :: or(n)
}
"""
    results = run(text, X=np.zeros((2, 0), "f4"), I=np.zeros((2, 0), np.int8))
    assert {name: value.tolist() for name, value in results.items()} == {
        "a": [0, 0],
        "b": [1, 1],
        "c": [True, True],
        "d": [True, True],
        "e": [True, True],
        "f": [False, False],
    }


def test_conditions_without_reduced_ranks_make_the_output_absent() -> None:
    text = """
kernel mask(X: f32[M, N]) -> (Y: f32[M], Z: f32[M]) {
    S[m] = X[m, n]    where m < 1 and n > 0
    Y[m] = S[m] ?? -1.0
    Z[m] = S[m]
}
"""
    results = run(text, X=np.array([[1, 2, 4], [8, 16, 32]], "f4"))
    assert results["Y"].tolist() == [6, -1]
    assert results["Z"].tolist() == [6, 0]


def test_absence_is_contagious_except_through_if_and_default() -> None:
    text = """
kernel absent(X: f32[N]) -> (a: f32[N], b: f32[N], c: f32[N], d: f32[N]) {
    a[n] = (X[n - 1] + 1) ?? -1.0
    b[n] = if n > 0 then X[n - 1] else 9.0
    c[n] = (if X[n - 1] > 0 then 1.0 else 2.0) ?? -1.0
    d[n] = X[n + 1] ?? X[n + 2] ?? 7.0
}
"""
    results = run(text, X=np.array([1, 2, 4], "f4"))
    assert results["a"].tolist() == [-1, 2, 3]
    assert results["b"].tolist() == [9, 1, 2]
    assert results["c"].tolist() == [-1, 1, 1]
    assert results["d"].tolist() == [2, 4, 7]


def test_division_of_integers_by_zero_is_absent() -> None:
    text = """
kernel div(A: i32[N], B: i32[N]) -> (Q: i32[N], S: i32) {
    Q[n] = (A[n] // B[n]) ?? -99
    S = A[n] % B[n]
}
"""
    results = run(text, A=np.array([7, -7, 5], "i4"), B=np.array([2, 2, 0], "i4"))
    assert results["Q"].tolist() == [3, -4, -99]
    assert results["S"] == 2


def test_integer_sums_of_products_do_not_wrap_at_8_bits() -> None:
    text = "kernel dot(A: i8[N], B: i8[N]) -> (S: i32, W: i8[N]) {\n    S = A[n] * B[n]\n    W[n] = A[n] * B[n]\n}\n"
    A = np.full(100, 127, np.int8)
    results = run(text, A=A, B=A)
    assert results["S"] == 100 * 127 * 127
    assert results["W"].tolist() == [1] * 100  # 16129 modulo 256
    assert results["W"].dtype == np.int8


def test_i64_wraps() -> None:
    text = "kernel square(A: i64[N]) -> (S: i64[N]) {\n    S[n] = A[n] * A[n] + 1\n}\n"
    assert one(text, A=np.array([2**32 + 1])).tolist() == [2**33 + 2]


def test_data_dependent_reads(rng: np.random.Generator) -> None:
    text = "kernel gather(X: f32[V, F], I: i32[N]) -> (Y: f32[N, F]) {\n    Y[n, f] = X[I[n], f] ?? 5.0\n}\n"
    X = normal(rng, 4, 2)
    Y = one(text, X=X, I=np.array([3, -1, 0, 4], np.int32))
    np.testing.assert_array_equal(Y, np.array([X[3], [5, 5], X[0], [5, 5]]))


def test_typed_mode_rounds_what_is_stored() -> None:
    text = "kernel half(X: f16[N]) -> (Y: f16[N], S: f16) {\n    Y[n] = X[n] / 3\n    S = X[n]\n}\n"
    X = np.full(3000, 1.0, np.float16)
    typed = run(text, mode="typed", X=X)
    assert typed["Y"].dtype == np.float16
    assert typed["Y"][0] == np.float16(1 / 3)
    assert typed["S"] == 3000  # in f16 alone the sum would stop at 2048
    assert run(text, X=X)["Y"][0] == 1 / 3


def test_small_floats_and_integers_come_and_go() -> None:
    text = """
kernel small(X: f8_e4m3[N], T: t2[N], B: i1[N]) -> (Y: f8_e4m3[N], Z: i4[N]) {
    Y[n] = X[n] * 2
    Z[n] = cast(i4, T[n]) + cast(i4, B[n])
}
"""
    X = np.array([0.5, -3], ml_dtypes.float8_e4m3fn)
    results = run(text, mode="typed", X=X, T=np.array([0, -1], np.int8), B=np.array([1, -1], np.int8))
    assert results["Y"].astype("f4").tolist() == [1, -6]
    assert results["Y"].dtype == X.dtype
    assert results["Z"].tolist() == [1, -2]


def test_sizes_come_from_shapes_or_by_name() -> None:
    text = """
kernel windows(X: f32[2*N + 1]) -> (Y: f32[N], Z: f32[P]) {
    require N % 2 == 0
    Y[n] = X[2*n]
    Z[p] = X[p + 1]
}
"""
    results = run(text, sizes={"P": 2}, X=np.arange(5, dtype="f4"))
    assert results["Y"].tolist() == [0, 2]
    assert results["Z"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "sizes", "code"),
    [
        ({"X": np.zeros((2, 3))}, {}, "E1002"),
        ({"X": np.zeros((2, 3)), "W": np.zeros((3, 2)), "Z": np.zeros(1)}, {}, "E1001"),
        ({"X": np.zeros((2, 3)), "W": np.zeros((4, 2))}, {}, "E1004"),
        ({"X": np.zeros(3), "W": np.zeros((3, 2))}, {}, "E1003"),
        ({"X": np.zeros((2, 3)), "W": np.zeros((3, 2))}, {"K": 4}, "E1004"),
        ({"X": np.zeros((2, 3)), "W": np.zeros((3, 2))}, {"Q": 4}, "E1001"),
        ({"X": np.zeros((3, 3)), "W": np.zeros((3, 3))}, {}, "E0701"),
    ],
)
def test_arguments_that_do_not_fit(arguments: Arrays, sizes: dict[str, int], code: str) -> None:
    text = """
kernel mm(X: f32[M, K], W: f32[K, N]) -> (Y: f32[M, N]) {
    require M % 2 == 0
    Y[m, n] = X[m, k] * W[k, n]
}
"""
    with pytest.raises(EinfallError) as caught:
        run(text, sizes=sizes, **arguments)
    assert caught.value.code == code

"""Graphs and sparse matrices, edge by edge or through a dense matrix."""

from __future__ import annotations

import numpy as np

from .attention import weights
from .registry import Array, Sizes, reference


def row_pointers(sizes: Sizes) -> Array:
    """M + 1 ascending pointers into Z entries, some rows empty; the same on every call."""
    rng = np.random.default_rng(17)
    return np.concatenate([[0], np.sort(rng.integers(0, sizes["Z"] + 1, sizes["M"] - 1)), [sizes["Z"]]])


def adjacency(V: int, src: Array, dst: Array) -> Array:
    """A[d, s]: the number of edges from s to d."""
    A = np.zeros((V, V))
    for s, d in zip(src, dst, strict=True):
        A[d, s] += 1
    return A


@reference()
def spmm_coo(row: Array, col: Array, val: Array, X: Array, M: int) -> Array:
    A = np.zeros((M, len(X)))
    for r, c, v in zip(row, col, val, strict=True):
        A[r, c] += v
    return A @ X


@reference(
    begin=lambda rng, sizes, shape: row_pointers(sizes)[:-1],
    stop=lambda rng, sizes, shape: row_pointers(sizes)[1:],
)
def spmm_csr(begin: Array, stop: Array, col: Array, val: Array, X: Array) -> Array:
    A = np.zeros((len(begin), len(X)))
    for m, (first, end) in enumerate(zip(begin, stop, strict=True)):
        for z in range(first, end):
            A[m, col[z]] += val[z]
    return A @ X


@reference()
def sddmm(row: Array, col: Array, X: Array, Y: Array) -> Array:
    return (X @ Y.T)[row, col]


@reference()
def gcn(X: Array, W: Array, src: Array, dst: Array) -> Array:
    A = adjacency(len(X), src, dst)
    degree = np.maximum(A.sum(1), 1)
    return (A / np.sqrt(degree[:, None] * degree[None, :])) @ X @ W


@reference()
def rgcn(X: Array, W: Array, src: Array, dst: Array, rel: Array) -> Array:
    Y = np.zeros((len(X), W.shape[2]))
    for r in range(len(W)):
        Y += adjacency(len(X), src[rel == r], dst[rel == r]) @ X @ W[r]
    return Y


@reference()
def gat(X: Array, left: Array, right: Array, src: Array, dst: Array) -> Array:
    Y = np.zeros_like(X)
    for v in range(len(X)):
        neighbours = src[dst == v]
        score = X[neighbours] @ left + X[v] @ right
        Y[v] = weights(np.maximum(score, 0.2 * score)) @ X[neighbours]
    return Y


@reference()
def bellman_ford_step(D: Array, W: Array) -> Array:
    return np.minimum(D, (D[:, :, None] + W[None]).min(axis=1))


@reference()
def bellman_ford_edges(D: Array, W: Array, src: Array, dst: Array) -> Array:
    Y = D.copy()
    for w, s, d in zip(W, src, dst, strict=True):
        Y[d] = min(Y[d], D[s] + w)
    return Y


@reference()
def pagerank_step(R: Array, src: Array, dst: Array) -> Array:
    V = len(R)
    A = adjacency(V, src, dst)
    leaving = A.sum(0)
    transition = np.where(leaving > 0, A / np.maximum(leaving, 1), 1 / V)
    return 0.15 / V + 0.85 * transition @ R


@reference()
def reachability(A: Array, B: Array) -> Array:
    return (A.astype(int) @ B.astype(int)) > 0

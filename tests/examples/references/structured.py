"""Structured matrices, by forming the dense matrix."""

from __future__ import annotations

import numpy as np
from scipy.linalg import block_diag, circulant
from scipy.linalg import hadamard as hadamard_matrix

from .registry import Array, reference


@reference()
def monarch(X: Array, R: Array, L: Array) -> Array:
    B, I, _ = X.shape
    K, N, _ = L.shape
    permute = np.eye(I * K).reshape(I, K, I * K).transpose(1, 0, 2).reshape(I * K, I * K)
    dense = block_diag(*L) @ permute @ block_diag(*R)
    return (X.reshape(B, -1) @ dense.T).reshape(B, K, N).swapaxes(1, 2)


@reference()
def monarch_mixer(X: Array, R1: Array, L1: Array, filter: Array, R2: Array, L2: Array) -> Array:
    channels = [monarch((monarch(X[None, :, :, d], R1, L1) * filter[:, :, d]), R2, L2)[0] for d in range(X.shape[2])]
    return np.stack(channels, axis=-1)


@reference()
def hadamard(X: Array) -> Array:
    return (X.reshape(len(X), 16) @ hadamard_matrix(16) / 4).reshape(X.shape)


@reference()
def kronecker_linear(X: Array, A: Array, B: Array) -> Array:
    M = len(X)
    return (X.reshape(M, -1) @ np.kron(A, B).T).reshape(M, len(A), len(B))


@reference()
def tensor_train(X: Array, G1: Array, G2: Array, G3: Array) -> Array:
    dense = np.einsum("iar,rjbs,skc->ijkabc", G1, G2, G3)
    return np.tensordot(X, dense, axes=3)


@reference()
def clebsch_gordan(X: Array, Y: Array, C: Array, mix: Array) -> Array:
    Z, U, _ = X.shape
    V, W = mix.shape[1:]
    O = np.zeros((Z, W, C.shape[2]))
    for z in range(Z):
        for u in range(U):
            for v in range(V):
                pair = np.einsum("i,j,ijk->k", X[z, u], Y[z, v], C)
                O[z] += np.outer(mix[u, v], pair)
    return O


@reference()
def low_rank_circulant(X: Array, C: Array, A: Array, B: Array) -> Array:
    return X @ (circulant(C).T + A @ B)

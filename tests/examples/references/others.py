"""Statistics, clustering, particles, transport, embeddings and the rest."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import expit, logsumexp, ndtr
from scipy.special import softmax as scipy_softmax

from .registry import Array, reference


@reference()
def argmax(X: Array) -> tuple[Array, Array]:
    if X.shape[1] == 0:
        return np.full(len(X), -1), np.full(len(X), -np.inf)
    return X.argmax(axis=1), X.max(axis=1)


@reference()
def variance(X: Array) -> tuple[Array, Array]:
    return X.mean(axis=1), X.var(axis=1)


@reference()
def moments(X: Array) -> tuple[Array, Array]:
    s2, s3, s4 = (((X - X.mean(1, keepdims=True)) ** k).mean(1) for k in (2, 3, 4))
    return s3 / (s2**1.5 + 1e-6), s4 / (s2**2 + 1e-6)


@reference()
def covariance(X: Array) -> Array:
    return np.cov(X, rowvar=False, bias=True).reshape(X.shape[1], X.shape[1])


@reference()
def gelu(X: Array) -> Array:
    return X * ndtr(X)


@reference()
def pairwise_distances(X: Array, Y: Array) -> Array:
    return cdist(X, Y)


@reference()
def kmeans_assign(X: Array, C: Array) -> tuple[Array, Array]:
    squared = cdist(X, C, "sqeuclidean")
    return squared.argmin(axis=1), squared.min(axis=1)


@reference()
def kmeans_step(X: Array, C: Array) -> Array:
    label = cdist(X, C).argmin(axis=1)
    return np.stack([X[label == k].mean(axis=0) if (label == k).any() else C[k] for k in range(len(C))])


@reference()
def nbody(X: Array, mass: Array) -> Array:
    A = np.zeros_like(X)
    for i in range(len(X)):
        for j in range(len(X)):
            apart = X[j] - X[i]
            A[i] += mass[j] * apart / (apart @ apart + 0.01) ** 1.5
    return A


@reference()
def sinkhorn_step(C: Array, logA: Array, logB: Array, G: Array) -> tuple[Array, Array]:
    F = 0.5 * (logA - logsumexp((G[None, :] - C) / 0.5, axis=1))
    return F, 0.5 * (logB - logsumexp((F[:, None] - C) / 0.5, axis=0))


@reference()
def kernel_regression(Q: Array, X: Array, Y: Array) -> Array:
    return scipy_softmax(-0.5 * cdist(Q, X, "sqeuclidean"), axis=1) @ Y


@reference()
def rotary_embedding(X: Array, cosine: Array, sine: Array) -> Array:
    turned = (X[:, :, 0] + 1j * X[:, :, 1]) * (cosine + 1j * sine)[:, None]
    return np.stack([turned.real, turned.imag], axis=2)


@reference()
def embedding(table: Array, token: Array) -> Array:
    return table[token]


@reference()
def embedding_bag(table: Array, item: Array, weight: Array) -> Array:
    counts = np.zeros((len(item), len(table)))
    for b, j in np.ndindex(*item.shape):
        counts[b, item[b, j]] += weight[b, j]
    return counts @ table


@reference()
def segment_mean(X: Array, segment: Array, S: int) -> tuple[Array, Array]:
    count = np.bincount(segment, minlength=S)
    return count, np.array([X[segment == s].mean() if count[s] else 0.0 for s in range(S)])


@reference()
def lmul_gemm(X: Array, W: Array) -> Array:
    # On sign, exponent and mantissa fields: the sum of the fraction fields carries into the exponent.
    def fields(a: Array) -> tuple[Array, Array]:
        bits = a.astype(np.float32).view(np.uint32).astype(np.int64)
        return bits >> 31, bits & 0x7FFFFFFF

    sign_x, size_x = fields(X[:, None, :])
    sign_w, size_w = fields(W[None, :, :])
    # 127 biases of exponent, less the 2^-4 that L-Mul adds for the missing product of the mantissas.
    size = size_x + size_w - (127 << 23) + (1 << 19)
    value = np.ldexp(1 + (size % (1 << 23)) / (1 << 23), size // (1 << 23) - 127)
    return np.where(sign_x ^ sign_w, -value, value).sum(axis=-1)


@reference()
def hash_grid_mlp(X: Array, table: Array, W1: Array, W2: Array) -> Array:
    L, S, F = table.shape
    features = np.zeros((len(X), L, F))
    for n, level in np.ndindex(len(X), L):
        x, y = expit(X[n]) * 2 ** (level + 2)
        x0, y0 = int(np.floor(x)), int(np.floor(y))
        for dx, dy in np.ndindex(2, 2):
            share = (x - x0 if dx else x0 + 1 - x) * (y - y0 if dy else y0 + 1 - y)
            slot = ((x0 + dx) ^ ((y0 + dy) * 2654435761 % 2**32)) % S
            features[n, level] += share * table[level, slot]
    hidden = np.maximum(np.tensordot(features, W1, axes=2), 0)
    return hidden @ W2


@reference()
def adamw_step(W: Array, G: Array, M1: Array, R1: Array, rate: float) -> tuple[Array, Array, Array]:
    first = 0.9 * M1 + 0.1 * G
    second = 0.999 * R1**2 + 0.001 * G**2
    return W * (1 - 0.01 * rate) - rate * first / (np.sqrt(second) + 1e-8), first, np.sqrt(second)

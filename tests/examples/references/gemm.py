"""Matrix products, their epilogues, and mixtures of experts."""

from __future__ import annotations

import numpy as np
from scipy.special import erf, expit, softmax

from .registry import Array, reference


@reference()
def gemm(X: Array, W: Array) -> Array:
    return X @ W


@reference()
def gemm_bf16(X: Array, W: Array) -> Array:
    return X @ W.T


@reference()
def gemv(W: Array, X: Array) -> Array:
    return W @ X


@reference()
def batched_matmul(X: Array, Y: Array) -> Array:
    return X @ Y


@reference()
def gram(X: Array) -> Array:
    return X @ X.T


@reference()
def bilinear(X: Array, Y: Array, W: Array, bias: Array) -> Array:
    return np.stack([((X @ form) * Y).sum(1) for form in W], axis=1) + bias


@reference()
def gemm_bias(X: Array, W: Array, bias: Array) -> Array:
    return X @ W.T + bias


@reference()
def gemm_gelu(X: Array, W: Array, bias: Array) -> Array:
    Z = X @ W + bias
    return Z * (1 + erf(Z / np.sqrt(2))) / 2


@reference()
def gemm_silu(X: Array, W: Array, bias: Array) -> Array:
    Z = X @ W + bias
    return Z * expit(Z)


@reference()
def gemm_residual(X: Array, W: Array, bias: Array, R: Array) -> Array:
    return R + X @ W + bias


@reference()
def mlp(X: Array, W1: Array, B1: Array, W2: Array, B2: Array) -> Array:
    return np.maximum(X @ W1 + B1, 0) @ W2 + B2


@reference()
def swiglu(X: Array, WG: Array, WU: Array, WD: Array) -> Array:
    G = X @ WG
    return (G * expit(G) * (X @ WU)) @ WD


@reference()
def lora(X: Array, W: Array, A: Array, B: Array, alpha: float) -> Array:
    return X @ (W + alpha * (A @ B))


@reference()
def grouped_expert_gemm(X: Array, W: Array, eid: Array) -> Array:
    rows = [x @ W[expert] for x, expert in zip(X, eid, strict=True)]
    return np.array(rows).reshape(len(X), W.shape[2])


@reference()
def switch_routing(X: Array, WR: Array, W: Array) -> tuple[Array, Array]:
    probability = softmax(X @ WR, axis=1)
    best = probability.argmax(axis=1)
    return np.stack([probability[t, r] * (X[t] @ W[r]) for t, r in enumerate(best)]), best

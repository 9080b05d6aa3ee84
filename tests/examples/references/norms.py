"""Softmax, the normalisation layers, and the linear layers behind them."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from .attention import weights
from .registry import Array, reference


def standardised(X: Array, axes: tuple[int, ...]) -> Array:
    return (X - X.mean(axes, keepdims=True)) / np.sqrt(X.var(axes, keepdims=True) + 1e-5)


def rms_scaled(X: Array) -> Array:
    return X / np.sqrt(np.mean(X * X, axis=-1, keepdims=True) + 1e-5)


@reference()
def softmax(X: Array) -> Array:
    return weights(X)


@reference()
def log_softmax(X: Array) -> Array:
    return X - logsumexp(X, axis=1, keepdims=True)


@reference()
def layernorm(X: Array, gain: Array, bias: Array) -> Array:
    return standardised(X, (1,)) * gain + bias


@reference()
def rmsnorm(X: Array, gain: Array) -> Array:
    return rms_scaled(X) * gain


@reference()
def add_rmsnorm(X: Array, R: Array, gain: Array) -> tuple[Array, Array]:
    return rms_scaled(X + R) * gain, X + R


@reference()
def groupnorm(X: Array, gain: Array, bias: Array) -> Array:
    return standardised(X, (2, 3)) * gain[None, :, :, None] + bias[None, :, :, None]


@reference()
def batchnorm(X: Array, gain: Array, bias: Array) -> tuple[Array, Array, Array]:
    normal = standardised(X, (0, 2)) * gain[:, None] + bias[:, None]
    return normal, X.mean((0, 2)), X.var((0, 2))


@reference()
def l2_normalize(X: Array) -> Array:
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@reference()
def dynamic_tanh(X: Array, alpha: float, gain: Array, bias: Array) -> Array:
    return np.tanh(alpha * X) * gain + bias


@reference()
def rmsnorm_gemm(X: Array, gain: Array, W: Array) -> Array:
    return (rms_scaled(X) * gain) @ W


@reference()
def layernorm_gemm(X: Array, gain: Array, bias: Array, W: Array) -> Array:
    return (standardised(X, (1,)) * gain + bias) @ W


@reference()
def pre_rmsnorm(R: Array, H: Array, W: Array, gain: Array, bias: Array) -> tuple[Array, Array]:
    stream = R + H @ W
    centred = stream - stream.mean(axis=1, keepdims=True)
    return standardised(stream, (1,)) * gain + bias, centred


@reference()
def quantise_gemm(X: Array, W: Array, scale: Array) -> Array:
    step = np.abs(X).max(axis=1, keepdims=True) / 127
    return (np.rint(X / step) @ W) * step * scale


@reference()
def absmax_gemm(X: Array, W: Array) -> tuple[Array, Array]:
    largest = np.abs(X).max(axis=1)
    return (X @ W) / largest[:, None], largest

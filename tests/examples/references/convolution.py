"""Convolution and pooling on explicitly padded images, one output pixel at a time."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from .registry import Array, reference


def convolved(I: Array, W: Array, P: int, Q: int, *, pad: int = 0, stride: int = 1, dilation: int = 1) -> Array:
    """Correlation of I[n, c, y, x] with W[k, c, r, s] at P × Q positions."""
    R, S = W.shape[2:]
    padded = np.pad(I, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    O = np.empty((len(I), len(W), P, Q))
    for p, q in np.ndindex(P, Q):
        rows = slice(stride * p, stride * p + dilation * (R - 1) + 1, dilation)
        columns = slice(stride * q, stride * q + dilation * (S - 1) + 1, dilation)
        O[:, :, p, q] = np.tensordot(padded[:, :, rows, columns], W, axes=([1, 2, 3], [1, 2, 3]))
    return O


@reference()
def causal_conv1d(X: Array, W: Array, bias: Array) -> Array:
    J = W.shape[1]
    padded = np.pad(X, ((J - 1, 0), (0, 0)))
    Z = np.stack([(padded[t : t + J].T * W).sum(1) for t in range(len(X))]) + bias
    return Z * expit(Z)


@reference()
def conv2d(I: Array, W: Array, P: int, Q: int) -> Array:
    return convolved(I, W, P, Q, pad=1)


@reference()
def conv2d_valid(I: Array, W: Array, P: int, Q: int) -> Array:
    return convolved(I, W, P, Q)


@reference()
def conv2d_bias_relu(I: Array, W: Array, bias: Array, P: int, Q: int) -> Array:
    return np.maximum(convolved(I, W, P, Q, pad=1) + bias[:, None, None], 0)


@reference()
def conv2d_strided(I: Array, W: Array, P: int, Q: int) -> Array:
    return convolved(I, W, P, Q, pad=1, stride=2)


@reference()
def conv2d_dilated(I: Array, W: Array, P: int, Q: int) -> Array:
    return convolved(I, W, P, Q, pad=2, dilation=2)


@reference()
def conv2d_grouped(I: Array, W: Array, P: int, Q: int) -> Array:
    return np.stack([convolved(I[:, g], W[g], P, Q, pad=1) for g in range(len(W))], axis=1)


@reference()
def depthwise_conv2d(I: Array, W: Array, P: int, Q: int) -> Array:
    channels = [convolved(I[:, c : c + 1], W[None, c : c + 1], P, Q, pad=1) for c in range(len(W))]
    return np.concatenate(channels, axis=1)


@reference()
def conv2d_im2col(I: Array, W: Array, P: int, Q: int) -> Array:
    return convolved(I, W, P, Q, pad=1)


@reference()
def conv_transpose1d(I: Array, W: Array, P: int) -> Array:
    # The definition: every input adds its multiple of the filter to the outputs that it reaches.
    N, _, L = I.shape
    O = np.zeros((N, W.shape[1], P))
    for x in range(L):
        for r in range(W.shape[2]):
            if 0 <= 2 * x + r - 1 < P:
                O[:, :, 2 * x + r - 1] += I[:, :, x] @ W[:, :, r]
    return O


@reference()
def correlation(A: Array, B: Array) -> Array:
    N, _, P, Q = A.shape
    padded = np.pad(B, ((0, 0), (0, 0), (1, 1), (1, 1)))
    O = np.empty((N, 3, 3, P, Q))
    for u, v in np.ndindex(3, 3):
        O[:, u, v] = (A * padded[:, :, u : u + P, v : v + Q]).sum(1)
    return O


@reference()
def max_pool2d(I: Array, P: int, Q: int) -> Array:
    padded = np.pad(I, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    O = np.empty((*I.shape[:2], P, Q))
    for p, q in np.ndindex(P, Q):
        O[:, :, p, q] = padded[:, :, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3].max((2, 3))
    return O


@reference()
def avg_pool2d(I: Array, P: int, Q: int) -> Array:
    N, C = I.shape[:2]
    return I[:, :, : 2 * P, : 2 * Q].reshape(N, C, P, 2, Q, 2).mean((3, 5))


@reference()
def global_avg_pool(I: Array) -> Array:
    return I.mean((2, 3))

"""A second opinion: the NumPy references of well-known kernels agree with PyTorch's own operators."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .cases import Case, cases, inputs
from .references import REFERENCES

torch = pytest.importorskip("torch")
F = torch.nn.functional


def attention(Q, K, V):
    return F.scaled_dot_product_attention(Q, K, V)


def causal_attention(Q, K, V):
    # PyTorch aligns its causal mask with the first key; ours with the last, the same for P = M.
    return F.scaled_dot_product_attention(Q, K, V, is_causal=True) if Q.shape[1] == K.shape[1] else None


def grouped_query_attention(Q, K, V):
    return F.scaled_dot_product_attention(Q[None], K[None], V[None], enable_gqa=True)[0]


def softmax(X):
    return torch.softmax(X, 1)


def log_softmax(X):
    return torch.log_softmax(X, 1)


def layernorm(X, gain, bias):
    return F.layer_norm(X, X.shape[1:], gain, bias, eps=1e-5)


def rmsnorm(X, gain):
    return F.rms_norm(X, X.shape[1:], gain, eps=1e-5)


def groupnorm(X, gain, bias):
    N, G, C, L = X.shape
    if N * C * L == 1:
        return None  # PyTorch refuses groups of one value
    return F.group_norm(X.reshape(N, G * C, L), G, gain.flatten(), bias.flatten()).reshape(X.shape)


def l2_normalize(X):
    return F.normalize(X)


def gemm_gelu(X, W, bias):
    return F.gelu(X @ W + bias)


def gemm_silu(X, W, bias):
    return F.silu(X @ W + bias)


def bilinear(X, Y, W, bias):
    return F.bilinear(X, Y, W, bias)


def cross_entropy(X, target):
    return F.cross_entropy(X, target, reduction="none")


def label_smoothing(X, target):
    return F.cross_entropy(X, target, reduction="none", label_smoothing=0.1)


def kl_divergence(X, Y):
    return F.kl_div(torch.log_softmax(Y, 1), torch.log_softmax(X, 1), reduction="none", log_target=True).sum(1)


def huber(X, Y):
    return F.huber_loss(X, Y, reduction="none").mean(1)


def binary_cross_entropy(X, target):
    return F.binary_cross_entropy_with_logits(X, target.double(), reduction="none").mean(1)


def entropy(X):
    return torch.distributions.Categorical(logits=X).entropy()


def elman(X, H0, W, U, bias):
    return torch.rnn_tanh(X, H0[None], [W, U, bias, 0 * bias], True, 1, 0.0, False, False, False)[0]


def lstm(X, H0, C0, W, U, bias):
    if len(X) == 0:
        return None  # PyTorch refuses sequences of length 0
    stacked = [W.flatten(0, 1), U.flatten(0, 1), bias.flatten(), 0 * bias.flatten()]
    Y, h, c = torch.lstm(X, (H0[None], C0[None]), stacked, True, 1, 0.0, False, False, False)
    return Y, h[0], c[0]


def gru(X, H0, W, U, BW, BU):
    stacked = [W.flatten(0, 1), U.flatten(0, 1), BW.flatten(), BU.flatten()]
    return torch.gru(X, H0[None], stacked, True, 1, 0.0, False, False, False)[0]


def conv2d(I, W):
    return F.conv2d(I, W, padding=1) if I.shape[1] else None  # PyTorch refuses images with no channel


def conv2d_valid(I, W):
    return F.conv2d(I, W)


def conv2d_strided(I, W):
    return F.conv2d(I, W, padding=1, stride=2)


def conv2d_dilated(I, W):
    return F.conv2d(I, W, padding=2, dilation=2)


def conv2d_grouped(I, W):
    O = F.conv2d(I.flatten(1, 2), W.flatten(0, 1), padding=1, groups=len(W))
    return O.unflatten(1, (len(W), W.shape[1]))


def depthwise_conv2d(I, W):
    return F.conv2d(I, W[:, None], padding=1, groups=len(W))


def causal_conv1d(X, W, bias):
    return F.silu(F.conv1d(F.pad(X.T, (W.shape[1] - 1, 0)), W[:, None], bias, groups=len(W))).T


def conv_transpose1d(I, W):
    return F.conv_transpose1d(I, W, stride=2, padding=1)


def max_pool2d(I):
    return F.max_pool2d(I, 3, stride=2, padding=1)


def avg_pool2d(I):
    return F.avg_pool2d(I, 2)


def embedding_bag(table, item, weight):
    return F.embedding_bag(item, table, per_sample_weights=weight, mode="sum")


TORCH: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in list(globals().values())
    if inspect.isfunction(function) and function.__name__ in REFERENCES and function.__module__ == __name__
}


@pytest.mark.parametrize("case", [c for c in cases() if c.kernel in TORCH], ids=lambda case: case.name)
def test_reference_agrees_with_torch(case: Case) -> None:
    drawn = {
        name: value.astype(np.float64) if value.dtype == np.float32 else value.astype(np.int64)
        for name, value in inputs(case).items()
    }
    theirs = TORCH[case.kernel](**{name: torch.from_numpy(value) for name, value in drawn.items()})
    if theirs is None:
        pytest.skip("PyTorch defines this operator otherwise at these sizes")
    function = REFERENCES[case.kernel].function
    available = {**case.sizes, **drawn}
    ours = function(**{name: available[name] for name in inspect.signature(function).parameters})
    for mine, other in zip(
        ours if isinstance(ours, tuple) else (ours,),
        theirs if isinstance(theirs, tuple) else (theirs,),
        strict=True,
    ):
        np.testing.assert_allclose(mine, other.numpy(), rtol=1e-9, atol=1e-9)

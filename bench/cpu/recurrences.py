"""Recurrences, one step after the other."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
from cases import Case, Contestants, example, normal, with_torch

T, B, N = 256, 8, 256


def cases() -> Iterator[Case]:
    """An LSTM layer and a prefix sum."""
    yield Case(
        name=f"lstm T{T} B{B} H{N}",
        make=_lstm,
        flops=2.0 * T * B * 4 * N * 2 * N,
        traffic=4.0 * (2 * T * B * N + 8 * N * N),
    )
    yield Case(name="prefix sum 1024×4096", make=_prefix_sum, traffic=8.0 * 1024 * 4096)


def _lstm() -> Contestants:
    kernel = example("recurrences/lstm.ecs", T=T, B=B, D=N, N=N)
    x, zeros = normal(T, B, N), np.zeros((B, N), np.float32)
    w, u, bias = (normal(4, N, *rest, seed=seed, scale=0.06) for seed, rest in enumerate(((N,), (N,), ()), 1))
    out = tuple(np.empty(shape, np.float32) for shape in ((T, B, N), (B, N), (B, N)))

    def peer(torch: ModuleType):
        layer = torch.nn.LSTM(N, N)
        with torch.no_grad():
            for name, value in (("weight_ih_l0", w), ("weight_hh_l0", u), ("bias_ih_l0", bias)):
                getattr(layer, name).copy_(torch.from_numpy(value.reshape(4 * N, *value.shape[2:])))
            layer.bias_hh_l0.zero_()
        a = torch.from_numpy(x)

        def call():
            with torch.no_grad():
                y, (h, c) = layer(a)
            return y, h[0], c[0]

        return call

    return with_torch({"einfall": lambda: kernel(X=x, H0=zeros, C0=zeros, W=w, U=u, bias=bias, out=out)}, peer)


def _prefix_sum() -> Contestants:
    kernel = example("recurrences/prefix_sum.ecs", B=1024, T=4096)
    x, y, z = normal(1024, 4096), np.empty((1024, 4096), np.float32), np.empty((1024, 4096), np.float32)

    def peer(torch: ModuleType):
        a, b = torch.from_numpy(x), torch.empty(1024, 4096)
        return lambda: torch.cumsum(a, 1, out=b)

    return with_torch({"einfall": lambda: kernel(x, out=y), "numpy": lambda: np.cumsum(x, 1, out=z)}, peer)

"""Kernels that the memory bounds: softmax, normalisation, activations and statistics of the rows of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import ModuleType

import numpy as np
from cases import Case, Contestants, example, normal, with_torch


def cases() -> Iterator[Case]:
    """Matrices that fit the second-level cache and the third, and some that do not."""
    for rows, columns in ((4096, 1024), (4096, 16384), (256, 262144)):
        yield Case(
            name=f"softmax {rows}×{columns}",
            make=partial(_softmax, rows, columns),
            traffic=8.0 * rows * columns,
            quick=columns <= 1024,
        )
    size = 4096
    for name, make in (("layernorm", _layernorm), ("rmsnorm", _rmsnorm), ("gelu (erf)", _gelu)):
        yield Case(name=f"{name} {size}²", make=partial(make, size), traffic=8.0 * size * size, quick=name == "layernorm")
    yield Case(name=f"variance {size}²", make=partial(_variance, size), traffic=4.0 * size * size)
    yield Case(name="cross-entropy 2048×32768", make=_cross_entropy, traffic=4.0 * 2048 * 32768)


def _softmax(rows: int, columns: int) -> Contestants:
    kernel = example("norms/softmax.ecs", M=rows, N=columns)
    x, y, z = normal(rows, columns), np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)

    def peer(torch: ModuleType):
        a, b = torch.from_numpy(x), torch.empty(rows, columns)
        return lambda: torch.softmax(a, -1, out=b)

    def numpy() -> np.ndarray:
        np.subtract(x, x.max(1, keepdims=True), out=z)
        np.exp(z, out=z)
        return np.divide(z, z.sum(1, keepdims=True), out=z)

    return with_torch({"einfall": lambda: kernel(x, out=y), "numpy": numpy}, peer)


def _layernorm(size: int) -> Contestants:
    kernel = example("norms/layernorm.ecs", M=size, K=size)
    x, gain, bias, y = (
        normal(size, size),
        normal(size, seed=1),
        normal(size, seed=2),
        np.empty((size, size), np.float32),
    )

    def peer(torch: ModuleType):
        a, g, b = (torch.from_numpy(each) for each in (x, gain, bias))
        out, mean, deviation = torch.empty(size, size), torch.empty(size, 1), torch.empty(size, 1)
        operator = torch.ops.aten.native_layer_norm.out
        return lambda: operator(a, [size], g, b, 1e-5, out0=out, out1=mean, out2=deviation)[0]

    return with_torch({"einfall": lambda: kernel(x, gain, bias, out=y)}, peer)


def _rmsnorm(size: int) -> Contestants:
    kernel = example("norms/rmsnorm.ecs", M=size, K=size)
    x, gain, y = normal(size, size), normal(size, seed=1), np.empty((size, size), np.float32)

    def peer(torch: ModuleType):
        a, g = torch.from_numpy(x), torch.from_numpy(gain)
        return lambda: torch.nn.functional.rms_norm(a, [size], g, 1e-5)

    return with_torch({"einfall": lambda: kernel(x, gain, out=y)}, peer)


def _gelu(size: int) -> Contestants:
    kernel = example("others/gelu.ecs", M=size, N=size)
    x, y = normal(size, size), np.empty((size, size), np.float32)

    def peer(torch: ModuleType):
        a, b = torch.from_numpy(x), torch.empty(size, size)
        return lambda: torch.ops.aten.gelu.out(a, out=b)

    return with_torch({"einfall": lambda: kernel(x, out=y)}, peer)


def _variance(size: int) -> Contestants:
    kernel = example("others/variance.ecs", M=size, N=size)
    x, out = normal(size, size), (np.empty(size, np.float32), np.empty(size, np.float32))

    def peer(torch: ModuleType):
        a = torch.from_numpy(x)
        return lambda: torch.var_mean(a, 1, correction=0)[::-1]

    # The mean of many normal values is nearly 0: without an offset it would be compared relative to its own error.
    x += 1
    return with_torch({"einfall": lambda: kernel(x, out=out), "numpy": lambda: (x.mean(1), x.var(1))}, peer)


def _cross_entropy() -> Contestants:
    rows, classes = 2048, 32768
    kernel = example("losses/cross_entropy.ecs", B=rows, V=classes)
    x, out = normal(rows, classes), np.empty(rows, np.float32)
    target = np.random.default_rng(1).integers(0, classes, rows).astype(np.int32)

    def peer(torch: ModuleType):
        a, b = torch.from_numpy(x), torch.from_numpy(target).long()
        return lambda: torch.nn.functional.cross_entropy(a, b, reduction="none")

    return with_torch({"einfall": lambda: kernel(x, target, out=out)}, peer)

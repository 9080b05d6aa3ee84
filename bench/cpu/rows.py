"""Kernels that the memory bounds: softmax, normalisation, activations and statistics of the rows of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import ModuleType

import numpy as np
from cases import Case, Contestants, example, normal, unfused, with_torch


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
    for rows, columns in ((size, size), (64, 1 << 18)):
        yield Case(name=f"variance {rows}×{columns}", make=partial(_variance, rows, columns), traffic=4.0 * rows * columns)
    rows, depth, columns = 512, 2048, 2048
    yield Case(
        name=f"rmsnorm→gemm {rows}×{depth}×{columns}",
        make=partial(_rmsnorm_gemm, rows, depth, columns),
        flops=2.0 * rows * depth * columns,
        traffic=4.0 * (rows * depth + depth * columns + rows * columns),
    )
    yield Case(name="cross-entropy 2048×32768", make=_cross_entropy, traffic=4.0 * 2048 * 32768)


def _softmax(rows: int, columns: int) -> Contestants:
    kernel, plain = (make("norms/softmax.ecs", M=rows, N=columns) for make in (example, unfused))
    x, y, z = normal(rows, columns), np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)

    def peer(torch: ModuleType):
        a, b = torch.from_numpy(x), torch.empty(rows, columns)
        return lambda: torch.softmax(a, -1, out=b)

    def numpy() -> np.ndarray:
        np.subtract(x, x.max(1, keepdims=True), out=z)
        np.exp(z, out=z)
        return np.divide(z, z.sum(1, keepdims=True), out=z)

    def compiled(torch: ModuleType):
        return lambda a: torch.softmax(a, -1), (torch.from_numpy(x),)

    contestants = {"einfall": lambda: kernel(x, out=y), "unfused": lambda: plain(x, out=y), "numpy": numpy}
    return with_torch(contestants, peer, compiled)


def _layernorm(size: int) -> Contestants:
    kernel, plain = (make("norms/layernorm.ecs", M=size, K=size) for make in (example, unfused))
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

    def compiled(torch: ModuleType):
        norm = torch.nn.functional.layer_norm
        return lambda a, g, b: norm(a, [size], g, b), tuple(torch.from_numpy(each) for each in (x, gain, bias))

    contestants = {"einfall": lambda: kernel(x, gain, bias, out=y), "unfused": lambda: plain(x, gain, bias, out=y)}
    return with_torch(contestants, peer, compiled)


def _rmsnorm(size: int) -> Contestants:
    kernel = example("norms/rmsnorm.ecs", M=size, K=size)
    x, gain, y = normal(size, size), normal(size, seed=1), np.empty((size, size), np.float32)

    def peer(torch: ModuleType):
        a, g = torch.from_numpy(x), torch.from_numpy(gain)
        return lambda: torch.nn.functional.rms_norm(a, [size], g, 1e-5)

    return with_torch({"einfall": lambda: kernel(x, gain, out=y)}, peer)


def _rmsnorm_gemm(rows: int, depth: int, columns: int) -> Contestants:
    sizes = {"M": rows, "K": depth, "N": columns}
    kernel, plain = (make("norms/rmsnorm_gemm.ecs", **sizes) for make in (example, unfused))
    x, gain, w = normal(rows, depth), normal(depth, seed=1), normal(depth, columns, seed=2, scale=depth**-0.5)
    y = np.empty((rows, columns), np.float32)

    def compiled(torch: ModuleType):
        norm = torch.nn.functional.rms_norm
        return lambda a, g, b: norm(a, [depth], g, 1e-5) @ b, tuple(torch.from_numpy(each) for each in (x, gain, w))

    def peer(torch: ModuleType):
        function, arguments = compiled(torch)
        return lambda: function(*arguments)

    contestants = {"einfall": lambda: kernel(x, gain, w, out=y), "unfused": lambda: plain(x, gain, w, out=y)}
    return with_torch(contestants, peer, compiled)


def _gelu(size: int) -> Contestants:
    kernel = example("others/gelu.ecs", M=size, N=size)
    x, y = normal(size, size), np.empty((size, size), np.float32)

    def peer(torch: ModuleType):
        a, b = torch.from_numpy(x), torch.empty(size, size)
        return lambda: torch.ops.aten.gelu.out(a, out=b)

    return with_torch({"einfall": lambda: kernel(x, out=y)}, peer)


def _variance(rows: int, columns: int) -> Contestants:
    kernel, plain = (make("others/variance.ecs", M=rows, N=columns) for make in (example, unfused))
    x, out = normal(rows, columns), (np.empty(rows, np.float32), np.empty(rows, np.float32))

    def peer(torch: ModuleType):
        a = torch.from_numpy(x)
        return lambda: torch.var_mean(a, 1, correction=0)[::-1]

    # The mean of many normal values is nearly 0: without an offset it would be compared relative to its own error.
    x += 1

    def compiled(torch: ModuleType):
        return lambda a: torch.var_mean(a, 1, correction=0)[::-1], (torch.from_numpy(x),)

    contestants = {
        "einfall": lambda: kernel(x, out=out),
        "unfused": lambda: plain(x, out=out),
        "numpy": lambda: (x.mean(1), x.var(1)),
    }
    return with_torch(contestants, peer, compiled)


def _cross_entropy() -> Contestants:
    rows, classes = 2048, 32768
    kernel, plain = (make("losses/cross_entropy.ecs", B=rows, V=classes) for make in (example, unfused))
    x, out = normal(rows, classes), np.empty(rows, np.float32)
    target = np.random.default_rng(1).integers(0, classes, rows).astype(np.int32)

    def peer(torch: ModuleType):
        a, b = torch.from_numpy(x), torch.from_numpy(target).long()
        return lambda: torch.nn.functional.cross_entropy(a, b, reduction="none")

    def compiled(torch: ModuleType):
        def loss(a, b):
            return torch.nn.functional.cross_entropy(a, b, reduction="none")

        return loss, (torch.from_numpy(x), torch.from_numpy(target).long())

    contestants = {"einfall": lambda: kernel(x, target, out=out), "unfused": lambda: plain(x, target, out=out)}
    return with_torch(contestants, peer, compiled)

"""Matrix products. PyTorch and NumPy write into a given result, as einfall does."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
from cases import Case, Contestants, example, normal, with_torch


def cases() -> Iterator[Case]:
    """Square products, a batch of tokens times a weight, the latter in bf16 too, and one token times a weight."""
    for size in (256, 512, 1024, 2048):
        yield _product(f"matmul {size}³", size, size, size, quick=size <= 1024)
    for rows in (128, 512):
        yield _product(f"matmul {rows}×4096²", rows, 4096, 4096)
    yield Case(
        name="matmul bf16 512×4096²",
        make=lambda: _bf16(512, 4096, 4096),
        flops=2.0 * 512 * 4096 * 4096,
        traffic=2.0 * (2 * 512 * 4096 + 4096 * 4096),
        dtype="bf16",
        tolerance=1e-2,
    )
    yield Case(name="matrix × vector 4096²", make=_vector, flops=2.0 * 4096**2, traffic=4.0 * 4096 * 4098)


def _product(name: str, m: int, k: int, n: int, *, quick: bool = False) -> Case:
    return Case(
        name=name,
        make=lambda: _f32(m, k, n),
        flops=2.0 * m * k * n,
        traffic=4.0 * (m * k + k * n + m * n),
        quick=quick,
    )


def _f32(m: int, k: int, n: int) -> Contestants:
    kernel = example("gemm/gemm.ecs", M=m, K=k, N=n)
    x, w, y, z = normal(m, k), normal(k, n, seed=1), np.empty((m, n), np.float32), np.empty((m, n), np.float32)

    def peer(torch: ModuleType):
        a, b, c = torch.from_numpy(x), torch.from_numpy(w), torch.empty(m, n)
        return lambda: torch.matmul(a, b, out=c)

    return with_torch({"einfall": lambda: kernel(x, w, out=y), "numpy": lambda: np.matmul(x, w, out=z)}, peer)


def _bf16(m: int, k: int, n: int) -> Contestants:
    import ml_dtypes

    kernel = example("gemm/gemm_bf16.ecs", M=m, K=k, N=n)
    x, w = (a.astype(ml_dtypes.bfloat16) for a in (normal(m, k), normal(n, k, seed=1)))
    y = np.empty((m, n), ml_dtypes.bfloat16)

    def peer(torch: ModuleType):
        a, b = (torch.from_numpy(v.view(np.int16)).view(torch.bfloat16) for v in (x, w))
        c = torch.empty(m, n, dtype=torch.bfloat16)
        return lambda: torch.matmul(a, b.T, out=c)

    return with_torch({"einfall": lambda: kernel(x, w, out=y)}, peer)


def _vector() -> Contestants:
    kernel = example("gemm/gemv.ecs", N=4096, K=4096)
    w, x, y, z = normal(4096, 4096), normal(4096, seed=1), np.empty(4096, np.float32), np.empty(4096, np.float32)

    def peer(torch: ModuleType):
        a, b, c = torch.from_numpy(w), torch.from_numpy(x), torch.empty(4096)
        return lambda: torch.mv(a, b, out=c)

    return with_torch({"einfall": lambda: kernel(w, x, out=y), "numpy": lambda: np.matmul(w, x, out=z)}, peer)

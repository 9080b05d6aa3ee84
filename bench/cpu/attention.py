"""Attention beside PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import ModuleType

import numpy as np
from cases import Case, Contestants, example, normal, with_torch


def cases() -> Iterator[Case]:
    """(heads, length, width): a small one, and a layer of a language model, both full and causal."""
    for heads, length, width in ((4, 128, 64), (16, 2048, 64)):
        for causal in (False, True):
            products = 4.0 * heads * length * length * width
            yield Case(
                name=f"attention H{heads} {length} E{width}{' causal' if causal else ''}",
                make=partial(_make, heads, length, width, causal),
                flops=products * (length + 1) / (2 * length) if causal else products,
                traffic=4.0 * 4 * heads * length * width,
                quick=length <= 128,
            )


def _make(heads: int, length: int, width: int, causal: bool) -> Contestants:
    file = "attention/causal_attention.ecs" if causal else "attention/attention.ecs"
    kernel = example(file, H=heads, P=length, M=length, E=width, F=width)
    q, k, v = (normal(heads, length, width, seed=seed) for seed in range(3))
    out = np.empty((heads, length, width), np.float32)

    def peer(torch: ModuleType):
        a, b, c = (torch.from_numpy(each[None]) for each in (q, k, v))
        attention = torch.nn.functional.scaled_dot_product_attention
        return lambda: attention(a, b, c, is_causal=causal)[0]

    return with_torch({"einfall": lambda: kernel(q, k, v, out=out)}, peer)

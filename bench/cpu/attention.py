"""Attention beside PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import ModuleType

import numpy as np
from cases import Case, Contestants, example, normal, unfused, with_torch


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
    for heads, groups in ((32, 32), (32, 8)):
        length, width = 8192, 128
        yield Case(
            name=f"decode H{heads} KV{groups} {length} E{width}",
            make=partial(_decode, heads, groups, length, width),
            flops=4.0 * heads * length * width,
            traffic=8.0 * groups * length * width,
        )


def _make(heads: int, length: int, width: int, causal: bool) -> Contestants:
    file = "attention/causal_attention.ecs" if causal else "attention/attention.ecs"
    sizes = {"H": heads, "P": length, "M": length, "E": width, "F": width}
    kernel, plain = (make(file, **sizes) for make in (example, unfused))
    q, k, v = (normal(heads, length, width, seed=seed) for seed in range(3))
    out = np.empty((heads, length, width), np.float32)

    def peer(torch: ModuleType):
        a, b, c = (torch.from_numpy(each[None]) for each in (q, k, v))
        attention = torch.nn.functional.scaled_dot_product_attention
        return lambda: attention(a, b, c, is_causal=causal)[0]

    def compiled(torch: ModuleType):
        def attention(a, b, c):
            scores = a @ b.transpose(1, 2) * width**-0.5
            if causal:
                scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
            return torch.softmax(scores, -1) @ c

        return attention, tuple(map(torch.from_numpy, (q, k, v)))

    contestants = {"einfall": lambda: kernel(q, k, v, out=out), "unfused": lambda: plain(q, k, v, out=out)}
    return with_torch(contestants, peer, compiled)


def _decode(heads: int, groups: int, length: int, width: int) -> Contestants:
    """One query for each head; the heads of a group share their keys."""
    sizes = {"B": 1, "H": heads, "G": groups, "M": length, "E": width, "F": width}
    kernel, plain = (make("attention/decode_attention.ecs", **sizes) for make in (example, unfused))
    q = normal(1, heads, width)
    k, v = (normal(1, groups, length, width, seed=seed) for seed in (1, 2))
    lengths, out = np.full(1, length, np.int32), np.empty((1, heads, width), np.float32)
    folded = (1, groups, heads // groups, width)

    def compiled(torch: ModuleType):
        def attention(a, b, c):
            scores = torch.softmax(a @ b.transpose(2, 3) * width**-0.5, -1)
            return (scores @ c).reshape(1, heads, width)

        return attention, (torch.from_numpy(q).reshape(folded), torch.from_numpy(k), torch.from_numpy(v))

    def peer(torch: ModuleType):
        _, arguments = compiled(torch)
        attention = torch.nn.functional.scaled_dot_product_attention
        return lambda: attention(*arguments).reshape(1, heads, width)

    contestants = {"einfall": lambda: kernel(q, k, v, lengths, out=out), "unfused": lambda: plain(q, k, v, lengths, out=out)}
    return with_torch(contestants, peer, compiled)

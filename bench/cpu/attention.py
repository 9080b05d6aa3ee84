"""Softmax attention over whole sequences, full and causal, in f32 and bf16."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Field, empty, normal
from onnx_peer import MICROSOFT, node, session
from torch_peer import compile_for, tensors, torch

LAYERS = {"H4 128 E64": (4, 128, 64), "H16 2048 E64": (16, 2048, 64), "H32 2048 E128": (32, 2048, 128)}


def cases() -> Iterator[Case]:
    """(heads, length, width): a small one, and layers of two language models."""
    for dtype, goal, share in (("f32", 1.3, 0.65), ("bf16", 1.6, None)):
        for name, (heads, length, width) in LAYERS.items():
            if dtype == "bf16" and length == 128:
                continue
            for causal in (False, True):
                products = 4.0 * heads * length * length * width
                element = 4.0 if dtype == "f32" else 2.0
                yield Case(
                    name=f"attention{'' if dtype == 'f32' else ' bf16'} {name}{' causal' if causal else ''}",
                    family="attention",
                    make=partial(_make, heads, length, width, causal, dtype),
                    flops=products * (length + 1) / (2 * length) if causal else products,
                    reads=element * 3 * heads * length * width,
                    writes=element * heads * length * width,
                    dtype=dtype,
                    goal=goal if length > 128 else None,
                    share=share if length > 128 else None,
                    tolerance=1e-4 if dtype == "f32" else 2e-2,
                    quick=length == 128 or (heads == 16 and dtype == "f32" and not causal),
                )


def _make(heads: int, length: int, width: int, causal: bool, dtype: str, field: Field) -> None:
    file = "attention/causal_attention.ecs" if causal else "attention/attention.ecs"
    q, k, v = (normal(heads, length, width, seed=seed, dtype=dtype) for seed in range(3))

    out, sizes = empty(heads, length, width, dtype=dtype), {"H": heads, "P": length, "M": length, "E": width, "F": width}
    field.kernel(file, q, k, v, results=[out], unfused=True, dtype=dtype, **sizes)

    @field.peer("torch")
    def eager():
        a, b, c = (each[None] for each in tensors(q, k, v))
        attention = torch.nn.functional.scaled_dot_product_attention
        return lambda: attention(a, b, c, is_causal=causal)[0]

    @field.peer("torch.compile")
    def compiled():
        def attention(a, b, c):
            scores = a @ b.transpose(1, 2) * width**-0.5
            if causal:
                scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
            return torch.softmax(scores, -1) @ c

        return compile_for(attention, *tensors(q, k, v))

    if dtype == "f32":

        @field.peer("onnxruntime")
        def onnx():
            """Its operator keeps the heads of a position side by side."""
            inputs = {
                name: np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(1, length, heads * width)
                for name, x in (("q", q), ("k", k), ("v", v))
            }
            out = empty(1, length, heads * width)
            operator = node("MultiHeadAttention", "q k v", "y", MICROSOFT, num_heads=heads, unidirectional=int(causal))
            call = session([operator], inputs=inputs, results={"y": out})

            def run():
                call()
                return out.reshape(length, heads, width).transpose(1, 0, 2)

            return run

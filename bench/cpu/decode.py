"""One query against a long cache of keys and values: as fast as the memory that holds the cache.

PyTorch gets the heads of a group as rows of one product; its own grouped form reads the cache once for each head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Field, empty, normal
from onnx_peer import MICROSOFT, node, session
from torch_peer import compile_for, tensors, torch

HEADS, LENGTH, WIDTH = 32, 8192, 128


def cases() -> Iterator[Case]:
    """As many groups as heads, and four heads to a group."""
    for groups in (32, 8):
        for dtype, element, goal in (("f32", 4.0, 1.0), ("bf16", 2.0, 1.5)):
            yield Case(
                name=f"decode {dtype} H{HEADS} KV{groups} {LENGTH} E{WIDTH}",
                family="decode",
                make=partial(_make, groups, dtype),
                flops=4.0 * HEADS * LENGTH * WIDTH,
                reads=element * 2 * groups * LENGTH * WIDTH,
                writes=element * HEADS * WIDTH,
                dtype=dtype,
                goal=goal,
                share=0.9,
                tolerance=1e-4 if dtype == "f32" else 2e-2,
                quick=groups == 8 and dtype == "f32",
            )


def _make(groups: int, dtype: str, field: Field) -> None:
    sizes = {"B": 1, "H": HEADS, "G": groups, "M": LENGTH, "E": WIDTH, "F": WIDTH}
    q = normal(1, HEADS, WIDTH, dtype=dtype)
    k, v = (normal(1, groups, LENGTH, WIDTH, seed=seed, dtype=dtype) for seed in (1, 2))
    length = np.full(1, LENGTH, np.int32)
    folded = (1, groups, HEADS // groups, WIDTH)

    out = empty(1, HEADS, WIDTH, dtype=dtype)
    field.kernel("attention/decode_attention.ecs", q, k, v, length, results=[out], unfused=True, dtype=dtype, **sizes)

    @field.peer("torch")
    def eager():
        a, b, c = tensors(q, k, v)
        a = a.reshape(folded)
        attention = torch.nn.functional.scaled_dot_product_attention
        return lambda: attention(a, b, c).reshape(1, HEADS, WIDTH)

    @field.peer("torch.compile")
    def compiled():
        def attention(a, b, c):
            scores = torch.softmax(a.reshape(folded) @ b.transpose(2, 3) * WIDTH**-0.5, -1)
            return (scores @ c).reshape(1, HEADS, WIDTH)

        return compile_for(attention, *tensors(q, k, v))

    if dtype == "f32" and groups == HEADS:

        @field.peer("onnxruntime")
        def onnx():
            out = empty(1, 1, HEADS * WIDTH)
            operator = node("MultiHeadAttention", "q k v", "y", MICROSOFT, num_heads=HEADS)
            inputs = {"q": q.reshape(1, 1, HEADS * WIDTH), "k": k, "v": v}
            call = session([operator], inputs=inputs, results={"y": out})

            def run():
                call()
                return out.reshape(1, HEADS, WIDTH)

            return run

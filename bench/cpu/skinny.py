"""One token, and eight, times the weight of a layer: as fast as the memory that holds the weight."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Field, empty, integers, normal
from onnx_peer import node, session
from torch_peer import packed_linear, tensors, torch

WEIGHTS = {"4096²": (4096, 4096), "11008×4096": (11008, 4096)}
WIDTHS = {"f32": (4, 4), "bf16": (2, 2), "i8": (1, 4)}
"""Bytes of an element of the operands and of the result."""

VECTOR = """
kernel skinny(X: f32[K], const W: f32[N, K]) -> (Y: f32[N]) {
    Y[n] = X[k] * W[n, k]
}
"""
BATCH = """
kernel skinny(X: f32[M, K], const W: f32[N, K]) -> (Y: f32[M, N]) {
    Y[m, n] = X[m, k] * W[n, k]
}
"""


def cases() -> Iterator[Case]:
    """Both numbers of tokens, each weight in each type."""
    for tokens in (1, 8):
        for size, (n, k) in WEIGHTS.items():
            for dtype, (width, result) in WIDTHS.items():
                yield Case(
                    name=f"{'gemv' if tokens == 1 else f'n = {tokens}'} {dtype} {size}",
                    family="skinny product",
                    make=partial(_integer if dtype == "i8" else partial(_float, dtype), tokens, k, n),
                    flops=2.0 * tokens * n * k,
                    reads=float(width * (n * k + tokens * k)),
                    writes=float(result * tokens * n),
                    dtype=dtype,
                    goal=1.05,
                    share=0.9,
                    tolerance={"f32": 1e-4, "bf16": 1e-2, "i8": 1e-6}[dtype],
                    quick=size == "4096²" and tokens == 1,
                )


def _program(tokens: int, dtype: str = "f32") -> str:
    return (VECTOR if tokens == 1 else BATCH).replace("f32", dtype)


def _shape(tokens: int, size: int) -> tuple[int, ...]:
    return (size,) if tokens == 1 else (tokens, size)


def _sizes(tokens: int, k: int, n: int) -> dict[str, int]:
    return {"K": k, "N": n} | ({} if tokens == 1 else {"M": tokens})


def _float(dtype: str, tokens: int, k: int, n: int, field: Field) -> None:
    x, w = normal(*_shape(tokens, k), dtype=dtype), normal(n, k, seed=1, scale=k**-0.5, dtype=dtype)
    shape = _shape(tokens, n)

    program, out = _program(tokens, dtype), empty(*shape, dtype=dtype)
    field.kernel(program, x, results=[out], bind={"W": w}, **_sizes(tokens, k, n))

    @field.peer("torch")
    def eager():
        a, b, c = tensors(x, w, empty(*shape, dtype=dtype))
        if tokens == 1:
            return lambda: torch.mv(b, a, out=c)
        return lambda: torch.matmul(a, b.T, out=c)

    @field.peer("torch packed")
    def packed():
        call = packed_linear(x.reshape(tokens, k), w)
        return lambda: call().reshape(shape)

    if dtype == "f32":
        transposed = np.ascontiguousarray(w.T)

        @field.peer("onnxruntime")
        def onnx():
            nodes = [node("MatMul", "x w", "y")]
            return session(nodes, inputs={"x": x}, results={"y": empty(*shape)}, weights={"w": transposed})

        @field.peer("numpy")
        def numpy():
            z = empty(*shape)
            return lambda: np.matmul(x, w.T, out=z)


def _integer(tokens: int, k: int, n: int, field: Field) -> None:
    x = integers(*_shape(tokens, k), low=0, high=127, dtype=np.uint8)
    w = integers(n, k, low=-127, high=127, dtype=np.int8, seed=1)
    shape = _shape(tokens, n)

    program = _program(tokens).replace("X: f32", "X: u8").replace("W: f32", "W: i8").replace("Y: f32", "Y: i32")
    field.kernel(program, x, results=[empty(*shape, dtype="i32")], bind={"W": w}, **_sizes(tokens, k, n))

    @field.peer("onnxruntime")
    def onnx():
        weights, result = {"w": np.ascontiguousarray(w.T)}, empty(tokens, n, dtype="i32")
        nodes = [node("MatMulInteger", "x w", "y")]
        call = session(nodes, inputs={"x": x.reshape(tokens, k)}, results={"y": result}, weights=weights)

        def run():
            call()
            return result.reshape(shape)

        return run

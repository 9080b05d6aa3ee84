"""Matrix products of activations with a constant weight, in f32, bf16 and int8. Peers pack the weight beforehand too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Field, empty, integers, normal
from onnx_peer import MICROSOFT, node, session
from torch_peer import packed_linear, packed_quantised_linear, tensor, tensors, torch

SHAPES = {
    "1024³": (1024, 1024, 1024),
    "2048³": (2048, 2048, 2048),
    "128×4096²": (128, 4096, 4096),
    "512×4096²": (512, 4096, 4096),
}
SMALL = {"256³": (256, 256, 256), "512³": (512, 512, 512)}
WIDTH = {"f32": 4, "bf16": 2}
ACTIVATIONS = {"u8": (np.uint8, 0, 127), "i8": (np.int8, -64, 63)}

FLOAT = """
kernel product(X: f32[M, K], const W: f32[N, K]) -> (Y: f32[M, N]) {
    Y[m, n] = X[m, k] * W[n, k]
}
"""
INTEGER = """
kernel product(X: u8[M, K], const W: i8[N, K]) -> (Y: i32[M, N]) {
    Y[m, n] = X[m, k] * W[n, k]
}
"""
SCALED = """
kernel product(X: u8[M, K], const W: i8[N, K], scale: f32, const scales: f32[N]) -> (Y: f32[M, N]) {
    S[m, n] = X[m, k] * W[n, k]
    Y[m, n] = S[m, n] * (scale * scales[n])
}
"""


def cases() -> Iterator[Case]:
    """Square products, and batches of tokens times the weight of a layer."""
    for name, shape in (SMALL | SHAPES).items():
        goal, share = (0.97, 0.78) if name in SHAPES else (None, None)
        yield _float(f"gemm {name}", shape, "f32", goal=goal, share=share, quick=name not in ("2048³", "512×4096²"))
    for name, shape in SHAPES.items():
        yield _float(f"gemm bf16 {name}", shape, "bf16", goal=1.1, quick=name == "1024³")
    for name in ("1024³", "2048³", "512×4096²"):
        yield _integer(f"gemm u8·i8→i32 {name}", SHAPES[name], _wide, result=4, quick=name == "1024³")
    yield _integer("gemm i8·i8→i32 512×4096²", SHAPES["512×4096²"], _signed, result=4)
    for name in ("1024³", "512×4096²"):
        yield _integer(f"gemm u8·i8→f32 {name}", SHAPES[name], _scaled, result=4)


def _float(name: str, shape: tuple[int, int, int], dtype: str, *, goal: float | None, share: float | None = None, quick: bool):
    m, k, n = shape
    width = WIDTH[dtype]
    return Case(
        name=name,
        family="product",
        make=partial(_floating, m, k, n, dtype),
        flops=2.0 * m * k * n,
        reads=width * (m * k + k * n),
        writes=width * m * n,
        dtype=dtype,
        goal=goal,
        share=share,
        tolerance=1e-4 if dtype == "f32" else 1e-2,
        quick=quick,
    )


def _integer(name: str, shape: tuple[int, int, int], make, *, result: int, quick: bool = False) -> Case:
    m, k, n = shape
    return Case(
        name=name,
        family="product",
        make=partial(make, m, k, n),
        flops=2.0 * m * k * n,
        reads=float(m * k + k * n),
        writes=float(result * m * n),
        dtype="i8",
        goal=1.2,
        tolerance=1e-6,
        quick=quick,
    )


def _floating(m: int, k: int, n: int, dtype: str, field: Field) -> None:
    x, w = normal(m, k, dtype=dtype), normal(n, k, seed=1, scale=k**-0.5, dtype=dtype)

    field.kernel(FLOAT.replace("f32", dtype), x, results=[empty(m, n, dtype=dtype)], bind={"W": w}, M=m, K=k, N=n)

    @field.peer("torch")
    def eager():
        a, b, c = tensors(x, w, empty(m, n, dtype=dtype))
        return lambda: torch.matmul(a, b.T, out=c)

    @field.peer("torch packed")
    def packed():
        return packed_linear(x, w)

    if dtype == "f32":
        transposed = np.ascontiguousarray(w.T)

        @field.peer("onnxruntime")
        def onnx():
            nodes = [node("MatMul", "x w", "y")]
            return session(nodes, inputs={"x": x}, results={"y": empty(m, n)}, weights={"w": transposed})

        @field.peer("numpy")
        def numpy():
            z = empty(m, n)
            return lambda: np.matmul(x, transposed, out=z)


def _wide(m: int, k: int, n: int, field: Field) -> None:
    _integers(m, k, n, "u8", field)


def _signed(m: int, k: int, n: int, field: Field) -> None:
    _integers(m, k, n, "i8", field)


def _integers(m: int, k: int, n: int, activation: str, field: Field) -> None:
    """ONNX Runtime is slow for signed activations: it gets the same numbers with 128 added, and this as the zero point."""
    kind, low, high = ACTIVATIONS[activation]
    x, w = integers(m, k, low=low, high=high, dtype=kind), integers(n, k, low=-127, high=127, dtype=np.int8, seed=1)

    program, out = INTEGER.replace("u8", activation), empty(m, n, dtype="i32")
    field.kernel(program, x, results=[out], bind={"W": w}, M=m, K=k, N=n)

    if activation == "i8":

        @field.peer("torch")
        def eager():
            a, b, c = tensors(x, w, empty(m, n, dtype="i32"))
            return lambda: torch._int_mm(a, b.T, out=c)

    @field.peer("onnxruntime")
    def onnx():
        shifted = activation == "i8"
        given = (x.astype(np.int16) + 128).astype(np.uint8) if shifted else x
        nodes = [node("MatMulInteger", "x w zero" if shifted else "x w", "y")]
        weights = {"w": np.ascontiguousarray(w.T)} | ({"zero": np.uint8(128)} if shifted else {})
        return session(nodes, inputs={"x": given}, results={"y": empty(m, n, dtype="i32")}, weights=weights)


def _scaled(m: int, k: int, n: int, field: Field) -> None:
    """Per-channel scales of the weight, one scale of the activations."""
    x = integers(m, k, low=0, high=127, dtype=np.uint8)
    w = integers(n, k, low=-127, high=127, dtype=np.int8, seed=1)
    scale, scales = 0.02, np.abs(normal(n, seed=2, scale=0.01))

    weights = {"W": w, "scales": scales, "scale": scale}
    field.kernel(SCALED, x, results=[empty(m, n)], bind=weights, M=m, K=k, N=n)

    @field.peer("torch packed")
    def packed():
        return packed_quantised_linear(x, w, scale, scales)

    @field.peer("onnxruntime")
    def onnx():
        weights = {"w": np.ascontiguousarray(w.T), "s": np.float32(scale), "ws": scales}
        nodes = [node("MatMulIntegerToFloat", "x w s ws", "y", MICROSOFT)]
        return session(nodes, inputs={"x": x}, results={"y": empty(m, n)}, weights=weights)

    @field.peer("torch")
    def eager():
        a, b = tensor(x).float(), tensor(w).float() * (scale * tensor(scales))[:, None]
        c = torch.empty(m, n)
        return lambda: torch.matmul(a, b.T, out=c)

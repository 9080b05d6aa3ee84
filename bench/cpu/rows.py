"""Kernels that the memory bounds: softmax, normalisation, activations and statistics of the rows of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Field, empty, normal
from onnx_peer import node, session
from torch_peer import compile_for, tensor, tensors, torch

SIZE = 4096
TANH_GELU = """
kernel gelu(X: f32[M, N]) -> (Y: f32[M, N]) {
    Y[m, n] = 0.5 * X[m, n] * (1 + tanh(0.7978845608028654 * (X[m, n] + 0.044715 * X[m, n] ** 3)))
}
"""


def cases() -> Iterator[Case]:
    """Matrices that fit the last cache, and some that do not."""
    for rows, columns in ((4096, 1024), (4096, 16384), (256, 262144)):
        make = partial(_softmax, rows, columns)
        yield _map(f"softmax {rows}×{columns}", make, rows * columns, 5, quick=columns <= 1024)
    yield _map(f"layernorm {SIZE}²", _layernorm, SIZE * SIZE, 8, quick=True)
    yield _map(f"rmsnorm {SIZE}²", _rmsnorm, SIZE * SIZE, 4)
    yield _map(f"gelu (erf) {SIZE}²", partial(_gelu, False), SIZE * SIZE, 5)
    yield _map(f"gelu (tanh) {SIZE}²", partial(_gelu, True), SIZE * SIZE, 9)
    for rows, columns in ((SIZE, SIZE), (64, 1 << 18)):
        make = partial(_variance, rows, columns)
        yield _reduction(f"variance {rows}×{columns}", make, rows, columns, 1.7, results=2, quick=rows == SIZE)
    yield _reduction("cross-entropy 2048×32768", _cross_entropy, 2048, 32768, 2.0, results=1)


def _map(name: str, make, elements: int, operations: int, *, quick: bool = False) -> Case:
    """As many elements out as in; at the speed of a copy."""
    return Case(
        name=name,
        family="rows",
        make=make,
        flops=float(operations * elements),
        reads=4.0 * elements,
        writes=4.0 * elements,
        goal=1.1,
        share=0.9,
        quick=quick,
    )


def _reduction(name: str, make, rows: int, columns: int, goal: float, *, results: int, quick: bool = False) -> Case:
    """A number or two for each row; at the speed of reading."""
    return Case(
        name=name,
        family="rows",
        make=make,
        flops=4.0 * rows * columns,
        reads=4.0 * rows * columns,
        writes=4.0 * results * rows,
        goal=goal,
        share=0.85,
        quick=quick,
    )


def _softmax(rows: int, columns: int, field: Field) -> None:
    x = normal(rows, columns)

    field.kernel("norms/softmax.ecs", x, results=[empty(rows, columns)], unfused=True, M=rows, N=columns)

    @field.peer("torch")
    def eager():
        a, b = tensors(x, empty(rows, columns))
        return lambda: torch.softmax(a, -1, out=b)

    @field.peer("torch.compile")
    def compile():
        return compile_for(lambda a: torch.softmax(a, -1), tensor(x))

    @field.peer("onnxruntime")
    def onnx():
        return session([node("Softmax", "x", "y", axis=-1)], inputs={"x": x}, results={"y": empty(rows, columns)})

    @field.peer("numpy")
    def numpy():
        z = empty(rows, columns)

        def softmax():
            np.subtract(x, x.max(1, keepdims=True), out=z)
            np.exp(z, out=z)
            return np.divide(z, z.sum(1, keepdims=True), out=z)

        return softmax


def _layernorm(field: Field) -> None:
    x, gain, bias = normal(SIZE, SIZE), normal(SIZE, seed=1), normal(SIZE, seed=2)

    field.kernel("norms/layernorm.ecs", x, gain, bias, results=[empty(SIZE, SIZE)], unfused=True, M=SIZE, K=SIZE)

    @field.peer("torch")
    def eager():
        a, g, b, out = tensors(x, gain, bias, empty(SIZE, SIZE))
        mean, deviation = torch.empty(SIZE, 1), torch.empty(SIZE, 1)
        operator = torch.ops.aten.native_layer_norm.out
        return lambda: operator(a, [SIZE], g, b, 1e-5, out0=out, out1=mean, out2=deviation)[0]

    @field.peer("torch.compile")
    def compile():
        norm = torch.nn.functional.layer_norm
        return compile_for(lambda a, g, b: norm(a, [SIZE], g, b), *tensors(x, gain, bias))

    @field.peer("onnxruntime")
    def onnx():
        nodes = [node("LayerNormalization", "x gain bias", "y", axis=-1, epsilon=1e-5)]
        weights = {"gain": gain, "bias": bias}
        return session(nodes, inputs={"x": x}, results={"y": empty(SIZE, SIZE)}, weights=weights)


def _rmsnorm(field: Field) -> None:
    x, gain = normal(SIZE, SIZE), normal(SIZE, seed=1)

    field.kernel("norms/rmsnorm.ecs", x, gain, results=[empty(SIZE, SIZE)], M=SIZE, K=SIZE)

    @field.peer("torch")
    def eager():
        a, g = tensors(x, gain)
        return lambda: torch.nn.functional.rms_norm(a, [SIZE], g, 1e-5)

    @field.peer("torch.compile")
    def compile():
        norm = torch.nn.functional.rms_norm
        return compile_for(lambda a, g: norm(a, [SIZE], g, 1e-5), *tensors(x, gain))

    @field.peer("onnxruntime")
    def onnx():
        nodes = [node("SimplifiedLayerNormalization", "x gain", "y", axis=-1, epsilon=1e-5)]
        return session(nodes, inputs={"x": x}, results={"y": empty(SIZE, SIZE)}, weights={"gain": gain})


def _gelu(tanh: bool, field: Field) -> None:
    x, approximate = normal(SIZE, SIZE), "tanh" if tanh else "none"

    field.kernel(TANH_GELU if tanh else "others/gelu.ecs", x, results=[empty(SIZE, SIZE)], M=SIZE, N=SIZE)

    @field.peer("torch")
    def eager():
        a, b = tensors(x, empty(SIZE, SIZE))
        return lambda: torch.ops.aten.gelu.out(a, approximate=approximate, out=b)

    @field.peer("torch.compile")
    def compile():
        return compile_for(lambda a: torch.nn.functional.gelu(a, approximate=approximate), tensor(x))

    @field.peer("onnxruntime")
    def onnx():
        nodes = [node("Gelu", "x", "y", approximate=approximate)]
        return session(nodes, inputs={"x": x}, results={"y": empty(SIZE, SIZE)})


def _variance(rows: int, columns: int, field: Field) -> None:
    # The mean of many normal values is nearly 0: without an offset it would be compared relative to its own error.
    x = normal(rows, columns) + np.float32(1)

    field.kernel("others/variance.ecs", x, results=[empty(rows), empty(rows)], unfused=True, M=rows, N=columns)

    @field.peer("torch")
    def eager():
        a = tensor(x)
        return lambda: torch.var_mean(a, 1, correction=0)[::-1]

    @field.peer("torch.compile")
    def compile():
        return compile_for(lambda a: torch.var_mean(a, 1, correction=0)[::-1], tensor(x))

    @field.peer("onnxruntime")
    def onnx():
        nodes = [
            node("ReduceMean", "x axis", "mean", keepdims=1),
            node("Sub", "x mean", "centred"),
            node("ReduceSumSquare", "centred axis", "squares", keepdims=0),
            node("Div", "squares count", "variance"),
            node("Squeeze", "mean axis", "flat"),
        ]
        results = {"flat": empty(rows), "variance": empty(rows)}
        weights = {"axis": np.array([1]), "count": np.float32(columns)}
        return session(nodes, inputs={"x": x}, results=results, weights=weights)

    @field.peer("numpy")
    def numpy():
        return lambda: (x.mean(1), x.var(1))


def _cross_entropy(field: Field) -> None:
    rows, classes = 2048, 32768
    x = normal(rows, classes)
    target = np.random.default_rng(1).integers(0, classes, rows).astype(np.int32)

    field.kernel("losses/cross_entropy.ecs", x, target, results=[empty(rows)], unfused=True, B=rows, V=classes)

    def loss(a, b):
        return torch.nn.functional.cross_entropy(a, b, reduction="none")

    @field.peer("torch")
    def eager():
        a, b = tensor(x), tensor(target).long()
        return lambda: loss(a, b)

    @field.peer("torch.compile")
    def compile():
        return compile_for(loss, tensor(x), tensor(target).long())

    @field.peer("onnxruntime")
    def onnx():
        nodes = [node("SoftmaxCrossEntropyLoss", "x target", "y", reduction="none")]
        return session(nodes, inputs={"x": x, "target": target}, results={"y": empty(rows)})

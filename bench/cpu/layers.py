"""Products with what stands before and behind them in a network: bias and GELU, SwiGLU, RMSNorm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Field, constant, empty, normal
from onnx_peer import node, session
from torch_peer import compile_frozen, tensor, tensors, torch


def cases() -> Iterator[Case]:
    """Rows of a batch, the width of a layer, the width of its inside."""
    m, k, n = 512, 1024, 4096
    yield Case(
        name=f"gemm+bias+gelu {m}×{k}×{n}",
        family="layer",
        make=partial(_gelu, m, k, n),
        flops=2.0 * m * k * n,
        reads=4.0 * (m * k + k * n + n),
        writes=4.0 * m * n,
        goal=1.2,
    )
    m, k, j = 256, 1024, 2816
    yield Case(
        name=f"swiglu {m}×{k}×{j}",
        family="layer",
        make=partial(_swiglu, m, k, j),
        flops=6.0 * m * k * j,
        reads=4.0 * (m * k + 3 * k * j),
        writes=4.0 * m * k,
        goal=1.2,
    )
    m, k, n = 512, 2048, 2048
    yield Case(
        name=f"rmsnorm→gemm {m}×{k}×{n}",
        family="layer",
        make=partial(_rmsnorm_gemm, m, k, n),
        flops=2.0 * m * k * n,
        reads=4.0 * (m * k + k * n + k),
        writes=4.0 * m * n,
        goal=1.2,
        quick=True,
    )


def _gelu(m: int, k: int, n: int, field: Field) -> None:
    x, w, bias = normal(m, k), normal(k, n, seed=1, scale=k**-0.5), normal(n, seed=2)

    program, weights = constant("gemm/gemm_gelu.ecs", "W", "bias"), {"W": w, "bias": bias}
    field.kernel(program, x, results=[empty(m, n)], bind=weights, M=m, K=k, N=n)

    @field.peer("torch")
    def eager():
        a, b, c = tensors(x, w, bias)
        y = torch.empty(m, n)
        return lambda: torch.ops.aten.gelu.out(torch.addmm(c, a, b, out=y), out=y)

    @field.peer("torch.compile")
    def compile():
        module = torch.nn.Sequential(_linear(w.T, bias), torch.nn.GELU())
        return compile_frozen(module, tensor(x))

    @field.peer("onnxruntime")
    def onnx():
        nodes = [node("MatMul", "x w", "a"), node("Add", "a bias", "b"), node("Gelu", "b", "y")]
        return session(nodes, inputs={"x": x}, results={"y": empty(m, n)}, weights={"w": w, "bias": bias})


def _swiglu(m: int, k: int, j: int, field: Field) -> None:
    x, down = normal(m, k), normal(j, k, seed=3, scale=j**-0.5)
    gate, up = (normal(k, j, seed=seed, scale=k**-0.5) for seed in (1, 2))

    weights = {"WG": gate, "WU": up, "WD": down}
    program = constant("gemm/swiglu.ecs", *weights)
    field.kernel(program, x, results=[empty(m, k)], bind=weights, M=m, K=k, J=j, N=k)

    @field.peer("torch")
    def eager():
        a, g, u, d = tensors(x, gate, up, down)
        inside, other, y = torch.empty(m, j), torch.empty(m, j), torch.empty(m, k)

        def layer():
            torch.nn.functional.silu(torch.matmul(a, g, out=inside), inplace=True).mul_(torch.matmul(a, u, out=other))
            return torch.matmul(inside, d, out=y)

        return layer

    @field.peer("torch.compile")
    def compile():
        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.gate, self.up, self.down = (_linear(weight.T) for weight in (gate, up, down))

            def forward(self, a):
                return self.down(torch.nn.functional.silu(self.gate(a)) * self.up(a))

        return compile_frozen(Layer(), tensor(x))

    @field.peer("onnxruntime")
    def onnx():
        nodes = [
            node("MatMul", "x gate", "g"),
            node("MatMul", "x up", "u"),
            node("Sigmoid", "g", "s"),
            node("Mul", "g s", "a"),
            node("Mul", "a u", "i"),
            node("MatMul", "i down", "y"),
        ]
        weights = {"gate": gate, "up": up, "down": down}
        return session(nodes, inputs={"x": x}, results={"y": empty(m, k)}, weights=weights)


def _rmsnorm_gemm(m: int, k: int, n: int, field: Field) -> None:
    x, gain, w = normal(m, k), normal(k, seed=1), normal(k, n, seed=2, scale=k**-0.5)
    program, weights = constant("norms/rmsnorm_gemm.ecs", "gain", "W"), {"gain": gain, "W": w}
    field.kernel(program, x, results=[empty(m, n)], bind=weights, unfused=True, M=m, K=k, N=n)

    @field.peer("torch")
    def eager():
        a, g, b = tensors(x, gain, w)
        y = torch.empty(m, n)
        return lambda: torch.matmul(torch.nn.functional.rms_norm(a, [k], g, 1e-5), b, out=y)

    @field.peer("torch.compile")
    def compile():
        norm = torch.nn.RMSNorm(k, eps=1e-5)
        with torch.no_grad():
            norm.weight.copy_(tensor(gain))
        return compile_frozen(torch.nn.Sequential(norm, _linear(w.T)), tensor(x))

    @field.peer("onnxruntime")
    def onnx():
        norm = node("SimplifiedLayerNormalization", "x gain", "a", axis=-1, epsilon=1e-5)
        weights = {"gain": gain, "w": w}
        nodes = [norm, node("MatMul", "a w", "y")]
        return session(nodes, inputs={"x": x}, results={"y": empty(m, n)}, weights=weights)


def _linear(weight: np.ndarray, bias: np.ndarray | None = None):
    """A layer of PyTorch with this weight (N, K)."""
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).eval()
    layer.weight = torch.nn.Parameter(tensor(np.ascontiguousarray(weight)), requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(tensor(bias), requires_grad=False)
    return layer

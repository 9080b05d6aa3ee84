"""Matrix products on tensor cores and in register tiles: edges, orders of storage, epilogues, products inside a loop."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import einfall as ef
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

ATTENTION = Path(ef.__file__).parent / "examples/attention"
TYPES = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32}
PRODUCT = """\
kernel product(A: {t}[{a}], B: {t}[{b}], c: f32[N]) -> (C: f32[M, N]) {{
    S[m, n] = A[{i}] * B[{j}]
    C[m, n] = max(S[m, n] + c[n], 0)
}}
"""


def product(gpu: Worker, dtype: str, m: int, n: int, k: int, *, left: bool, right: bool, fixed: bool = False) -> None:
    """C = max(A·B + c, 0) in whole numbers, exact; ``left``, ``right``: an operand is stored with k last."""
    rng = np.random.default_rng(m * n + k)
    a, b = (rng.integers(-4, 5, shape).astype(TYPES[dtype]) for shape in ((m, k), (k, n)))
    c = rng.integers(-9, 10, n).astype(np.float32)
    text = PRODUCT.format(
        t=dtype, a="M, K" if left else "K, M", i="m, k" if left else "k, m", b="N, K" if right else "K, N",
        j="n, k" if right else "k, n",
    )  # fmt: skip
    given = {"A": a if left else a.T.copy(), "B": b.T.copy() if right else b, "c": c}
    sizes = {"M": m, "N": n, "K": k} if fixed else {}
    (found,) = gpu.run(kernels.run, text, given, {}, "cuda:sm_80", fixed=sizes, every_order=True)
    assert np.array_equal(found, np.maximum(a.astype(float) @ b.astype(float) + c, 0))


def test_tensor_cores(gpu: Worker) -> None:
    product(gpu, "bf16", 130, 37, 70, left=True, right=True)


def test_register_tiles(gpu: Worker) -> None:
    product(gpu, "f32", 66, 65, 35, left=True, right=False)


EDGES = [(1, 1, 1), (17, 9, 33), (128, 128, 32), (129, 257, 65), (0, 5, 3), (5, 4, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("order", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_order_of_storage(gpu: Worker, dtype: str, order: tuple[bool, bool], fixed: bool) -> None:
    for m, n, k in EDGES:
        product(gpu, dtype, m, n, k, left=order[0], right=order[1], fixed=fixed)


def attention(gpu: Worker, name: str, dtype: str, **sizes: int) -> float:
    """The largest error against the interpreter."""
    text = (ATTENTION / f"{name}.ecs").read_text().replace("f32", dtype)
    rng = np.random.default_rng(1)
    shapes = {"Q": (sizes["H"], sizes["P"], 32), "K": (sizes["H"], sizes["M"], 32), "V": (sizes["H"], sizes["M"], 32)}
    given = {tensor: rng.standard_normal(shape).astype(TYPES[dtype]) for tensor, shape in shapes.items()}
    (found,) = gpu.run(kernels.run, text, given, {}, "cuda:sm_80", fixed={"E": 32, "F": 32}, every_order=True)
    return float(np.abs(found.astype(float) - ef.interpret(text, **given)).max())


def test_attention_on_tensor_cores(gpu: Worker) -> None:
    assert attention(gpu, "attention", "bf16", H=1, P=70, M=150) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "allowed"), [("bf16", 0.02), ("f16", 0.003), ("f32", 1e-5)])
@pytest.mark.parametrize("name", ["attention", "causal_attention"])
def test_attention(gpu: Worker, name: str, dtype: str, allowed: float) -> None:
    for size in (1, 64, 129):
        assert attention(gpu, name, dtype, H=2, P=size, M=size) < allowed


def test_products_of_16_bits_are_on_tensor_cores() -> None:
    from einfall.codegen.cuda.build import build
    from einfall.compiler.program import read_program
    from einfall.ir.target import Target
    from einfall.ir.tile import Compute, walk
    from einfall.passes.pipeline import lower

    target = Target.parse("cuda:sm_90")
    text = (ATTENTION / "attention.ecs").read_text().replace("f32", "bf16")
    program = lower(read_program(text).select(None), target=target).program
    kernels = [n.product.kernel for n in walk(program.body) if isinstance(n, Compute) and n.product is not None]
    assert kernels == ["mma bf16·bf16"] * 4  # both products, of one part and of several
    assert "mma.sync.aligned.m16n8k16" in build(program, target).source

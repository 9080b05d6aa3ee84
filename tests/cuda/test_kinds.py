"""Products of bytes and of f32 under a tolerance on tensor cores, exact for small whole numbers, in every order of storage."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest

from tests.cuda import kernels
from tests.cuda_emulation.device import Worker, set_order
from tests.cuda_emulation.traffic import Traffic, counted

PRODUCT = """\
{tolerance}
kernel product(A: {left}[{a}], B: {right}[{b}], c: {total}[N]) -> (C: {total}[M, N]) {{
    S[m, n] = A[{i}] * B[{j}]
    C[m, n] = S[m, n] + c[n]
}}
"""
ORDERS = [(True, True), (True, False), (False, True), (False, False)]
"""Whether k comes last in A, in B."""
RANGES = {"i8": (-128, 128), "u8": (0, 256), "f32": (-32, 33), "tf32": (-32, 33)}
TYPES = {"i8": np.int8, "u8": np.uint8, "f32": np.float32, "tf32": np.float32}
SIZES = [(1, 1, 1), (16, 48, 64), (129, 40, 72), (65, 130, 144), (7, 256, 32), (40, 36, 300)]


def text(left: str, right: str, order: tuple[bool, bool]) -> str:
    """A program; ``tf32`` is f32 under a tolerance."""
    return PRODUCT.format(
        tolerance="@tolerance(2e-3)" if left == "tf32" else "", left=left.removeprefix("t"), right=right.removeprefix("t"),
        total="i32" if left in ("i8", "u8") else "f32",
        a="M, K" if order[0] else "K, M", i="m, k" if order[0] else "k, m", b="N, K" if order[1] else "K, N",
        j="n, k" if order[1] else "k, n",
    )  # fmt: skip


def operands(
    m: int, n: int, k: int, left: str, right: str, order: tuple[bool, bool]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(the arguments, the result)."""
    rng = np.random.default_rng(m + n + k)
    a = rng.integers(*RANGES[left], (m, k)).astype(TYPES[left])
    b = rng.integers(*RANGES[right], (k, n)).astype(TYPES[right])
    c = rng.integers(-9, 10, n).astype(np.float32 if left.endswith("f32") else np.int32)
    given = {"A": a if order[0] else a.T.copy(), "B": b.T.copy() if order[1] else b, "c": c}
    return given, a.astype(np.int64) @ b.astype(np.int64) + c


def product(gpu: Worker, size: tuple[int, int, int], left: str, right: str, order: tuple[bool, bool], target: str) -> None:
    given, expected = operands(*size, left, right, order)
    (found,) = gpu.run(kernels.run, text(left, right, order), given, {}, target, every_order=True)
    assert np.array_equal(found, expected)


def traffic(given: Mapping[str, np.ndarray], source: str) -> list[Traffic]:
    set_order(0, 0)
    return counted(lambda: kernels.run(source, given, {}, "cuda:sm_80"))


@pytest.mark.parametrize(("left", "right", "order"), [("i8", "u8", (True, False)), ("tf32", "tf32", (False, False))])
def test_a_product(gpu: Worker, left: str, right: str, order: tuple[bool, bool]) -> None:
    product(gpu, (72, 144, 80), left, right, order, "cuda:sm_80")


def test_which_instruction() -> None:
    from einfall.codegen.cuda.build import build
    from einfall.compiler.program import read_program
    from einfall.ir.target import Target
    from einfall.passes.pipeline import lower

    def source(left: str, right: str, arch: str = "sm_80") -> str:
        program, target = read_program(text(left, right, ORDERS[0])).select(None), Target.parse(f"cuda:{arch}")
        return build(lower(program, target=target).program, target).source

    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32" in source("i8", "u8")
    assert "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in source("tf32", "tf32")
    assert "mma.sync" not in source("f32", "f32")
    assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in source("bf16", "bf16")
    assert "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16" in source("bf16", "bf16", "sm_90")
    assert "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.u8" in source("i8", "u8", "sm_90")
    assert "wgmma.mma_async.sync.aligned.m64n256k8.f32.tf32.tf32" in source("tf32", "tf32", "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("types", [("i8", "i8"), ("tf32", "tf32"), ("f32", "f32")])
@pytest.mark.parametrize("order", ORDERS)
def test_no_bank_conflicts(gpu: Worker, order: tuple[bool, bool], types: tuple[str, str]) -> None:
    given, _ = operands(128, 128, 128, *types, order)
    shared = [each for each in gpu.run(traffic, given, text(*types, order)) if each.space == "shared"]
    assert {each.kind for each in shared} == {"read", "write"}
    assert all(each.excess == 1.0 for each in shared), shared


@pytest.mark.slow
@pytest.mark.parametrize("types", [("i8", "i8"), ("u8", "u8"), ("u8", "i8"), ("tf32", "tf32"), ("f32", "f32")])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_storage(gpu: Worker, order: tuple[bool, bool], types: tuple[str, str]) -> None:
    for size in SIZES:
        product(gpu, size, *types, order, "cuda:sm_90")


BATCH = """\
{tolerance}
kernel product(A: {t}[G, M, J, K], B: {t}[G, J, K, N]) -> (C: {total}[G, M, N]) {{
    C[g, m, n] = A[g, m, j, k] * B[g, j, k, n]
}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "target", "allowed"),
    [
        ("bf16", "cuda:sm_80", 1e-6),
        ("bf16", "cuda:sm_90", 1e-6),
        ("f64", "cuda:sm_80", 1e-14),
        ("tf32", "cuda:sm_90", 2.0**-11),
    ],
)
def test_batches_and_two_reduced_ranks(gpu: Worker, dtype: str, target: str, allowed: float) -> None:
    """The relative error in the Frobenius norm, of normal numbers."""
    name = dtype.removeprefix("t")
    source = BATCH.format(
        tolerance="@tolerance(2e-3)" if dtype == "tf32" else "", t=name, total="f64" if name == "f64" else "f32"
    )
    rng = np.random.default_rng(2)
    kind = {"bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64}[name]
    a, b = (rng.standard_normal(shape).astype(kind) for shape in ((3, 70, 2, 72), (3, 2, 72, 136)))
    (found,) = gpu.run(kernels.run, source, {"A": a, "B": b}, {}, target, every_order=True)
    expected = np.einsum("gmjk,gjkn->gmn", a.astype(float), b.astype(float))
    assert np.linalg.norm(found - expected) <= allowed * np.linalg.norm(expected)

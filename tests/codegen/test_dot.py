"""Matrix products on dot-product instructions against NumPy: ragged sizes, orders in memory, blocks, numbers at the edge."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import tirx

from einfall.codegen import pipeline
from einfall.codegen.microkernels.dot import emit_dot
from einfall.codegen.microkernels.operand import Epilogue, Operand, Site
from einfall.codegen.microkernels.statements import Statements
from einfall.codegen.microkernels.tiles import Tiles
from einfall.compiler.host import host_target
from einfall.ir.plans import DotPlan, plan_dot
from einfall.runtime.tiles import request_tiles

ROW, COL, ANY = "row", "col", "any"  # which direction of a matrix is known to be contiguous

SMALL = DotPlan(kc=64, nc=64, packed=40_000, threads=2)
"""Blocks so small that products of moderate size go through every loop."""

pytestmark = [
    pytest.mark.amx,
    pytest.mark.skipif(
        not (host_target().has("amx-bf16") and request_tiles()), reason="needs AMX tiles that the kernel lets us use"
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a compiled product is specialised to; sizes, strides and offsets are arguments unless `sizes` gives them."""

    a: str = ROW
    b: str = COL
    c: str = ROW
    accumulate: bool = False
    parallel: bool = True
    bias: bool = False
    types: tuple[str, str] = ("bfloat16", "bfloat16")
    plan: DotPlan = SMALL
    sizes: tuple[int, int, int] | None = None

    @property
    def sums(self) -> str:
        return "float32" if self.types[0] == "bfloat16" else "int32"

    def draw(self, generator: np.random.Generator, m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Operands: uniform numbers, or bytes of the whole range."""
        drawn = []
        for dtype, shape in zip(self.types, ((m, k), (k, n)), strict=True):
            if dtype == "bfloat16":
                drawn.append(generator.uniform(-1, 1, shape).astype(ml_dtypes.bfloat16))
            else:
                limits = np.iinfo(dtype)
                drawn.append(generator.integers(limits.min, limits.max + 1, shape).astype(dtype))
        return drawn[0], drawn[1]


INSTRUCTIONS = {
    ("bfloat16", "bfloat16"): "tdpbf16ps",
    ("int8", "int8"): "tdpbssd",
    ("int8", "uint8"): "tdpbsud",
    ("uint8", "int8"): "tdpbusd",
    ("uint8", "uint8"): "tdpbuud",
}


def added(bias: Operand, dtype: str) -> Epilogue:
    def finish(s: Statements, site: Site, value: tirx.Expr) -> tirx.Expr:
        return value + site.load(bias, dtype)

    return Epilogue(apply=finish)


@cache
def compiled(setting: Setting) -> tvm.runtime.Module:
    m, n, k = (tirx.Var(name, "int64") for name in "mnk")

    def matrix(name: str, dtype: str, contiguous: str) -> tuple[Operand, list[tirx.Var]]:
        offset, rows, cols, length = (tirx.Var(f"{name}_{what}", "int64") for what in ("at", "rs", "cs", "len"))
        buffer = tirx.decl_buffer((length,), dtype, name=name, layout=None)
        strides = {"row_stride": 1 if contiguous == COL else rows, "col_stride": 1 if contiguous == ROW else cols}
        return Operand(buffer=buffer, offset=offset, **strides), [buffer, offset, rows, cols]

    a, a_params = matrix("A", setting.types[0], setting.a)
    b, b_params = matrix("B", setting.types[1], setting.b)
    c, c_params = matrix("C", setting.sums, setting.c)
    bias = tirx.decl_buffer((tirx.Var("bias_len", "int64"),), setting.sums, name="bias", layout=None)
    sizes = setting.sizes or (m, n, k)
    body = emit_dot(
        kernel=Tiles(instruction=INSTRUCTIONS[setting.types], dtype=setting.sums),
        a=a,
        b=b,
        c=c,
        raw="uint16" if setting.sums == "float32" else "uint8",
        m=sizes[0],
        n=sizes[1],
        k=sizes[2],
        accumulate=setting.accumulate,
        plan=setting.plan,
        parallel=setting.parallel,
        epilogue=added(Operand(buffer=bias, row_stride=0, col_stride=1), setting.sums) if setting.bias else None,
    )
    function = tirx.PrimFunc([*a_params, *b_params, *c_params, bias, m, n, k], body)
    function = function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
    target = tvm.target.Target({"kind": "llvm", "mcpu": "sapphirerapids"})
    return tvm.compile(tvm.IRModule({"main": function}), target=target, tir_pipeline=pipeline.NAME).mod


def place(values: np.ndarray, order: str, sentinel: float) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A buffer of sentinels, the matrix in it at an odd offset, and its strides in elements."""
    rows, cols = values.shape
    strides = {ROW: (cols + 3, 1), COL: (1, rows + 5), ANY: (2 * cols + 3, 2)}[order]
    flat = np.full(84 + max(rows - 1, 0) * strides[0] + max(cols - 1, 0) * strides[1], sentinel).astype(values.dtype)
    view = np.lib.stride_tricks.as_strided(flat[3:], values.shape, tuple(s * values.itemsize for s in strides))
    view[...] = values
    return flat, view, strides


def product(setting: Setting, a: np.ndarray, b: np.ndarray, before: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Runs one product; asserts that nothing around the result was touched."""
    m, n, k = a.shape[0], b.shape[1], a.shape[1]
    arguments: list[object] = []
    for values, order in ((a, setting.a), (b, setting.b)):
        flat, _, strides = place(values, order, np.nan if setting.sums == "float32" else 99)
        arguments += [tvm.runtime.tensor(flat), 3, *strides]
    flat, view, strides = place(before, setting.c, 77.0)
    out = tvm.runtime.tensor(flat)
    compiled(setting)["main"](*arguments, out, 3, *strides, tvm.runtime.tensor(bias), m, n, k)
    found = np.lib.stride_tricks.as_strided(out.numpy()[3:], view.shape, view.strides).copy()
    view[...] = found
    np.testing.assert_array_equal(out.numpy(), flat)
    return found


def check(setting: Setting, m: int, n: int, k: int) -> np.ndarray:
    generator = np.random.default_rng([m, n, k])
    a, b = setting.draw(generator, m, n, k)
    before = generator.uniform(-9, 9, (m, n)).astype(setting.sums)
    bias = generator.uniform(-9, 9, max(m, n, 1)).astype(setting.sums)
    nothing = np.full_like(before, np.nan if setting.sums == "float32" else 77)
    found = product(setting, a, b, before if setting.accumulate else nothing, bias)
    exact = a.astype("float64") @ b.astype("float64") + (before if setting.accumulate else 0)
    if setting.bias:
        exact += bias[:n]
    np.testing.assert_allclose(found, exact, rtol=0, atol=2.0**-23 * (k + 32) if setting.sums == "float32" else 0)
    return found


SIZES = [
    (0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0), (1, 1, 1), (1, 50, 1), (50, 1, 33), (3, 17, 300), (15, 31, 31), (16, 16, 32),
    (17, 33, 33), (31, 15, 65), (32, 32, 64), (33, 47, 129), (65, 130, 63), (100, 70, 200), (130, 90, 40),
]  # fmt: skip

SETTINGS = {
    "plain": Setting(),
    "planned": Setting(plan=plan_dot(bits=16, l2_bytes=2 << 20, threads=2)),
    "serial": Setting(parallel=False),
    "a-transposed": Setting(a=COL),
    "b-along-rows": Setting(b=ROW),
    "both-across": Setting(a=COL, b=ROW, accumulate=True),
    "c-transposed": Setting(c=COL, accumulate=True),
    "strided": Setting(a=ANY, b=ANY, c=ANY, accumulate=True),
    "bias": Setting(bias=True),
    "int8": Setting(types=("int8", "int8"), bias=True),
    "int8-across": Setting(types=("int8", "int8"), a=COL, b=ROW, accumulate=True),
    "int8-uint8": Setting(types=("int8", "uint8"), c=COL),
    "uint8-int8": Setting(types=("uint8", "int8"), a=ANY, b=ANY),
    "uint8": Setting(types=("uint8", "uint8")),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_agrees_with_numpy(setting: Setting) -> None:
    for sizes in SIZES:
        check(setting, *sizes)


@pytest.mark.parametrize("sizes", [(1, 70, 40), (70, 1, 40), (64, 64, 64), (30, 100, 500), (5, 7, 0)])
def test_literal_sizes(sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    plan = plan_dot(bits=16, l2_bytes=2 << 20, threads=2, n=n, k=k)
    check(Setting(sizes=sizes, plan=plan, b=ROW, bias=True), m, n, k)


@pytest.mark.parametrize("sizes", [(61, 200, 90), (300, 2, 165)])
def test_bits_do_not_depend_on_the_number_of_tasks(sizes: tuple[int, int, int]) -> None:
    results = [check(Setting(plan=replace(SMALL, threads=threads)), *sizes) for threads in (1, 2, 3, 6)]
    results.append(check(Setting(plan=plan_dot(bits=16, l2_bytes=2 << 20, threads=2)), *sizes))
    for result in results[1:]:
        assert result.tobytes() == results[0].tobytes()


def test_subnormal_operands_are_not_lost() -> None:
    """A tile takes subnormal numbers for zero; times a large one they are not small."""
    generator = np.random.default_rng(0)
    for m, n, k in ((40, 50, 70), (5, 5, 200)):
        a, b = (generator.uniform(0.5, 1, shape) for shape in ((m, k), (k, n)))
        a[m // 2, k - 1], b[k - 1] = 3e-39, 2e38
        a, b = a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)
        a[:, k - 1] = np.where(np.arange(m) == m // 2, a[:, k - 1], 0)
        b[0, 1], a[1, 0] = 1e-40, 1e38
        found = product(Setting(), a, b, np.zeros((m, n), "float32"), np.zeros(max(m, n), "float32"))
        exact = a.astype("float64") @ b.astype("float64")
        np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_integer_sums_wrap() -> None:
    setting = Setting(types=("int8", "int8"), accumulate=True, plan=plan_dot(bits=8, l2_bytes=2 << 20, threads=2))
    a, b = np.full((3, 200), -128, "int8"), np.full((200, 5), -128, "int8")
    before = np.full((3, 5), 2**31 - 1, "int32")
    found = product(setting, a, b, before, np.zeros(5, "int32"))
    np.testing.assert_array_equal(found, (before.astype("int64") + 200 * 2**14).astype("int32"))


def test_infinities_and_nan() -> None:
    a, b = np.ones((40, 70)), np.ones((70, 50))
    a[3, 4], a[20, 5], b[5, 7], a[33, 69] = np.inf, 0.0, np.inf, np.nan
    a, b = a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)
    found = product(Setting(), a, b, np.zeros((40, 50), "float32"), np.zeros(50, "float32"))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found, a.astype("float32") @ b.astype("float32"))


def test_the_inner_loop_loads_and_multiplies_and_nothing_else() -> None:
    text = "\n".join(line.split("#")[0] for line in compiled(Setting()).inspect_source("asm").splitlines())
    blocks = [block.split("\n") for block in re.split(r"\n\.L\w+:", text)]
    names = [[line.split()[0] for line in block if line.strip() and not line.strip().startswith(".")] for block in blocks]
    (loop,) = [block for block in names if block.count("tdpbf16ps") == 4]
    loop = loop[: loop.index("jne") if "jne" in loop else loop.index("jl")]
    assert loop.count("tileloadd") == 4
    assert not [name for name in loop if name.startswith(("v", "call"))]


def test_many_threads_do_not_make_more_code() -> None:
    few, many = (len(compiled(Setting(plan=replace(SMALL, threads=threads))).inspect_source("ll")) for threads in (2, 64))
    assert many < 1.5 * few


def test_plan_fits_the_machine() -> None:
    for l2 in (256 << 10, 1 << 20, 2 << 20):
        for bits in (8, 16):
            plan = plan_dot(bits=bits, l2_bytes=l2, threads=2)
            assert plan.kc * bits % 512 == 0 and plan.nc % 32 == 0
            assert plan.kc * plan.nc * bits // 8 <= l2 // 2

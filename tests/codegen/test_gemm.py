"""The matrix-product micro-kernel against NumPy in float64: sizes at run time, strides, types, epilogues, other
vector widths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import tirx

from einfall.codegen import pipeline
from einfall.codegen.microkernels import Epilogue, Operand, Site, emit_gemm
from einfall.codegen.microkernels.statements import Statements
from einfall.ir.plans import GemmPlan, plan_gemm


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """A machine: what the plan needs, and LLVM's name for it."""

    vector_bits: int
    vector_registers: int
    has_fma: bool
    mcpu: str
    l1_bytes: int = 48 * 1024
    l2_bytes: int = 2 << 20
    threads: int = 2


AVX512 = Cpu(vector_bits=512, vector_registers=32, has_fma=True, mcpu="skylake-avx512")
AVX2 = Cpu(vector_bits=256, vector_registers=16, has_fma=True, mcpu="haswell")
SSE = Cpu(vector_bits=128, vector_registers=16, has_fma=False, mcpu="x86-64")

BLOCKS = GemmPlan(lanes=16, mr=6, nv=4, kc=32, mc=18, nc=64, threads=2, unroll=4, skinny=4, fused=True, keep=1 << 12)
"""Small cache blocks: products of moderate size go through every loop."""

ROW, COL, ANY = "row", "col", "any"  # which direction of a matrix is known to be contiguous


def host_runs(cpu: Cpu) -> bool:
    features = tvm.get_global_func("target.llvm_get_cpu_features")(
        tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    )
    return {AVX512: "avx512f", AVX2: "avx2", SSE: "sse2"}[cpu] in {str(f) for f in features}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a compiled product is specialised to; sizes, strides and offsets are arguments unless `sizes` gives them."""

    a: str = ROW
    b: str = ROW
    c: str = ROW
    dtype: str = "float32"
    inputs: str = "float32"
    accumulate: bool = False
    parallel: bool = True
    result: str = ""  # the type of C, where it is not `dtype`
    epilogue: str = "none"
    light: bool = False  # the epilogue
    plan: GemmPlan | None = None
    cpu: Cpu = AVX512
    sizes: tuple[int, int, int] | None = None


def bias_relu(bias: Operand, *, light: bool) -> Epilogue:
    def finish(s: Statements, site: Site, value: tirx.Expr) -> tirx.Expr:
        shifted = value + site.load(bias, "float32")
        zero = tirx.FloatImm("float32", 0.0)
        return tirx.Max(shifted, zero if site.lanes == 1 else tirx.Broadcast(zero, site.lanes))

    return Epilogue(apply=finish, light=light)


def rescaled(c: Operand, factor: Operand, *, light: bool) -> Epilogue:
    """What was there times a factor of its row, plus the product."""

    def finish(s: Statements, site: Site, value: tirx.Expr) -> tirx.Expr:
        return site.load(c, "float32") * site.load(factor, "float32") + value

    return Epilogue(apply=finish, reads_result=True, light=light)


@cache
def compiled(setting: Setting) -> tvm.runtime.Module:
    m, n, k = (tirx.Var(name, "int64") for name in "mnk")

    def matrix(name: str, dtype: str, contiguous: str) -> tuple[Operand, list[tirx.Var]]:
        offset, rows, cols, length = (tirx.Var(f"{name}_{what}", "int64") for what in ("at", "rs", "cs", "len"))
        buffer = tirx.decl_buffer((length,), dtype, name=name, layout=None)
        operand = Operand(
            buffer=buffer,
            offset=offset,
            row_stride=1 if contiguous == COL else rows,
            col_stride=1 if contiguous == ROW else cols,
        )
        return operand, [buffer, offset, rows, cols]

    a, a_params = matrix("A", setting.inputs, setting.a)
    b, b_params = matrix("B", setting.inputs, setting.b)
    c, c_params = matrix("C", setting.result or setting.dtype, setting.c)
    bias = tirx.decl_buffer((tirx.Var("bias_len", "int64"),), "float32", name="bias", layout=None)
    epilogues: dict[str, Epilogue | None] = {
        "none": None,
        "columns": bias_relu(Operand(buffer=bias, row_stride=0, col_stride=1), light=setting.light),
        "rows": bias_relu(Operand(buffer=bias, row_stride=1, col_stride=0), light=setting.light),
        "rescaled": rescaled(c, Operand(buffer=bias, row_stride=1, col_stride=0), light=setting.light),
    }
    plan = setting.plan or plan_gemm(setting.cpu, setting.dtype, *(setting.sizes or (None, None, None)))
    body = emit_gemm(
        a=a,
        b=b,
        c=c,
        m=setting.sizes[0] if setting.sizes else m,
        n=setting.sizes[1] if setting.sizes else n,
        k=setting.sizes[2] if setting.sizes else k,
        dtype=setting.dtype,
        accumulate=setting.accumulate,
        plan=plan,
        parallel=setting.parallel,
        epilogue=epilogues[setting.epilogue],
    )
    function = tirx.PrimFunc([*a_params, *b_params, *c_params, bias, m, n, k], body)
    function = function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
    target = tvm.target.Target({"kind": "llvm", "mcpu": setting.cpu.mcpu})
    built = tvm.compile(tvm.IRModule({"main": function}), target=target, tir_pipeline=pipeline.NAME)
    return built.mod


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A matrix in a larger buffer of sentinels, at an odd offset so that no row is aligned."""

    flat: np.ndarray
    offset: int
    strides: tuple[int, int]
    shape: tuple[int, int]

    @property
    def view(self) -> np.ndarray:
        size = self.flat.itemsize
        strides = tuple(s * size for s in self.strides)
        return np.lib.stride_tricks.as_strided(self.flat[self.offset :], self.shape, strides)


def place(values: np.ndarray, order: str, sentinel: float) -> Stored:
    rows, cols = values.shape
    strides = {ROW: (cols + 3, 1), COL: (1, rows + 5), ANY: (2 * cols + 3, 2)}[order]
    span = 1 + max(rows - 1, 0) * strides[0] + max(cols - 1, 0) * strides[1]
    flat = np.full(span + 80, sentinel, values.dtype)
    stored = Stored(flat=flat, offset=3, strides=strides, shape=(rows, cols))
    stored.view[...] = values
    return stored


def check(setting: Setting, m: int, n: int, k: int) -> np.ndarray:
    """Runs one product; compares it with NumPy, and everything around the result with what was there before."""
    generator = np.random.default_rng([m, n, k])
    inputs = np.dtype(ml_dtypes.bfloat16 if setting.inputs == "bfloat16" else setting.inputs)
    a = place(generator.uniform(-1, 1, (m, k)).astype(inputs), setting.a, np.nan)
    b = place(generator.uniform(-1, 1, (k, n)).astype(inputs), setting.b, np.nan)
    before = generator.uniform(-1, 1, (m, n)).astype(setting.result or setting.dtype)
    if not setting.accumulate and setting.epilogue != "rescaled":
        before[...] = np.nan
    c = place(before, setting.c, 77.0)
    bias = generator.uniform(-1, 1, max(m, n, 1)).astype("float32")
    out = tvm.runtime.tensor(c.flat)
    arguments = [v for s, flat in ((a, tvm.runtime.tensor(a.flat)), (b, tvm.runtime.tensor(b.flat)), (c, out))
                 for v in (flat, s.offset, *s.strides)]  # fmt: skip
    compiled(setting)["main"](*arguments, tvm.runtime.tensor(bias), m, n, k)

    exact = a.view.astype("float64") @ b.view.astype("float64")
    if setting.accumulate:
        exact += before
    if setting.epilogue == "rescaled":
        exact += before * bias[:m, None].astype("float64")
    elif setting.epilogue != "none":
        added = bias[:n] if setting.epilogue == "columns" else bias[:m, None]
        exact = np.maximum(exact + added, 0)
    expected = Stored(flat=c.flat.copy(), offset=c.offset, strides=c.strides, shape=c.shape)
    expected.view[...] = exact
    unit, coarse = np.finfo(setting.dtype).eps, np.finfo(setting.result or setting.dtype).eps
    np.testing.assert_allclose(out.numpy(), expected.flat, rtol=coarse, atol=unit * (k + 8))
    return out.numpy()


SIZES = [
    (0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0), (3, 2, 0), (1, 1, 1), (1, 1, 300), (1, 50, 1), (50, 1, 33), (4, 33, 17),
    (3, 1100, 9), (5, 5, 5), (13, 31, 15), (14, 32, 16), (15, 33, 17), (29, 65, 33), (57, 129, 97), (100, 20, 64),
    (6, 64, 32), (7, 65, 33), (12, 96, 64), (13, 129, 65), (47, 161, 100), (8, 41, 300), (16, 70, 523), (17, 33, 257),
    (40, 9, 290), (2, 1100, 20),
]  # fmt: skip


@pytest.fixture(autouse=True)
def skip_what_the_host_lacks(request: pytest.FixtureRequest) -> Iterator[None]:
    setting = getattr(request.node, "callspec", None) and request.node.callspec.params.get("setting")
    if not host_runs(setting.cpu if isinstance(setting, Setting) else AVX512):
        pytest.skip("the host lacks the vector extension")
    yield


SETTINGS = {
    "plain": Setting(plan=BLOCKS),
    "planned": Setting(),
    "serial": Setting(plan=BLOCKS, parallel=False),
    "planned-b-transposed": Setting(b=COL, epilogue="columns"),
    "planned-bfloat16": Setting(inputs="bfloat16", accumulate=True),
    "planned-bfloat16-transposed": Setting(inputs="bfloat16", a=COL, b=COL),
    "a-transposed": Setting(plan=BLOCKS, a=COL),
    "b-transposed": Setting(plan=BLOCKS, b=COL),
    "both-transposed": Setting(plan=BLOCKS, a=COL, b=COL, accumulate=True),
    "c-transposed": Setting(plan=BLOCKS, c=COL, epilogue="columns"),
    "strided": Setting(plan=BLOCKS, a=ANY, b=ANY, c=ANY, accumulate=True, epilogue="rows"),
    "accumulate": Setting(plan=BLOCKS, accumulate=True),
    "epilogue-columns": Setting(plan=BLOCKS, epilogue="columns"),
    "epilogue-rows": Setting(plan=BLOCKS, epilogue="rows", b=COL, accumulate=True),
    "epilogue-light": Setting(plan=BLOCKS, epilogue="columns", light=True),
    "rescaled": Setting(plan=BLOCKS, epilogue="rescaled"),
    "rescaled-light": Setting(plan=BLOCKS, epilogue="rescaled", light=True),
    "rescaled-transposed": Setting(plan=BLOCKS, epilogue="rescaled", c=COL),
    "rescaled-serial": Setting(epilogue="rescaled", light=True, parallel=False),
    "half-result": Setting(plan=BLOCKS, result="float16"),
    "half-result-columns": Setting(plan=BLOCKS, result="float16", epilogue="columns", light=True),
    "float64": Setting(dtype="float64", inputs="float64"),
    "float32-in-float64": Setting(dtype="float64", inputs="float32", b=COL),
    "bfloat16": Setting(plan=BLOCKS, inputs="bfloat16"),
    "bfloat16-transposed": Setting(plan=BLOCKS, inputs="bfloat16", a=COL, b=COL),
    "float16": Setting(plan=BLOCKS, inputs="float16"),
    "avx2": Setting(cpu=AVX2),
    "avx2-float64": Setting(cpu=AVX2, dtype="float64", inputs="float64", b=COL),
    "sse": Setting(cpu=SSE, epilogue="columns"),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_agrees_with_numpy(setting: Setting) -> None:
    for sizes in SIZES:
        check(setting, *sizes)


@pytest.mark.parametrize(
    "sizes",
    [(1, 70, 40), (70, 1, 40), (3, 3, 3), (64, 64, 64), (30, 100, 500), (5, 7, 0), (7, 90, 270), (8, 33, 300), (90, 16, 300)],
)
def test_literal_sizes(sizes: tuple[int, int, int]) -> None:
    check(Setting(sizes=sizes), *sizes)
    check(Setting(sizes=sizes, b=COL, epilogue="columns", light=True), *sizes)
    check(Setting(sizes=sizes, epilogue="rescaled", light=True, result="float16"), *sizes)


@pytest.mark.parametrize("sizes", [(61, 200, 90), (3, 700, 65), (300, 2, 65), (8, 100, 300)])
def test_bits_do_not_depend_on_the_number_of_tasks(sizes: tuple[int, int, int]) -> None:
    for skinny, b in ((4, ROW), (16, COL)):
        plans = [replace(BLOCKS, skinny=skinny, threads=threads) for threads in (1, 2, 3, 6)]
        results = [check(Setting(plan=plan, b=b), *sizes) for plan in plans]
        for result in results[1:]:
            assert result.tobytes() == results[0].tobytes()


def test_accumulators_stay_in_registers() -> None:
    sizes = (132, 256, 300)
    module = compiled(Setting(plan=replace(plan_gemm(AVX512, "float32", *sizes), skinny=0, unroll=1), sizes=sizes))
    packed_a_and_b = module.inspect_source("ll").count("load ptr, ptr @__TVMBackendAllocWorkspace")
    assert packed_a_and_b == 2
    lines = [line.split("#")[0] for line in module.inspect_source("asm").splitlines()]
    first, last = (pick(i for i, line in enumerate(lines) if "vfmadd" in line) for pick in (min, max))
    assert sum("vfmadd" in line for line in lines) >= 24
    assert not [line for line in lines[first:last] if "zmm" in line and "(%rsp" in line]


def test_plan_fits_the_machine() -> None:
    for cpu in (AVX512, AVX2, SSE):
        for dtype, size in (("float32", 4), ("float64", 8)):
            plan = plan_gemm(cpu, dtype)
            assert plan.mr * plan.nv + plan.nv + 1 <= cpu.vector_registers
            assert plan.kc * plan.nr * size <= cpu.l1_bytes
            blocks = plan.kc * plan.mc + plan.kc * plan.nc + plan.mc * plan.nc
            assert blocks * size <= cpu.l2_bytes
            assert plan.mc % plan.mr == plan.nc % plan.nr == 0

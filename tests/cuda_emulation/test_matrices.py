"""ldmatrix, stmatrix and mma against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from .emulator import EmulationError, build

LOAD = """
extern "C" __global__ void load(const unsigned short* in, unsigned* out) {{
  __shared__ __align__(16) unsigned short tile[32 * 8];
  for (int i = threadIdx.x; i < 256; i += 32) tile[i] = in[i];
  __syncwarp();
  unsigned r[{count}];
  unsigned address = __cvta_generic_to_shared(tile + (threadIdx.x % {rows}) * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{registers}}}, [%{count}];"
               : {outputs} : "r"(address));
  for (int i = 0; i < {count}; ++i) out[threadIdx.x * {count} + i] = r[i];
}}
"""


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 4])
def test_ldmatrix(count: int, transposed: bool) -> None:
    registers = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"=r"(r[{i}])' for i in range(count))
    trans = ".trans" if transposed else ""
    kernel = build(LOAD.format(count=count, rows=8 * count, trans=trans, registers=registers, outputs=outputs))
    given = np.arange(256, dtype=np.uint16)
    result = np.zeros((32, count), np.uint32)
    kernel.launch("load", 1, 32, [given, result])
    matrices = given.reshape(4, 8, 8)[:count]
    if transposed:
        matrices = matrices.swapaxes(1, 2)
    expected = np.ascontiguousarray(matrices.reshape(count, 32, 2).swapaxes(0, 1)).view(np.uint32)[..., 0]
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_stmatrix(transposed: bool) -> None:
    kernel = build(f"""extern "C" __global__ void store(const unsigned* in, unsigned short* out) {{
      __shared__ __align__(16) unsigned short tile[128];
      unsigned address = __cvta_generic_to_shared(tile + (threadIdx.x % 16) * 8);
      asm volatile("stmatrix.sync.aligned.m8n8.x2{".trans" if transposed else ""}.shared.b16 [%0], {{%1, %2}};"
                   :: "r"(address), "r"(in[threadIdx.x * 2]), "r"(in[threadIdx.x * 2 + 1]) : "memory");
      __syncwarp();
      for (int i = threadIdx.x; i < 128; i += 32) out[i] = tile[i];
    }}""")
    given = np.arange(128, dtype=np.uint16)
    result = np.zeros(128, np.uint16)
    kernel.launch("store", 1, 32, [given.view(np.uint32), result])
    matrices = given.reshape(32, 2, 2).swapaxes(0, 1).reshape(2, 8, 8)
    assert np.array_equal(result.reshape(2, 8, 8), matrices.swapaxes(1, 2) if transposed else matrices)


MMA = """
extern "C" __global__ void multiply(const unsigned* a, const unsigned* b, const {sum}* c, {sum}* d) {{
  int lane = threadIdx.x;
  unsigned ra[{na}], rb[{nb}];
  {sum} sums[4];
  for (int i = 0; i < {na}; ++i) ra[i] = a[(lane / 4 + 8 * (i % 2)) * {words} + lane % 4 + 4 * (i / 2)];
  for (int i = 0; i < {nb}; ++i) rb[i] = b[(lane / 4) * {words} + lane % 4 + 4 * i];
  for (int i = 0; i < 4; ++i) sums[i] = c[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2];
  asm volatile("mma.sync.aligned.m16n8k{k}.row.col.{types} {{%0, %1, %2, %3}}, {{{regs_a}}}, {{{regs_b}}}, {{%0, %1, %2, %3}};"
               : {outputs} : {inputs});
  for (int i = 0; i < 4; ++i) d[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = sums[i];
}}
"""


def mma_source(k: int, types: str, bits: int) -> str:
    words = k * bits // 32
    na, nb = words // 2, words // 4
    total = types.split(".")[0]
    letter = {"f32": "f", "s32": "r"}[total]
    return MMA.format(
        k=k,
        types=types,
        sum={"f32": "float", "s32": "int"}[total],
        words=words,
        na=na,
        nb=nb,
        regs_a=", ".join(f"%{4 + i}" for i in range(na)),
        regs_b=", ".join(f"%{4 + na + i}" for i in range(nb)),
        outputs=", ".join(f'"+{letter}"(sums[{i}])' for i in range(4)),
        inputs=", ".join([*(f'"r"(ra[{i}])' for i in range(na)), *(f'"r"(rb[{i}])' for i in range(nb))]),
    )


@pytest.mark.parametrize(
    ("k", "types", "dtype"),
    [
        (16, "f32.f16.f16.f32", np.float16),
        pytest.param(8, "f32.f16.f16.f32", np.float16, marks=pytest.mark.slow),
        (16, "f32.bf16.bf16.f32", ml_dtypes.bfloat16),
        (8, "f32.tf32.tf32.f32", np.float32),
        pytest.param(4, "f32.tf32.tf32.f32", np.float32, marks=pytest.mark.slow),
        (32, "s32.s8.s8.s32", np.int8),
        pytest.param(32, "s32.u8.u8.s32", np.uint8, marks=pytest.mark.slow),
        pytest.param(16, "s32.s8.s8.s32", np.int8, marks=pytest.mark.slow),
        pytest.param(32, "f32.e4m3.e4m3.f32", ml_dtypes.float8_e4m3fn, marks=pytest.mark.slow),
        pytest.param(32, "f32.e5m2.e5m2.f32", ml_dtypes.float8_e5m2, marks=pytest.mark.slow),
    ],
)
def test_mma(k: int, types: str, dtype: type) -> None:
    rng = np.random.default_rng(k)
    low, high = (0, 200) if dtype == np.uint8 else (-4, 5)
    a, b = (rng.integers(low, high, (rows, k)).astype(dtype) for rows in (16, 8))
    kind = np.int32 if types.startswith("s32") else np.float32
    c = rng.integers(-100, 100, (16, 8)).astype(kind)
    result = np.zeros((16, 8), kind)
    kernel = build(mma_source(k, types, a.itemsize * 8))
    kernel.launch("multiply", 1, 32, [a.view(np.uint32), b.view(np.uint32), c, result])
    assert np.array_equal(result, c + a.astype(np.float64) @ b.astype(np.float64).T)


def test_mma_needs_the_whole_warp() -> None:
    kernel = build(mma_source(16, "f32.f16.f16.f32", 16))
    arrays = [
        np.zeros((16, 8), np.uint32),
        np.zeros((8, 8), np.uint32),
        np.zeros((16, 8), np.float32),
        np.zeros((16, 8), np.float32),
    ]
    with pytest.raises(EmulationError, match=r"mma.sync at line \d+ needs all 32 lanes"):
        kernel.launch("multiply", 1, 16, arrays)


def test_misaligned_row_address() -> None:
    source = LOAD.format(count=1, rows=8, trans="", registers="%0", outputs='"=r"(r[0])').replace("% 8) * 8)", "% 8) * 8 + 4)")
    with pytest.raises(EmulationError, match=r"misaligned: row address"):
        build(source).launch("load", 1, 32, [np.arange(256, dtype=np.uint16), np.zeros((32, 1), np.uint32)])


def test_ldmatrix_before_the_barrier() -> None:
    source = LOAD.format(count=1, rows=8, trans="", registers="%0", outputs='"=r"(r[0])').replace("__syncwarp();", "")
    with pytest.raises(EmulationError, match=r"race in shared memory.*ldmatrix"):
        build(source).launch("load", 1, 32, [np.arange(256, dtype=np.uint16), np.zeros((32, 1), np.uint32)])

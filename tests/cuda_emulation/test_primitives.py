"""Device functions, intrinsics and scalar PTX against NumPy: many in one kernel, as each kernel is a run of g++."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import scipy.special

from .emulator import Array, build

Floats = dict[str, Callable[[Array, Array], Array]]

FLOAT: Floats = {
    "__expf(a)": lambda a, b: np.exp(a),
    "exp2f(a)": lambda a, b: np.exp2(a),
    "exp10f(a)": lambda a, b: 10.0**a,
    "__logf(fabsf(a))": lambda a, b: np.log(np.abs(a)),
    "log2f(fabsf(a))": lambda a, b: np.log2(np.abs(a)),
    "__powf(fabsf(a), b)": lambda a, b: np.abs(a) ** b,
    "tanhf(a)": lambda a, b: np.tanh(a),
    "erff(a)": lambda a, b: scipy.special.erf(a),
    "rsqrtf(fabsf(a))": lambda a, b: 1 / np.sqrt(np.abs(a)),
    "__fdividef(a, b)": lambda a, b: a / b,
    "__saturatef(a)": lambda a, b: np.clip(a, 0, 1),
    "fmaf(a, b, 1.0f)": lambda a, b: a * b + 1,
    "max(a, b)": np.maximum,
    "min(a, b)": np.minimum,
    "__int_as_float(__float_as_int(a))": lambda a, b: a,
    "float(__float2int_rn(a * 10.0f))": lambda a, b: np.rint(a * np.float32(10)),
    "float(__float2int_rz(a * 10.0f))": lambda a, b: np.trunc(a * np.float32(10)),
    "isnan(a / 0.0f - a / 0.0f) ? 1.0f : 0.0f": lambda a, b: np.ones_like(a),
    "__half2float(__float2half_rn(a))": lambda a, b: a.astype(np.float16),
    "__bfloat162float(__float2bfloat16_rn(a))": lambda a, b: a.astype(ml_dtypes.bfloat16),
    "float(half(a) * half(b) + half(a))": lambda a, b: a.astype("f2") * b.astype("f2") + a.astype("f2"),
    "float(__hfma(half(a), half(b), half(a)))": lambda a, b: (
        a.astype("f2").astype("f8") * b.astype("f2").astype("f8") + a.astype("f2").astype("f8")
    ).astype("f2"),
    "float(__hmul2(half2(half(a), half(b)), half2(half(b), half(b))).x)": lambda a, b: a.astype("f2") * b.astype("f2"),
    "float(hexp(nv_bfloat16(a)))": lambda a, b: np.exp(a.astype(ml_dtypes.bfloat16).astype("f4")).astype(ml_dtypes.bfloat16),
    "__half22float2(__floats2half2_rn(a, b)).y": lambda a, b: b.astype("f2"),
    "a < b ? float(half(a) < half(b) || half(a) == half(b)) : 1.0f": lambda a, b: np.ones_like(a),
}
"""C++ of two floats a and b, and what it gives."""

PTX_FLOAT: Floats = {
    "ex2.approx.ftz.f32 %0, %1;": lambda a, b: np.exp2(a),
    "tanh.approx.f32 %0, %1;": lambda a, b: np.tanh(a),
    "{ .reg .f32 t; abs.f32 t, %1; rsqrt.approx.ftz.f32 %0, t; }": lambda a, b: 1 / np.sqrt(np.abs(a)),
    "rcp.approx.ftz.f32 %0, %2;": lambda a, b: 1 / b,
    "fma.rn.f32 %0, %1, %2, 0f3F800000;": lambda a, b: a * b + 1,
    "max.f32 %0, %1, %2;": np.maximum,
    "{ .reg .pred p; setp.lt.f32 p, %1, %2; selp.f32 %0, %1, %2, p; }": np.minimum,
    "{ .reg .b16 h; cvt.rn.f16.f32 h, %1; cvt.f32.f16 %0, h; }": lambda a, b: a.astype("f2"),
    "{ .reg .b16 h; cvt.rn.bf16.f32 h, %1; cvt.f32.bf16 %0, h; }": lambda a, b: a.astype(ml_dtypes.bfloat16),
    "{ .reg .b32 p; .reg .b16 l, h; cvt.rn.f16x2.f32 p, %1, %2; mov.b32 {l, h}, p; cvt.f32.f16 %0, h; }": (
        lambda a, b: a.astype("f2")
    ),
    "{ .reg .s32 i; cvt.rni.s32.f32 i, %1; cvt.rn.f32.s32 %0, i; }": lambda a, b: np.rint(a),
    "{ .reg .b32 p; cvt.rn.f16x2.f32 p, %1, %1; mul.f16x2 p, p, p; .reg .b16 l, h; mov.b32 {l, h}, p; cvt.f32.f16 %0, l; }": (
        lambda a, b: a.astype("f2") * a.astype("f2")
    ),
    "{ .reg .pred p; setp.gt.f32 p, %1, 0f00000000; mov.f32 %0, %2; @p bra DONE; neg.f32 %0, %2; DONE: }": (
        lambda a, b: np.where(a > 0, b, -b)
    ),
}
"""PTX with the result %0 and the sources %1 and %2."""

INTEGER: dict[str, Callable[[Array, Array], Array]] = {
    "__popc(a)": lambda a, b: np.bitwise_count(a.astype(np.uint32)),
    "__clz(a)": lambda a, b: np.array([32 - int(x).bit_length() for x in a.astype(np.uint32)]),
    "__ffs(a)": lambda a, b: np.array([(int(x) & -int(x)).bit_length() for x in a.astype(np.uint32)]),
    "__brev(a)": lambda a, b: np.array([int(f"{x:032b}"[::-1], 2) for x in a.astype(np.uint32)], np.uint32),
    "__mulhi(a, b)": lambda a, b: a.astype(np.int64) * b >> 32,
    "max(a, b)": np.maximum,
    "__dp4a(a, b, a)": lambda a, b: (
        (a.view(np.int8).reshape(-1, 4).astype(np.int64) * b.view(np.int8).reshape(-1, 4)).sum(1) + a
    ),
    "__byte_perm(a, b, 0x6240)": lambda a, b: (
        np.concatenate([a.view(np.uint8).reshape(-1, 4), b.view(np.uint8).reshape(-1, 4)], 1)[:, [0, 4, 2, 6]]
        .copy()
        .view(np.uint32)[:, 0]
    ),
    "a / (b | 1)": lambda a, b: np.trunc(a / (b | 1).astype("f8")),
}

PTX_INTEGER: dict[str, Callable[[Array, Array], Array]] = {
    "lop3.b32 %0, %1, %2, %1, 0x6a;": lambda a, b: (a & b) ^ a,
    "prmt.b32 %0, %1, %2, 0x6240;": INTEGER["__byte_perm(a, b, 0x6240)"],
    "dp4a.s32.s32 %0, %1, %2, %1;": INTEGER["__dp4a(a, b, a)"],
    "dp4a.u32.s32 %0, %1, %2, %1;": lambda a, b: (
        (a.view(np.uint8).reshape(-1, 4).astype(np.int64) * b.view(np.int8).reshape(-1, 4)).sum(1) + a
    ),
    "mad.lo.s32 %0, %1, %2, %1;": lambda a, b: a * b + a,
    "shl.b32 %0, %1, 5;": lambda a, b: a << 5,
    "shr.s32 %0, %1, 5;": lambda a, b: a >> 5,
    "min.s32 %0, %1, %2;": np.minimum,
    "{ .reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, l}; }": lambda a, b: (
        a.view(np.uint16).reshape(-1, 2)[:, ::-1].copy().view(np.int32)[:, 0]
    ),
    "{ .reg .f32 f; cvt.rn.f32.s32 f, %1; mul.f32 f, f, 0f4F000000; cvt.rzi.s32.f32 %0, f; }": lambda a, b: np.where(
        a > 0, 2**31 - 1, np.where(a < 0, -(2**31), 0)
    ),
    "mov.u32 %0, %%laneid;": lambda a, b: np.arange(a.size) % 32,
}


def kernel(type: str, letter: str, expressions: list[str], assembly: list[str]) -> str:
    lines = [f"out[{i} * n + t] = {each};" for i, each in enumerate(expressions)]
    for i, each in enumerate(assembly, len(expressions)):
        text = each.replace("%%", "%%")
        lines.append(
            f'{{ {type} r; asm volatile("{text}" : "={letter}"(r) : "{letter}"(a), "{letter}"(b)); out[{i} * n + t] = r; }}'
        )
    body = "\n  ".join(lines)
    return f"""#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void all(const {type}* x, const {type}* y, {type}* out, int n) {{
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  const {type} a = x[t], b = y[t];
  {body}
}}"""


def test_floats() -> None:
    rng = np.random.default_rng(6)
    a, b = (rng.standard_normal(256).astype(np.float32) for _ in range(2))
    result = np.zeros((len(FLOAT) + len(PTX_FLOAT), 256), np.float32)
    build(kernel("float", "f", [*FLOAT], [*PTX_FLOAT])).launch("all", 2, 128, [a, b, result, 256])
    for (text, function), found in zip((FLOAT | PTX_FLOAT).items(), result, strict=True):
        assert np.allclose(found, function(a, b).astype(np.float32), rtol=3e-6, atol=1e-7), text


def test_integers() -> None:
    rng = np.random.default_rng(7)
    a, b = (rng.integers(-(2**31), 2**31 - 1, 256).astype(np.int32) for _ in range(2))
    result = np.zeros((len(INTEGER) + len(PTX_INTEGER), 256), np.int32)
    build(kernel("int", "r", [*INTEGER], [*PTX_INTEGER])).launch("all", 2, 128, [a, b, result, 256])
    for (text, function), found in zip((INTEGER | PTX_INTEGER).items(), result, strict=True):
        with np.errstate(over="ignore"):
            assert np.array_equal(found, np.asarray(function(a, b)).astype(np.int64).astype(np.int32)), text


def test_every_half() -> None:
    """All 65536 halves of both formats to float and back."""
    text = """#include <cuda_bf16.h>
    extern "C" __global__ void widen(const half* h, const nv_bfloat16* b, float* x, float* y, half* h2, nv_bfloat16* b2) {
      const int t = blockIdx.x * 256 + threadIdx.x;
      x[t] = __half2float(h[t]);
      y[t] = __bfloat162float(b[t]);
      h2[t] = __float2half(x[t]);
      b2[t] = __float2bfloat16(y[t]);
    }"""
    bits = np.arange(65536, dtype=np.uint16)
    x, y = np.zeros(65536, np.float32), np.zeros(65536, np.float32)
    h, b = bits.view(np.float16), bits.view(ml_dtypes.bfloat16)
    h2, b2 = np.zeros(65536, np.float16), np.zeros(65536, ml_dtypes.bfloat16)
    build(text).launch("widen", 256, 256, [h, b, x, y, h2, b2], orders=[(0, 0)])
    assert np.array_equal(x, h.astype(np.float32), equal_nan=True)
    assert np.array_equal(y, b.astype(np.float32), equal_nan=True)
    assert np.array_equal(h2, h, equal_nan=True)
    assert np.array_equal(b2.astype(np.float32), b.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize(
    ("name", "dtype"), [("__nv_fp8_e4m3", ml_dtypes.float8_e4m3fn), ("__nv_fp8_e5m2", ml_dtypes.float8_e5m2)]
)
def test_every_float_of_eight_bits(name: str, dtype: type) -> None:
    """All codes to float; the floats between two codes, and too large ones, to the nearest code."""
    text = f"""#include <cuda_fp8.h>
    extern "C" __global__ void convert(const {name}* codes, float* wide, const float* given, {name}* rounded, int n) {{
      const int t = blockIdx.x * 256 + threadIdx.x;
      if (blockIdx.x == 0) wide[t] = float(codes[t]);
      if (t < n) rounded[t] = {name}(given[t]);
    }}"""
    codes = np.arange(256, dtype=np.uint8)
    values = codes.view(dtype).astype(np.float32)
    finite = np.sort(values[np.isfinite(values)])
    middles = (finite[:-1] + finite[1:]) / 2
    given = np.concatenate([finite, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)]).astype(np.float32)
    wide, rounded = np.zeros(256, np.float32), np.zeros(given.size, np.uint8)
    build(text).launch("convert", 5, 256, [codes, wide, given, rounded, given.size], orders=[(0, 0)])
    assert np.array_equal(wide, values, equal_nan=True)
    assert np.array_equal(rounded.view(dtype).astype(np.float32), given.astype(dtype).astype(np.float32))


def test_rounding_to_halves() -> None:
    """Floats at and beside the middle between two halves, subnormal and too large ones among them."""
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    given = np.concatenate(
        [middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf), [65519.0, 65520.0, np.inf, 1e-9]]
    )
    given = np.concatenate([given, -given]).astype(np.float32)[: given.size // 256 * 512]
    text = """#include <cuda_fp16.h>
    extern "C" __global__ void narrow(const float* x, half* h, int n) {
      const int t = blockIdx.x * 256 + threadIdx.x;
      if (t < n) h[t] = __float2half(x[t]);
    }"""
    result = np.zeros(given.size, np.float16)
    build(text).launch("narrow", given.size // 256 + 1, 256, [given, result, given.size], orders=[(0, 0)])
    with np.errstate(over="ignore"):
        assert np.array_equal(result, given.astype(np.float16))


WARP = """
extern "C" __global__ void warp(const int* in, int* out) {
  const int t = threadIdx.x, v = in[t];
  int* row = out + t;
  int i = 0;
  auto put = [&](int value) { row[i++ * 32] = value; };
  put(__shfl_sync(0xffffffff, v, 5));
  put(__shfl_sync(0xffffffff, v, 5, 8));
  put(__shfl_up_sync(0xffffffff, v, 3));
  put(__shfl_down_sync(0xffffffff, v, 3));
  put(__shfl_down_sync(0xffffffff, v, 3, 8));
  put(__shfl_xor_sync(0xffffffff, v, 16));
  put(__ballot_sync(0xffffffff, v > 0));
  put(__any_sync(0xffffffff, v == 7));
  put(__all_sync(0xffffffff, v > -100));
  put(__reduce_add_sync(0xffffffff, v));
  put(__reduce_max_sync(0xffffffff, v));
  put(__match_any_sync(0xffffffff, v & 3));
  put(t < 16 ? __shfl_xor_sync(0x0000ffff, v, 1) : __shfl_xor_sync(0xffff0000, v, 2));
  unsigned elected = 0;
  asm volatile("{\\n.reg .pred %%px;\\n elect.sync _|%%px, %1;\\n@%%px mov.s32 %0, 1;\\n}\\n"
               : "+r"(elected) : "r"(0xFFFFFFFF));
  put(elected);
  put(__syncthreads_count(v > 0) * 4 + __syncthreads_or(v > 60) * 2 + __syncthreads_and(v > -60));
  if (t % 2) {
    const unsigned mask = __activemask();
    put(mask);
    put(__shfl_sync(mask, v, 1));
  }
}
"""


def test_warp_primitives() -> None:
    rng = np.random.default_rng(8)
    v, lanes = rng.integers(-50, 50, 32).astype(np.int32), np.arange(32)
    result = np.zeros((17, 32), np.int32)
    build(WARP).launch("warp", 1, 32, [v, result])
    odd = lanes % 2 == 1
    expected = [
        np.full(32, v[5]),
        v[lanes // 8 * 8 + 5],
        np.where(lanes < 3, v, np.roll(v, 3)),
        np.where(lanes > 28, v, np.roll(v, -3)),
        np.where(lanes % 8 > 4, v, np.roll(v, -3)),
        v[lanes ^ 16],
        np.full(32, sum(1 << i for i in range(32) if v[i] > 0)),
        np.full(32, (v == 7).any()),
        np.full(32, (v > -100).all()),
        np.full(32, v.sum()),
        np.full(32, v.max()),
        np.array([sum(1 << j for j in range(32) if v[j] & 3 == x & 3) for x in v]),
        np.where(lanes < 16, v[lanes ^ 1], v[lanes ^ 2]),
        lanes == 0,
        np.full(32, (v > 0).sum() * 4 + 1),
        np.where(odd, 0xAAAAAAAA, 0),
        np.where(odd, v[1], 0),
    ]
    for found, wanted in zip(result, expected, strict=True):
        assert np.array_equal(found, np.asarray(wanted).astype(np.int64).astype(np.int32))


@pytest.mark.parametrize("space", ["global", "shared"])
def test_atomics(space: str) -> None:
    text = """#include <cuda_fp16.h>
    extern "C" __global__ void atomics(const int* in, int* ints, float* floats, unsigned long long* wide) {
      PLACE
      const int v = in[threadIdx.x];
      atomicAdd(&i[0], v);
      atomicMax(&i[1], v);
      atomicMin(&i[2], v);
      atomicAdd(&f[0], float(v));
      atomicAdd(&w[0], (unsigned long long)(v + 100));
      asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" :: "l"(floats + 1), "f"(float(v)) : "memory");
      int old;
      asm volatile("atom.global.add.s32 %0, [%1], %2;" : "=r"(old) : "l"(ints + 3), "r"(1) : "memory");
      BACK
    }"""
    places = {
        "global": ("int* i = ints; float* f = floats; unsigned long long* w = wide;", ""),
        "shared": (
            (
                "__shared__ int i[3]; __shared__ float f[1]; __shared__ unsigned long long w[1];"
                "if (threadIdx.x == 0) { i[0] = i[1] = i[2] = 0; f[0] = 0.0f; w[0] = 0; } __syncthreads();"
            ),
            (
                "__syncthreads(); if (threadIdx.x < 3) ints[threadIdx.x] = i[threadIdx.x];"
                "if (threadIdx.x == 0) { floats[0] = f[0]; wide[0] = w[0]; }"
            ),
        ),
    }
    place, back = places[space]
    v = np.random.default_rng(9).integers(-50, 50, 64).astype(np.int32)
    ints, floats, wide = np.zeros(4, np.int32), np.zeros(2, np.float32), np.zeros(1, np.uint64)
    build(text.replace("PLACE", place).replace("BACK", back)).launch("atomics", 1, 64, [v, ints, floats, wide])
    assert ints.tolist() == [v.sum(), max(v.max(), 0), min(v.min(), 0), 64]
    assert floats.tolist() == [v.sum(), v.sum()] and wide[0] == v.sum() + 6400


def test_vector_loads_of_assembly() -> None:
    text = """extern "C" __global__ void move(const float* in, float* out) {
      float x, y, z, w;
      asm volatile("ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4+16];"
                   : "=f"(x), "=f"(y), "=f"(z), "=f"(w) : "l"(in));
      asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" :: "l"(out), "f"(w), "f"(z), "f"(y), "f"(x) : "memory");
      asm volatile("prefetch.global.L2 [%0];" :: "l"(in));
    }"""
    given, result = np.arange(8, dtype=np.float32), np.zeros(4, np.float32)
    build(text).launch("move", 1, 1, [given, result])
    assert result.tolist() == [7, 6, 5, 4]


def test_fence_and_counter_hand_results_to_the_last_block() -> None:
    text = """extern "C" __global__ void total(const float* in, float* parts, unsigned* count, float* out) {
      __shared__ bool last;
      if (threadIdx.x == 0) {
        parts[blockIdx.x] = in[blockIdx.x];
        __threadfence();
        last = atomicAdd(count, 1u) == gridDim.x - 1;
      }
      __syncthreads();
      if (last && threadIdx.x == 0) {
        float sum = 0.0f;
        for (int i = 0; i < gridDim.x; ++i) sum += parts[i];
        *out = sum;
      }
    }"""
    given, result = np.arange(6, dtype=np.float32), np.zeros(1, np.float32)
    build(text).launch("total", 6, 64, [given, np.zeros(6, np.float32), np.zeros(1, np.uint32), result])
    assert result[0] == 15

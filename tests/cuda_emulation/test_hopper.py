"""mbarrier, bulk copies and wgmma: a product of 64 x N tiles, and its mistakes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from .emulator import Array, EmulationError, TensorMap, build

PRODUCT = """
#include <cuda.h>
__device__ unsigned shared_of(void* p) {{ return __cvta_generic_to_shared(p); }}
__device__ unsigned long long descriptor(void* p) {{
  return (unsigned long long)(shared_of(p) >> 4) | 1ull << 16 | 64ull << 32 | {layout}ull << 62;
}}
__device__ void wait(unsigned barrier, unsigned parity) {{
  asm volatile("{{\\n.reg .pred done;\\nAGAIN:\\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\\n@done bra READY;\\nbra AGAIN;\\nREADY:\\n}}"
               :: "r"(barrier), "r"(parity) : "memory");
}}
extern "C" __global__ void __launch_bounds__(128) product(
    const __grid_constant__ CUtensorMap A, const __grid_constant__ CUtensorMap B, {sum}* C, int steps) {{
  extern __shared__ __align__(1024) char memory[];
  __shared__ unsigned long long full[2];
  const int a_bytes = 64 * 128, b_bytes = {n} * 128;
  if (threadIdx.x == 0) {{
    for (int s = 0; s < 2; ++s) asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"(shared_of(&full[s])), "r"(1));
    asm volatile("fence.mbarrier_init.release.cluster;");
  }}
  __syncthreads();
  auto fetch = [&](int step) {{
    if (threadIdx.x != 0 || step >= steps) return;
    char* stage = memory + step % 2 * (a_bytes + b_bytes);
    unsigned barrier = shared_of(&full[step % 2]);
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" :: "r"(barrier), "r"(a_bytes + b_bytes));
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {{%2, %3}}], [%4];"
                 :: "r"(shared_of(stage)), "l"(&A), "r"(step * {elements}), "r"(blockIdx.x * 64), "r"(barrier));
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {{%2, %3}}], [%4];"
                 :: "r"(shared_of(stage + a_bytes)), "l"(&B), "r"(step * {elements}), "r"(0), "r"(barrier));
  }};
  {sum} d[{registers}];
  for (int i = 0; i < {registers}; ++i) d[i] = 0;
  {fetch_first}
  for (int step = 0; step < steps; ++step) {{
    {fetch_next}
    {wait_full}
    char* stage = memory + step % 2 * (a_bytes + b_bytes);
    asm volatile("wgmma.fence.sync.aligned;");
    for (int i = 0; i < 4; ++i) {{
      asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{after}, 0; wgmma.mma_async.sync.aligned.m64n{n}k{k}.{types} "
                   "{{{names}}}, %{da}, %{db}, p{flags}; }}"
                   : {outputs} : "l"(descriptor(stage) + 2 * i), "l"(descriptor(stage + a_bytes) + 2 * i), "r"(1));
    }}
    asm volatile("wgmma.commit_group.sync.aligned;");
    {wait_product}
    __syncthreads();
  }}
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = 0; i < {registers}; ++i) {{
    int row = warp * 16 + lane / 4 + 8 * (i / 2 % 2), column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    C[(blockIdx.x * 64 + row) * {n} + column] = d[i];
  }}
}}
"""


def source(types: str, bytes: int, n: int = 32, **changes: str) -> str:
    registers = n // 2
    total = types.split(".")[0]
    letter = {"f32": "f", "s32": "r"}[total]
    parts = {
        "sum": {"f32": "float", "s32": "int"}[total],
        "n": n,
        "k": 32 // bytes,
        "elements": 128 // bytes,
        "registers": registers,
        "types": types,
        "names": ", ".join(f"%{i}" for i in range(registers)),
        "da": registers,
        "db": registers + 1,
        "after": registers + 2,
        "flags": {1: "" if total == "s32" else ", 1, 1", 2: ", 1, 1, 0, 0"}[bytes],
        "outputs": ", ".join(f'"+{letter}"(d[{i}])' for i in range(registers)),
        "layout": "1",
        "fetch_first": "fetch(0);",
        "fetch_next": "fetch(step + 1);",
        "wait_full": "wait(shared_of(&full[step % 2]), step / 2 & 1);",
        "wait_product": 'asm volatile("wgmma.wait_group.sync.aligned 0;");',
    }
    return PRODUCT.format(**(parts | changes))


def run(text: str, dtype: type, *, n: int = 32, swizzle: int = 128) -> tuple[Array, Array]:
    """(what the kernel gives, what NumPy gives) for two blocks of rows and three steps; the last tile sticks out."""
    rng = np.random.default_rng(5)
    elements = 128 // np.dtype(dtype).itemsize
    columns = 3 * elements - 16
    a, b = (rng.integers(-3, 4, (rows, columns)).astype(dtype) for rows in (128, n))
    total = np.int32 if dtype == np.int8 else np.float32
    c = np.zeros((128, n), total)
    maps = [TensorMap(array=x, box=(rows, elements), swizzle=swizzle) for x, rows in ((a, 64), (b, n))]
    build(text).launch("product", 2, 128, [*maps, c, 3], shared_bytes=2 * (64 + n) * 128)
    return c, (a.astype(np.float64) @ b.astype(np.float64).T).astype(total)


@pytest.mark.parametrize(
    ("types", "dtype"),
    [
        ("f32.f16.f16", np.float16),
        pytest.param("f32.bf16.bf16", ml_dtypes.bfloat16, marks=pytest.mark.slow),
        pytest.param("s32.s8.s8", np.int8, marks=pytest.mark.slow),
        pytest.param("f32.e4m3.e4m3", ml_dtypes.float8_e4m3fn, marks=pytest.mark.slow),
    ],
)
def test_product(types: str, dtype: type) -> None:
    result, expected = run(source(types, np.dtype(dtype).itemsize), dtype)
    assert np.array_equal(result, expected)


def test_tile_read_before_it_arrived() -> None:
    with pytest.raises(EmulationError, match=r"asynchronous copy still under way: read of 16 bytes.*wgmma"):
        run(source("f32.f16.f16", 2, wait_full=""), np.float16)


def test_tile_replaced_while_it_is_read() -> None:
    late = 'if (step + 1 == steps) asm volatile("wgmma.wait_group.sync.aligned 0;");'
    with pytest.raises(EmulationError, match=r"wgmma still under way: write of \d+ bytes"):
        run(source("f32.f16.f16", 2, wait_product=late), np.float16)


def test_sums_read_before_they_are_there() -> None:
    """One step, so nothing else goes wrong: the sums are written at the wait, which is missing."""
    result, expected = run(source("f32.f16.f16", 2, wait_product="", fetch_next="steps = 1;"), np.float16)
    assert (result == 0).all() and expected.any()


def test_swizzle_on_one_side_only() -> None:
    result, expected = run(source("f32.f16.f16", 2, layout="0"), np.float16)
    assert not np.array_equal(result, expected)


def test_copy_that_nobody_announced() -> None:
    """Without expect_tx the barrier completes at once: the wait does not cover the copy."""
    text = source("f32.f16.f16", 2).replace(
        "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;", "mbarrier.arrive.shared.b64 _, [%0];"
    )
    with pytest.raises(EmulationError, match=r"asynchronous copy still under way"):
        run(text, np.float16)


def test_barrier_used_before_it_is_initialised() -> None:
    text = source("f32.f16.f16", 2).replace(
        'asm volatile("fence.mbarrier_init.release.cluster;");\n  }\n  __syncthreads();', "}"
    )
    with pytest.raises(EmulationError, match=r"race in shared memory|no mbarrier was initialised"):
        run(text, np.float16)


def test_deadlock_on_a_barrier() -> None:
    with pytest.raises(EmulationError, match=r"deadlock.*128 threads.*waits for an mbarrier"):
        run(source("f32.f16.f16", 2, fetch_first="", fetch_next=""), np.float16)

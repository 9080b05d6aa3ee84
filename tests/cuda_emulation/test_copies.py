"""cp.async: what lands when, and the mistakes of pipelines."""

from __future__ import annotations

import numpy as np
import pytest

from .emulator import EmulationError, build

PIPELINE = """
extern "C" __global__ void __launch_bounds__(64) pipeline(const float* in, float* out, int steps) {
  __shared__ __align__(16) float stages[STAGES][256];
  auto fetch = [&](int step) {
    if (step < steps) {
      unsigned target = __cvta_generic_to_shared(&stages[step % STAGES][threadIdx.x * 4]);
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(target), "l"(in + step * 256 + threadIdx.x * 4));
    }
    asm volatile("cp.async.commit_group;");
  };
  for (int step = 0; step < STAGES - 1; ++step) fetch(step);
  float sum = 0.0f;
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;" :: "n"(WAIT));
    FIRST
    fetch(step + STAGES - 1);
    for (int i = 0; i < 4; ++i) sum += stages[step % STAGES][(threadIdx.x + 64 * i + 11) % 256];
    LAST
  }
  out[threadIdx.x] = sum;
}
"""


def pipeline(stages: int, wait: int, *, first: bool = True, last: bool = False) -> str:
    source = PIPELINE.replace("STAGES", str(stages)).replace("WAIT", str(wait))
    return source.replace("FIRST", "__syncthreads();" if first else "").replace("LAST", "__syncthreads();" if last else "")


def run(source: str, steps: int = 6) -> None:
    given = np.random.default_rng(4).integers(-9, 9, (steps, 256)).astype(np.float32)
    result = np.zeros(64, np.float32)
    build(source).launch("pipeline", 1, 64, [given, result, steps])
    expected = np.roll(given, -11, axis=1).reshape(steps, 4, 64).sum((0, 1))
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("stages", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)])
def test_pipeline(stages: int) -> None:
    run(pipeline(stages, stages - 2))


def test_wait_for_too_few_groups() -> None:
    with pytest.raises(EmulationError, match=r"asynchronous copy still under way.*no wait covers it yet"):
        run(pipeline(3, 2))


def test_missing_barrier_after_the_wait() -> None:
    with pytest.raises(EmulationError, match=r"race in shared memory|asynchronous copy still under way"):
        run(pipeline(3, 1, first=False, last=True))


def test_stage_refilled_while_it_is_read() -> None:
    """With as many stages as copies in flight, the stage that is read last is written next: one barrier is too few."""
    refills_early = (
        pipeline(2, 0).replace("fetch(step + 2 - 1);", "").replace("__syncthreads();", "__syncthreads(); fetch(step + 2);")
    )
    with pytest.raises(EmulationError, match=r"asynchronous copy still under way|race in shared memory"):
        run(refills_early)


ONE = """
extern "C" __global__ void one(const char* in, char* out, int size) {{
  __shared__ __align__(16) char tile[16];
  for (int i = 0; i < 16; ++i) tile[i] = 7;
  unsigned target = __cvta_generic_to_shared(tile);
  asm volatile("{{ .reg .pred p; setp.ne.b32 p, %3, 99;\\n @p cp.async.c{cache}.shared.global [%0], [%1], {bytes}, %2; }}"
               :: "r"(target), "l"(in), "r"(size), "r"(size));
  asm volatile("cp.async.wait_all;" ::: "memory");
  for (int i = 0; i < 16; ++i) out[i] = tile[i];
}}
"""


@pytest.mark.parametrize("bytes", [4, 8, 16])
@pytest.mark.parametrize("size", [0, 3, 4])
def test_zero_fill(bytes: int, size: int) -> None:
    """Bytes past the source's size become zero, and the source behind its size is not touched."""
    given, result = np.arange(1, 1 + max(size, 1), dtype=np.int8), np.zeros(16, np.int8)
    build(ONE.format(cache="g" if bytes == 16 else "a", bytes=bytes)).launch("one", 1, 1, [given, result, size])
    expected = np.full(16, 7, np.int8)
    expected[:bytes] = 0
    expected[:size] = given[:size]
    assert np.array_equal(result, expected)


def test_copy_or_zeros() -> None:
    """What TVM's cp.async with a predicate emits: a copy, or a store of zeros."""
    source = """
    extern "C" __global__ void either(const float* in, float* out) {
      __shared__ __align__(16) float tile[32 * 4];
      const unsigned target = __cvta_generic_to_shared(tile + threadIdx.x * 4);
      __asm__ __volatile__(
          "{\\n"
          " .reg .pred p;\\n"
          " setp.eq.u32 p, %3, 1;\\n"
          " @p cp.async.cg.shared.global [%0], [%1], %2;\\n"
          " @!p st.shared.v4.u32 [%0], {%4, %4, %4, %4};\\n"
          "}\\n" :: "r"(target), "l"(in + threadIdx.x * 4), "n"(16), "r"((int)threadIdx.x < 20), "r"(0));
      asm volatile("cp.async.commit_group;");
      asm volatile("cp.async.wait_group 0;");
      for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = tile[threadIdx.x * 4 + i];
    }"""
    given, result = np.arange(1, 81, dtype=np.float32), np.zeros(128, np.float32)
    build(source).launch("either", 1, 32, [given, result])
    assert np.array_equal(result, np.concatenate([given, np.zeros(48)]))


def test_predicated_copy_does_nothing() -> None:
    result = np.zeros(16, np.int8)
    build(ONE.format(cache="g", bytes=16)).launch("one", 1, 1, [np.arange(16, dtype=np.int8), result, 99])
    assert (result == 7).all()


def test_source_out_of_bounds() -> None:
    kernel = build(ONE.format(cache="g", bytes=16))
    with pytest.raises(EmulationError, match=r"out of bounds: read of 16 bytes at global memory, byte 0 of a buffer of 15"):
        kernel.launch("one", 1, 1, [np.arange(15, dtype=np.int8), np.zeros(16, np.int8), 16])


def test_uncommitted_copy() -> None:
    source = ONE.format(cache="g", bytes=16).replace('asm volatile("cp.async.wait_all;" ::: "memory");', "")
    with pytest.raises(EmulationError, match=r"still under way"):
        build(source).launch("one", 1, 1, [np.arange(16, dtype=np.int8), np.zeros(16, np.int8), 16])


SWIZZLED = """
extern "C" __global__ void transpose(const float* in, float* out) {
  __shared__ float tile[32 * 32];
  int x = threadIdx.x, y = threadIdx.y;
  for (int r = y; r < 32; r += 4) tile[r * 32 + (x ^ WRITE)] = in[r * 32 + x];
  __syncthreads();
  for (int r = y; r < 32; r += 4) out[r * 32 + x] = tile[x * 32 + (r ^ READ)];
}
"""


def test_swizzle_on_one_side_only() -> None:
    given, result = np.arange(1024, dtype=np.float32).reshape(32, 32), np.zeros((32, 32), np.float32)
    build(SWIZZLED.replace("WRITE", "r").replace("READ", "x")).launch("transpose", 1, (32, 4), [given, result])
    assert np.array_equal(result, given.T)
    build(SWIZZLED.replace("WRITE", "r").replace("READ", "0")).launch("transpose", 1, (32, 4), [given, result])
    assert not np.array_equal(result, given.T)

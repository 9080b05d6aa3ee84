"""Kernels with one defect each, and the same kernels without it: the emulator must tell them apart."""

from __future__ import annotations

import numpy as np
import pytest

from .emulator import ORDERS, EmulationError, build
from .translation import UnsupportedError

N = 128

REVERSAL = """
extern "C" __global__ void __launch_bounds__(128) reversal(const float* in, float* out) {
  __shared__ float tile[128];
  tile[threadIdx.x] = in[threadIdx.x];
  BARRIER
  out[threadIdx.x] = tile[127 - threadIdx.x];
}
"""

ROUNDS = """
extern "C" __global__ void rounds(const float* in, float* out) {
  __shared__ float tile[128];
  float sum = 0.0f;
  for (int i = 0; i < 3; ++i) {
    tile[threadIdx.x] = in[i * 128 + threadIdx.x];
    __syncthreads();
    sum += tile[(threadIdx.x + 37) % 128];
    BARRIER
  }
  out[threadIdx.x] = sum;
}
"""


def numbers(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(count).astype(np.float32)


def test_barrier_between_write_and_read() -> None:
    source, result = numbers(N), np.zeros(N, np.float32)
    build(REVERSAL.replace("BARRIER", "__syncthreads();")).launch("reversal", 1, N, [source, result])
    assert np.array_equal(result, source[::-1])
    with pytest.raises(EmulationError, match=r"race in shared memory.*written by thread.*no barrier between"):
        build(REVERSAL.replace("BARRIER", "")).launch("reversal", 1, N, [source, result])


def test_barrier_between_read_and_write() -> None:
    source, result = numbers(3 * N), np.zeros(N, np.float32)
    build(ROUNDS.replace("BARRIER", "__syncthreads();")).launch("rounds", 1, N, [source, result])
    assert np.allclose(result, np.roll(source.reshape(3, N), -37, axis=1).sum(0))
    with pytest.raises(EmulationError, match=r"race in shared memory"):
        build(ROUNDS.replace("BARRIER", "")).launch("rounds", 1, N, [source, result])


@pytest.mark.parametrize("order", ORDERS)
def test_missing_barrier_is_found_in_every_order(order: tuple[int, int]) -> None:
    """The detector needs no lucky order: it looks at what is ordered, not at what happened."""
    for source, name in ((REVERSAL, "reversal"), (ROUNDS, "rounds")):
        with pytest.raises(EmulationError, match=r"race"):
            build(source.replace("BARRIER", "")).launch(name, 1, N, [numbers(3 * N), np.zeros(N, np.float32)], orders=[order])


def test_the_report_names_the_line() -> None:
    with pytest.raises(EmulationError, match=r"line 6: `out\[threadIdx.x\] = tile\[127 - threadIdx.x\];`"):
        build(REVERSAL.replace("BARRIER", "")).launch("reversal", 1, N, [numbers(N), np.zeros(N, np.float32)])


def test_syncwarp_orders_a_warp_and_no_more() -> None:
    source = REVERSAL.replace("BARRIER", "__syncwarp();")
    within = source.replace("127 - threadIdx.x", "threadIdx.x ^ 31")
    given, result = numbers(N), np.zeros(N, np.float32)
    build(within).launch("reversal", 1, N, [given, result])
    assert np.array_equal(result.reshape(4, 32), given.reshape(4, 32)[:, ::-1])
    with pytest.raises(EmulationError, match=r"race"):
        build(source).launch("reversal", 1, N, [given, result])


def test_equal_writes_to_one_place_are_no_race() -> None:
    kernel = """extern "C" __global__ void same(int* out, int step) {
      __shared__ int flag;
      flag = 7 + int(threadIdx.x) * step;
      __syncthreads();
      out[threadIdx.x] = flag;
    }"""
    result = np.zeros(64, np.int32)
    build(kernel).launch("same", 1, 64, [result, 0])
    assert (result == 7).all()
    with pytest.raises(EmulationError, match=r"race in shared memory.*written.*were written"):
        build(kernel).launch("same", 1, 64, [result, 1])


def test_blocks_race_in_global_memory() -> None:
    kernel = """extern "C" __global__ void sum(float* out, const float* in) {
      HOW
    }"""
    given, result = np.ones(4 * 32, np.float32), np.zeros(1, np.float32)
    build(kernel.replace("HOW", "atomicAdd(out, in[blockIdx.x * 32 + threadIdx.x]);")).launch("sum", 4, 32, [result, given])
    assert result[0] == 128
    with pytest.raises(EmulationError, match=r"race in global memory"):
        build(kernel.replace("HOW", "if (threadIdx.x == 0) *out += in[blockIdx.x];")).launch("sum", 4, 32, [result, given])


@pytest.mark.parametrize(
    ("offset", "message"),
    [(0, None), (1, r"out of bounds: .* at global memory, byte 256 of a buffer of 256"), (-1, r"byte -4 of a buffer of 256")],
)
@pytest.mark.parametrize("side", ["read", "write"])
def test_global_bounds(side: str, offset: int, message: str | None) -> None:
    statement = {
        "read": "out[threadIdx.x] = in[int(threadIdx.x) + offset];",
        "write": "out[int(threadIdx.x) + offset] = in[threadIdx.x];",
    }
    kernel = build(f'extern "C" __global__ void copy(const float* in, float* out, int offset) {{ {statement[side]} }}')
    given, result = numbers(64), np.zeros(64, np.float32)
    if message is None:
        kernel.launch("copy", 1, 64, [given, result, offset])
        assert np.array_equal(given, result)
    else:
        with pytest.raises(EmulationError, match=message):
            kernel.launch("copy", 1, 64, [given, result, offset])


@pytest.mark.parametrize(("offset", "is_fine"), [(0, True), (1, False), (-1, False)])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_shared_bounds(kind: str, offset: int, is_fine: bool) -> None:
    declaration = {"dynamic": "extern __shared__ float tile[];", "static": "__shared__ float tile[64];"}[kind]
    kernel = build(f"""extern "C" __global__ void copy(float* out, int offset) {{
      {declaration}
      tile[int(threadIdx.x) + offset] = 1.0f;
      __syncthreads();
      out[threadIdx.x] = tile[int(threadIdx.x) + offset];
    }}""")
    result = np.zeros(64, np.float32)
    if is_fine:
        kernel.launch("copy", 1, 64, [result, offset], shared_bytes=256 * (kind == "dynamic"))
        assert (result == 1).all()
    else:
        with pytest.raises(EmulationError, match=r"out of bounds"):
            kernel.launch("copy", 1, 64, [result, offset], shared_bytes=256 * (kind == "dynamic"))


def test_local_bounds() -> None:
    kernel = build("""extern "C" __global__ void local(float* out, int i) {
      float sums[4] = {1.0f, 2.0f, 3.0f, 4.0f};
      out[0] = sums[i];
    }""")
    result = np.zeros(1, np.float32)
    kernel.launch("local", 1, 1, [result, 2])
    assert result[0] == 3
    with pytest.raises(EmulationError, match=r"out of bounds: index 4"):
        kernel.launch("local", 1, 1, [result, 4])


@pytest.mark.parametrize("vector", ["float4", *(pytest.param(each, marks=pytest.mark.slow) for each in ("float2", "uint4"))])
def test_misaligned_vectors(vector: str) -> None:
    kernel = build(f"""extern "C" __global__ void move(float* in, float* out, int offset) {{
      *({vector}*)(out) = *({vector}*)(in + offset);
    }}""")
    given, result = numbers(16), np.zeros(4, np.float32)
    kernel.launch("move", 1, 1, [given, result, 4])
    assert result[0] == given[4]
    with pytest.raises(EmulationError, match=r"misaligned"):
        kernel.launch("move", 1, 1, [given, result, 1])


def test_deadlock_says_who_waits() -> None:
    kernel = build("""extern "C" __global__ void half_barrier(float* out) {
      if (threadIdx.x < 64) asm volatile("bar.sync 1, 128;" ::: "memory");
      out[threadIdx.x] = 0.0f;
    }""")
    with pytest.raises(
        EmulationError, match=r"deadlock.*64 threads \(first 64, last 127\): left.*64 threads.*bar.sync at line 2"
    ):
        kernel.launch("half_barrier", 1, 128, [np.zeros(128, np.float32)])


@pytest.mark.slow
def test_endless_loop() -> None:
    kernel = build("""extern "C" __global__ void spin(volatile int* flag) {
      while (*flag == 0) {
      }
    }""")
    with pytest.raises(EmulationError, match=r"an endless loop"):
        kernel.launch("spin", 1, 1, [np.zeros(1, np.int32)])


def test_divergent_barrier() -> None:
    kernel = build("""extern "C" __global__ void divergent(float* out) {
      if (threadIdx.x < 64) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      out[threadIdx.x] = 0.0f;
    }""")
    with pytest.raises(EmulationError, match=r"divergent barrier"):
        kernel.launch("divergent", 1, 128, [np.zeros(128, np.float32)])


def test_shuffle_outside_of_its_mask() -> None:
    kernel = build("""extern "C" __global__ void shuffled(int* out) {
      out[threadIdx.x] = __shfl_xor_sync(0xffff, int(threadIdx.x), 1);
    }""")
    with pytest.raises(EmulationError, match=r"the mask 0x0000ffff does not name it"):
        kernel.launch("shuffled", 1, 32, [np.zeros(32, np.int32)])


def test_shuffle_in_a_divergent_warp() -> None:
    kernel = build("""extern "C" __global__ void shuffled(int* out) {
      int value = 0;
      if (threadIdx.x < 16) {
        value = __shfl_xor_sync(0xffffffff, int(threadIdx.x), 1);
      } else {
        value = __shfl_xor_sync(0xffffffff, int(threadIdx.x), 2);
      }
      out[threadIdx.x] = value;
    }""")
    with pytest.raises(
        EmulationError, match=r"deadlock.*16 threads .first 0, last 15.: waits for __shfl_sync at line 4; 16 threads.*at line 6"
    ):
        kernel.launch("shuffled", 1, 32, [np.zeros(32, np.int32)])


def test_result_that_depends_on_the_order() -> None:
    """The race detector accepts atomics; that their order shows in the result is found by comparing the orders."""
    kernel = build("""extern "C" __global__ void last(int* out) { atomicExch(out, int(threadIdx.x)); }""")
    with pytest.raises(EmulationError, match=r"depends on the order of the threads"):
        kernel.launch("last", 1, 64, [np.zeros(1, np.int32)])


def test_uncleared_accumulator() -> None:
    kernel = build(
        """extern "C" __global__ void sum(const float* in, float* out) {
      float sums[2];
      CLEAR
      for (int i = 0; i < 8; ++i) sums[i & 1] += in[i];
      out[0] = sums[0] + sums[1];
    }""".replace("CLEAR", "")
    )
    result = np.zeros(1, np.float32)
    kernel.launch("sum", 1, 1, [np.ones(8, np.float32), result])
    assert not abs(result[0]) < 1e20


@pytest.mark.parametrize(
    ("floats", "dynamic", "message"),
    [(12288, 0, None), (12289, 0, "49156 bytes of static"), (64, 232448, "256 bytes of static and")],
)
def test_too_much_shared_memory(floats: int, dynamic: int, message: str | None) -> None:
    kernel = build(f"""extern "C" __global__ void hold(float* out) {{
      __shared__ float tile[{floats}];
      tile[threadIdx.x] = 1.0f;
      out[threadIdx.x] = tile[threadIdx.x];
    }}""")
    if message is None:
        kernel.launch("hold", 1, 32, [np.zeros(32, np.float32)], shared_bytes=dynamic)
    else:
        with pytest.raises(EmulationError, match=message):
            kernel.launch("hold", 1, 32, [np.zeros(32, np.float32)], shared_bytes=dynamic)


def test_too_many_threads() -> None:
    kernel = build(REVERSAL.replace("BARRIER", "__syncthreads();"))
    with pytest.raises(EmulationError, match=r"blocks of 256 threads; the kernel is made for 1 to 128"):
        kernel.launch("reversal", 1, 256, [numbers(N), np.zeros(N, np.float32)])


def test_unsupported_instruction_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"tcgen05\.alloc.* at line 2"):
        build("""extern "C" __global__ void unknown(int* out) {
          asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], 32;" :: "r"(out[0]));
        }""")

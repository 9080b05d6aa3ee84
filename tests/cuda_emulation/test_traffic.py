"""Bank conflicts and sectors, counted."""

from __future__ import annotations

import numpy as np
import pytest

from .emulator import ORDERS, build
from .traffic import Traffic, counted, table

TRANSPOSE = """
extern "C" __global__ void transpose(const float* in, float* out) {
  __shared__ float tile[32 * PITCH];
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < 32; y += 4)
    tile[y * PITCH + x] = in[y * 32 + x];
  __syncthreads();
  for (int y = threadIdx.y; y < 32; y += 4)
    out[y * 32 + x] = tile[x * PITCH + y];
}
"""


def of(source: str, name: str, block: tuple[int, int], *arrays: np.ndarray) -> list[Traffic]:
    kernel = build(source)
    return counted(lambda: kernel.launch(name, 1, block, list(arrays), orders=ORDERS[:1]))


@pytest.mark.parametrize(("pitch", "ways"), [(32, 32), (33, 1)])
def test_conflicts_of_a_transposition(pitch: int, ways: int) -> None:
    given = np.arange(1024, dtype=np.float32)
    traffic = of(TRANSPOSE.replace("PITCH", str(pitch)), "transpose", (32, 4), given, np.zeros_like(given))
    found = {(each.space, each.kind): each for each in traffic}
    assert found["shared", "write"].excess == 1.0
    assert found["shared", "read"].excess == ways and found["shared", "read"].requests == 32
    assert found["global", "read"].excess == 1.0 and found["global", "read"].moved == 4 * 32
    assert "transpose" not in table(traffic) and str(found["shared", "read"].line) in table(traffic)


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32)])
def test_sectors_of_strided_reads(stride: int, sectors: int) -> None:
    source = f"""extern "C" __global__ void strided(const float* in, float* out) {{
      out[threadIdx.x] = in[threadIdx.x * {stride}];
    }}"""
    traffic = of(source, "strided", (32, 1), np.zeros(32 * stride, np.float32), np.zeros(32, np.float32))
    (read,) = (each for each in traffic if each.kind == "read")
    assert (read.requests, read.moved, read.least) == (1, sectors, 4)


@pytest.mark.parametrize(("pitch", "excess"), [(64, 8.0), (72, 1.0)])
def test_conflicts_of_ldmatrix(pitch: int, excess: float) -> None:
    """Rows of 128 bytes lie in the same banks; 16 bytes more, and the eight rows of a matrix lie in all of them."""
    source = f"""extern "C" __global__ void load(unsigned* out) {{
      __shared__ __align__(16) unsigned short tile[16 * {pitch}];
      for (int i = threadIdx.x; i < 16 * {pitch}; i += 32) tile[i] = i;
      __syncwarp();
      unsigned r[4], address = __cvta_generic_to_shared(tile + threadIdx.x % 16 * {pitch} + threadIdx.x / 16 * 8);
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%0, %1, %2, %3}}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
      out[threadIdx.x] = r[0] + r[1] + r[2] + r[3];
    }}"""
    traffic = of(source, "load", (32, 1), np.zeros(32, np.uint32))
    (read,) = (each for each in traffic if each.kind == "read" and each.space == "shared")
    assert read.excess == excess and read.requests == 4

"""Figures of ptxas."""

from __future__ import annotations

import pytest

from .ptxas import NvccError, Usage, nvcc, parsed, report

SOURCE = """
extern "C" __global__ void staged(float* out) {
  __shared__ float tile[256];
  tile[threadIdx.x] = out[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024, 2) crowded(float* out, int n) {
  float kept[64];
  for (int i = 0; i < 64; ++i) kept[i] = out[threadIdx.x + i * n];
  for (int i = 0; i < 64; ++i) out[threadIdx.x + i * n] = kept[63 - i] * kept[i];
}
"""

OUTPUT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_kernel' for 'sm_80'
ptxas info    : Function properties for a_kernel
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem, 380 bytes cmem[0]
"""


def test_output_is_read() -> None:
    assert parsed(OUTPUT) == {"a_kernel": Usage(registers=255, shared=1024, stack=8, spill_stores=4, spill_loads=12)}


@pytest.mark.skipif(nvcc() is None, reason="there is no nvcc")
def test_figures_of_two_kernels() -> None:
    usages = report(SOURCE, "sm_80")
    assert usages["staged"].shared == 1024 and usages["staged"].spills == 0
    assert usages["crowded"].registers <= 32 < 64 <= usages["crowded"].spill_stores


@pytest.mark.skipif(nvcc() is None, reason="there is no nvcc")
def test_refused_source() -> None:
    with pytest.raises(NvccError, match=r"error"):
        report("this is no CUDA", "sm_80")

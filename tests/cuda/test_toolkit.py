"""The CUDA toolkit: what nvcc and NVRTC make of sources, what ptxas says of them, and toolkits that are not there."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
from pathlib import Path

import pytest

import einfall as ef
from einfall.codegen.cuda import nvrtc, toolkit
from einfall.codegen.cuda.build import build
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.diagnostics import EinfallError
from einfall.ir.target import Target
from einfall.ir.usage import Usage
from einfall.passes.pipeline import lower
from tests.examples.cases import EXAMPLES, example_files

needs_nvcc = pytest.mark.skipif(toolkit.nvcc() is None, reason="there is no nvcc")

FILES = example_files()
SPILLS = toolkit.SPILLED
"""Bytes of a thread that may be spilled."""

SCALE = "kernel scale(X: f32[M], c: f32) -> (Y: f32[M]) { Y[m] = c * X[m] }"

CROWDED = """
extern "C" __global__ void __launch_bounds__(1024) crowded(float* out, int n) {
  float kept[128];
  for (int i = 0; i < 128; ++i) kept[i] = out[threadIdx.x + i * n];
  for (int i = 0; i < 128; ++i) out[threadIdx.x + i * n] = kept[127 - i] * kept[i];
}
"""

SOURCE = """
extern "C" __global__ void staged(float* out) {
  __shared__ float tile[256];
  tile[threadIdx.x] = out[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[255 - threadIdx.x];
}
"""

OUTPUT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_kernel' for 'sm_80'
ptxas info    : Function properties for a_kernel
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem, 380 bytes cmem[0]
"""


def test_output_is_read() -> None:
    (found,) = toolkit.usage_of(OUTPUT)
    assert found == Usage(kernel="a_kernel", registers=255, shared=1024, stack=8, spill_stores=4, spill_loads=12)


@needs_nvcc
def test_figures_of_two_kernels() -> None:
    made = toolkit.compile_source(SOURCE + CROWDED, "sm_80")
    usages = {each.kernel: each for each in made.usage}
    assert usages["staged"].shared == 1024 and usages["staged"].spill_stores == 0
    assert usages["crowded"].registers <= 64 <= usages["crowded"].spill_stores
    assert made.cubin.startswith(b"\x7fELF")


@needs_nvcc
def test_room_for_another_block_is_given_up_before_registers_are_spilled() -> None:
    (usage,) = toolkit.compile_source(CROWDED.replace("(1024)", "(512, 2)"), "sm_80").usage
    assert usage.registers == 128  # two blocks would have 64


@needs_nvcc
def test_refused_source() -> None:
    with pytest.raises(RuntimeError, match=r"error"):
        toolkit.compile_source("this is no CUDA", "sm_80")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("path", FILES[::5], ids=lambda path: path.stem)
def test_an_example_compiles(path: Path, arch: str) -> None:
    target = Target.parse(f"cuda:{arch}")
    built = build(lower(read_program(path).select(None), target=target).program, target)
    assert built.code.cubin.startswith(b"\x7fELF")
    assert all(usage.spill_stores <= SPILLS for usage in built.code.usage), built.code.usage


def test_without_a_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "nvcc", lambda: None)
    monkeypatch.setattr(toolkit, "nvrtc", lambda: None)
    with pytest.raises(EinfallError, match="E1205"):
        ef.compile(SCALE, target="cuda:sm_80", cache=False)


def test_a_toolkit_that_is_too_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "nvcc"
    old.write_text("#!/bin/sh\necho \"nvcc fatal   : Unsupported gpu architecture 'compute_90a'\" >&2\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setattr(toolkit, "nvcc", lambda: str(old))
    with pytest.raises(EinfallError, match="E1206"):
        ef.compile(SCALE, target="cuda:sm_90", cache=False)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nvrtc.Nvrtc:
    """A library that takes the calls of NVRTC; there is no nvcc beside it."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("there is no C compiler")
    made = tmp_path / "lib/libnvrtc.so.12"
    made.parent.mkdir()
    source = Path(__file__).with_name("fake_nvrtc.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", made, source], check=True)
    monkeypatch.setattr(toolkit, "nvcc", lambda: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(nvrtc, "_NAMES", ())
    nvrtc.nvrtc.cache_clear()
    found = nvrtc.nvrtc()
    nvrtc.nvrtc.cache_clear()
    assert found is not None
    monkeypatch.setattr(toolkit, "nvrtc", lambda: found)
    return found


def test_nvrtc_where_there_is_no_nvcc(fake: nvrtc.Nvrtc, tmp_path: Path) -> None:
    (tmp_path / "include/cccl").mkdir(parents=True)
    assert fake.path == str(tmp_path / "lib/libnvrtc.so.12")
    assert fake.version == (12, 9)
    made = toolkit.compile_source("right", "sm_90a")
    options = made.ptx.splitlines()
    assert options[:2] == ["-arch=sm_90a", "-std=c++17"]
    assert f"-I{tmp_path / 'include'}" in options and f"-I{tmp_path / 'include/cccl'}" in options
    assert made.cubin == b"\x7fELF\0\0\1\0"
    usage = Usage(kernel="scale_kernel", registers=40, shared=2048, stack=0, spill_stores=4, spill_loads=8)
    assert made.usage == (usage,)


def test_nvrtc_refuses(fake: nvrtc.Nvrtc) -> None:
    with pytest.raises(RuntimeError, match=r"kernel.cu\(1\): error: wrong"):
        toolkit.compile_source("wrong", "sm_90a")
    with pytest.raises(nvrtc.NvrtcError, match="INVALID_OPTION"):
        fake.compile("right", ["--unknown"])


def test_nvrtc_without_headers_or_without_the_architecture(fake: nvrtc.Nvrtc, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(said: str) -> None:
        def compile(source: str, options: list[str]) -> nvrtc.Compiled:
            raise nvrtc.NvrtcError(said)

        monkeypatch.setattr(nvrtc.Nvrtc, "compile", lambda self, *given: compile(*given))

    refuse('kernel.cu(2): catastrophic error: could not open source file "cuda/std/cstdint" (no directories in search list)')
    with pytest.raises(EinfallError, match=r"E1205.*\n.*nvidia-cuda-cccl"):
        toolkit.compile_source("right", "sm_90a")
    refuse("nvrtc: error: invalid value for --gpu-architecture (-arch)")
    with pytest.raises(EinfallError, match="E1206"):
        toolkit.compile_source("right", "sm_90a")


@pytest.mark.skipif(nvrtc.nvrtc() is None, reason="there is no NVRTC")
def test_nvrtc_compiles_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "nvcc", lambda: None)
    kernel = ef.compile(SCALE, target="cuda:sm_90", cache=False)
    assert ".target sm_90a" in kernel.source("ptx")


def test_what_is_no_nvrtc_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libnvrtc.so.12").write_bytes(b"no library")
    candidates = [tmp_path / "lib/libnvrtc.so.12", Path(ctypes.util.find_library("c") or "")]
    monkeypatch.setattr(nvrtc, "_candidates", lambda: candidates)
    nvrtc.nvrtc.cache_clear()
    try:
        assert nvrtc.nvrtc() is None
    finally:
        nvrtc.nvrtc.cache_clear()


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", ["causal_attention", "grouped_query_attention"])
def test_attention_of_width_128_keeps_its_tiles_in_registers(name: str, arch: str) -> None:
    """All kernels with products: of one part and of several, of values that are finite and of others."""
    text = (EXAMPLES / f"attention/{name}.ecs").read_text("utf-8").replace("f32", "bf16")
    cascade = specialise(read_program(text).select(None), {"E": 128, "F": 128})
    target = Target.parse(f"cuda:{arch}")
    usage = build(lower(cascade, target=target).program, target).code.usage
    products = [each for each in usage if each.registers > 128]
    assert len(products) >= 2 and all(each.spill_stores == 0 for each in products), usage

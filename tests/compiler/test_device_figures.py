"""What is told of GPU kernels: occupancy beside figures of NVIDIA's calculator, instructions, and the command inspect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import einfall as ef
from einfall.codegen.cuda import toolkit
from einfall.compiler.cli import main
from einfall.compiler.device_figures import figures
from einfall.ir.target import named
from einfall.ir.usage import Usage, occupancy


def usage(threads: int, registers: int, shared: int = 0, dynamic: int = 0) -> Usage:
    return Usage(
        kernel="main_kernel", registers=registers, shared=shared, stack=0, spill_stores=4, spill_loads=8, threads=threads,
        dynamic=dynamic,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "held", "blocks", "share", "limit"),
    [
        ("sm_80", usage(256, 32), 8, 1.0, "registers"),
        ("sm_80", usage(256, 64), 4, 0.5, "registers"),
        ("sm_80", usage(256, 170), 1, 0.125, "registers"),
        ("sm_80", usage(32, 16), 32, 0.5, "blocks"),
        ("sm_80", usage(256, 32, 12288, 67072), 2, 0.25, "shared memory"),
        ("sm_86", usage(128, 32, 10240), 9, 0.75, "shared memory"),
        ("sm_86", usage(1024, 32), 1, 2 / 3, "warps"),
        ("sm_89", usage(64, 24), 24, 1.0, "warps"),
        ("sm_90", usage(1024, 32), 2, 1.0, "registers"),
        ("sm_90", usage(256, 32, 0, 232448), 1, 0.125, "shared memory"),
    ],
)
def test_occupancy(arch: str, held: Usage, blocks: int, share: float, limit: str) -> None:
    gpu = named("cuda", arch).gpu
    assert gpu is not None
    found = occupancy(held, gpu)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.share == pytest.approx(share)
    assert found.warps == blocks * -(-held.threads // 32)


PTX = """\
.visible .entry other(
	.param .u64 other_param_0
)
{
	bar.sync 	0;
}
.visible .entry main_kernel(
	.param .u64 main_kernel_param_0
)
.maxntid 256, 1, 1
{
	ld.global.nc.v4.u32 	{%r1, %r2, %r3, %r4}, [%rd1];
	@%p1 ld.global.f32 	%f1, [%rd2];
	cp.async.cg.shared.global [%r1], [%rd1], 16;
	cp.async.commit_group;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r5];
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2}, {%r1}, {%r2}, {%f3};
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2}, {%r1}, {%r2}, {%f3};
	shfl.sync.bfly.b32 	%r1|%p1, %r2, 1, 31, -1;
	@!%p2 red.global.add.f32 	[%rd3], %f2;
	bar.sync 	0;
}
"""
CUDA = 'extern "C" __global__ void __launch_bounds__(256) main_kernel(ushort* __restrict__ A, int64_t M) {\n}'


def test_instructions_and_parameters() -> None:
    gpu = named("cuda", "sm_90").gpu
    assert gpu is not None
    (found,) = figures((usage(256, 64),), gpu, ptx=PTX, cuda=CUDA)
    assert found.parameters == ("ushort* __restrict__ A", "int64_t M")
    assert found.spills == 12
    assert found.instructions == {
        "mma": 2, "ldmatrix": 1, "cp.async": 1, "wide loads": 1, "shuffles": 1, "barriers": 1, "atomics": 1
    }  # fmt: skip
    assert found.tensor_cores == {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": 2}


@pytest.mark.skipif(toolkit.nvcc() is None, reason="there is no nvcc")
@pytest.mark.parametrize("tolerance", [None, 1e-2])
def test_products_of_f32(tmp_path: Path, capsys: pytest.CaptureFixture[str], tolerance: float | None) -> None:
    program = "kernel gemm(A: f32[M, K], B: f32[N, K]) -> (C: f32[M, N]) { C[m, n] = A[m, k] * B[n, k] }"
    path = tmp_path / "gemm.efk"
    ef.compile(program, target="cuda:sm_80", cache=False, tolerance=tolerance).save(path)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert ("tf32.tf32" in shown) == (tolerance is not None)
    assert ("note:    C: f32 multiply-adds, no tensor cores: " in shown) == (tolerance is None)


@pytest.mark.skipif(toolkit.nvcc() is None, reason="there is no nvcc")
@pytest.mark.parametrize(
    ("arch", "kind", "opcode"), [("sm_80", "mma", "mma.sync.aligned"), ("sm_90a", "wgmma", "wgmma.mma_async.sync.aligned")]
)
def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: str, kind: str, opcode: str) -> None:
    program = "kernel gemm(A: bf16[M, K], B: bf16[N, K]) -> (C: bf16[M, N]) { C[m, n] = A[m, k] * B[n, k] }"
    path = tmp_path / "gemm.efk"
    ef.compile(program, target=f"cuda:{arch[:5]}", cache=False).save(path)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert opcode in shown
    assert "__restrict__ A_flat_ptr" in shown
    assert main(["inspect", str(path), "--json"]) == 0
    device = json.loads(capsys.readouterr().out)["device"]
    assert device["arch"] == arch
    kernels = device["kernels"]
    in_bulk = sorted(kernel["instructions"].get("TMA", 0) > 0 for kernel in kernels)
    assert in_bulk == ([False, True] if kind == "wgmma" else [False])
    for kernel in kernels:
        assert kernel["threads"] in (128, 256, 384)
        assert kernel["occupancy"]["blocks"] >= 1
        assert kernel["instructions"][kind] == sum(kernel["tensor_core_instructions"].values()) > 0

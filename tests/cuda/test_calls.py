"""Kernels for a GPU as objects: saved and loaded, called with wrong arrays, compiled without a toolkit."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import einfall as ef
from einfall.codegen.cuda import toolkit
from einfall.ir.diagnostics import EinfallError
from einfall.runtime.devices import check_device
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

SCALE = """\
kernel scale(X: f32[M, N], c: f32) -> (Y: f32[M, N]) {
    Y[m, n] = c * X[m, n]
}
"""


def message(function, *arguments: object) -> str:
    """What a call says that must fail."""
    try:
        function(*arguments)
    except EinfallError as failure:
        return str(failure)
    raise AssertionError("nothing was refused")


def saved_and_loaded(path: Path) -> np.ndarray:
    kernels.emulate()
    kernel = ef.compile(SCALE, target="cuda:sm_90", cache=False)
    kernel.save(path)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = ef.load(path)(kernels.on_gpu(x), 2.0)
    return kernels.back(found)


def test_a_saved_kernel_runs(gpu: Worker, tmp_path: Path) -> None:
    found = gpu.run(saved_and_loaded, tmp_path / "scale.efk")
    assert np.array_equal(found, 2 * np.arange(12, dtype=np.float32).reshape(3, 4))


def compiled_for_the_gpu_that_is_there() -> tuple[str, np.ndarray]:
    kernels.emulate()
    kernel = ef.compile(SCALE, target="cuda", cache=False)
    return kernel.target, kernels.back(kernel(kernels.on_gpu(np.ones((3, 4), np.float32)), 2.0))


def test_the_gpu_that_is_there(gpu: Worker) -> None:
    target, found = gpu.run(compiled_for_the_gpu_that_is_there)
    assert target == "cuda:sm_90"
    assert (found == 2).all()


def timed() -> tuple[int, float]:
    kernels.emulate()
    kernel = ef.compile(SCALE, target="cuda:sm_90", cache=False)
    found = kernel.benchmark(kernels.on_gpu(np.ones((3, 4), np.float32)), 2.0, seconds=0.01)
    return found.calls, found.median


def test_a_kernel_is_timed(gpu: Worker) -> None:
    calls, median = gpu.run(timed)
    assert calls > 0
    assert median > 0


def checked(path: Path) -> list[bool]:
    from einfall.compiler.testing import cases, run_all

    kernels.emulate()
    return [outcome.passed for outcome in run_all(cases(path), target="cuda:sm_90")]


def test_the_checks_of_a_program(gpu: Worker) -> None:
    path = Path(ef.__file__).parent / "examples/norms/softmax.ecs"
    assert set(gpu.run(checked, path)) == {True}


def wrong(which: str) -> str:
    kernels.emulate()
    kernel = ef.compile(SCALE, target="cuda:sm_90", cache=False)
    x = np.zeros((3, 4), np.float32)
    match which:
        case "host":
            return message(kernel, x, 2.0)
        case "dtype":
            return message(kernel, kernels.on_gpu(x.astype(np.float64)), 2.0)
        case "packed":
            small = ef.compile("kernel k(X: f4_e2m1[N]) -> (Y: f32[N]) { Y[n] = X[n] }", target="cuda:sm_90", cache=False)
            return message(small, kernels.on_gpu(np.zeros(4, ml_dtypes.float4_e2m1fn)))
        case "shape":
            return message(kernel, kernels.on_gpu(x[0]), 2.0)
        case "none":
            return message(kernel, 1.0, 2.0)
        case "architecture":
            return message(check_device, "scale", "sm_80", 0)
        case "number":
            return message(check_device, "scale", "sm_90", 7)
    raise AssertionError(which)


@pytest.mark.parametrize(
    ("which", "code"),
    [
        ("host", "E1010"),
        ("dtype", "E1009"),
        ("packed", "convert it to uint8 first, one element in each byte"),
        ("shape", "E1003"),
        ("none", "E1008"),
        ("architecture", "E1106"),
        ("number", "E1207"),
    ],
)
def test_what_is_refused(gpu: Worker, which: str, code: str) -> None:
    assert code in gpu.run(wrong, which)


needs_nvcc = pytest.mark.skipif(toolkit.nvcc() is None, reason="there is no nvcc")


@needs_nvcc
def test_without_a_gpu_it_compiles_and_says_why_it_does_not_run(tmp_path: Path) -> None:
    kernel = ef.compile(SCALE, target="cuda:sm_90", cache=False)
    assert ".target sm_90" in kernel.source("ptx")
    assert "__global__" in kernel.source("cuda")
    loaded = ef.load(kernel.save(tmp_path / "scale.efk"))
    assert loaded.source("ptx") == kernel.source("ptx")
    with pytest.raises(EinfallError, match="E1207"):
        loaded(np.zeros((3, 4), np.float32), 2.0)


@needs_nvcc
def test_what_ptxas_says_is_kept(tmp_path: Path) -> None:
    from einfall.runtime.artifact import Artifact

    path = ef.compile(SCALE, target="cuda:sm_80", cache=False).save(tmp_path / "scale.efk")
    device = Artifact.read(path).device
    assert device is not None
    assert device.arch == "sm_80"
    (usage,) = device.usage
    assert usage.registers > 0
    assert usage.spill_stores == 0

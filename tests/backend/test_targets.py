"""Kernels for other processors: older ones of this architecture run here with right results, those of another are built."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import einfall
from einfall.compiler.host import host_target
from einfall.compiler.testing import cases, run
from einfall.ir.diagnostics import EinfallError
from einfall.ir.target import named
from einfall.runtime.kernel import Kernel

EXAMPLES = Path(einfall.__file__).parent / "examples"
SAMPLE = ("gemm/gemm_gelu", "gemm/gemm_bf16", "attention/causal_attention", "norms/layernorm", "graphs/spmm_csr")
EVERY = sorted(str(path.relative_to(EXAMPLES).with_suffix("")) for path in EXAMPLES.rglob("*.ecs"))
RUNNABLE = ("haswell", "icelake-server", "sapphirerapids")
ARM = ("aarch64", "neoverse-v1", "apple-m1")


def needs(name: str) -> None:
    """Skips where this machine lacks what the target has."""
    host, target = host_target(), named("cpu", name)
    if target.arch != host.arch or not target.features <= host.features:
        pytest.skip(f"this machine cannot run code for {name}")


def checked(program: str, target: str) -> None:
    """The check items of an example, compiled once for all sizes."""
    for case in cases(EXAMPLES / f"{program}.ecs"):
        outcome = run(case, target={"cpu": target}, symbolic=True)
        assert outcome.passed, outcome.report()


@cache
def foreign(program: str, target: str) -> Kernel:
    return einfall.compile(EXAMPLES / f"{program}.ecs", target={"cpu": target}, cache=False)


@pytest.mark.parametrize("target", RUNNABLE[:2])
@pytest.mark.parametrize("program", SAMPLE)
def test_older_processors(program: str, target: str) -> None:
    needs(target)
    checked(program, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("program", EVERY)
def test_every_example_on_older_processors(program: str, target: str) -> None:
    needs(target)
    checked(program, target)


@pytest.mark.parametrize(("program", "target"), [("gemm/gemm", "neoverse-v1"), ("norms/softmax", "aarch64")])
def test_arm_code_is_made(program: str, target: str) -> None:
    text = foreign(program, target).source("asm")
    assert "fmla" in text
    assert "vfmadd" not in text


@pytest.mark.slow
@pytest.mark.parametrize("program", EVERY)
def test_every_example_is_built_for_arm(program: str) -> None:
    for target in ARM:
        text = foreign(program, target).source("asm")
        assert "main" in text and "%xmm" not in text and "%ymm" not in text


@pytest.mark.skipif(host_target().arch == "aarch64", reason="this machine runs Arm code")
def test_a_kernel_for_another_machine_can_be_looked_at_but_not_called() -> None:
    kernel = foreign("gemm/gemm", "neoverse-v1")
    assert kernel.target == "cpu:neoverse-v1"
    assert kernel.explain() is not None
    with pytest.raises(EinfallError) as failure:
        kernel(np.ones((2, 3), np.float32), np.ones((3, 2), np.float32))
    assert failure.value.code == "E1106" and "neoverse-v1" in str(failure.value)


@pytest.mark.skipif(host_target().arch == "aarch64", reason="this machine runs Arm code")
def test_saving_for_another_architecture_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EinfallError) as failure:
        foreign("gemm/gemm", "neoverse-v1").save(tmp_path / "gemm.efk")
    assert failure.value.code == "E1111"
    assert "aarch64" in str(failure.value) and "CXX" in str(failure.value)


def test_a_kernel_for_another_architecture_is_compiled_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    einfall.compile(EXAMPLES / "others/gelu.ecs", target={"cpu": "aarch64"})
    assert not caplog.records

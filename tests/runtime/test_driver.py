"""What the NVIDIA driver says, as drivers of machines that we do not have would say it, and what follows for targets."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import einfall as ef
from einfall.compiler.doctor import doctor_report
from einfall.compiler.host import resolve_target
from einfall.ir.diagnostics import EinfallError
from einfall.runtime import devices, driver

compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
Machine = Callable[..., driver.Driver]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs the driver of a machine."""
    if compiler is None:
        pytest.skip("there is no C compiler")

    def install(version: int = 13000, gpus: int = 1, capability: tuple[int, int] = (9, 0)) -> driver.Driver:
        library = tmp_path / f"libcuda-{version}-{gpus}-{capability[0]}{capability[1]}.so"
        facts = {"VERSION": version, "GPUS": gpus, "MAJOR": capability[0], "MINOR": capability[1]}
        source = Path(__file__).with_name("fake_driver.c")
        macros = [f"-D{name}={value}" for name, value in facts.items()]
        subprocess.run([compiler, "-shared", "-fPIC", *macros, "-o", library, source], check=True)
        monkeypatch.setattr(driver, "_LIBRARY", str(library))
        driver.driver.cache_clear()
        return driver.driver()

    yield install
    driver.driver.cache_clear()


def test_gpus(machine: Machine) -> None:
    found = machine(12040, gpus=2, capability=(8, 9))
    assert found.version == (12, 4)
    assert [(each.number, each.name, each.capability) for each in found.devices] == [
        (0, "GPU of a test", "8.9"),
        (1, "GPU of a test", "8.9"),
    ]
    assert found.devices[0].memory == 80 << 30
    (first, _) = (check for check in doctor_report().checks if check.name.startswith("GPU "))
    assert "compute capability 8.9, 80 GiB" in first.found
    assert "cuda:sm_89" in first.enables


@pytest.mark.parametrize(
    ("capability", "target"), [((9, 0), "sm_90"), ((8, 0), "sm_80"), ((8, 6), "sm_86"), ((8, 7), "sm_86"), ((8, 9), "sm_89")]
)
def test_the_target_of_the_gpu_that_is_there(machine: Machine, capability: tuple[int, int], target: str) -> None:
    machine(capability=capability)
    assert resolve_target("cuda") == resolve_target({"cuda": "native"}) == resolve_target(f"cuda:{target}")


def message(target: str) -> str:
    with pytest.raises(EinfallError) as raised:
        ef.compile("kernel f(X: f32[M]) -> (Y: f32[M]) { Y[m] = X[m] }", target=target)
    assert raised.value.code == "E1207"
    return str(raised.value)


def test_no_gpu(machine: Machine) -> None:
    machine(gpus=0)
    said = message("cuda")
    assert "CUDA_ERROR_NO_DEVICE" in said
    assert "cuda:sm_90" in said


def test_a_gpu_that_is_not_known(machine: Machine) -> None:
    machine(capability=(7, 5))
    assert "compute capability 7.5" in message("cuda")


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_LIBRARY", "libcuda-that-is-not-there.so.1")
    driver.driver.cache_clear()
    try:
        assert "is not installed" in message("cuda")
    finally:
        driver.driver.cache_clear()


def test_a_driver_that_is_too_old(machine: Machine) -> None:
    machine(12040)
    devices.missing_driver.cache_clear()
    try:
        reason = devices.missing_driver()
        assert reason is not None
        assert "12.4" in reason and "13.0" in reason
    finally:
        devices.missing_driver.cache_clear()

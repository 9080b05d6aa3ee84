"""The doctor: what it reports, and that nothing missing makes it fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from einfall.codegen.cuda import toolkit
from einfall.compiler import doctor
from einfall.compiler.doctor import doctor_report, run_doctor
from einfall.compiler.host import host_info, host_target
from einfall.compiler.measurements import Measurement, store
from einfall.ir.target import Limits, Roof


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path))
    return tmp_path


def found(name: str) -> doctor.Check:
    return next(check for check in doctor_report().checks if check.name == name)


def test_this_installation_is_healthy() -> None:
    report = doctor_report()
    assert report.healthy
    assert report.target == str(host_target())
    assert report.measurement is None
    assert {check.section for check in report.checks} == {"cpu", "compiler", "cuda", "interop", "cache"}
    assert all(check.enables for check in report.checks)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(json=True, measure=False) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    assert {"name", "status", "found", "enables", "section"} == set(report["checks"][0])


def test_the_version_of_the_ffi_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda package: "0.1.15")
    assert found("apache-tvm-ffi").status == "warning"
    assert "pip install apache-tvm-ffi==0.1.14.post1" in found("apache-tvm-ffi").found


def test_without_tvm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> int:
        raise ImportError("libtvm_compiler.so: cannot open shared object file")

    monkeypatch.setattr("einfall.codegen.toolchain.llvm_version", broken)
    assert found("LLVM").status == "missing"
    assert run_doctor(json=False, measure=False) == 1
    assert "cannot open" in capsys.readouterr().out


def test_without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    monkeypatch.setattr(toolkit, "nvcc", lambda: None)
    monkeypatch.setattr(doctor, "nvrtc", lambda: None)
    assert [found(name).status for name in ("nvcc", "NVRTC", "C compiler")] == ["missing"] * 3


def test_tools_that_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolkit, "nvcc", lambda: str(tmp_path / "nvcc"))
    assert found("nvcc").status == "ok"


def test_limits_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    limits = Limits(ops={"f32": 155e9}, read={"l1": 290e9, "dram": 13e9}, copy={"dram": 10e9})
    measurement = Measurement(roof=Roof(core=limits, chip=limits), spread=0.4, when="2026-11-22T00:00:00+00:00")
    store(measurement, host_info().key, host_target().cores)
    run_doctor(json=False, measure=False)
    text = capsys.readouterr().out
    assert "155" in text
    assert "290.0" in text
    assert "busy" in text


def test_the_cache_is_counted(own_cache: Path) -> None:
    (own_cache / "kernel").mkdir()
    (own_cache / "kernel" / "library.so").write_bytes(bytes(2048))
    assert found("size").found == "2 KiB in 1 files"

"""The report on GPU kernels that needs no GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from einfall.codegen.cuda import toolkit
from einfall.ir.usage import Usage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, with a toolkit that makes no code: two kernels of 40 and 72 registers, of which one spills on sm_86."""
    monkeypatch.syspath_prepend(str(ROOT / "bench/gpu"))
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path))

    def compiled(text: str, arch: str) -> toolkit.DeviceCode:
        spilled = 12 if arch == "sm_86" else 0
        names = [("main_kernel", 40, 0), ("main_kernel_1", 72, spilled)]
        usage = [Usage(kernel=k, registers=r, shared=1024, stack=0, spill_stores=s, spill_loads=s) for k, r, s in names]
        ptx = "".join(f".visible .entry {name}(\n)\n{{\n\tbar.sync 0;\n}}\n" for name, _, _ in names)
        return toolkit.DeviceCode(arch=arch, ptx=ptx, cubin=b"", usage=tuple(usage))

    monkeypatch.setattr(toolkit, "compile_source", compiled)
    monkeypatch.setattr(toolkit, "assembled", compiled)
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "bench/gpu/report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_report", module)  # `report` is that of bench/
    spec.loader.exec_module(module)
    return module


def test_a_row_and_the_page(report: ModuleType) -> None:
    (softmax,) = (each for each in importlib.import_module("subjects").subjects() if each.name == "norms/softmax")
    row = report.row_of(softmax, report.ARCHITECTURES)
    assert not row.failure
    assert set(row.taken) == {"sm_80", "sm_86", "sm_89", "sm_90"}
    assert row.taken["sm_80"].registers == 72
    assert row.taken["sm_80"].shared >= 1024
    assert [row.taken[arch].spills for arch in ("sm_80", "sm_86")] == [0, 24]
    assert row.cost is not None and row.cost.traffic >= 64 << 20
    seconds, bound = row.least["sm_90"]
    assert bound == "memory"
    assert seconds == pytest.approx(row.cost.traffic / 3350e9)
    page = report._markdown([row], report.ARCHITECTURES)
    assert "**sm_80**: 1 of 1 compile" in page and "nothing is spilled" in page
    assert "**sm_86**: 1 of 1 compile" in page and "1 examples spill, 24 bytes at most" in page
    assert "| norms/softmax | 2 |" in page


def test_every_subject_has_its_own_name_and_parses(report: ModuleType) -> None:
    found = list(importlib.import_module("subjects").subjects())
    assert len({each.name for each in found}) == len(found) > 140
    narrow = [each for each in found if " bf16" in each.name and each.text.count("bf16[") > 2]
    assert all(each.cascade.results for each in narrow)
    assert any(each.fixed for each in narrow)
    rounded = [each for each in found if " tf32" in each.name]
    assert rounded and all(each.cascade.tolerance == 1e-2 for each in rounded)


def test_what_does_not_compile_is_told(report: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str, arch: str) -> toolkit.DeviceCode:
        raise RuntimeError("nvcc failed:\nkernel.cu(1): error")

    monkeypatch.setattr(toolkit, "compile_source", refuse)
    (softmax,) = (each for each in importlib.import_module("subjects").subjects() if each.name == "norms/softmax")
    row = report.row_of(softmax, ("sm_80",))
    assert row.failure == "nvcc failed:"
    assert "does not compile" in report._markdown([row], ("sm_80",))

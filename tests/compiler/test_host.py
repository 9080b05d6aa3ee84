"""Host detection from what Linux and macOS say, for machines that we are not on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from einfall.compiler.host import HostInfo, host_info, host_target, read_linux, read_sysctl, resolve_target
from einfall.ir.diagnostics import EinfallError
from einfall.ir.target import best_match

ZEN3 = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 33
model name\t: AMD Ryzen 7 5800X 8-Core Processor
stepping\t: 0
flags\t\t: fpu sse2 sse4_2 popcnt avx avx2 bmi1 bmi2 f16c fma abm movbe vaes vpclmulqdq sha_ni

processor\t: 1
vendor_id\t: AuthenticAMD
flags\t\t: fpu
"""

GRAVITON3 = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes fphp asimdhp asimddp sha512 sve asimdfhm i8mm bf16 rng
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40
"""

M1 = """\
machdep.cpu.brand_string: Apple M1
hw.cachelinesize: 128
hw.l1dcachesize: 65536
hw.perflevel0.l1dcachesize: 131072
hw.perflevel0.l2cachesize: 12582912
hw.optional.neon: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_FHM: 1
hw.optional.arm.FEAT_BF16: 0
"""


def sysfs(root: Path, *caches: tuple[int, str, str]) -> Path:
    for index, (level, kind, size) in enumerate(caches):
        folder = root / "cpu0" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "type").write_text(f"{kind}\n")
        (folder / "size").write_text(f"{size}\n")
        (folder / "coherency_line_size").write_text("64\n")
    return root


def compiled_for(info: HostInfo) -> str:
    return best_match(info.arch, info.features, vendor=info.vendor).mcpu


def test_zen3(tmp_path: Path) -> None:
    folder = sysfs(tmp_path, (1, "Data", "32K"), (1, "Instruction", "64K"), (2, "Unified", "512K"), (3, "Unified", "32M"))
    info = read_linux("x86_64", ZEN3, folder)
    assert (info.l1d, info.l2, info.l3) == (32768, 524288, 33554432)
    assert info.vendor == "amd"
    assert {"avx2", "fma", "lzcnt"} <= info.features, "the flags of the first processor"
    assert "model 33" in info.key
    assert compiled_for(info) == "znver3"


def test_graviton3_in_a_sandbox_without_sysfs(tmp_path: Path) -> None:
    info = read_linux("aarch64", GRAVITON3, tmp_path)
    assert (info.l1d, info.l2, info.l3) == (0, 0, 0)
    assert compiled_for(info) == "neoverse-v1"


def test_m1() -> None:
    info = read_sysctl("aarch64", M1)
    assert (info.l1d, info.l2, info.cache_line) == (131072, 12582912, 128)
    assert compiled_for(info) == "apple-m1"


def test_nothing_is_told(tmp_path: Path) -> None:
    assert compiled_for(read_linux("x86_64", "", tmp_path)) == "x86-64"
    assert compiled_for(read_linux("aarch64", "", tmp_path)) == "generic"
    assert compiled_for(read_sysctl("x86_64", "")) == "x86-64"


def test_odd_cache_entries_are_skipped(tmp_path: Path) -> None:
    folder = sysfs(tmp_path, (1, "Data", "big"), (2, "Unified", "1024K"))
    info = read_linux("x86_64", ZEN3, folder)
    assert (info.l1d, info.l2) == (0, 1048576)


def test_this_machine() -> None:
    info, target = host_info(), host_target()
    assert target.features >= info.features
    assert target.cores == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else target.cores >= 1
    assert resolve_target("cpu") == target
    assert str(resolve_target("cuda:sm_80")) == "cuda:sm_80"


def test_threads_are_no_property_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = host_target()
    monkeypatch.setenv("EINFALL_NUM_THREADS", "1")
    assert host_target() == machine  # else the number of threads would decide between forms
    monkeypatch.setenv("EINFALL_NUM_THREADS", "many")
    with pytest.raises(EinfallError, match="E1203"):
        host_target()

"""Target records: parsing, the tables, and what cost decisions read from them."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from einfall.ir.diagnostics import EinfallError
from einfall.ir.target import LEVELS, Limits, Roof, Target, best_match, known, named

ALL = [named(kind, name) for kind in ("cpu", "cuda") for name in known(kind)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("cpu:haswell", "cpu:haswell"),
        ({"cpu": "znver4"}, "cpu:znver4"),
        ("cuda:sm_80", "cuda:sm_80"),
        (" cuda:sm_90 ", "cuda:sm_90"),
        ("cpu", "cpu:x86-64"),
    ],
)
def test_parse(spec: str | dict[str, str], expected: str) -> None:
    assert str(Target.parse(spec)) == expected


def test_parse_asks_for_the_host_only_for_a_bare_cpu() -> None:
    host = replace(named("cpu", "haswell"), cores=3)
    assert Target.parse("cpu", host=lambda: host) is host
    assert Target.parse("cpu:native", host=lambda: host) is host
    assert Target.parse("cpu:haswell", host=lambda: host) is not host
    assert Target.parse(host) is host


@pytest.mark.parametrize("target", ALL, ids=str)
def test_text_form_parses_back(target: Target) -> None:
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("spec", "code", "part"),
    [
        ("cpu:haswel", "E1201", "did you mean `cpu:haswell`?"),
        ("haswell", "E1201", "did you mean `cpu:haswell`?"),
        ("gpu", "E1201", "did you mean `cpu`?"),
        ("cuda:sm_91", "E1201", "did you mean `cuda:sm_90`?"),
        ("", "E1201", "known targets: cpu, cpu:aarch64"),
        ("cuda", "E1202", "sm_90"),
        ({}, "E1202", "one entry"),
        ({"cpu": "haswell", "cuda": "sm_80"}, "E1202", "one entry"),
        ({"cpu": 4}, "E1202", "strings"),
        (17, "E1202", "not 17"),
    ],
)
def test_refused(spec: object, code: str, part: str) -> None:
    with pytest.raises(EinfallError) as caught:
        Target.parse(spec)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert part in str(caught.value)


@pytest.mark.parametrize("target", ALL, ids=str)
def test_tables_are_plausible(target: Target) -> None:
    rates = [target.bandwidth(level) for level in LEVELS]
    assert rates == sorted(rates, reverse=True), "a nearer memory is not slower"
    assert target.peak_ops("f64") < target.peak_ops("f32")
    assert target.peak_ops("f32", cores=1) > target.bandwidth("dram", cores=1) / 4
    assert target.l1d < target.l2
    assert target.cache_line in (64, 128)
    assert (target.gpu is not None) == (target.kind == "cuda")
    assert ("amx-tile" in target.features) == (target.tiles is not None)


def test_limits_grow_with_the_cores_up_to_the_chips() -> None:
    target = named("cpu", "haswell")
    assert target.peak_ops("f32") == 4 * target.peak_ops("f32", cores=1)
    assert target.bandwidth("dram", cores=1) == 12e9
    assert target.bandwidth("dram") == 22e9
    assert target.peak_ops("i8") == target.peak_ops("f32"), "no limit of its own: f32's"


def test_measured_limits_win_and_do_not_change_the_identity() -> None:
    target = named("cpu", "haswell")
    limits = Limits(ops={"f32": 5e9}, read={"l1": 4e9, "dram": 1e9})
    measured = replace(target, measured=Roof(core=limits, chip=limits))
    assert measured.peak_ops("f32", cores=1) == 5e9
    assert measured.peak_ops("f32") == 5e9
    assert measured.bandwidth("l2") == 1e9, "not measured: the next level that was"
    assert measured == target
    assert hash(measured) == hash(target)


def test_levels() -> None:
    target = named("cpu", "haswell")
    sizes = [1, 32768, 32769, 262144, 8388608, 8388609, 2**50]
    assert [target.level_of(size) for size in sizes] == ["l1", "l1", "l2", "l2", "l3", "dram", "dram"]
    assert replace(target, l3=0).level_of(300_000) == "dram"
    assert target.capacity("dram") == sys.maxsize


def test_lanes() -> None:
    assert named("cpu", "haswell").lanes(32) == 8
    assert named("cpu", "icelake-server").lanes(8) == 64
    assert named("cpu", "apple-m1").lanes(64) == 2


@pytest.mark.parametrize("target", [t for t in ALL if t.kind == "cpu" and t.arch != "any"], ids=str)
def test_a_known_cpu_matches_itself(target: Target) -> None:
    found = best_match(target.arch, target.features, vendor=target.vendor, cores=target.cores)
    assert found.features == target.features
    assert found.extra == ()
    assert found.vendor in ("", target.vendor)


def test_features_beyond_the_nearest_cpu_are_extra() -> None:
    haswell = named("cpu", "haswell").features
    found = best_match("x86_64", haswell | {"avxvnni"}, vendor="intel", cores=6)
    assert (found.mcpu, found.extra, found.cores) == ("haswell", ("avxvnni",), 6)
    assert found.has("avx2", "avxvnni")


def test_a_virtual_machine_that_hides_amx() -> None:
    hidden = {f for f in named("cpu", "sapphirerapids").features if not f.startswith("amx")}
    found = best_match("x86_64", frozenset(hidden), vendor="intel")
    assert found.mcpu == "icelake-server"
    assert set(found.extra) == {"avx512bf16", "avx512fp16", "avxvnni"}
    assert found.tiles is None


def test_other_vendors_cpus_are_not_chosen() -> None:
    zen2 = named("cpu", "haswell").features
    assert best_match("x86_64", zen2, vendor="amd").mcpu == "x86-64-v3"


def test_unknown_architecture() -> None:
    found = best_match("riscv64", frozenset(), cores=2)
    assert (found.name, found.arch, found.cores) == ("generic", "riscv64", 2)

"""The measurements run: one workload from the command line, and every workload's figures make sense."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench/run.py"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of bench/, which is no package."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


def test_a_workload_is_measured_and_written(tmp_path: Path) -> None:
    found, page = tmp_path / "found.json", tmp_path / "page.md"
    run = bench("--filter", "sigmoid", "--seconds", "0.01", "--no-limits", "--json", str(found), "--markdown", str(page))
    assert run.returncode == 0, run.stderr
    assert "sigmoid" in run.stdout
    (row,) = json.loads(found.read_text())["rows"]
    assert 1e-6 < row["seconds"]["einfall"]["p10"] <= row["seconds"]["einfall"]["median"] < 1
    assert row["seconds"]["numpy"]["median"] > 0
    assert row["difference"]["numpy"] < 1e-6
    assert "| sigmoid" in page.read_text("utf-8")


@pytest.mark.usefixtures("modules")
def test_calls_are_timed_beside_the_bare_function() -> None:
    latency = importlib.import_module("cpu.latency")
    found = {each.what: each.seconds for each in latency.call_latencies(rounds=3)}
    assert any("NumPy arrays" in what for what in found)
    assert all(abs(seconds) < 1 for seconds in found.values())


def test_a_name_that_no_workload_has() -> None:
    run = bench("--filter", "nothing of the kind")
    assert run.returncode == 2
    assert "--list" in run.stderr


def test_every_workload_has_its_own_name_and_positive_figures(modules: None) -> None:
    from cases import all_cases

    cases = list(all_cases())
    assert len({case.name for case in cases}) == len(cases) > 50
    for case in cases:
        assert case.flops > 0 and case.reads > 0 and case.writes > 0, case.name
        assert case.dtype in ("f32", "bf16", "i8")


def test_the_limit_of_a_workload_is_that_of_the_slower_of_arithmetic_and_memory(modules: None) -> None:
    from dataclasses import replace

    from cases import Case
    from limits import limit

    from einfall.ir.target import Limits, Roof, named

    rates = Limits(ops={"f32": 1e12}, read={"l2": 1e11, "dram": 1e10}, copy={"l2": 5e10, "dram": 5e9})
    machine = replace(named("cpu", "haswell"), measured=Roof(core=rates, chip=rates))
    product = Case(name="p", family="product", make=lambda field: None, flops=1e12, reads=1e6, writes=1e6)
    found = limit(product, machine)
    assert found is not None and found.bound == "f32" and found.seconds >= 1.0
    reading = Case(name="r", family="rows", make=lambda field: None, flops=1.0, reads=1e9, writes=1.0)
    found = limit(reading, machine)
    assert found is not None and found.bound == "DRAM read"
    assert found.seconds == pytest.approx(0.1)
    copying = Case(name="c", family="rows", make=lambda field: None, flops=1.0, reads=5e8, writes=5e8)
    found = limit(copying, machine)
    assert found is not None and found.bound == "DRAM copy"
    assert found.seconds == pytest.approx(0.2)


def test_a_peer_that_fails_is_left_out_with_the_reason(modules: None) -> None:
    from field import Field

    field = Field()

    @field.peer("torch")
    def broken():
        raise RuntimeError("no such operator\nat line 3")

    @field.peer("numpy")
    def working():
        return lambda: np.ones(3)

    assert set(field.calls) == {"numpy"}
    assert field.absent == {"torch": "RuntimeError: no such operator"}


class Clock:
    """A machine whose time passes by calls alone, slower and slower, as under a neighbour's growing load."""

    def __init__(self) -> None:
        self.now = self.used = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.used

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self, seconds: float) -> None:
        self.now += seconds * (1 + self.now)
        self.used += seconds


def test_the_ratio_of_contestants_does_not_drift_with_the_machine(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import interleaved

    clock = Clock()
    monkeypatch.setattr(interleaved, "time", clock)
    contestants = {"one": 2e-3, "same": 2e-3, "twice": 4e-3}
    times = interleaved.interleave(
        {name: lambda seconds=seconds: clock.work(seconds) for name, seconds in contestants.items()}, seconds=0.1
    )
    assert clock.now > 0.5  # the last calls took half as long again as the first
    one = times["one"]
    assert one.p10 < 0.9 * one.p90 and one.samples > 20
    assert times["same"].median == pytest.approx(one.median, rel=0.05)
    assert times["twice"].median == pytest.approx(2 * one.median, rel=0.05)


def test_the_picture_has_a_label_for_each_workload(modules: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from dataclasses import replace

    import roofline
    from cases import all_cases
    from interleaved import Timing
    from limits import limit
    from report import Results, Row

    from einfall.ir.target import Limits, Roof, named

    ops = {"f32": 3e11, "bf16": 2e12, "i8": 4e12}
    rates = Limits(ops=ops, read={"l2": 1e11, "dram": 1e10}, copy={"l2": 5e10, "dram": 5e9})
    machine = replace(named("cpu", "haswell"), measured=Roof(core=rates, chip=rates))
    rows = []
    for case in [case for case in all_cases() if case.quick][::3]:
        least = limit(case, machine)
        assert least is not None
        taken = Timing(median=2 * least.seconds, p10=least.seconds, p90=3 * least.seconds, samples=3)
        timings = {"einfall": taken, "torch": replace(taken, median=3 * least.seconds)}
        rows.append(Row(case=case, timings=timings, difference={"torch": 0.0}, absent={}, limit=least))
        assert rows[-1].ratio == pytest.approx(1.5)
        assert rows[-1].share == pytest.approx(0.5)
    facts = {"processor": "test", "threads": 2, "date": "today"}
    path = tmp_path / "roofline.svg"
    roofline.draw(Results(facts=facts, rows=rows, latencies=[], failures={}), machine, path)
    text = path.read_text("utf-8")
    for row in rows:
        assert f">{row.case.name}<" in text

"""Measuring the machine's limits, and keeping what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from einfall.codegen.probes import compute_probes, stream_probes
from einfall.compiler import measurements
from einfall.compiler.host import host_target
from einfall.compiler.measure import measure
from einfall.compiler.measurements import Measurement, store, stored, stored_roof
from einfall.ir.target import Limits, Roof, named

tvm = pytest.importorskip("tvm")

LIMITS = Limits(ops={"f32": 1e11, "i8": 4e11}, read={"l1": 2e11, "dram": 1e10}, copy={"dram": 8e9})
MEASUREMENT = Measurement(roof=Roof(core=LIMITS, chip=LIMITS), spread=0.02, when="2026-11-22T00:00:00+00:00")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_stored_measurements_come_back() -> None:
    assert stored("Zen", 8) is None
    store(MEASUREMENT, "Zen", 8)
    assert stored("Zen", 8) == MEASUREMENT
    assert stored_roof("Zen", 8) == MEASUREMENT.roof
    assert stored("Zen", 4) is None
    assert stored("Haswell", 8) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{",
        b"null",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": 1, "key": "Zen", "cores": 8, "roof": {"core": {"ops": {"f32": -1}}}}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(damage: bytes) -> None:
    store(MEASUREMENT, "Zen", 8).write_bytes(damage)
    assert stored("Zen", 8) is None


@pytest.mark.parametrize("rate", ["0", "-1.0", "NaN", "Infinity", '"fast"'])
def test_rates_that_are_none(rate: str) -> None:
    path = store(MEASUREMENT, "Zen", 8)
    path.write_text(path.read_text().replace("100000000000.0", rate))
    assert stored("Zen", 8) is None


def test_streams_compute_what_they_say() -> None:
    target = named("cpu", "x86-64") if host_target().arch == "x86_64" else host_target()
    probes = stream_probes(target)
    source = np.arange(3 * probes.block, dtype=np.float32).reshape(1, 3, probes.block)
    sums = tvm.runtime.tensor(np.zeros((1, probes.block), np.float32))
    probes.read(1, 2, tvm.runtime.tensor(source), sums)
    np.testing.assert_array_equal(sums.numpy(), 2 * source.sum(axis=1))
    grouped = np.random.default_rng(0).standard_normal((1, 2, *probes.group), np.float32)
    probes.pages(1, 3, tvm.runtime.tensor(grouped), sums)
    np.testing.assert_allclose(sums.numpy().reshape(-1), 3 * grouped.sum(axis=(0, 1, 3)).reshape(-1), rtol=1e-4, atol=1e-3)
    copied = tvm.runtime.tensor(np.zeros_like(source))
    probes.copy(1, 1, tvm.runtime.tensor(source), copied)
    np.testing.assert_array_equal(copied.numpy(), 1.5 * source)


def test_multiply_adds_compute_what_they_say() -> None:
    for probe in compute_probes(replace(host_target(), tiles=None)):
        if probe.dtype not in ("f32", "f64"):
            continue
        size, dtype = probe.seed
        seed = np.repeat(np.array([3.0, 2.0], dtype), size // 2)  # a = a * 3 + 2, from 3
        out = tvm.runtime.tensor(np.zeros((1, probe.out[0]), dtype))
        probe.run(1, 4, tvm.runtime.tensor(seed), out)
        assert (out.numpy() == 323).all()  # 3, 11, 35, 107, 323


@pytest.mark.slow
def test_this_machine() -> None:
    seen = []
    taken = measure(host_target(), lambda what, done, total: seen.append((done, total)))
    core, chip = taken.roof.core, taken.roof.chip
    assert seen[-1][0] == seen[-1][1]
    assert 1e9 < core.ops["f64"] < core.ops["f32"] < 1e12
    assert core.read["l1"] > core.read["dram"] > 1e8
    assert set(core.ops) == set(chip.ops)
    assert all(chip.read[level] >= rate for level, rate in core.read.items())
    assert measurements.stored("x", 1) is None
    store(taken, "this", 2)
    assert stored("this", 2) == taken

"""Every example: its passes before and after as a golden table, and that what is derived computes the same.

``EINFALL_UPDATE_GOLDEN=1 pytest tests/passes/test_examples.py`` writes the table anew.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from einfall.compiler.samples import sample_arguments
from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.passes.analysis.passcount import count
from einfall.passes.online.derive import derive
from einfall.passes.pipeline import prepare

from .comparison import check_equal, check_form

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "passes.json"
KERNELS = {
    f"{path.parent.name}/{name}": kernel
    for path in sorted((ROOT / "examples").glob("*/*.ecs"))
    for name, kernel in load(path.read_text(), path.name).items()
}

Table = dict[str, dict[str, dict[str, int]]]


def table() -> Table:
    """Passes of the ranks with more than one pass."""
    result: Table = {}
    for name, kernel in KERNELS.items():
        after = {r: p.after for r, p in derive(prepare(kernel).cascade).passes.items()}
        result[name] = {r: {"before": n, "after": after[r]} for r, n in count(kernel).items() if n > 1}
    return {name: ranks for name, ranks in result.items() if ranks}


def test_passes_before_and_after() -> None:
    found = table()
    if os.environ.get("EINFALL_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(GOLDEN.read_text())


def test_no_rank_gets_more_passes() -> None:
    for name, ranks in json.loads(GOLDEN.read_text()).items():
        for rank, passes in ranks.items():
            assert passes["after"] <= passes["before"], (name, rank)


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()) if GOLDEN.exists() else [])
@pytest.mark.parametrize("tile", [3, 64])
def test_derived_forms_compute_the_same(name: str, tile: int) -> None:
    kernel = KERNELS[name]
    derivation = derive(prepare(kernel).cascade, tile=tile)
    check_form(derivation.cascade)
    for sizes in edge_sizes(kernel, [r for r, p in derivation.passes.items() if p.before > p.after], tile):
        check_equal(kernel, derivation.cascade, sample_arguments(kernel, sizes), sizes)


def edge_sizes(kernel: Cascade, ranks: list[str], tile: int) -> list[dict[str, int]]:
    """The sizes of the checks, and none, one, and about one or several tiles along the ranks that are cut."""
    found: list[dict[str, int]] = []
    for check in kernel.checks:
        sizes = {name: int(value) for name, value in check.values}
        found.append(sizes)
        fixed = {name for require in kernel.requires for name in sizes if name in require.text}
        for size in {r.upper() for r in ranks} & set(sizes) - fixed:
            found += [{**sizes, size: n} for n in (0, 1, tile - 1, tile, tile + 1, 2 * tile + 1)]
    return found


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()) if GOLDEN.exists() else [])
def test_a_derivation_takes_less_than_a_second(name: str) -> None:
    derive(KERNELS[name])  # imports sympy
    times = []
    for _ in range(3):
        start = time.perf_counter()
        derive(KERNELS[name])
        times.append(time.perf_counter() - start)
        if times[-1] < 1:
            break
    assert min(times) < 1

"""The passes of every example: as written, derived, and as compiled, in a table that people read in a review.

`EINFALL_UPDATE_GOLDEN=1 python -m pytest tests/golden` writes the table anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from einfall.compiler.program import read_program_file
from einfall.passes.pipeline import lower

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).parent / "passes.txt"
HEAD = "# example: rank variable as written → derived → compiled, …; ranks with one pass throughout are left out\n"
UPDATE = os.environ.get("EINFALL_UPDATE_GOLDEN", "") not in ("", "0")
FILES = sorted((ROOT / "examples").rglob("*.ecs"))


def rows(path: Path) -> list[str]:
    """One line for each kernel of a program."""
    found = []
    for name, cascade in read_program_file(path).cascades().items():
        form = lower(cascade)
        derived = form.program.cascade is not cascade
        counts = [
            f"{rank} {p.before} → {p.after} → {p.after if derived else p.before}"
            for rank, p in form.derivation.passes.items()
            if p.before > 1
        ]
        found.append(f"{path.relative_to(ROOT / 'examples').as_posix()} {name}: {', '.join(counts)}".rstrip())
    return found


@pytest.fixture(scope="module")
def golden() -> dict[str, list[str]]:
    """The lines of the table by file."""
    found: dict[str, list[str]] = {}
    for line in TABLE.read_text("utf-8").splitlines()[1:]:
        found.setdefault(line.split()[0], []).append(line)
    return found


@pytest.mark.skipif(UPDATE, reason="the table is being written")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_passes(path: Path, golden: dict[str, list[str]]) -> None:
    assert rows(path) == golden.get(path.relative_to(ROOT / "examples").as_posix())


@pytest.mark.skipif(UPDATE, reason="the table is being written")
def test_the_table_has_no_other_files(golden: dict[str, list[str]]) -> None:
    assert set(golden) <= {path.relative_to(ROOT / "examples").as_posix() for path in FILES}


@pytest.mark.skipif(not UPDATE, reason="set EINFALL_UPDATE_GOLDEN=1 to write the table")
def test_write_the_table() -> None:
    lines = [line for path in FILES for line in rows(path)]
    TABLE.write_text(HEAD + "".join(f"{line}\n" for line in lines), "utf-8")

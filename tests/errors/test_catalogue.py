"""The catalogue of errors agrees with the code that raises them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from einfall.frontend.parser import parse
from einfall.ir.diagnostics import CATALOGUE, ErrorKind

from .expectations import found

ROOT = Path(__file__).parents[2]
FOLDERS = ("ir", "frontend", "passes", "codegen", "runtime", "compiler")
LANGUAGE = [kind for code, kind in CATALOGUE.items() if code < "E08"]


def raised() -> dict[str, str]:
    """Every code that the package mentions outside of the catalogue, with one file that does."""
    codes: dict[str, str] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "catalogue" not in path.parts:
                for code in re.findall(r"\"(E\d{4})\"", path.read_text(encoding="utf-8")):
                    codes.setdefault(code, str(path.relative_to(ROOT)))
    return codes


def test_every_code_that_is_raised_is_in_the_catalogue() -> None:
    unknown = {code: path for code, path in raised().items() if code not in CATALOGUE}
    assert not unknown


def test_every_code_of_the_catalogue_is_raised() -> None:
    assert not set(CATALOGUE) - set(raised())


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=CATALOGUE)
def test_entries_are_complete(kind: ErrorKind) -> None:
    assert re.fullmatch(r"E(0[1-7]|1[0-3]|90)\d\d", kind.code)
    assert kind.title
    assert not kind.title.endswith(".")
    assert kind.explanation.endswith((".", ".)"))
    assert kind.wrong
    assert kind.fixed
    assert kind.wrong != kind.fixed


@pytest.mark.parametrize("kind", LANGUAGE, ids=lambda kind: kind.code)
def test_examples_of_the_language(kind: ErrorKind) -> None:
    assert {code for _, code in found(kind.wrong, "wrong.ecs")} == {kind.code}
    assert found(kind.fixed, "fixed.ecs") == []
    assert parse(kind.fixed).items

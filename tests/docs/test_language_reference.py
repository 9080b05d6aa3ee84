"""The programs of the documentation do what the documentation says, interpreted and compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.testing import cases, run
from einfall.frontend import load
from einfall.ir.cascade import Cascade, Role

from .programs import PAGES, Program, programs

ALL = programs()
RIGHT = [p for p in ALL if p.code is None]
WRONG = [p for p in ALL if p.code is not None]
CALLED = [p for p in RIGHT if p.examples()]
CHECKED = [p for p in RIGHT if "\ncheck " in p.text]


def test_the_pages_hold_programs_of_every_kind() -> None:
    assert {page.name for page in PAGES} >= {"README.md", "language.md"}
    assert len(CALLED) >= 15
    assert len({p.code for p in WRONG}) >= 5


@pytest.mark.parametrize("program", RIGHT, ids=lambda p: p.name)
def test_is_accepted(program: Program) -> None:
    assert load(program.text, program.where)


@pytest.mark.parametrize("program", WRONG, ids=lambda p: p.name)
def test_is_refused(program: Program) -> None:
    with pytest.raises(ef.EinfallError) as failure:
        load(program.text, program.where)
    assert {each.code for each in failure.value.diagnostics} == {program.code}


@pytest.mark.parametrize("program", CALLED, ids=lambda p: p.name)
def test_means_what_the_page_says(program: Program) -> None:
    (cascade,) = load(program.text, program.where).values()
    for given, results in program.examples():
        _compare(ef.interpret(program.text, mode="typed", **_arguments(cascade, given)), results)


@pytest.mark.parametrize("program", CALLED, ids=lambda p: p.name)
def test_compiles_to_what_the_page_says(program: Program) -> None:
    (cascade,) = load(program.text, program.where).values()
    kernel = ef.compile(program.text)
    for given, results in program.examples():
        _compare(kernel(**_arguments(cascade, given)), results)


@pytest.mark.parametrize("program", CHECKED, ids=lambda p: p.name)
def test_passes_its_checks(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "program.ecs"
    file.write_text(program.text, "utf-8")
    for case in cases(file):
        outcome = run(case)
        assert outcome.passed, outcome.report()


def _arguments(cascade: Cascade, given: dict[str, object]) -> dict[str, object]:
    """The lists of a comment as arrays of the types of the parameters."""
    tensors = {p.name: p.value for p in cascade.parameters if p.role is not Role.SCALAR}
    return {n: np.array(v, tensors[n].storage) if n in tensors else v for n, v in given.items()}


def _compare(returned: object, expected: dict[str, object]) -> None:
    """All results, in the order of the kernel."""
    found = returned if isinstance(returned, tuple) else (returned,)
    assert len(found) == len(expected)
    for value, (name, wanted) in zip(found, expected.items(), strict=True):
        np.testing.assert_allclose(np.asarray(value, np.float64), wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_message_that_the_page_shows_is_the_one_that_is_given() -> None:
    page = next(p for p in PAGES if p.name == "language.md").read_text("utf-8")
    shown = page[page.index("error[E0501]") :].partition("\n```")[0]
    (program,) = [p for p in WRONG if p.code == "E0501"]
    text = program.text.replace("surprise", "linear")
    with pytest.raises(ef.EinfallError) as failure:
        load(text, "linear.ecs")
    assert failure.value.with_source("linear.ecs", text).render() == shown

"""pytest collects `.ecs` files: each `check` item is a test. Installed with einfall; nothing is to be configured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..ir.diagnostics import EinfallError

if TYPE_CHECKING:
    from .testing import Case


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Hook: `.ecs` files are ours. (``collect_ignore_glob`` keeps out those that are wrong on purpose.)"""
    if file_path.suffix != ".ecs":
        return None
    made: pytest.Collector = EcsFile.from_parent(parent, path=file_path)
    return made


class EcsFile(pytest.File):
    """One program. Its mistakes are one failing test."""

    def collect(self) -> Iterator[pytest.Item]:
        from .testing import cases

        try:
            found = cases(self.path)
        except EinfallError as failure:
            yield BrokenProgram.from_parent(self, name="program", failure=failure)
            return
        for case in found:
            yield CheckItem.from_parent(self, name=case.name, case=case)


class BrokenProgram(pytest.Item):
    """Stands for the checks of a program that has errors."""

    def __init__(self, *, failure: EinfallError, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.failure = failure

    def runtest(self) -> None:
        raise self.failure

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        return self.failure.render()

    def reportinfo(self) -> tuple[Path, int, str]:
        span = self.failure.diagnostics[0].span
        return self.path, span.line - 1 if span else 0, self.name


class CheckItem(pytest.Item):
    """One `check` item: the compiled kernel against the interpreter."""

    def __init__(self, *, case: Case, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.case = case

    def runtest(self) -> None:
        from .testing import run

        failure = run(self.case).error()
        if failure is not None:
            raise failure

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        if isinstance(excinfo.value, EinfallError):
            return excinfo.value.render()
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.case.line - 1, self.name

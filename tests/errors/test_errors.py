"""Every program in this folder is refused, with the codes and at the lines that its comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from einfall.ir.diagnostics import EinfallError

from .expectations import FILES, expected, found, run_frontend


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_refused(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert expected(text), "a file in this folder announces at least one error"
    assert sorted(found(text, path.name)) == sorted(expected(text))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_report_shows_the_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    with pytest.raises(EinfallError) as caught:
        run_frontend(text, path.name)
    report = str(caught.value)
    for each in caught.value.diagnostics:
        assert each.span is not None
        assert f"error[{each.code}]: {each.message}" in report
        assert f"--> {path.name}:{each.span.line}:{each.span.column}" in report
    assert "\x1b[" not in report
    assert "\x1b[" in caught.value.render(color=True)

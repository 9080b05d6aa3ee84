"""The quickstart works when it is followed from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from einfall.compiler.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text("utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ einfall (.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files of the page."""
    for name, text in re.findall(r"^```ecs file=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_blocks_run_one_after_the_other(folder: Path) -> None:
    assert len(PYTHON) >= 5
    names: dict[str, object] = {}
    for number, block in enumerate(PYTHON, 1):
        exec(compile(block, f"quickstart.md block {number}", "exec"), names)
    assert (folder / "cosine.efk").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_succeed(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 0, capsys.readouterr().err

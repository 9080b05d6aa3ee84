"""The programs in the Markdown files of the project, and what their comments say about them.

A fenced block ```ecs must compile; ```ecs error=E0501 must be refused with exactly that code. In the first kind, a
comment `# X = [1, 2], N = 2 => Y = [3, 4]` below the kernel gives arguments (and sizes) and what they lead to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^```ecs(?: file=\S+)?(?: error=(E\d{4}))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r"^# (.* = .*) => (.*)$", re.MULTILINE)
_KERNEL = re.compile(r"^kernel (\w+)", re.MULTILINE)
_NUMBERS = {"inf": math.inf, "nan": math.nan, "true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Program:
    """One block; ``code`` is the error that it must be refused with, or None."""

    where: str
    text: str
    code: str | None

    @property
    def name(self) -> str:
        """File, line and kernel, for the names of the tests."""
        found = _KERNEL.search(self.text)
        return f"{self.where}-{found.group(1) if found else 'none'}"

    def examples(self) -> list[tuple[dict[str, object], dict[str, object]]]:
        """The arguments and results of the comments."""
        return [(_values(given), _values(results)) for given, results in _EXAMPLE.findall(self.text)]


def programs() -> list[Program]:
    """All blocks of all pages."""
    return [program for page in PAGES for program in _of(page)]


def _of(page: Path) -> Iterator[Program]:
    text = page.read_text("utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 2
        yield Program(where=f"{page.name}:{line}", text=found.group(2), code=found.group(1))


def _values(text: str) -> dict[str, object]:
    """`X = [1, inf], N = 2` as a dictionary."""
    return dict(eval(f"dict({text})", {"__builtins__": {}, "dict": dict, **_NUMBERS}))

"""Programs that must be refused, and how the tests read them.

An `.ecs` file in this folder says what is wrong with it in comments: `# E: E0101` on the line to which the diagnostic
points, with several codes separated by commas. The diagnostics of the file must be exactly these.
"""

from __future__ import annotations

import re
from pathlib import Path

from einfall.frontend import load
from einfall.ir.diagnostics import EinfallError

FILES = sorted(Path(__file__).parent.rglob("*.ecs"))
_EXPECTED = re.compile(r"# E: (E\d{4}(?:, E\d{4})*)")


def expected(text: str) -> list[tuple[int, str]]:
    """Line and code of every diagnostic that the comments announce."""
    return [
        (number, code)
        for number, line in enumerate(text.split("\n"), start=1)
        for match in [_EXPECTED.search(line)]
        if match
        for code in match.group(1).split(", ")
    ]


def run_frontend(text: str, file: str) -> None:
    """What `einfall check` does with the text of a file; raises EinfallError."""
    load(text, file)


def found(text: str, file: str) -> list[tuple[int, str]]:
    """Line and code of every diagnostic that the frontend reports."""
    try:
        run_frontend(text, file)
    except EinfallError as error:
        return [(each.span.line if each.span else 0, each.code) for each in error.diagnostics]
    return []

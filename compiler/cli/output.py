"""What commands print: results on stdout, everything else on stderr, colours only where a person looks on."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, TextIO

from ...ir.diagnostics import EinfallError

if TYPE_CHECKING:
    from rich.console import Console


def colored(stream: TextIO) -> bool:
    """Whether to send colours: to a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def out(text: str = "") -> None:
    """A line of the result."""
    print(text)


def log(text: str) -> None:
    """A line about the result, for the person who waits for it."""
    print(text, file=sys.stderr)


def out_json(data: object) -> None:
    """A result for programs. Numbers that JSON lacks become null."""
    print(json.dumps(_plain(data), indent=2, allow_nan=False))


def report(failure: EinfallError) -> None:
    """The diagnostics, for a person."""
    print(failure.render(colored(sys.stderr)), file=sys.stderr)


def errors_json(failure: EinfallError) -> list[dict[str, object]]:
    """The diagnostics, for programs."""
    return [
        {
            "code": each.code,
            "message": each.message,
            "file": each.span.file if each.span else None,
            "line": each.span.line if each.span else None,
            "column": each.span.column if each.span else None,
            "help": each.help,
            "notes": list(each.notes),
        }
        for each in failure.diagnostics
    ]


def console(stream: TextIO | None = None) -> Console:
    """A rich console on stdout, or on ``stream``."""
    from rich.console import Console

    target = stream if stream is not None else sys.stdout
    return Console(file=target, no_color=not colored(target), highlight=False)


def _plain(data: object) -> object:
    match data:
        case dict():
            return {str(key): _plain(value) for key, value in data.items()}
        case list() | tuple():
            return [_plain(value) for value in data]
        case float() if data != data or data in (float("inf"), -float("inf")):
            return None
        case _:
            return data

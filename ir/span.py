"""Places in source text.

Offsets count code points from 0; lines and columns count from 1. A line ends at LF, CR LF or a lone CR, and at
nothing else, so that a form feed or U+2028 in a comment does not shift the numbers of an editor.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The half-open range `start:end` of a file, with its first and last position (the end is exclusive)."""

    file: str
    start: int
    end: int
    line: int
    column: int
    end_line: int
    end_column: int

    def join(self, other: Span) -> Span:
        """The smallest span of this file that covers both."""
        first = self if self.start <= other.start else other
        last = self if self.end >= other.end else other
        return Span(
            file=self.file,
            start=first.start,
            end=last.end,
            line=first.line,
            column=first.column,
            end_line=last.end_line,
            end_column=last.end_column,
        )

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class SourceText:
    """The text of one file, with the positions of its lines."""

    __slots__ = ("_starts", "file", "text")

    def __init__(self, text: str, file: str = "<string>") -> None:
        self.text = text
        self.file = file
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def span(self, start: int, end: int) -> Span:
        """The span of the offsets `start:end`."""
        line, column = self.position(start)
        end_line, end_column = self.position(end)
        return Span(
            file=self.file,
            start=start,
            end=end,
            line=line,
            column=column,
            end_line=end_line,
            end_column=end_column,
        )

    def line(self, number: int) -> str:
        """The text of a line (from 1) without its line end; empty past the end of the file."""
        if not 1 <= number <= len(self._starts):
            return ""
        start = self._starts[number - 1]
        end = self._starts[number] if number < len(self._starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

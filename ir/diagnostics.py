"""Errors in the user's input: what is reported, how it is collected, and how it is shown.

Everything that a user can get wrong is raised as one `EinfallError`, which carries one or more diagnostics, each
with a stable code of `ir/catalogue`. Code ranges: E01 syntax, E02 names, E03 shapes and extents, E04 types, E05
reductions and absence, E06 iteration and dependence, E07 checks, requires and sizes, E10 arguments of a call, E11
artifacts, files and the cache, E12 targets and building, E13 the command line, E90 internal errors.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from .catalogue import CATALOGUE, ErrorKind
from .span import SourceText, Span

__all__ = [
    "CATALOGUE",
    "Diagnostic",
    "Diagnostics",
    "EinfallError",
    "ErrorKind",
    "did_you_mean",
    "error",
]

# A source line longer than this is cut around the caret: generated files have lines of many kilobytes.
_WIDTH = 120
_RED, _BLUE, _CYAN, _BOLD, _RESET = "\x1b[1;31m", "\x1b[1;34m", "\x1b[36m", "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One mistake: a code of the catalogue, one sentence in the user's terms, and where it is.

    `label` is a few words printed beside the caret, `help` says how to put it right, `notes` add facts.
    """

    code: str
    message: str
    span: Span | None = None
    label: str | None = None
    help: str | None = None
    notes: tuple[str, ...] = field(default=())


class EinfallError(Exception):
    """A mistake in the user's input (or, with code E90xx, in einfall); `str(error)` is the report in plain text."""

    diagnostics: tuple[Diagnostic, ...]
    sources: Mapping[str, str]

    def __init__(self, diagnostics: Iterable[Diagnostic], sources: Mapping[str, str] | None = None) -> None:
        self.diagnostics = tuple(diagnostics)
        if not self.diagnostics:
            raise ValueError("an EinfallError needs at least one diagnostic")
        self.sources = dict(sources or {})
        super().__init__(self.diagnostics, self.sources)

    @property
    def code(self) -> str:
        """The code of the first diagnostic."""
        return self.diagnostics[0].code

    def with_source(self, file: str, text: str) -> EinfallError:
        """The same error with the text of a file, so that `render` can show its lines."""
        return EinfallError(self.diagnostics, {**self.sources, file: text})

    def render(self, color: bool = False) -> str:
        """The report as a person reads it, one paragraph per diagnostic; with ANSI colours if `color`."""
        sources = {file: SourceText(text, file) for file, text in self.sources.items()}
        return "\n\n".join(_render(each, sources, _Paint(color)) for each in self.diagnostics)

    def __str__(self) -> str:
        return self.render()


def error(
    code: str,
    message: str,
    *,
    span: Span | None = None,
    label: str | None = None,
    help: str | None = None,
    notes: Sequence[str] = (),
    source: str | None = None,
) -> EinfallError:
    """An error with one diagnostic, to be raised by the caller. `source` is the text of the span's file."""
    diagnostic = Diagnostic(code=code, message=message, span=span, label=label, help=help, notes=tuple(notes))
    sources = {span.file: source} if span is not None and source is not None else {}
    return EinfallError([diagnostic], sources)


class Diagnostics:
    """Gathers the independent mistakes of one file, to raise them together in the order of the text."""

    def __init__(self, file: str = "<string>", source: str | None = None, limit: int = 50) -> None:
        self._sources = {} if source is None else {file: source}
        self._limit = limit
        self._found: dict[tuple[str, str, Span | None], Diagnostic] = {}

    def add(
        self,
        code: str,
        message: str,
        *,
        span: Span | None = None,
        label: str | None = None,
        help: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Record a mistake and go on."""
        self.extend([Diagnostic(code=code, message=message, span=span, label=label, help=help, notes=tuple(notes))])

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Record mistakes that were found elsewhere; what was recorded before is left out."""
        for each in diagnostics:
            self._found.setdefault((each.code, each.message, each.span), each)

    def __len__(self) -> int:
        return len(self._found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def sorted(self) -> tuple[Diagnostic, ...]:
        """The mistakes by position; those without a position first."""
        return tuple(
            sorted(
                self._found.values(),
                key=lambda each: (each.span.file, each.span.start) if each.span else ("", -1),
            )
        )

    def error(self) -> EinfallError:
        """All mistakes as one error (at most `limit` of them: a report of thousands helps nobody)."""
        found = self.sorted()
        shown = list(found[: self._limit])
        if len(found) > len(shown):
            rest = f"{len(found) - len(shown)} more errors are not shown"
            last = shown[-1]
            shown[-1] = Diagnostic(
                code=last.code,
                message=last.message,
                span=last.span,
                label=last.label,
                help=last.help,
                notes=(*last.notes, rest),
            )
        return EinfallError(shown, self._sources)

    def raise_if_any(self) -> None:
        """Raise what was gathered, if anything was."""
        if self._found:
            raise self.error()


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A help line with the candidate that `name` is most likely a slip of, or None.

    Case counts as a small difference only: `softMax` finds `softmax`, and `m` finds `M`.
    """
    pool = sorted(set(candidates) - {name})
    folded = [each for each in pool if each.casefold() == name.casefold()]
    close = folded or get_close_matches(name, pool, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None


class _Paint:
    """Wraps text in ANSI colours, or leaves it alone."""

    def __init__(self, color: bool) -> None:
        self._color = color

    def __call__(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._color and text else text


def _render(diagnostic: Diagnostic, sources: Mapping[str, SourceText], paint: _Paint) -> str:
    lines = [paint(_RED, f"error[{diagnostic.code}]") + paint(_BOLD, f": {_printable(diagnostic.message)}")]
    span = diagnostic.span
    margin = ""
    if span is not None:
        margin = " " * len(str(span.line))
        lines.append(f"{margin}{paint(_BLUE, '-->')} {_printable(str(span))}")
        source = sources.get(span.file)
        if source is not None:
            text, caret = _excerpt(source.line(span.line), span)
            label = f" {_printable(diagnostic.label)}" if diagnostic.label else ""
            lines += [
                paint(_BLUE, f"{margin} |"),
                paint(_BLUE, f"{span.line} |") + f" {text}".rstrip(),
                paint(_BLUE, f"{margin} |") + " " + paint(_RED, caret + label),
            ]
        elif diagnostic.label:
            lines.append(f"{margin} = {_printable(diagnostic.label)}")
    lines += [f"{margin} = note: {_printable(note)}" for note in diagnostic.notes]
    if diagnostic.help:
        lines.append(f"{paint(_CYAN, 'help')}: {_printable(diagnostic.help)}")
    return "\n".join(lines)


def _excerpt(line: str, span: Span) -> tuple[str, str]:
    """The source line as printed, and the line of carets below it (a span of several lines is marked on its first)."""
    first = min(span.column - 1, len(line))
    last = span.end_column - 1 if span.end_line == span.line else len(line)
    last = max(first, min(last, len(line)))
    cut = 0
    if len(line) > _WIDTH:
        cut = max(0, min(first - _WIDTH // 3, len(line) - _WIDTH))
        last = min(last, cut + _WIDTH)
    before, marked = _cells(line[cut:first]), _cells(line[first:last])
    shown = before + marked + _cells(line[last : cut + _WIDTH])
    prefix = "…" if cut else ""
    suffix = "…" if cut + _WIDTH < len(line) else ""
    return (
        prefix + shown.rstrip() + suffix,
        " " * (len(prefix) + _width(before)) + "^" * max(1, _width(marked)),
    )


def _cells(text: str) -> str:
    return _printable(text.replace("\t", "    "))


def _width(text: str) -> int:
    """How many terminal cells the text takes: East Asian wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _printable(text: str) -> str:
    """Control characters and lone surrogates, which could garble or attack a terminal, as U+FFFD."""
    return "".join(char if char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs") else "�" for char in text)

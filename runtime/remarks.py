"""An explanation as text for people: lines of styled parts, which a terminal may colour, and a page for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..ir.expr import Const, Expr, sizes_of
from ..ir.printer import expr_to_source
from .benchmark import duration

if TYPE_CHECKING:
    from .explanation import Choice, Explanation, Live

Style: TypeAlias = Literal["plain", "title", "heading", "name", "better", "quiet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a line: ``better`` marks what the compiler improved, ``quiet`` what may be read later."""

    text: str
    style: Style = "plain"


Line: TypeAlias = tuple[Part, ...]


def remarks(explanation: Explanation) -> Iterator[Line]:
    """The lines of an explanation, without line ends."""
    yield (_part(f"kernel {explanation.kernel}", "title"),)
    yield from _section("Einsums", [(_part(f"    {line}"),) for line in explanation.einsums])
    yield from _section("passes over the data", list(_passes(explanation)))
    yield from _section("live between passes, as written", [_live(live) for live in explanation.live_before])
    if explanation.live_after != explanation.live_before:
        yield from _section("live between passes, as compiled", [_live(live) for live in explanation.live_after])
    yield from _section("computed together", list(_groups(explanation)))
    taken = [choice for choice in explanation.decisions if choice.taken]
    others = [choice for choice in explanation.decisions if not choice.taken]
    yield from _section("decisions", [line for choice in taken for line in _decision(choice)])
    yield from _section("the form that was not chosen", [line for choice in others for line in _decision(choice)])
    yield from _section("costs", list(_costs(explanation)))


def remarks_html(explanation: Explanation) -> str:
    """The same for a notebook."""
    rows = "".join(f"<tr><td>{escape(n)}</td><td>{p.before}</td><td>{p.after}</td></tr>" for n, p in explanation.passes.items())
    passes = f"<table><tr><th>rank</th><th>passes as written</th><th>fewest</th></tr>{rows}</table>" if rows else ""
    rows = "".join(
        f"<tr><td>{escape(d.subject)}</td><td>{escape(d.chosen)}</td><td>{escape(d.because)}</td></tr>"
        for d in explanation.decisions
        if d.taken
    )
    decisions = f"<table><tr><th>what</th><th>chosen</th><th>because</th></tr>{rows}</table>" if rows else ""
    groups = "".join(f"<li>{escape(''.join(p.text for p in line).strip())}</li>" for line in _groups(explanation))
    costs = "".join(f"<li>{escape(''.join(p.text for p in line).strip())}</li>" for line in _costs(explanation))
    head = f"<b>{escape(explanation.kernel)}</b><pre>{escape(chr(10).join(explanation.einsums))}</pre>"
    return f"{head}{passes}computed together<ul>{groups}</ul>{decisions}<ul>{costs}</ul>"


def _part(text: str, style: Style = "plain") -> Part:
    return Part(text=text, style=style)


def _section(title: str, lines: Sequence[Line]) -> Iterator[Line]:
    if lines:
        yield (_part(f"  {title}", "heading"),)
        yield from lines


def _passes(explanation: Explanation) -> Iterator[Line]:
    several = {name: p for name, p in explanation.passes.items() if p.before > 1 or p.after > 1}
    for name, p in several.items():
        better = p.after < p.before
        counts = _part(f"{p.before} → {p.after}", "better") if better else _part(f"{p.before}")
        kept = [_part(" (compiled as written, which is cheaper)", "quiet")] if better and explanation.as_written else []
        yield (_part("    "), _part(name, "name"), _part(": "), counts, *kept)
    once = [name for name in explanation.passes if name not in several]
    if once:
        yield (_part("    "), _part(", ".join(once), "name"), _part(": 1"))


def _live(live: Live) -> Line:
    passes = " and ".join(map(str, live.levels))
    where = f"passes {passes} over {live.rank}" + (", in a tile" if live.in_tile else "")
    return (
        _part("    "),
        _part(live.tensor, "name"),
        _part(f": {expr_to_source(live.elements)} elements "),
        _part(f"({where})", "quiet"),
    )


def _groups(explanation: Explanation) -> Iterator[Line]:
    for i, group in enumerate(explanation.groups, 1):
        parts = [_part(f"    {i}. ")]
        if group.condition is not None:
            parts.append(_part(f"if {group.condition}: "))
        kept = [name for name in group.tensors if name not in group.in_tiles]
        parts.append(_part(", ".join(kept), "name"))
        if group.over:
            parts.append(_part(f", in parallel over {', '.join(group.over)}"))
        if group.in_tiles:
            parts.append(_part(f"; in the thread's tile: {', '.join(group.in_tiles)}", "quiet"))
        yield tuple(parts)


def _decision(choice: Choice) -> Iterator[Line]:
    yield (_part("    "), _part(choice.subject, "name"), _part(f": {choice.chosen}"))
    yield (_part(f"      because {choice.because} [{choice.made_by}]", "quiet"),)


def _costs(explanation: Explanation) -> Iterator[Line]:
    yield (_part(f"    FLOPs: {_count(explanation.flops)}"),)
    yield (_part(f"    bytes in and out: {_count(explanation.traffic)}"),)
    if explanation.intensity is not None:
        yield (_part(f"    arithmetic intensity: {explanation.intensity:.3g} FLOP/byte"),)
    if explanation.bound is not None:
        seconds, by = explanation.bound
        threads = f"{explanation.threads} thread{'' if explanation.threads == 1 else 's'}"
        yield (_part(f"    least time: {duration(seconds)}, bound by {by} ({threads})"),)
    yield (_part(f"    workspace bytes: {_count(explanation.workspace)}"),)
    tiles = explanation.tiles
    if tiles != Const(value=0, dtype=tiles.dtype):
        yield (_part(f"    bytes of tiles, each of {explanation.threads} threads: {_count(tiles)}"),)
    packed = explanation.packed
    if packed != Const(value=0, dtype=packed.dtype):
        yield (_part(f"    bytes of packed constants, kept once they are bound: {_count(packed)}"),)


def _count(expr: Expr) -> str:
    if sizes_of(expr) or not isinstance(expr, Const):
        return expr_to_source(expr)
    return f"{int(expr.value):_}"

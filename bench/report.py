"""What was measured: as a table in the terminal, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cases import Case
from interleaved import Timing
from rich.table import Table

OURS = ("einfall", "unfused")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured case. ``difference`` is by which each peer's result differs from einfall's."""

    case: Case
    timings: Mapping[str, Timing]
    difference: Mapping[str, float]
    limit: float | None

    @property
    def best_peer(self) -> str | None:
        """The fastest other contestant; our own unfused form is none."""
        peers = {name: t.median for name, t in self.timings.items() if name not in OURS}
        return min(peers, key=lambda name: peers[name]) if peers else None

    @property
    def ratio(self) -> float | None:
        """The best peer's time over einfall's."""
        peer = self.best_peer
        return None if peer is None else self.timings[peer].median / self.timings["einfall"].median

    @property
    def fusion(self) -> float | None:
        """The time of the passes as written over that of the form that was chosen."""
        plain = self.timings.get("unfused")
        return None if plain is None else plain.median / self.timings["einfall"].median

    @property
    def rate(self) -> str:
        """What einfall reaches: GFLOP/s where arithmetic dominates, else GB/s."""
        seconds = self.timings["einfall"].median
        if self.case.flops > 4 * self.case.traffic:
            return f"{self.case.flops / seconds / 1e9:.0f} GFLOP/s"
        return f"{self.case.traffic / seconds / 1e9:.1f} GB/s"

    @property
    def share(self) -> str:
        """How near that is to the least time that the machine allows."""
        return "" if self.limit is None else f"{self.limit / self.timings['einfall'].median:.0%}"

    @property
    def wrong(self) -> list[str]:
        """The peers that find something else."""
        return [name for name, value in self.difference.items() if not value <= self.case.tolerance]


def _peers(found: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(name for row in found for name in row.timings)
    return [name for name in ("torch", "torch.compile", "numpy") if name in names]


def _cells(row: Row, peers: Sequence[str]) -> list[str]:
    timing = row.timings["einfall"]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
    fusion = "" if row.fusion is None else f"{row.fusion:.2f}×"
    spread = f"{_ms(timing.p10)} – {_ms(timing.p90)}"
    others = [_ms(row.timings[name].median) if name in row.timings else "" for name in peers]
    return [row.case.name, ratio, fusion, _ms(timing.median), spread, *others, row.rate, row.share]


def _headings(peers: Sequence[str]) -> list[str]:
    return ["workload", "speed", "by fusion", "einfall ms", "p10 – p90", *(f"{name} ms" for name in peers), "rate", "of limit"]


def table(found: Sequence[Row], facts: Mapping[str, object]) -> Table:
    """One line for each workload."""
    peers = _peers(found)
    shown = Table(
        title=f"{facts['processor']} ({facts['target']}), {facts['threads']} threads",
        caption="speed: the best other's time over einfall's; by fusion: the time of the passes as written over it"
        + ("; of limit: of what the machine was measured to allow" if any(row.limit is not None for row in found) else ""),
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
    )
    for i, heading in enumerate(_headings(peers)):
        shown.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    for row in found:
        cells = _cells(row, peers)
        if row.ratio is not None:
            style = "green" if row.ratio >= 1 else "yellow" if row.ratio >= 0.5 else "red"
            cells[1] = f"[{style}]{cells[1]}[/]"
        shown.add_row(*cells)
    return shown


def markdown(found: Sequence[Row], facts: Mapping[str, object]) -> str:
    """The same as a page."""
    peers = _peers(found)
    headings = _headings(peers)
    lines = [
        "# " + f"{facts['processor']}, {facts['threads']} threads",
        "",
        ", ".join(f"{name} {value}" for name, value in facts.items() if name not in ("processor", "threads")) + ".",
        "Medians of interleaved calls in one process, results preallocated. Speed: the best other's time over ours.",
        "By fusion: the time of our kernel with the passes over the data as written (`online=False`) over ours.",
        "",
        f"| {' | '.join(headings)} |",
        f"|---|{'---:|' * (len(headings) - 1)}",
        *(f"| {' | '.join(_cells(row, peers))} |" for row in found),
    ]
    return "\n".join(lines) + "\n"


def record(row: Row) -> dict[str, object]:
    """Everything about a row, for JSON."""
    return {
        "workload": row.case.name,
        "ratio": row.ratio,
        "best_peer": row.best_peer,
        "seconds": {name: asdict(timing) for name, timing in row.timings.items()},
        "flops": row.case.flops,
        "bytes": row.case.traffic,
        "limit_seconds": row.limit,
        "difference": dict(row.difference),
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"

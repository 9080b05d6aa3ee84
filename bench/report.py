"""What was measured: as a table in the terminal, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cases import Case
from cpu.latency import Latency
from field import ORDER, OURS, PEERS, PLAIN, SAME
from interleaved import Timing
from limits import Limit
from rich.table import Table

AGAIN = "einfall again"
"""A second, equal contestant: how far apart the same calls come out."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured case. ``difference`` is by which each peer's result differs from einfall's, ``absent`` why a peer is."""

    case: Case
    timings: Mapping[str, Timing]
    difference: Mapping[str, float]
    absent: Mapping[str, str]
    limit: Limit | None

    @property
    def seconds(self) -> float:
        """einfall's median."""
        return self.timings[OURS].median

    @property
    def best_peer(self) -> str | None:
        """The fastest of those that compute the same."""
        peers = {name: self.timings[name].median for name in PEERS if name in self.timings and name not in self.wrong}
        return min(peers, key=lambda name: peers[name]) if peers else None

    @property
    def ratio(self) -> float | None:
        """The best peer's time over einfall's."""
        peer = self.best_peer
        return None if peer is None else self.timings[peer].median / self.seconds

    @property
    def fusion(self) -> float | None:
        """The time of the passes as written over that of the form that was chosen; 1 where they are the same code."""
        if self.absent.get(PLAIN) == SAME:
            return 1.0
        plain = self.timings.get(PLAIN)
        return None if plain is None else plain.median / self.seconds

    @property
    def noise(self) -> float | None:
        """What the ratio of two equal contestants came out as, where that was asked for."""
        again = self.timings.get(AGAIN)
        return None if again is None else again.median / self.seconds

    @property
    def rate(self) -> str:
        """What einfall reaches: operations where they set the limit, else bytes."""
        if self.limit is not None and self.limit.bound != self.case.dtype:
            return f"{self.case.traffic / self.seconds / 1e9:.1f} GB/s"
        return f"{self.case.flops / self.seconds / 1e9:.0f} {'Gop/s' if self.case.dtype == 'i8' else 'GFLOP/s'}"

    @property
    def share(self) -> float | None:
        """How near that is to the least time that the machine allows."""
        return None if self.limit is None else self.limit.seconds / self.seconds

    @property
    def reaches(self) -> tuple[bool | None, bool | None]:
        """Whether the goals against the peers and against the limit are met; None where there is none, or no figure."""
        against = None if self.case.goal is None or self.ratio is None else self.ratio >= self.case.goal
        of_limit = None if self.case.share is None or self.share is None else self.share >= self.case.share
        return against, of_limit

    @property
    def wrong(self) -> list[str]:
        """The contestants that find something else."""
        return [name for name, value in self.difference.items() if not value <= self.case.tolerance]


@dataclass(frozen=True, kw_only=True)
class Results:
    """A run: the ``facts`` of machine and versions, the rows, the latencies, and what einfall could not do."""

    facts: Mapping[str, object]
    rows: Sequence[Row]
    latencies: Sequence[Latency]
    failures: Mapping[str, str]

    @property
    def score(self) -> str:
        """How many goals are met."""
        judged = [met for row in self.rows for met in row.reaches if met is not None]
        return f"{sum(judged)} of {len(judged)} goals met" if judged else "no goal was tested"


_MARK = {True: "✓", False: "✗", None: ""}
_TITLES = {"torch packed": "packed", "torch.compile": "compile", "onnxruntime": "ORT"}


def _headings(names: Sequence[str]) -> list[str]:
    measured = [_TITLES.get(name, name) for name in names]
    return ["workload", "speed", "goal", "einfall ms", "p10 – p90", *measured, "fusion", "rate", "of limit", "goal", "bound"]


def _names(found: Sequence[Row]) -> list[str]:
    present = {name for row in found for name in row.timings}
    return [name for name in ORDER if name in present and name not in (OURS, PLAIN)]


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    timing = row.timings[OURS]
    against, of_limit = row.reaches
    return [
        row.case.name,
        "" if row.ratio is None else f"{row.ratio:.2f}×",
        "" if row.case.goal is None else f"{row.case.goal:g}× {_MARK[against]}",
        _ms(timing.median),
        f"{_ms(timing.p10)} – {_ms(timing.p90)}",
        *(_ms(row.timings[name].median) if name in row.timings else "" for name in names),
        "" if row.fusion is None else "same" if PLAIN in row.absent else f"{row.fusion:.2f}×",
        row.rate,
        "" if row.share is None else f"{row.share:.0%}",
        "" if row.case.share is None else f"{row.case.share:.0%} {_MARK[of_limit]}",
        "" if row.limit is None else row.limit.bound,
    ]


def table(results: Results) -> Table:
    """One line for each workload."""
    names = _names(results.rows)
    facts = results.facts
    shown = Table(
        title=f"{facts['processor']} ({facts['target']}), {facts['threads']} threads; milliseconds, medians",
        caption="speed: the best peer's time over einfall's (NumPy is no peer); fusion: the time of the passes as written over "
        f"it; of limit: of what the machine was measured to allow. {results.score}.",
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for i, heading in enumerate(_headings(names)):
        shown.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    for row in results.rows:
        cells = _cells(row, names)
        for cell, met in ((2, row.reaches[0]), (-2, row.reaches[1])):
            if met is not None:
                cells[cell] = f"[{'green' if met else 'red'}]{cells[cell]}[/]"
        shown.add_row(*cells)
    return shown


def latency_table(latencies: Sequence[Latency]) -> Table:
    """What a user waits for besides the kernels."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("besides the kernels, the least of several", "", "goal"):
        shown.add_column(heading, justify="left" if len(heading) > 4 else "right")
    for each in latencies:
        shown.add_row(*_latency_cells(each))
    return shown


def _latency_cells(each: Latency) -> list[str]:
    goal = "" if each.goal is None else f"≤ {_time(each.goal)} {_MARK[each.seconds <= each.goal]}"
    return [each.what, _time(each.seconds), goal]


def notes(results: Results) -> list[str]:
    """What a reader has to know about single rows: wrong results, failures, noise."""
    lines = [
        f"{row.case.name}: {name} differs by {row.difference[name]:.1e} and does not count"
        for row in results.rows
        for name in row.wrong
    ]
    lines += [f"{name}: einfall fails: {reason}" for name, reason in results.failures.items()]
    lines += [
        f"{row.case.name}: two equal contestants came out {row.noise:.2f} apart"
        for row in results.rows
        if row.noise is not None and abs(row.noise - 1) > 0.03
    ]
    return lines


def markdown(results: Results, picture: str | None = None) -> str:
    """The same as a page; ``picture`` is the roofline's file beside it."""
    facts, names = results.facts, _names(results.rows)
    headings = _headings(names)
    others = [f"{name} {value}" for name, value in facts.items() if name not in ("processor", "threads", "limits")]
    lines = [
        f"# {facts['processor']}, {facts['threads']} threads",
        "",
        f"{', '.join(others)}. {results.score}.",
        "",
        "Milliseconds, medians of interleaved calls in one process, results preallocated, constant weights packed beforehand.",
        "Speed: the time of the best of PyTorch, PyTorch with packed weights, `torch.compile` and ONNX Runtime (ORT) over",
        "ours. Fusion: the time of our kernel with the passes over the data as written (`online=False`) over ours; same: that",
        "is what was chosen. Of limit: the least time that the measured rates allow for the operations and for the bytes of",
        "inputs and results, over ours; bound: the rate that sets it.",
        "",
        *([f"![Roofline]({picture})", ""] if picture else []),
        f"| {' | '.join(headings)} |",
        f"|---|{'---:|' * (len(headings) - 1)}",
        *(f"| {' | '.join(_cells(row, names))} |" for row in results.rows),
    ]
    if results.latencies:
        lines += ["", "| besides the kernels, the least of several | | goal |", "|---|---:|---:|"]
        lines += [f"| {' | '.join(_latency_cells(each))} |" for each in results.latencies]
    if isinstance(limits := facts.get("limits"), Mapping):
        lines += ["", "Limits of this run: " + "; ".join(f"{name} {value}" for name, value in limits.items()) + "."]
    if found := notes(results):
        lines += ["", *(f"- {line}" for line in found)]
    return "\n".join(lines) + "\n"


def record(row: Row) -> dict[str, object]:
    """Everything about a row, for JSON."""
    against, of_limit = row.reaches
    return {
        "workload": row.case.name,
        "family": row.case.family,
        "dtype": row.case.dtype,
        "ratio": row.ratio,
        "goal": row.case.goal,
        "met": against,
        "best_peer": row.best_peer,
        "share_of_limit": row.share,
        "share_goal": row.case.share,
        "share_met": of_limit,
        "bound": None if row.limit is None else row.limit.bound,
        "limit_seconds": None if row.limit is None else row.limit.seconds,
        "fusion": row.fusion,
        "noise": row.noise,
        "seconds": {name: asdict(timing) for name, timing in row.timings.items()},
        "flops": row.case.flops,
        "bytes": row.case.traffic,
        "difference": dict(row.difference),
        "absent": dict(row.absent),
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.2g} µs"

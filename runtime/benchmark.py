"""Timing of a prepared call: median, spread, rates, and the share of what the machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np

_SHORTEST_SAMPLE = 1e-3  # seconds; shorter ones are dominated by the clock and the loop
_FEWEST, _MOST = 10, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """What the machine can do with the threads of a call: FLOP/s and bytes/s; ``measured`` or from documents."""

    peak: float
    bandwidth: float
    measured: bool

    def seconds(self, flops: int, traffic: int) -> float:
        """The least time for this work (Williams, Waterman, Patterson: Roofline, CACM 2009)."""
        return max(flops / self.peak, traffic / self.bandwidth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Times are seconds of one call, without the checks of its arguments. Rates are per second.

    ``limit`` is the least time that the machine's limits allow (:class:`Roofline`), None where they are unknown; data
    that stays in a cache can beat it.
    """

    kernel: str
    threads: int
    calls: int
    median: float
    p10: float
    p90: float
    flops: int
    traffic: int
    limit: float | None = None
    limit_is_measured: bool = False

    @property
    def gflops(self) -> float:
        """10**9 scalar operations of the mathematics as written, per second."""
        return self.flops / self.median / 1e9

    @property
    def gbytes(self) -> float:
        """10**9 bytes of inputs and results per second."""
        return self.traffic / self.median / 1e9

    @property
    def share(self) -> float | None:
        """The least time over the median, 1.0 at the machine's limit."""
        return None if self.limit is None else self.limit / self.median

    def to_json(self) -> dict[str, str | int | float | None]:
        return {
            "kernel": self.kernel,
            "threads": self.threads,
            "calls": self.calls,
            "median_s": self.median,
            "p10_s": self.p10,
            "p90_s": self.p90,
            "gflops": self.gflops,
            "gbytes": self.gbytes,
            "share_of_limit": self.share,
        }

    def __str__(self) -> str:
        parts = [
            f"{self.kernel}: {duration(self.median)} (p10 {duration(self.p10)}, p90 {duration(self.p90)})",
            f"{self.calls} calls on {self.threads} thread{'s' if self.threads != 1 else ''}",
            f"{self.gflops:.3g} GFLOP/s",
            f"{self.gbytes:.3g} GB/s",
        ]
        if self.share is not None:
            parts.append(f"{self.share:.0%} of the machine's {'measured' if self.limit_is_measured else 'nominal'} limit")
        return ", ".join(parts)

    def _repr_html_(self) -> str:
        cells = {
            "median": duration(self.median),
            "p10": duration(self.p10),
            "p90": duration(self.p90),
            "GFLOP/s": f"{self.gflops:.3g}",
            "GB/s": f"{self.gbytes:.3g}",
            "share of limit": "" if self.share is None else f"{self.share:.0%}",
            "threads": str(self.threads),
        }
        head = "".join(f"<th>{name}</th>" for name in cells)
        row = "".join(f"<td>{value}</td>" for value in cells.values())
        return f"<b>{escape(self.kernel)}</b><table><tr>{head}</tr><tr>{row}</tr></table>"


def measure(call: Callable[[], object], seconds: float) -> tuple[np.ndarray, int]:
    """(seconds of one call, per sample; the number of calls) over about ``seconds`` of repeated calls."""
    call()
    count, elapsed = 1, _timed(call, 1)
    while elapsed < _SHORTEST_SAMPLE and count < 1 << 20:
        count = max(2 * count, min(1 << 20, int(count * 1.2 * _SHORTEST_SAMPLE / max(elapsed, 1e-9))))
        elapsed = _timed(call, count)
    samples = int(np.clip(seconds / max(elapsed, 1e-9), _FEWEST, _MOST))
    times = np.array([_timed(call, count) / count for _ in range(samples)])
    return times, samples * count


def duration(seconds: float) -> str:
    """A time with three digits and its unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _timed(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start

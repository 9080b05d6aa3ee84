"""Timing of calls on a GPU by its own clock, in turns; in a rehearsal by that of the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

SAMPLES, WARM_UP = 30, 0.2
"""Samples of each call, and seconds for which the clocks of the device are brought up before."""

SHORTEST = 1e-3
"""Seconds of a sample: several calls, where one is shorter, so that the time to launch one is hidden by those before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one call: the median and the deciles of the samples."""

    median: float
    p10: float
    p90: float

    @staticmethod
    def of(times: Sequence[float]) -> Timing:
        deciles = statistics.quantiles(times, n=10, method="inclusive")
        return Timing(median=statistics.median(times), p10=deciles[0], p90=deciles[-1])


class DeviceClock:
    """CUDA events on PyTorch's current stream."""

    def __init__(self, torch: ModuleType) -> None:
        self._cuda = torch.cuda

    def finish(self) -> None:
        self._cuda.synchronize()

    def seconds(self, call: Callable[[], object], count: int) -> float:
        begin, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / count


class HostClock:
    """The CPU's clock."""

    def finish(self) -> None:
        """Nothing is under way."""

    def seconds(self, call: Callable[[], object], count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count


Clock = DeviceClock | HostClock


def timings(clock: Clock, calls: Sequence[Callable[[], object]], samples: int = SAMPLES) -> list[Timing]:
    """The timings of calls that are made in turn."""
    counts = []
    for call in calls:
        call()  # compiles, allocates
        until = time.perf_counter() + WARM_UP
        one = clock.seconds(call, 1)
        while time.perf_counter() < until:
            one = clock.seconds(call, 1)
        counts.append(max(1, min(1000, round(SHORTEST / max(one, 1e-7)))))
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(samples):
        for call, count, times in zip(calls, counts, found, strict=True):
            times.append(clock.seconds(call, count))
    return [Timing.of(times) for times in found]


def launch_seconds(clock: Clock, call: Callable[[], object], calls: int = 200) -> float:
    """The time of the calling thread for one call that does not wait: of many of them, the least of several tries."""
    best = float("inf")
    for _ in range(20):
        clock.finish()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - start) / calls)
    clock.finish()
    return best

"""Time several programs against one another, in one process and in turns.

Clock rates and the neighbours' load drift by a third within minutes, so only what ran side by side is compared. The
contestants take turns in blocks of calls. The first call of a block is not timed: the worker threads of the contestant
before (TVM's, OpenMP's, OpenBLAS's) spin for a while after their last call and would be in its way.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_BLOCK = 0.02  # seconds of one contestant's turn, at least one call
_SAMPLE = 1e-3  # seconds that one sample takes at least: shorter calls are timed several at once
_ROUNDS = (5, 40)  # the fewest and the most turns of each contestant

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one call: the median and the 10th and 90th percentile of ``samples`` samples."""

    median: float
    p10: float
    p90: float
    samples: int


def interleave(contestants: Mapping[str, Call], *, seconds: float) -> dict[str, Timing]:
    """Time each contestant for about ``seconds``, all of them in turns."""
    plans = {name: _plan(call) for name, call in contestants.items()}
    slowest = max(samples * calls * each for samples, calls, each in plans.values())
    rounds = int(min(max(seconds / slowest, _ROUNDS[0]), _ROUNDS[1]))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for turn in range(rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            samples, calls, _ = plans[name]
            call = contestants[name]
            call()
            times[name] += [_time(call, calls) for _ in range(samples)]
    return {name: _summary(found) for name, found in times.items()}


def _plan(call: Call) -> tuple[int, int, float]:
    """(samples of one turn, calls of one sample, seconds of one call)."""
    call()
    call()
    each = min(_time(call, 1) for _ in range(3))
    calls = max(1, round(_SAMPLE / each))
    return max(1, int(_BLOCK / (calls * each))), calls, each


def _time(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def _summary(times: list[float]) -> Timing:
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return Timing(median=statistics.median(times), p10=cuts[0], p90=cuts[-1], samples=len(times))

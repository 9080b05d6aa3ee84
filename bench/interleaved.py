"""Time several programs against one another, in one process and in turns.

Clock rates and the neighbours' load drift by a third within minutes, so only what ran side by side is compared. The
contestants take turns in blocks of calls. The worker threads of a library spin for a while after their last call
(libgomp's for 15 ms, ONNX Runtime's for 60 where `pause` is slow) and would hold a core against those of the next: a turn
begins when the process has come to rest, and with calls that are not timed, which wake the workers and bring the data back
into the caches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_REST = 5e-3  # seconds: nobody spins any more who has used less than a tenth of them
_RESTLESS = 1.0  # seconds after which a turn begins all the same
_BLOCK = 0.03  # seconds of one contestant's turn, at least one call
_SAMPLE = 1e-3  # seconds that one sample takes at least: shorter calls are timed several at once
_WARM = 2e-3  # seconds of calls that are not timed, at least one
_LONG = 0.2  # calls from this length on do not feel how they begin: none is left out
_ROUNDS = (4, 12)  # the fewest and the most turns of each contestant
_FEWEST = 3  # where one round of all takes longer than _PATIENCE
_PATIENCE = 4.0

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one call: the median and the 10th and 90th percentile of ``samples`` samples."""

    median: float
    p10: float
    p90: float
    samples: int


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One turn: ``warm`` calls, then ``samples`` timings of ``calls`` calls of ``each`` seconds."""

    warm: int
    samples: int
    calls: int
    each: float

    @property
    def seconds(self) -> float:
        return self.samples * self.calls * self.each


def interleave(contestants: Mapping[str, Call], *, seconds: float) -> dict[str, Timing]:
    """Time each contestant for about ``seconds``, all of them in turns."""
    plans = {name: _plan(call) for name, call in contestants.items()}
    once = sum(plan.seconds for plan in plans.values())
    fewest = _ROUNDS[0] if once < _PATIENCE else _FEWEST
    rounds = int(min(max(seconds * len(plans) / once, fewest), _ROUNDS[1]))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for turn in range(rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            plan, call = plans[name], contestants[name]
            _rest()
            for _ in range(plan.warm):
                call()
            times[name] += [_time(call, plan.calls) for _ in range(plan.samples)]
    return {name: _summary(found) for name, found in times.items()}


def _rest() -> None:
    """Wait until no thread of the process is at work."""
    end = time.perf_counter() + _RESTLESS
    before, used = time.perf_counter(), _REST
    while used > 0.1 * _REST and before < end:
        cpu = time.process_time()
        time.sleep(_REST)
        now = time.perf_counter()
        used, before = (time.process_time() - cpu) * _REST / (now - before), now


def _plan(call: Call) -> _Plan:
    _rest()
    call()
    first = _time(call, 1)
    each = first if first > _LONG else min(_time(call, 1) for _ in range(3))
    calls = max(1, round(_SAMPLE / each))
    return _Plan(
        warm=0 if each > _LONG else max(1, min(100, round(_WARM / each))),
        samples=max(1, int(_BLOCK / (calls * each))),
        calls=calls,
        each=each,
    )


def _time(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def _summary(times: list[float]) -> Timing:
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return Timing(median=statistics.median(times), p10=cuts[0], p90=cuts[-1], samples=len(times))

"""The machine's limit for a workload: the rates of `einfall doctor --measure`, taken in the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cases import Case

from einfall.ir.target import LEVELS, Level, Limits, Roof, Target
from einfall.runtime.threads import default_threads


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The least seconds that a workload can take, and what sets them: ``"bf16"``, ``"L3 read"``, ``"DRAM copy"``."""

    seconds: float
    bound: str


def measured(machine: Target, report: Callable[[str, int, int], None] | None = None) -> Target:
    """The host with the rates that it reaches now. Takes 5 to 15 seconds."""
    from einfall.compiler.measure import measure

    return replace(machine, measured=measure(machine, report).roof)


def faster(one: Target, other: Target) -> Target:
    """Of two measurements of a machine the higher rate each: neighbours only ever slow it down."""
    assert one.measured is not None and other.measured is not None
    core = _faster(one.measured.core, other.measured.core)
    return replace(one, measured=Roof(core=core, chip=_faster(one.measured.chip, other.measured.chip)))


def _faster(one: Limits, other: Limits) -> Limits:
    def each(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
        return {key: max(a[key], b.get(key, 0.0)) for key in a}

    return Limits(ops=each(one.ops, other.ops), read=each(one.read, other.read), copy=each(one.copy, other.copy))


def limit(case: Case, machine: Target) -> Limit | None:
    """The limit of ``machine`` for a workload on the threads of this run; None where nothing was measured."""
    if machine.measured is None:
        return None
    level = level_of(case, machine)
    kind = "copy" if case.writes > case.reads / 4 else "read"
    rates = machine.measured.chip if default_threads() > 1 else machine.measured.core
    memory = case.traffic / _rate(rates.copy if kind == "copy" else rates.read, level)
    arithmetic = case.flops / machine.peak_ops(case.dtype, cores=default_threads())
    if arithmetic > memory:
        return Limit(seconds=arithmetic, bound=case.dtype)
    return Limit(seconds=memory, bound=f"{level.upper() if level != 'dram' else 'DRAM'} {kind}")


def level_of(case: Case, machine: Target) -> Level:
    """The level that holds all of the data: L1 and L2 are each core's own, and each holds its share."""
    part = case.traffic / default_threads()
    fits = {"l1": part <= machine.l1d, "l2": part <= machine.l2, "l3": case.traffic <= machine.l3, "dram": True}
    return next(level for level in LEVELS if fits[level])


def _rate(rates: Mapping[str, float], level: Level) -> float:
    """Of the level, or of the next one that was measured."""
    return next(rates[each] for each in LEVELS[LEVELS.index(level) :] if each in rates)

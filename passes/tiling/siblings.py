"""Which Einsums that share no tensor are worth one loop all the same: two sums that a third Einsum reads.

Siblings are aligned along the ranks of the whole cascade. They join a group where none of them loses a rank that threads may
share, and a matrix product among them only where something sums or compares over its result: its tiles then never leave the
cache. A product whose result is wanted whole is faster by itself. Requires a verified cascade; changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir.cascade import Cascade
from ...ir.dependence import Loop, Step, einsums_of
from ..analysis.ranks import RankClass
from . import contraction
from .independent import Independent


def members_of(steps: Sequence[Step]) -> list[int]:
    return [i for step in steps for i in einsums_of(step)]


def is_linked(cascade: Cascade, current: Sequence[Step], unit: Sequence[Step]) -> bool:
    """Whether a unit touches a tensor that the steps before it write."""
    written = {cascade.einsums[i].target for i in members_of(current)}
    touched = {r.tensor for i in members_of(unit) for r in cascade.einsums[i].reads()}
    return not written.isdisjoint(touched | {cascade.einsums[i].target for i in members_of(unit)})


def may_share(
    cascade: Cascade,
    steps: Sequence[Step],
    apart: Sequence[Independent],
    joined: Sequence[Independent],
    passed: Sequence[RankClass],
) -> bool:
    """Whether siblings with the independent ranks ``apart`` may share the loops ``joined``.

    ``passed`` are the ranks that something reduces or steps through: what reads the siblings loses them anyway.
    """
    kept = {pair for c in joined for pair in c.variables.items()}
    for each in apart:
        i, variable = next(iter(each.variables.items()))
        if (i, variable) not in kept and not any(r.variables.get(i) == variable for r in passed):
            return False
    return all(
        contraction.product_of(cascade.einsums[i]) is None or _is_reduced(cascade, cascade.einsums[i].target)
        for i in members_of(steps)
    )


def passed_ranks(cascade: Cascade, ranks: Sequence[RankClass], steps: Sequence[Step]) -> list[RankClass]:
    """The ranks that an Einsum reduces, or a loop steps through."""
    stepped = {pair for step in steps for pair in loop_variables(step)}
    return [r for r in ranks if any(v in cascade.einsums[i].reduced or (i, v) in stepped for i, v in r.variables.items())]


def loop_variables(step: Step) -> Iterator[tuple[int, str]]:
    """The (Einsum, variable) pairs of a step's loops, inner ones included."""
    if isinstance(step, Loop):
        yield from step.variables.items()
        for inner in step.body:
            yield from loop_variables(inner)


def _is_reduced(cascade: Cascade, tensor: str) -> bool:
    """Whether what is computed point by point from a tensor is summed or compared over one of its ranks, not multiplied."""
    seen: set[str] = set()
    stack = [tensor]
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        for einsum in cascade.readers(name):
            if einsum.reduction is None:
                stack.append(einsum.target)
            elif contraction.product_of(einsum) is None and not einsum.scatter:
                return True
    return False

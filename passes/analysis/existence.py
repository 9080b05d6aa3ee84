"""Whether conditions on a rank leave it a point, told without looking at its points: the rank is eliminated.

Identity: ∃ m ∈ ℤ: l₁ ≤ m, …, m ≤ u₁, … ⟺ lᵢ ≤ uⱼ for all i, j, where no bound mentions m. It is exact since m is not
multiplied (Fourier-Motzkin elimination; Pugh, "The Omega Test", Supercomputing 1991, section 2.3). A choice of masks
(``or``) has a point where one of them has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

from ...ir.expr import Const, Expr, Op, conjuncts, integer, op, ranks_of
from ...ir.index import constant_value, non_negative, simplify
from ...ir.types import BOOL
from .comparisons import bound
from .presence import conjunction, disjunction

_MOST_CASES = 4
"""Cases of a mask with ``or`` beyond which the test is dearer than what it would save."""


def exists(conditions: Sequence[Expr], extents: Mapping[str, Expr], lets: Mapping[str, Expr]) -> Expr | None:
    """The condition that some point of the ranks of ``extents`` (by name, with their extents) fulfils all ``conditions``,
    without these ranks; None where one of them does more than bound a rank, or bounds one by another."""
    cases = _cases(conditions)
    if cases is None:
        return None
    found: list[list[Expr]] = []
    for case in cases:
        left = _eliminated(case, extents, lets)
        if left is None:
            return None
        found.append(left)
    # A case that asks for all that another asks for, and more, adds nothing.
    wider = [f for i, f in enumerate(found) if not any(set(g) < set(f) or (g == f and j < i) for j, g in enumerate(found))]
    return reduce(disjunction, map(conjunction, wider))


def _cases(conditions: Sequence[Expr]) -> list[list[Expr]] | None:
    """The conjunction of ``conditions`` as alternatives (disjunctive normal form), each a list of conditions that all hold;
    None where there are too many."""
    cases: list[list[Expr]] = [[]]
    for condition in (part for c in conditions for part in conjuncts(c)):
        alternatives = list(_alternatives(condition))
        if len(alternatives) == 1:
            cases = [[*case, condition] for case in cases]
            continue
        inner = [_cases([alternative]) for alternative in alternatives]
        added = [case for found in inner if found is not None for case in found]
        if None in inner or len(cases) * len(added) > _MOST_CASES:
            return None
        cases = [[*case, *more] for case in cases for more in added]
    return cases


def _alternatives(condition: Expr) -> Iterator[Expr]:
    match condition:
        case Op(op="or", args=args) if condition.dtype == BOOL:
            for arg in args:
                yield from _alternatives(arg)
        case _:
            yield condition


def _eliminated(conditions: Sequence[Expr], extents: Mapping[str, Expr], lets: Mapping[str, Expr]) -> list[Expr] | None:
    """What must hold for some point of the ranks to fulfil all ``conditions``; None where a condition is no bound."""
    lows: dict[str, list[Expr]] = {name: [integer(0)] for name in extents}
    ends: dict[str, list[Expr]] = {name: [extent] for name, extent in extents.items()}
    others: list[Expr] = []
    for condition in conditions:
        mine = [name for name in extents if name in ranks_of(condition)]
        if not mine:
            others.append(condition)
            continue
        if len(mine) > 1:
            return None
        for each in _inequalities(condition):
            left = bound(each, mine)
            if left is None:
                return None
            (lows if left.is_low else ends)[left.rank].append(left.limit)
    for name in extents:
        for low in lows[name]:
            for end in ends[name]:
                room = simplify(op("sub", end, low))
                if non_negative(op("sub", room, integer(1)), lets):
                    continue
                known = constant_value(room, lets)
                others.append(op("lt", low, end) if known is None else Const(value=known > 0, dtype=BOOL))
    return list(dict.fromkeys(others))


def _inequalities(condition: Expr) -> Iterator[Expr]:
    """A comparison of integers as inequalities that all hold: two for an equation."""
    match condition:
        case Op(op="eq", args=(a, b)) if a.dtype.is_integer:
            yield op("le", a, b)
            yield op("ge", a, b)
        case _:
            yield condition

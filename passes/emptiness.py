"""When a reduction has no point: the conditions that guard what is computed from it.

The cheapest exact test is taken: sizes where no point is ever absent; a maximum (or minimum) over the same points that kept
its identity; a carried flag. A maximum also keeps its identity where all its points are -inf; a program that
divides by what it then sums is NaN there as written, and 0 under the guard.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.expr import Const, Expr, Op, Read, op, ranks_of
from ..ir.operators import REDUCTIONS
from ..ir.types import BOOL
from .presence import FALSE, TRUE
from .structure import Structure


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptiness:
    """Tests that a reduction has a point: that all of ``sizes`` are positive, the condition ``extreme`` over the output
    ranks, or an ``or`` of ``flag`` over the reduced ranks, which is true wherever it is present. The first that is not
    None is exact."""

    sizes: tuple[Expr, ...] | None
    extreme: Expr | None
    flag: Expr


def emptiness(structure: Structure, index: int, filters: tuple[Expr, ...] = ()) -> Emptiness:
    """Tests for Einsum ``index``, with further conditions on its points in ``filters``."""
    einsum = structure.cascade.einsums[index]
    extents = {r.name: r.extent for r in einsum.ranks}
    conditions = set(structure.conditions(einsum))
    for condition in filters:
        conditions |= {structure.presence.guarded(condition, extents)}
    conditions.discard(TRUE)
    # Conditions on output ranks alone decide the output point, not what is reduced into it.
    inner = frozenset(c for c in conditions if set(einsum.reduced) & set(ranks_of(c)))
    sizes = tuple(einsum.extent(r) for r in einsum.reduced) if not conditions else None
    return Emptiness(
        sizes=sizes, extreme=_extreme(structure, index, inner, frozenset(conditions)), flag=_flag(structure, index)
    )


def _extreme(structure: Structure, index: int, inner: frozenset[Expr], conditions: frozenset[Expr]) -> Expr | None:
    """``GM[h, p] != -inf`` for a maximum over exactly the same points."""
    einsum = structure.cascade.einsums[index]
    for i in structure.straight:
        other = structure.cascade.einsums[i]
        if other.reduction is None or other.reduced != einsum.reduced or not structure.is_plain(i):
            continue
        dtype = structure.cascade.by_name[other.target].value
        identity = REDUCTIONS[other.reduction].identity(dtype)
        if not (dtype.is_float and identity in (float("inf"), -float("inf"))) or other.output_filter:
            continue
        if not set(other.output_ranks) <= set(einsum.output_ranks):
            continue
        if any(structure.class_of(i, r) is not structure.class_of(index, r) for r in other.reduced):
            continue
        if structure.conditions(other) in (inner, conditions):
            read = Read(tensor=other.target, indices=other.coords, dtype=dtype)
            # NaN differs from the identity: it must stay visible.
            return op("ne", read, Const(value=float(identity), dtype=dtype))
    return None


def _flag(structure: Structure, index: int) -> Expr:
    """True, but absent where a read of the value is: ``x == x or true``."""
    einsum = structure.cascade.einsums[index]
    masked = structure.masked_reads(einsum, einsum.value)
    candidates = masked or tuple(r for r in einsum.reads() if set(einsum.reduced) & set(ranks_of(r)))
    flag: Expr = FALSE
    for read in candidates:
        same = op("eq", read, read)
        flag = same if flag == FALSE else Op(op="and", args=(flag, same), dtype=BOOL)
    return op("or", flag, TRUE)

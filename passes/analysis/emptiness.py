"""When a reduction has no point: the conditions that guard what is computed from it.

The cheapest test is taken: sizes where no point is ever absent; for masks that bound the reduced rank, the inequality that
is left when it is eliminated; a maximum (or minimum) over the same points that kept its identity; a carried flag. All are
exact but the maximum, which also keeps its identity where all its points are -inf: a program that divides by what it
then sums is NaN there as written, and 0 under the guard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir.cascade import Einsum
from ...ir.expr import Const, Default, Expr, Op, Rank, Read, Select, children, op, ranks_of, reads_of
from ...ir.operators import REDUCTIONS
from ...ir.types import BOOL
from .existence import exists
from .presence import FALSE, TRUE
from .structure import Structure, uncertain


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptiness:
    """A test that a reduction has a point: that all of ``sizes`` are positive, the condition ``test`` over the output
    ranks, or an ``or`` of ``flag`` over the reduced ranks, where ``conditions`` hold (it is true wherever it is present).
    One of the three is not None."""

    sizes: tuple[Expr, ...] | None = None
    test: Expr | None = None
    flag: Expr | None = None
    conditions: tuple[Expr, ...] = ()


def emptiness(structure: Structure, index: int, values: Sequence[Expr], where: Sequence[Expr]) -> Emptiness:
    """Tests for the reduction of Einsum ``index``, whose points are present where ``values`` are and ``where`` holds."""
    einsum = structure.cascade.einsums[index]
    extents = {r.name: r.extent for r in einsum.ranks}
    bare = replace(einsum, point_filter=tuple(where), output_filter=())
    conditions: frozenset[Expr] = frozenset()
    for value in values:
        conditions |= structure.conditions(bare, value)
    if not conditions:
        return Emptiness(sizes=tuple(einsum.extent(r) for r in einsum.reduced))
    # Conditions on output ranks alone decide the output point, not what is reduced into it.
    inner = frozenset(c for c in conditions if set(einsum.reduced) & set(ranks_of(c)))
    test = _eliminated(structure, einsum, conditions)
    if test is None:
        test = _extreme(structure, index, inner, conditions)
    if test is not None:
        return Emptiness(test=test)
    flag, stated = _flag(structure, einsum, values, extents)
    return Emptiness(flag=flag, conditions=stated)


def _eliminated(structure: Structure, einsum: Einsum, conditions: frozenset[Expr]) -> Expr | None:
    """The condition over output ranks that is left of a mask when the reduced ranks are eliminated; None where it tests
    them other than by bounds, or rests on a tensor that only its stored mask knows."""
    if any(r.tensor not in structure.cascade.by_name for c in conditions for r in reads_of(c)):
        return None
    extents = {r: einsum.extent(r) for r in einsum.reduced}
    # Conditions come from a set: in the order of their text, what is made of them is the same each time.
    test = exists(sorted(conditions, key=str), extents, structure.lets)
    return test if test is not None and set(ranks_of(test)) <= set(einsum.output_ranks) else None


def _extreme(structure: Structure, index: int, inner: frozenset[Expr], conditions: frozenset[Expr]) -> Expr | None:
    """``GM[h, p] != -inf`` for a maximum over exactly the same points that does not itself depend on the reduction."""
    einsum = structure.cascade.einsums[index]
    for i in structure.straight:
        other = structure.cascade.einsums[i]
        if other.reduction is None or other.reduced != einsum.reduced or not structure.is_plain(i):
            continue
        if structure.needs(i, einsum.target):
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


def _flag(
    structure: Structure, einsum: Einsum, values: Sequence[Expr], extents: Mapping[str, Expr]
) -> tuple[Expr, tuple[Expr, ...]]:
    """True, but absent where one of the values is (``x == x or true``), as far as conditions do not tell."""
    reads, filters = _sources(structure, values, extents)
    stated: dict[Read, list[Expr]] = {}
    tested: list[Read] = []
    for read in reads:
        parts = list(uncertain(structure.presence.present(read, extents)))
        if any(r.tensor not in structure.cascade.by_name for p in parts for r in reads_of(p)):
            tested.append(read)  # only a stored mask knows
        elif parts:
            stated[read] = parts
    # Something must index every reduced rank, which gives it its extent.
    open_ranks = [r for r in einsum.reduced if not any(_indexes(read, r) for read in tested)]
    if not all(any(_indexes(read, r) for read in reads) for r in open_ranks):
        # Looked through, an Einsum may keep only an element of what it reads; the read of it has the whole rank.
        reads += [read for value in values for read in reads_of(value) if read not in reads]
    while open_ranks:
        read = max(reads, key=lambda r: (sum(_indexes(r, o) for o in open_ranks), -len(r.indices)))
        tested.append(read)
        open_ranks = [r for r in open_ranks if not _indexes(read, r)]
        reads.remove(read)
    flag: Expr = FALSE
    for read in tested:
        same = op("eq", read, read)
        flag = same if flag == FALSE else Op(op="and", args=(flag, same), dtype=BOOL)
    conditions = dict.fromkeys(c for read, parts in stated.items() if read not in tested for c in parts)
    return op("or", flag, TRUE), tuple(dict.fromkeys((*filters, *conditions)))


def _sources(structure: Structure, values: Sequence[Expr], extents: Mapping[str, Expr]) -> tuple[list[Read], list[Expr]]:
    """What values read once pointwise Einsums are looked through, and the conditions of these: data rather than what
    depends on other reductions, so that the flag needs no pass after theirs. A choice needs one of its branches only: it is
    there under a condition of its own."""
    reads: dict[Read, None] = {}
    filters: dict[Expr, None] = {}
    pending = list(values)
    while pending:
        for part in _parts(pending.pop(0)):
            if not isinstance(part, Read):
                filters.update(dict.fromkeys(uncertain(structure.presence.present(part, extents))))
                continue
            inner = structure.inlined(part)
            if inner is None or not _is_told(structure, inner, extents):
                reads[part] = None
            else:
                pending.append(inner)
                filters.update(dict.fromkeys(structure.filters_at(part)))
    return list(reads), list(filters)


def _parts(expr: Expr) -> Iterator[Expr]:
    """The reads of an expression that its value needs in any case, and its choices."""
    match expr:
        case Read() | Select() | Default():
            yield expr
        case _:
            for child in children(expr):
                yield from _parts(child)


def _is_told(structure: Structure, value: Expr, extents: Mapping[str, Expr]) -> bool:
    """Whether the conditions of a value's choices read tensors of the cascade only."""
    choices = [part for part in _parts(value) if not isinstance(part, Read)]
    conditions = [structure.presence.present(choice, extents) for choice in choices]
    return all(r.tensor in structure.cascade.by_name for c in conditions for r in reads_of(c))


def _indexes(read: Read, name: str) -> bool:
    return any(isinstance(index, Rank) and index.name == name for index in read.indices)

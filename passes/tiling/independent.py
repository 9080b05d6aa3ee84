"""Ranks that no dependence among a set of Einsums crosses: they may go around all of them, over threads.

A class of rank variables, one for each Einsum of the set, is independent when every Einsum writes its target at the
variable itself, and every read of a tensor of the set uses the reader's variable at the dimension that the writer's
variable writes (Allen and Kennedy, "Optimizing Compilers for Modern Architectures", chapter 6).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.cascade import Cascade, Einsum
from ...ir.expr import Expr, Rank
from ...ir.index import equal
from ..analysis.ranks import RankClass, split_index


@dataclass(frozen=True, slots=True, kw_only=True)
class Independent:
    """One class: the variable of every Einsum, and the dimension of every tensor of the set that it indexes."""

    variables: Mapping[int, str] = field(hash=False)
    dims: Mapping[str, int] = field(hash=False)
    extent: Expr


def independent_classes(
    cascade: Cascade, members: Sequence[int], *, apart: Collection[str] = (), ranks: Sequence[RankClass] = ()
) -> list[Independent]:
    """The independent classes of a set of Einsums, in the order of the first one's coordinates.

    ``apart`` are variables of the first Einsum that are not to be considered (those of a sequential loop). Einsums that share
    no tensor of the set (two sums that a third one reads) are aligned along ``ranks``, the ranks of the whole cascade.
    """
    if any(cascade.einsums[i].scatter for i in members):
        return []
    first = cascade.einsums[members[0]]
    found: list[Independent] = []
    for coord in first.coords:
        if isinstance(coord, Rank) and coord.name not in apart:
            made = _class(cascade, members, coord.name, ranks)
            # A reader of the diagonal T[m, m] has one variable for two classes of the writer: the first takes it.
            if made is not None and all(set(made.variables.items()).isdisjoint(c.variables.items()) for c in found):
                found.append(made)
    return found


def _class(cascade: Cascade, members: Sequence[int], start: str, ranks: Sequence[RankClass]) -> Independent | None:
    """The class that contains variable ``start`` of the first member, None where a dependence crosses it."""
    known = {members[0]: start}
    along = next((r.variables for r in ranks if r.variables.get(members[0]) == start), {})
    dims: dict[str, int] = {}
    written = {cascade.einsums[i].target for i in members}
    changed = True
    while changed:
        changed = False
        for i in members:
            einsum = cascade.einsums[i]
            if i not in known and (name := _aligned(einsum, dims)) is not None:
                known[i] = name
                changed = True
            if i in known:
                places = [(einsum.target, einsum.coords), *((r.tensor, r.indices) for r in einsum.reads())]
                for tensor, indices in places:
                    if tensor in written and tensor not in dims:
                        at = [d for d, index in enumerate(indices) if _is(index, known[i])]
                        if len(at) == 1:
                            dims[tensor] = at[0]
                            changed = True
        if not changed:
            sibling = next((i for i in members if i not in known and along.get(i) in cascade.einsums[i].output_ranks), None)
            if sibling is not None:
                known[sibling] = along[sibling]
                changed = True
    lets = {let.name: let.value for let in cascade.lets}
    if any(i not in known for i in members):
        return None
    read = {r.tensor for i in members for r in cascade.einsums[i].reads()}
    for i in members:
        # Nobody reads it: steps of chunks that are written one chunk after the other are enough.
        einsum = cascade.einsums[i]
        if einsum.target not in dims and (einsum.target in read or not _writes_chunks(einsum, known[i], lets)):
            return None
    extent = cascade.einsums[members[0]].extent(start)
    for i in members:
        einsum = cascade.einsums[i]
        if known[i] in einsum.reduced or not equal(einsum.extent(known[i]), extent, lets):
            return None
        if einsum.target in dims and not _is(einsum.coords[dims[einsum.target]], known[i]):
            return None
        if any(r.tensor in dims and not _is(r.indices[dims[r.tensor]], known[i]) for r in einsum.reads()):
            return None
    return Independent(variables=known, dims=dims, extent=extent)


def _aligned(einsum: Einsum, dims: Mapping[str, int]) -> str | None:
    """The variable of an Einsum that the known dimensions of its target or of its reads fix."""
    if einsum.target in dims:
        coord = einsum.coords[dims[einsum.target]]
        return coord.name if isinstance(coord, Rank) else None
    for read in einsum.reads():
        if read.tensor in dims:
            index = read.indices[dims[read.tensor]]
            return index.name if isinstance(index, Rank) else None
    return None


def _writes_chunks(einsum: Einsum, name: str, lets: Mapping[str, Expr]) -> bool:
    """Whether an Einsum writes at ``name * C + step``, step < C."""
    pairs = [split_index(coord, einsum, lets) for coord in einsum.coords]
    return any(pair is not None and name in pair for pair in pairs)


def _is(index: Expr, name: str) -> bool:
    return isinstance(index, Rank) and index.name == name

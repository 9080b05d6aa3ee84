"""Ranks of a sequential loop that no dependence crosses: they may go around the loop, over threads.

A class of rank variables, one for each Einsum of the loop, is independent when every Einsum writes its target at the
variable itself, and every read of a tensor of the loop uses the reader's variable at the dimension that the
writer's variable writes (Allen and Kennedy, "Optimizing Compilers for Modern Architectures", chapter 6).
"""

from __future__ import annotations

from ..ir.cascade import Cascade
from ..ir.dependence import Loop, einsums_of
from ..ir.expr import Rank
from ..ir.index import equal


def independent_ranks(cascade: Cascade, loop: Loop) -> list[dict[int, str]]:
    """The independent classes (Einsum index → rank variable), in the order of the first Einsum's coordinates."""
    members = einsums_of(loop)
    first = cascade.einsums[members[0]]
    if any(cascade.einsums[i].scatter for i in members):
        return []
    found = []
    for coord in first.coords:
        if isinstance(coord, Rank) and coord.name not in loop.variables.values():
            made = _class(cascade, members, coord.name)
            if made is not None and not any(made[i] == loop.variables.get(i) for i in members):
                found.append(made)
    return found


def _class(cascade: Cascade, members: tuple[int, ...], start: str) -> dict[int, str] | None:
    """The class that contains variable ``start`` of the first member, None where a dependence crosses it."""
    known = {members[0]: start}
    dims: dict[str, int] = {}
    changed = True
    while changed:
        changed = False
        for i in members:
            einsum = cascade.einsums[i]
            if i in known and einsum.target not in dims:
                places = [d for d, c in enumerate(einsum.coords) if c == Rank(name=known[i], dtype=c.dtype)]
                if len(places) != 1:
                    return None
                dims[einsum.target] = places[0]
                changed = True
            if i not in known:
                name = _aligned(cascade, i, dims)
                if name is not None:
                    known[i] = name
                    changed = True
    lets = {let.name: let.value for let in cascade.lets}
    extent = first_extent = cascade.einsums[members[0]].extent(start)
    for i in members:
        if i not in known:
            return None
        einsum = cascade.einsums[i]
        extent = einsum.extent(known[i])
        dim = dims.get(einsum.target)
        if dim is None or not equal(extent, first_extent, lets):
            return None
        if einsum.coords[dim] != Rank(name=known[i], dtype=einsum.coords[dim].dtype) or known[i] in einsum.reduced:
            return None
        for read in einsum.reads():
            if read.tensor in dims and read.indices[dims[read.tensor]] != Rank(
                name=known[i], dtype=read.indices[dims[read.tensor]].dtype
            ):
                return None
    return known


def _aligned(cascade: Cascade, member: int, dims: dict[str, int]) -> str | None:
    """The variable of an Einsum that the known dimensions of its target or of its reads fix."""
    einsum = cascade.einsums[member]
    if einsum.target in dims:
        coord = einsum.coords[dims[einsum.target]]
        return coord.name if isinstance(coord, Rank) else None
    for read in einsum.reads():
        if read.tensor in dims:
            index = read.indices[dims[read.tensor]]
            return index.name if isinstance(index, Rank) else None
    return None

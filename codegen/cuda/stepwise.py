"""Loops of the host whose steps each thread can take by itself: a recurrence of which no point needs another one's state.

One launch in the place of one for each step: a thread has a point of the Computes' common ranks and goes through all steps of
the loop with it.
"""

from __future__ import annotations

from ...ir.expr import Expr, Rank, ranks_of
from ...ir.tile import Compute, Loop

THREADS = 64
"""Threads of a block: their points are few, and all multiprocessors are to have some."""


def points_of_steps(loop: Loop) -> tuple[str, ...] | None:
    """The ranks whose points go through ``loop`` each by itself; None where its steps need more than one thread.

    Every element that the loop writes belongs to one point: the target's dimensions name all ranks, and whoever reads what the
    loop writes reads it at the ranks themselves.
    """
    computes = [node for node in loop.body if isinstance(node, Compute)]
    if loop.parallel or loop.buffers or len(computes) < len(loop.body) or not computes:
        return None
    ranks, own = computes[0].ranks, {loop.variable, *(r.name for r in loop.inner)}
    if not ranks or any(own & set(ranks_of(r.extent)) or set(ranks_of(r.extent)) & {q.name for q in ranks} for r in ranks):
        return None
    names = {r.name for r in ranks}
    if any(c.ranks != ranks or c.reduction is not None or c.product is not None or c.scatter or c.along for c in computes):
        return None
    places: dict[str, dict[int, Expr]] = {}
    for compute in computes:
        found = _places(compute.indices, names)
        if found is None or len(found) < len(names) or places.setdefault(compute.target, found) != found:
            return None
    for compute in computes:
        for read in compute.reads():
            if read.tensor in places and _places(read.indices, names) != places[read.tensor]:
                return None
    return tuple(r.name for r in ranks)


def _places(indices: tuple[Expr, ...], names: set[str]) -> dict[int, Expr] | None:
    """The dimensions that ranks index, each by itself; None where they are used in any other way."""
    found: dict[int, Expr] = {}
    for d, index in enumerate(indices):
        if isinstance(index, Rank) and index.name in names and index not in found.values():
            found[d] = index
        elif names & set(ranks_of(index)):
            return None
    return found

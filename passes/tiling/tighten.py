"""Turns conditions on one rank into its extent: ``Σ over m0 where m1*M0 + m0 < M`` runs to ``min(M0, M - m1*M0)``.

Identity: a filter ``r + c < B`` (c without ranks of the Einsum) keeps exactly the points r < B - c. Guarantees: the same
points are reduced; what remains of the filter is returned.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.cascade import RankExtent
from ...ir.expr import Const, Expr, Select, conjuncts, integer, op, transform
from ...ir.tile import Compute
from ...ir.types import BOOL
from ..analysis.comparisons import bound
from ..analysis.presence import TRUE, conjunction


def tighten(compute: Compute, *, outputs: bool) -> Compute:
    """``compute`` with conditions that bound a rank from above made part of its extent.

    Filters bound reduced ranks. With ``outputs`` (the target is a tile of our own, whose absent points nobody looks at)
    the condition on output points bounds output ranks as well. Guards of reads that the new extents prove are dropped.
    """
    extents = {r.name: r.extent for r in compute.ranks}
    proven: set[Expr] = set()

    def take(condition: Expr | None, candidates: set[str]) -> None:
        for part in conjuncts(condition):
            found = _bound(part, candidates, set(extents))
            if found is not None and part not in proven:
                name, limit = found
                extents[name] = op("min", extents[name], op("max", limit, integer(0)))
                proven.add(part)

    take(compute.filter, set(compute.reduced))
    if outputs and not compute.scatter:
        take(compute.condition, set(compute.output_ranks))
    if not compute.scatter:
        take(compute.within, set(compute.output_ranks))
    if not proven:
        return compute

    def without(condition: Expr | None) -> Expr | None:
        left = conjunction([c for c in conjuncts(condition) if c not in proven])
        return None if left == TRUE else left

    def unguarded(node: Expr) -> Expr | None:
        if isinstance(node, Select) and all(c in proven for c in conjuncts(node.condition)):
            return node.then
        return None

    return replace(
        compute,
        value=transform(compute.value, unguarded),
        filter=without(compute.filter),
        condition=without(compute.condition),
        within=without(compute.within),
        ranks=tuple(RankExtent(name=r.name, extent=extents[r.name]) for r in compute.ranks),
    )


def at_least_one(extent: Expr) -> Expr:
    """The condition that a rank of this extent has a point, literally true or false where that is known."""
    return Const(value=extent.value > 0, dtype=BOOL) if isinstance(extent, Const) else op("gt", extent, integer(0))


def is_bound(condition: Expr, ranks: set[str]) -> bool:
    """Whether a condition is no more than a limit to one of ``ranks``."""
    return _bound(condition, ranks, ranks) is not None


def _bound(condition: Expr, candidates: set[str], ranks: set[str]) -> tuple[str, Expr] | None:
    """(r, limit) where ``condition`` says ``r < limit`` and the limit mentions no rank of the Einsum."""
    found = bound(condition, ranks)
    return None if found is None or found.is_low or found.rank not in candidates else (found.rank, found.limit)

"""Which Einsums of a GPU go down columns: launches of all threads, which read whole lines of memory, do them best.

Requires a verified cascade; changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...ir.cascade import Cascade, Einsum
from ...ir.dependence import Step, Straight
from ...ir.expr import Expr, ranks_of
from . import contraction
from .independent import Independent
from .methods import lane_step


def go_down_columns(cascade: Cascade, steps: Sequence[Step], joined: Sequence[Independent], few: Collection[Expr]) -> bool:
    """Whether all that steps share is a rank whose points lie side by side, and they reduce over others, more than ``few``.

    What they hand on must be sums or results: other tensors of more ranks would go through memory between launches.
    """
    if len(joined) != 1 or not all(isinstance(step, Straight) for step in steps):
        return False
    members = [(step.einsum, cascade.einsums[step.einsum]) for step in steps if isinstance(step, Straight)]
    results = {tensor.name for tensor in cascade.results}
    sums = [(i, e) for i, e in members if e.reduction is not None]
    kept = all(len(e.ranks) == 1 or e.target in results for _, e in members if e.reduction is None)
    return kept and bool(sums) and all(_sums_a_column(cascade, e, joined[0].variables[i], few) for i, e in sums)


def _sums_a_column(cascade: Cascade, einsum: Einsum, column: str, few: Collection[Expr]) -> bool:
    """Whether an Einsum is a reduction of columns of parameters."""
    if contraction.product_of(einsum) is not None or any(einsum.extent(r) in few for r in einsum.reduced):
        return False
    given = {tensor.name for tensor in cascade.parameters}
    down = [read for read in einsum.reads() if any(set(ranks_of(i)) & set(einsum.reduced) for i in read.indices)]
    return bool(down) and all(r.tensor in given and lane_step(r.indices, column) == 1 for r in down)

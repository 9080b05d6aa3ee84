"""Chooses how each Compute is carried out: which rank fills the vector lanes, and which ranks are spread over threads.

The estimate is in element operations: a vector operation costs one for all its lanes, a read whose address jumps from
lane to lane costs one for each. Requires: explicit Computes. Guarantees: only knobs change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...ir.expr import Const, Expr, Op, Rank, Read, ranks_of, walk
from ...ir.index import affine_in
from ...ir.operators import FUNCTIONS, REDUCTIONS
from ...ir.tile import Compute, Method

LANES = 16
"""Elements of a vector in the estimate; code generation takes the target's own number."""

_FOLD_COST = 4.0
"""What folding the lanes of one accumulator costs, in vector operations, for each output point."""


def choose(compute: Compute) -> Compute:
    """``compute`` with the cheapest method, its vector rank and its parallel ranks."""
    best: tuple[float, float, Method, str | None] = (_scalar_cost(compute), 2, Method.SCALAR, None)
    outputs = compute.output_ranks
    for position, rank in enumerate(outputs):
        cost = _vector_cost(compute, rank, stores=True)
        if cost is not None and not (compute.scatter and _shares_nothing(compute, rank)):
            best = min(best, (cost, -position / 100, Method.LANES, rank), key=lambda x: x[:2])
    if compute.reduction is not None and not compute.scatter and not REDUCTIONS[compute.reduction].coordinate:
        for rank in compute.reduced:
            cost = _vector_cost(compute, rank, stores=False)
            if cost is not None:
                best = min(best, (cost + _fold_share(compute, rank), 1, Method.FOLD, rank), key=lambda x: x[:2])
    _, _, method, vector = best
    return replace(compute, method=method, vector=vector, parallel=_parallel(compute, method, vector))


def _parallel(compute: Compute, method: Method, vector: str | None) -> tuple[str, ...]:
    """All output ranks but the vector's; the innermost one of scalar loops stays in one task, a lone one does not."""
    outputs = compute.output_ranks
    if compute.scatter:
        return ()
    if method is Method.LANES:
        others = tuple(r for r in outputs if r != vector)
        return others or outputs
    if method is Method.SCALAR and len(outputs) > 1:
        return outputs[:-1]
    return outputs


def _effective_lanes(extent: Expr) -> float:
    if isinstance(extent, Const) and 0 < int(extent.value) < LANES:
        return float(extent.value)
    return float(LANES)


def _operations(compute: Compute) -> float:
    """Operations of one point, functions at their weight."""
    nodes = (n for e in _expressions(compute) for n in walk(e))
    return 1.0 + sum(FUNCTIONS[n.op].flops for n in nodes if isinstance(n, Op))


def _expressions(compute: Compute) -> Iterable[Expr]:
    yield compute.value
    yield from (inner.value for inner in compute.along)
    if compute.filter is not None:
        yield compute.filter
    if compute.condition is not None:
        yield compute.condition
    if compute.within is not None:
        yield compute.within


def _scalar_cost(compute: Compute) -> float:
    reads = sum(1 for e in _expressions(compute) for n in walk(e) if isinstance(n, Read))
    return _operations(compute) + reads + 1.0


def _vector_cost(compute: Compute, rank: str, *, stores: bool) -> float | None:
    """The cost of one point when ``rank`` fills the lanes; None where that is not possible."""
    lanes = _effective_lanes(compute.extent(rank))
    cost = _operations(compute) / lanes
    for expr in _expressions(compute):
        for node in walk(expr):
            if isinstance(node, Read):
                cost += _read_cost(node, rank, lanes)
    if stores:
        moved = lane_step(compute.indices, rank)
        share = 1.0 if moved != 1 else 1.0 / lanes
        cost += share if compute.reduction is None or compute.scatter else share / 8
        if compute.scatter and moved != 1:
            return None
    return cost


def _read_cost(read: Read, rank: str, lanes: float) -> float:
    if not any(rank in ranks_of(i) for i in read.indices):
        return 0.5 / lanes
    return 1.0 / lanes if lane_step(read.indices, rank) == 1 else 1.5


def lane_step(indices: tuple[Expr, ...], rank: str) -> int | None:
    """0 where ``rank`` does not occur, 1 where it moves the last (dense) dimension by one and no other, else None."""
    step = 0
    for position, i in enumerate(indices):
        if rank not in ranks_of(i):
            continue
        form = affine_in(i, (rank,))
        factor = None if form is None else form.coefficient(rank)
        if not (isinstance(factor, Const) and factor.value == 1 and position == len(indices) - 1):
            return None
        step = 1
    return step


def _fold_share(compute: Compute, rank: str) -> float:
    extent = compute.extent(rank)
    points = float(extent.value) if isinstance(extent, Const) and int(extent.value) > 0 else 256.0
    return _FOLD_COST / points


def _shares_nothing(compute: Compute, rank: str) -> bool:
    """Whether the target's place or the filter differ from lane to lane in a way that vectors cannot express."""
    data_dependent = any(rank in ranks_of(i) and not _is_direct(i, rank) for i in compute.indices) or rank not in {
        r for i in compute.indices for r in ranks_of(i)
    }
    return data_dependent or (compute.filter is not None and rank in ranks_of(compute.filter))


def _is_direct(index: Expr, rank: str) -> bool:
    return isinstance(index, Rank) and index.name == rank

"""Tiles of a merged loop in which a mask leaves no point need not be visited: causal attention stops at the diagonal.

A generation may be skipped when all its reductions are empty and the states then stay as they are. The second is proven by
putting each reduction's identity into the body and simplifying: max(x, -inf) = x, x·1 = x, x + 0 = x, and a correction
``if d == d' then 1 else …`` of an unchanged d is 1. (A NaN in d has made the states that it corrects NaN before.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce

from ...ir.cascade import Cascade
from ...ir.expr import Const, Expr, Op, Read, Select, conjuncts, integer, op, rank, ranks_of, reads_of, substitute, transform
from ...ir.index import affine, constant_value, non_negative
from ...ir.operators import REDUCTIONS
from ...ir.tile import Compute
from ..analysis.comparisons import comparison
from .grouping import MergedLoop, offset


def leaves_states(cascade: Cascade, merged: MergedLoop, empty: Collection[int]) -> bool:
    """Whether a generation in which the reductions ``empty`` (Einsums by index) have no point changes no state of a merged
    loop, whatever the others give."""
    known: dict[tuple[str, int], Expr] = {}
    places: dict[tuple[str, int], tuple[Expr, ...]] = {}

    def put(node: Expr) -> Expr | None:
        match node:
            case Read(tensor=tensor, indices=indices) if tensor in merged.dims:
                dim = merged.dims[tensor]
                key = tensor, offset(indices[dim])
                if key in places and places[key] != (*indices[:dim], *indices[dim + 1 :]):
                    return None
                return known.get(key)
            case Op() | Select():
                return _simplified(node)
            case _:
                return None

    written = [(cascade.einsums[i], merged.dims.get(cascade.einsums[i].target)) for i in merged.body]
    states = {e.target for e, dim in written if dim is not None and offset(e.coords[dim]) == 1}
    for i, (einsum, dim) in zip(merged.body, written, strict=True):
        if dim is None:
            return False
        generation = offset(einsum.coords[dim])
        before = Read(
            tensor=einsum.target,
            indices=tuple(rank(merged.variables[i]) if d == dim else c for d, c in enumerate(einsum.coords)),
            dtype=einsum.value.dtype,
        )
        if einsum.reduction is not None and i not in empty:
            if generation == 1:
                return False
            continue
        if einsum.reduction is not None:
            identity = REDUCTIONS[einsum.reduction].identity(einsum.accumulator)
            known[einsum.target, generation] = Const(value=identity, dtype=einsum.accumulator)
            continue
        value = transform(einsum.value, put)
        if generation == 1:
            if value != before:
                return False
            # The new generation is the old one: readers of it see the same tensor one step back.
            known[einsum.target, 1] = before
        elif all(r.tensor not in merged.dims or _is_before(r, merged, states) for r in reads_of(value)):
            known[einsum.target, generation] = value
            if reads_of(value):
                places[einsum.target, generation] = tuple(c for d, c in enumerate(einsum.coords) if d != dim)
    return True


def _is_before(read: Read, merged: MergedLoop, states: Collection[str]) -> bool:
    """Whether a read is of a state as the generation finds it."""
    return read.tensor in states and offset(read.indices[merged.dims[read.tensor]]) == 0


def _simplified(node: Expr) -> Expr | None:
    match node:
        case Op(op="max", args=(a, Const(value=value))) if value == node.dtype.minimum:
            return a
        case Op(op="max", args=(Const(value=value), a)) if value == node.dtype.minimum:
            return a
        case Op(op="min", args=(a, Const(value=value))) if value == node.dtype.maximum:
            return a
        case Op(op="add", args=(a, Const(value=value))) if value == 0:
            return a
        case Op(op="add", args=(Const(value=value), a)) if value == 0:
            return a
        case Op(op="mul", args=(a, Const(value=value))) if value == 1:
            return a
        case Op(op="mul", args=(Const(value=value), a)) if value == 1:
            return a
        case Select(condition=Op(op="eq", args=(a, b)), then=then) if a == b:
            return then
        case _:
            return None


def emptied(cascade: Cascade, merged: MergedLoop, placed: Mapping[int, Compute], variable: str) -> list[list[Compute]]:
    """Sets of reductions of a merged loop that a common mask leaves without points from some generation on, and each of which
    is enough for the states to stay as they are. ``placed`` are all its reductions, by Einsum.
    """
    by_condition: dict[Expr, list[int]] = {}
    for i, compute in placed.items():
        for condition in dict.fromkeys((*conjuncts(compute.filter), *conjuncts(compute.condition))):
            if _limit(condition, compute, variable) is not None:
                by_condition.setdefault(condition, []).append(i)
    sets = {tuple(found) for found in by_condition.values()}
    return [[placed[i] for i in found] for found in sorted(sets) if leaves_states(cascade, merged, found)]


def visited(sets: Sequence[Sequence[Compute]], variable: str) -> Expr | None:
    """How many generations of the loop over ``variable`` must be gone through, None where no mask tells. ``sets`` are of
    reductions as placed in it, each of which is enough (:func:`emptied`)."""
    found = [limit for computes in sets if (limit := _visited(computes, variable)) is not None]
    return reduce(lambda a, b: op("min", a, b), found) if found else None


def _visited(computes: Sequence[Compute], variable: str) -> Expr | None:
    """The same where a condition counts that all of ``computes`` share."""
    of_each = [dict.fromkeys((*conjuncts(c.filter), *conjuncts(c.condition))) for c in computes]
    shared = [c for c in of_each[0] if all(c in mine for mine in of_each)] if of_each else []
    limits = [limit for c in shared if (limit := _limit(c, computes[0], variable)) is not None]
    if not limits:
        return None
    least = limits[0]
    for limit in limits[1:]:
        least = op("min", least, limit)
    return op("max", least, integer(0))


def _limit(condition: Expr, compute: Compute, variable: str) -> Expr | None:
    """The generations below which ``condition`` (an upper bound on the loop's variable) can hold somewhere in a tile."""
    compared = comparison(condition, {variable, *(r.name for r in compute.ranks)})
    form = None if compared is None else affine(compared.difference)
    if compared is None or form is None or variable not in form.ranks:
        return None
    extents: Mapping[str, Expr] = {r.name: r.extent for r in compute.ranks}
    step = form.coefficient(variable)
    if not non_negative(step) or constant_value(step) == 0:
        return None
    rest = form.constant
    for name, coefficient in form.terms:
        if name == variable:
            continue
        if name not in extents:
            rest = op("add", rest, op("mul", coefficient, rank(name)))
        elif not non_negative(coefficient):
            if not non_negative(op("neg", coefficient)):
                return None
            last = op("sub", extents[name], integer(1))
            rest = op("add", rest, op("mul", coefficient, last))
    if set(ranks_of(rest)) & {variable, *extents}:
        return None
    # step · v + rest ≤ 0 (or < 0) for some point of the tile.
    top = op("neg", rest) if compared.inclusive else op("sub", op("neg", rest), integer(1))
    return substitute(op("add", op("floordiv", top, step), integer(1)), sizes=compared.held)

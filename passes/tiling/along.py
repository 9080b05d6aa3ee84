"""A state's update and the sum that reads it, in one walk over the state.

``S[e, f] = a[e] * S[e, f] + k[e] * v[f]`` followed by ``O[f] = Σ_e q[e] * S[e, f]`` visits every element of S twice; done
together, an element that was just computed is still in a register when it is added up.

A sum whose filter is the condition of what it adds up takes zeros instead: absent points change nothing.

Requires: Computes that run one after the other. Guarantees: every element is computed and stored as before, before it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ir.expr import Const, Expr, Op, Rank, Read, Select, rank, ranks_of, reads_of, real, substitute, transform
from ...ir.tile import Buffer, Compute, Fill, Node
from ..analysis.presence import TRUE, conjunction
from . import contraction
from .methods import choose
from .tighten import at_least_one


def along(nodes: list[Node], reader: Compute, buffers: Mapping[str, Buffer]) -> list[Node] | None:
    """``nodes`` and then ``reader``, with the update of what it reads done along it; None where there is no such update."""
    if reader.reduction is None or reader.scatter or reader.within is not None:
        return None
    for at in range(len(nodes) - 1, -1, -1):
        update = nodes[at]
        if not isinstance(update, Compute):
            return None
        if update.target in {r.tensor for r in reads_of(reader.value)}:
            made = _together(update, reader, buffers)
            if made is None or _touched(nodes[at + 1 :], update):
                return None
            last = [made] if reader.filter is not None else _scaled_last(made, buffers)
            return [*nodes[:at], *nodes[at + 1 :], *last]
    return None


def _scaled_last(reader: Compute, buffers: Mapping[str, Buffer]) -> list[Node]:
    """A sum whose factors that no reduced rank indexes are applied to it when it is finished: Σ x / c = (Σ x) / c.

    Not where the sum has no point: it is 0 then, and 0 / c need not be.
    """
    dtype = reader.accumulator
    parts = contraction.factors(reader.value, dtype) if reader.reduction == "+" and dtype.is_float else []
    outside = [(kind, f) for kind, f in parts if set(reader.reduced).isdisjoint(ranks_of(f))]
    inside = [part for part in parts if part not in outside]
    exact = all(f.dtype == dtype for _, f in parts) and buffers[reader.target].dtype == dtype
    if not exact or not outside or not inside or inside[0][0] != "mul":
        return [reader]
    value, scaled = inside[0][1], Read(tensor=reader.target, indices=reader.indices, dtype=dtype)
    for kind, factor in inside[1:]:
        value = Op(op=kind, args=(value, factor), dtype=dtype)
    result: Expr = scaled
    some = conjunction([at_least_one(reader.extent(r)) for r in reader.reduced])
    for kind, factor in outside:
        held = factor if some == TRUE else Select(condition=some, then=factor, otherwise=real(1.0, dtype), dtype=dtype)
        result = Op(op=kind, args=(result, held), dtype=dtype)
    finish = Compute(
        target=reader.target,
        indices=reader.indices,
        value=result,
        ranks=tuple(r for r in reader.ranks if r.name not in reader.reduced),
        condition=reader.condition,
        accumulator=dtype,
        origin=reader.origin,
    )
    return [replace(reader, value=value, condition=None), choose(finish)]


def _together(update: Compute, reader: Compute, buffers: Mapping[str, Buffer]) -> Compute | None:
    if update.reduction is not None or update.scatter or update.along or update.filter is not None or update.within is not None:
        return None
    if (update.condition is None) != (reader.filter is None):
        return None
    held, dtype = buffers[update.target].dtype, update.value.dtype
    reads = {r for r in reads_of(reader.value) if r.tensor == update.target}
    # A tile may be held in a narrower type than its tensor's, which need not round what others make of the value.
    if not dtype.is_float or dtype.bits < 32 or reader.target in _tensors(update):
        return None
    if dtype != held and not (held.is_float and held.bits < dtype.bits and all(r.dtype == dtype for r in reads)):
        return None
    if len(reads) != 1 or any(r.tensor == update.target and r.indices != update.indices for r in reads_of(update.value)):
        return None
    (read,) = reads
    names: dict[str, Expr] = {}
    for own, theirs in zip(update.indices, read.indices, strict=True):
        if not (isinstance(own, Rank) and isinstance(theirs, Rank)):
            return None
        names[own.name] = rank(theirs.name)
    if len({r.name for r in names.values() if isinstance(r, Rank)}) < len(names) or {*names} != {r.name for r in update.ranks}:
        return None
    extents = {r.name: r.extent for r in reader.ranks}
    moved = {n.name: update.extent(own) for own, n in names.items() if isinstance(n, Rank)}
    if {n: substitute(e, ranks=names) for n, e in moved.items()} != extents:
        return None
    value = substitute(update.value, ranks=names)
    if update.condition is not None:
        # A sum leaves out the points where its summand is absent: zeros, which change nothing.
        present = substitute(update.condition, ranks=names)
        if present != reader.filter or reader.reduction != "+" or reader.value != read or not dtype.is_float:
            return None
        value = Select(condition=present, then=value, otherwise=Const(value=0.0, dtype=dtype), dtype=dtype)
        reader = replace(reader, filter=None)
    inner = replace(
        update,
        indices=read.indices,
        value=value,
        condition=None,
        ranks=tuple(r for r in reader.ranks),
    )
    # The method is what suits both at once.
    probe = choose(replace(reader, value=transform(reader.value, lambda node: value if node == read else None)))
    return replace(reader, method=probe.method, vector=probe.vector, parallel=probe.parallel, along=(inner,))


def _tensors(compute: Compute) -> set[str]:
    return {r.tensor for e in (compute.value, *compute.indices) for r in reads_of(e)}


def _touched(between: list[Node], update: Compute) -> bool:
    """Whether what runs between an update and its reader reads the new state or writes what the update reads."""
    for node in between:
        match node:
            case Compute():
                if update.target in {node.target, *_all(node)} or node.target in _tensors(update):
                    return True
            case Fill(target=target):
                if target == update.target or target in _tensors(update):
                    return True
            case _:
                return True
    return False


def _all(compute: Compute) -> set[str]:
    parts = (compute.value, compute.filter, compute.condition, compute.within, *compute.indices)
    product = compute.product
    more = () if product is None else (product.left, product.right, product.epilogue)
    found = {r.tensor for e in (*parts, *more) if e is not None for r in reads_of(e)}
    return found.union(*(_all(inner) for inner in compute.along))

"""The order of a state's dimensions: last the one along which its readers keep their results.

``Y[t, d] = Σ_n S[t+1, d, n] * C[t, n]`` with n last folds a vector for every d; with d last the lanes of a vector are results,
and the sum over n adds whole vectors. Only tensors of the kernel's own change: the state, and values hoisted out of its update.

Requires: a cascade whose costly shared values are hoisted. Guarantees: the same values in another order of memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from ...ir.cascade import Cascade, Einsum, Role, Tensor
from ...ir.expr import Const, Expr, Rank, Read, ranks_of, reads_of, transform

_Item = TypeVar("_Item")

FEWEST = 16
"""Extent from which a rank fills vectors."""


def transposed(cascade: Cascade) -> Cascade:
    """``cascade`` with its states laid out along the results of the sums that read them."""
    for tensor in cascade.tensors:
        if tensor.role is Role.LOCAL and len(tensor.iterative_dims) == 1:
            moved = _moves(cascade, tensor)
            if moved:
                cascade = _permuted(cascade, moved)
    return cascade


def _moves(cascade: Cascade, state: Tensor) -> dict[str, int]:
    """By tensor, the dimension that goes last; nothing where the order stays."""
    readers = [e for e in cascade.readers(state.name) if e.target != state.name and e.reduction is not None]
    dims = {_result_dim(e, state.name) for e in readers}
    if len(dims) != 1 or (dim := dims.pop()) is None or dim == len(state.shape) - 1:
        return {}
    extent = state.shape[dim]
    if isinstance(extent, Const) and int(extent.value) < FEWEST:
        return {}
    found = {state.name: dim}
    for update in cascade.writers(state.name):
        at, last = update.coords[dim], update.coords[-1]
        if not (isinstance(at, Rank) and isinstance(last, Rank)):
            return {}
        for read in reads_of(update.value):
            if read.tensor == state.name or last.name not in ranks_of(read):
                continue
            if at.name not in ranks_of(read):
                continue
            own = cascade.by_name[read.tensor]
            made = all(e.origin.made_by == "hoist:value" for e in cascade.writers(read.tensor))
            places = [d for d, i in enumerate(read.indices) if i == at]
            if own.role is not Role.LOCAL or not made or len(places) != 1:
                return {}  # it lies the other way, and every step would gather it
            found[read.tensor] = places[0]
    return found


def _result_dim(reader: Einsum, state: str) -> int | None:
    """The dimension of a state that is a reader's last coordinate, where the reader reduces the state's last one."""
    last = reader.coords[-1] if reader.coords else None
    for read in reader.reads():
        if read.tensor == state and isinstance(read.indices[-1], Rank) and read.indices[-1].name in reader.reduced:
            places = [d for d, i in enumerate(read.indices) if i == last]
            return places[0] if len(places) == 1 and isinstance(last, Rank) else None
    return None


def _permuted(cascade: Cascade, moved: dict[str, int]) -> Cascade:
    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in moved:
            return replace(node, indices=_last(node.indices, moved[node.tensor]))
        return None

    def rewrite(einsum: Einsum) -> Einsum:
        coords = tuple(transform(c, rule) for c in einsum.coords)
        if einsum.target in moved:
            coords = _last(coords, moved[einsum.target])
        extents = {r.name: r for r in einsum.ranks}
        output = dict.fromkeys(n for c in coords for n in ranks_of(c) if n not in einsum.reduced)
        names = [*output, *(r.name for r in einsum.ranks if r.name not in output)]
        return replace(
            einsum,
            coords=coords,
            ranks=tuple(extents[n] for n in names),
            value=transform(einsum.value, rule),
            point_filter=tuple(transform(c, rule) for c in einsum.point_filter),
            output_filter=tuple(transform(c, rule) for c in einsum.output_filter),
        )

    tensors = tuple(
        replace(t, shape=_last(t.shape, moved[t.name]), steps=_last(t.steps, moved[t.name]) if t.steps else ())
        if t.name in moved
        else t
        for t in cascade.tensors
    )
    return replace(cascade, tensors=tensors, einsums=tuple(rewrite(e) for e in cascade.einsums))


def _last(items: tuple[_Item, ...], dim: int) -> tuple[_Item, ...]:
    """``items`` with one of them moved to the end."""
    return (*items[:dim], *items[dim + 1 :], items[dim])

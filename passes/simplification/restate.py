"""An Einsum with other expressions in its place, kept only where the language can still state it.

A rank variable takes its extent from the dimensions that it indexes directly (design page 1, section 1). A rewrite that
loses such a read must leave another, or a target that is declared: else the printed program would say something else,
or nothing. Guarantees: what is returned is in canonical form, prints, and parses back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, RankExtent, Role, Tensor
from ...ir.expr import Const, Expr, Op, Rank, Read, ranks_of, reads_of
from ...ir.index import affine
from .folding import stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Restated:
    """The new Einsum, and its target where that must now state its shape."""

    einsum: Einsum
    target: Tensor


def restate(
    cascade: Cascade, old: Einsum, *, value: Expr, point_filter: tuple[Expr, ...], output_filter: tuple[Expr, ...]
) -> Restated | None:
    """``old`` with these expressions; None where that cannot be written, or a filter would change its kind."""
    reduced = set(old.reduced)
    if any(not reduced & set(ranks_of(c)) for c in point_filter):
        return None
    if any(isinstance(c, Op) and c.op == "and" for c in (*point_filter, *output_filter)):
        return None
    if old.reduction is not None and isinstance(value, Const) and not isinstance(old.value, Const):
        return None  # a bare literal would be summed in a type of its own
    inside = (r for c in old.coords for r in reads_of(c))
    right = dict.fromkeys(n for e in (value, *output_filter, *point_filter, *inside) for n in ranks_of(e))
    order = tuple(n for n in right if n in reduced)
    extents = {r.name: r.extent for r in old.ranks}
    if old.scatter:
        order += tuple(n for n in old.reduced if n not in order and any(n in ranks_of(c) for c in old.coords))
    if set(order) != reduced:
        return None
    output = [r for r in old.ranks if r.name not in reduced]
    new = replace(
        old,
        value=value,
        point_filter=point_filter,
        output_filter=output_filter,
        reduced=order,
        ranks=(*output, *(RankExtent(name=n, extent=extents[n]) for n in order)),
    )
    return bound(cascade, old, new)


def bound(cascade: Cascade, old: Einsum, new: Einsum) -> Restated | None:
    """``new`` where all of its ranks still take the extents that they have in it; None where one does not."""
    target = cascade.by_name[new.target]
    before, after = (dict(_binders(cascade, e)) for e in (old, new))
    free: list[str] = []
    for r in new.ranks:
        found = after.get(r.name)
        if found is None:
            free.append(r.name)
        elif found != r.extent and before.get(r.name) != found:
            return None
    if not free or (target.role is Role.RESULT and _binds_left(target, new, free)):
        return Restated(einsum=new, target=target)
    if not any(n in before for n in free):
        return Restated(einsum=new, target=target)  # the target's shape bound them already
    if target.role is not Role.LOCAL or not _binds_left(target, new, free):
        return None
    return _declaring(target, new)


def _declaring(target: Tensor, new: Einsum) -> Restated | None:
    """The target with its shape stated, which states its type too: that may force no rounding that was not there."""
    if target.declared:
        return Restated(einsum=new, target=target)
    dtype = target.value
    if dtype.is_float and dtype.bits < 32 and not (isinstance(new.value, Const) and stored(new.value, dtype)):
        return None
    return Restated(einsum=new, target=replace(target, declared=True, annotated=True))


def _binds_left(target: Tensor, einsum: Einsum, names: list[str]) -> bool:
    """Whether ranks index dimensions of the target that are as long as they are."""
    if target.iterative_dims:
        return False
    extents = {r.name: r.extent for r in einsum.ranks}
    own = {c.name for c, n in zip(einsum.coords, target.shape, strict=True) if isinstance(c, Rank) and extents[c.name] == n}
    return own.issuperset(names)


def _binders(cascade: Cascade, einsum: Einsum) -> Mapping[str, Expr]:
    """The extent that each rank takes from the first read that it indexes directly."""
    found: dict[str, Expr] = {}
    for name, extent in _direct(cascade, einsum):
        found.setdefault(name, extent)
    return found


def _direct(cascade: Cascade, einsum: Einsum) -> Iterator[tuple[str, Expr]]:
    for expr in (einsum.value, *einsum.output_filter, *einsum.point_filter, *einsum.coords):
        for read in reads_of(expr):
            yield from _bound_by(cascade.by_name[read.tensor], read)


def _bound_by(tensor: Tensor, read: Read) -> Iterator[tuple[str, Expr]]:
    for d, (index, extent) in enumerate(zip(read.indices, tensor.shape, strict=True)):
        steps = tensor.steps[d] if tensor.steps else None
        if steps is None:
            if isinstance(index, Rank):
                yield index.name, extent
        elif (form := affine(index)) is not None and form.shifted_rank is not None:
            yield form.shifted_rank[0], steps

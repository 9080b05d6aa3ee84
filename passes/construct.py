"""Builds Einsums and cascades in the canonical form that the front end gives them.

Guarantees: what these functions make prints and parses back to an equal cascade, so that a derived program can be read,
kept and compiled by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from ..ir.cascade import Cascade, Einsum, Let, Origin, RankExtent, Role, Tensor
from ..ir.expr import Cast, Const, Expr, Op, Read, children, ranks_of, transform, with_children
from ..ir.operators import REDUCTIONS
from ..ir.types import BOOL, F32, DType, accumulator


def einsum(
    *,
    target: str,
    coords: tuple[Expr, ...],
    value: Expr,
    extents: Mapping[str, Expr],
    origin: Origin,
    reduction: str | None = None,
    where: Iterable[Expr] = (),
    initialiser: bool = False,
) -> Einsum:
    """An Einsum whose ranks, filters and accumulator follow from its expressions; ``extents`` gives those of its ranks.

    Ranks on the right that ``coords`` lack are reduced; ``reduction`` names the operator and is ignored where there are none.
    """
    conditions = tuple(dict.fromkeys(where))
    output = list(dict.fromkeys(name for c in coords for name in ranks_of(c)))
    right = dict.fromkeys(name for e in (value, *conditions) for name in ranks_of(e))
    reduced = tuple(name for name in right if name not in output)
    gone = set(reduced)
    name = (reduction or "+") if reduced else None
    return Einsum(
        target=target,
        coords=coords,
        value=value,
        ranks=tuple(RankExtent(name=n, extent=extents[n]) for n in (*output, *reduced)),
        reduction=name,
        reduced=reduced,
        point_filter=tuple(c for c in conditions if gone & set(ranks_of(c))),
        output_filter=tuple(c for c in conditions if not gone & set(ranks_of(c))),
        accumulator=accumulator(value.dtype) if name in ("+", "*") else value.dtype,
        initialiser=initialiser,
        origin=origin,
    )


def result_type(reduction: str | None, dtype: DType) -> DType:
    """The type of an unannotated tensor that an Einsum with a value of ``dtype`` writes."""
    if reduction is None:
        return dtype
    if reduction in ("+", "*") and not dtype.is_float:
        return accumulator(dtype)
    return REDUCTIONS[reduction].result_type(dtype)


def local(name: str, dtype: DType, shape: tuple[Expr, ...], origin: Origin, *, declared: bool = False) -> Tensor:
    """A tensor of the kernel's own; ``declared`` where the ranks that write it take their extents from its shape."""
    return Tensor(name=name, dtype=dtype, shape=shape, role=Role.LOCAL, annotated=declared, declared=declared, origin=origin)


def rewritten(
    cascade: Cascade, einsums: tuple[Einsum, ...], tensors: Mapping[str, Tensor], lets: tuple[Let, ...] = ()
) -> Cascade:
    """``cascade`` with other Einsums, without those that no result needs. ``tensors`` adds or replaces tensors by name."""
    known = {**cascade.by_name, **tensors}
    kept = _live(einsums, {t.name for t in cascade.results})
    declared = tuple(known[t.name] for t in cascade.tensors if t.role is not Role.LOCAL)
    written = dict.fromkeys(e.target for e in kept if known[e.target].role is Role.LOCAL)
    return replace(cascade, einsums=kept, tensors=(*declared, *(known[n] for n in written)), lets=(*cascade.lets, *lets))


def _live(einsums: tuple[Einsum, ...], roots: set[str]) -> tuple[Einsum, ...]:
    needed = set(roots)
    while True:
        more = {r.tensor for e in einsums if e.target in needed for r in e.reads()} - needed
        if not more:
            return tuple(e for e in einsums if e.target in needed)
        needed |= more


Targets = Mapping[str, tuple[str, tuple[Expr, ...], DType]]
"""Where reads of a tensor go: another tensor, its leading indices, its type."""


def redirect(expr: Expr, targets: Targets) -> Expr:
    """``expr`` with reads of some tensors sent to others, and converted where these have another type."""
    return transform(expr, _redirecting(targets))


def _redirecting(targets: Targets) -> Callable[[Expr], Expr | None]:
    def rule(node: Expr) -> Expr | None:
        match node:
            case Read(tensor=name, indices=indices) if name in targets:
                other, leading, dtype = targets[name]
                return typed(Read(tensor=other, indices=(*leading, *indices), dtype=dtype), node.dtype)
            case _:
                return None

    return rule


def redirect_einsum(einsum: Einsum, targets: Targets) -> Einsum:
    """An Einsum all of whose reads are redirected."""
    return transform_einsum(einsum, _redirecting(targets), reading=targets)


def transform_einsum(einsum: Einsum, rule: Callable[[Expr], Expr | None], *, reading: Collection[str]) -> Einsum:
    """An Einsum with ``rule`` applied to everything that it evaluates, if it reads one of some tensors."""
    if not any(r.tensor in reading for r in einsum.reads()):
        return einsum
    return replace(
        einsum,
        value=transform(einsum.value, rule),
        coords=tuple(transform(c, rule) for c in einsum.coords),
        point_filter=tuple(transform(c, rule) for c in einsum.point_filter),
        output_filter=tuple(transform(c, rule) for c in einsum.output_filter),
    )


def is_small(dtype: DType) -> bool:
    """Whether values of a type are computed in f32 where nothing forces their rounding."""
    return dtype.is_float and dtype.bits < 32


def widened(expr: Expr) -> Expr:
    """``expr`` with small floats computed in f32; conversions that the program writes keep their rounding."""
    match expr:
        case Const(value=value) if is_small(expr.dtype):
            return Const(value=value, dtype=F32)
        case Read() if is_small(expr.dtype):
            return Cast(value=expr, dtype=F32)
        case Read():
            return expr
        case Cast(value=value) if is_small(expr.dtype):
            return Cast(value=replace(expr, value=widened(value)), dtype=F32)
        case Cast(value=value) if is_small(value.dtype):
            return typed(widened(value), expr.dtype)
        case _:
            new = with_children(expr, tuple(widened(c) for c in children(expr)))
            return replace(new, dtype=F32) if is_small(expr.dtype) else new


def typed(expr: Expr, dtype: DType) -> Expr:
    """``expr`` converted to ``dtype`` where it has another type; literals are rewritten instead."""
    match expr:
        case _ if expr.dtype == dtype:
            return expr
        case Const(value=value) if dtype.is_float and not isinstance(value, bool):
            return Const(value=float(value), dtype=dtype)
        case _:
            return Cast(value=expr, dtype=dtype)


def product(parts: Iterable[tuple[Expr, int]], dtype: DType) -> Expr | None:
    """The product of factors with exponents +1 or -1 in ``dtype``; None for the empty product."""
    result: Expr | None = None
    for factor, exponent in sorted(parts, key=lambda part: -part[1]):
        each = typed(factor, dtype)
        if result is None:
            result = each if exponent > 0 else Op(op="div", args=(Const(value=1.0, dtype=dtype), each), dtype=dtype)
        else:
            result = Op(op="mul" if exponent > 0 else "div", args=(result, each), dtype=dtype)
    return result


def both(a: Expr, b: Expr) -> Expr:
    return Op(op="and", args=(a, b), dtype=BOOL)

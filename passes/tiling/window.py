"""Recognises convolutions: sums over a window of one tensor that moves with the output, weighed by another.

Identity: with k = (c, r, s) and n = (p, q), O[o, p, q] = Σ_k W[o, k] · B[k, n], where B[k, n] = I[c, p + r - 1, q + s - 1] or 0
outside of I: the matrix product over im2col's view (Chellapilla et al., 2006), whose B is only made block by block, where it
is packed (Chetlur et al., cuDNN, arXiv 1410.0759, section 3). An absent product is skipped, not 0 · w: that differs where w is
not finite, which whoever emits the product must notice. Requires: an explicit Compute. Guarantees: only knobs change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from ...ir.expr import Const, Expr, Op, Rank, Read, Select, conjuncts, ranks_of, reads_of
from ...ir.index import affine_in
from ...ir.microkernels import FMA, choose
from ...ir.target import Target
from ...ir.tile import Buffer, Compute, Method, Scope, Window
from ...ir.types import BF16, F16, F32, I32, DType
from .contraction import factors

_MOST_TAPS = 256
"""Points of a window up to which a block of the depth holds them all for some channels."""

_FLOATS = (F32, BF16, F16)
"""What is widened where it is packed, and rounded where a finished sum is stored."""


def as_window(compute: Compute, buffers: Mapping[str, Buffer], target: Target) -> Compute | None:
    """``compute`` as a convolution on a micro-kernel of ``target`` for matrix products: of floats that are added up in f32, or
    of bytes in i32; None where it is none."""
    if compute.reduction != "+" or compute.scatter or compute.within is not None or compute.condition is not None:
        return None
    result, total = buffers[compute.target], compute.accumulator
    if total not in (F32, I32) or result.dtype not in (_FLOATS if total == F32 else (I32,)) or result.scope is Scope.TILE:
        return None
    names = [i.name for i in compute.indices if isinstance(i, Rank)]
    if len(names) != len(compute.indices) or set(names) != set(compute.output_ranks):
        return None
    reads = [_read(factor) if kind == "mul" else None for kind, factor in factors(compute.value, compute.accumulator)]
    if len(reads) != 2:
        return None
    for weights, image in (reads, reversed(reads)):
        if weights is None or image is None or not (weights.indices and image.indices):
            return None
        weights, image = (replace(read, dtype=buffers[read.tensor].dtype) for read in (weights, image))  # as they are stored
        found = _window(compute, names, weights, image, buffers[image.tensor].shape)
        kernel = _kernel(weights.dtype, image.dtype, total, target)
        if found is not None and kernel is not None:
            return replace(compute, window=replace(found, kernel=kernel), method=Method.WINDOW)
    return None


def _kernel(weights: DType, image: DType, total: DType, target: Target) -> str | None:
    """The micro-kernel for elements of these types; None where there is none."""
    found = choose(target, weights, image, total)
    if found is not None:
        return found.name
    return FMA if total == F32 and weights in _FLOATS and image in _FLOATS else None


def _read(factor: Expr) -> Read | None:
    """The tensor that a factor reads, perhaps within its bounds only."""
    match factor:
        case Select(then=Read() as read, otherwise=Const(value=0)):
            pass
        case Read() as read:
            pass
        case _:
            return None
    return None if any(reads_of(i) for i in read.indices) else read


def _window(compute: Compute, target: list[str], weights: Read, image: Read, extents: tuple[Expr, ...]) -> Window | None:
    inside, reduced = set(ranks_of(image)), list(compute.reduced)
    weighed = [i.name for i in weights.indices if isinstance(i, Rank)]
    if len(weighed) != len(weights.indices) or len(set(weighed)) != len(weighed):
        return None
    if len(reduced) >= len(weighed) or set(weighed[-len(reduced) :]) != set(reduced) or not set(reduced) <= inside:
        return None
    rows, depth = weighed[-len(reduced) - 1], weighed[-len(reduced) :]
    columns: list[str] = []
    while target and target[-1] in inside and target[-1] not in weighed:
        columns.insert(0, target[-1])
        target = target[:-1]
    if rows in inside or rows not in target or not columns:
        return None
    # A rank that the image has a dimension for is a channel; every other one moves with the columns.
    channel = depth[0] if [i for i in image.indices if depth[0] in ranks_of(i)] == [_rank(image, depth[0])] else None
    taps = depth if channel is None else depth[1:]
    moving = {*columns, *taps}
    dimensions = {i: e for i, e in zip(image.indices, extents, strict=True) if moving & set(ranks_of(i))}
    if not taps or not any({*columns} & set(ranks_of(i)) and {*taps} & set(ranks_of(i)) for i in dimensions):
        return None
    sides = [e for t in taps if isinstance(e := compute.extent(t), Const)]
    if len(sides) < len(taps) or prod(int(e.value) for e in sides) > _MOST_TAPS:
        return None
    if any(not _moves(i, moving) for i in dimensions) or any(not _bounds(c, dimensions) for c in conjuncts(compute.filter)):
        return None
    return Window(
        rows=rows,
        columns=tuple(columns),
        channel=channel,
        taps=tuple(taps),
        weights=weights,
        image=image,
        otherwise=compute.method,
    )


def _rank(image: Read, name: str) -> Expr | None:
    """The index that is this rank and nothing else."""
    return next((i for i in image.indices if isinstance(i, Rank) and i.name == name), None)


def _moves(index: Expr, moving: set[str]) -> bool:
    """Whether an index is a constant combination of the ranks that move."""
    form = affine_in(index, moving)
    return form is not None and all(r in moving and isinstance(c, Const) for r, c in form.terms)


def _bounds(condition: Expr, dimensions: Mapping[Expr, Expr]) -> bool:
    """Whether a condition only keeps one of the moving indices inside its dimension of the image."""
    match condition:
        case Op(op="ge", args=(a, Const(value=0))):
            return a in dimensions
        case Op(op="lt", args=(a, extent)):
            return dimensions.get(a) == extent
        case _:
            return False

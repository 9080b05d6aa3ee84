"""Recognises convolutions as implicit matrix products, for thread blocks of a GPU.

Identity: O[n, k, p, q] = Σ_{c,r,s} I[n, c, p + r - 1, q + s - 1] · W[k, c, r, s] is, at each tap (r, s), a product over the
channels c whose one side is joined from n, p and q and whose other is k; an element outside of I is 0 (Chetlur et al., cuDNN,
arXiv 1410.0759, section 3). Nothing is made of the image. An absent product is skipped, not 0 · w: where w is not finite that
differs, which code generation notices. Requires: an explicit Compute outside of parallel loops. Guarantees: operands are reads,
or 0 where a condition without the channel does not hold, and all conditions are the operands'.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ...ir.expr import Const, Expr, Rank, Read, Select, conjuncts, ranks_of, reads_of
from ...ir.index import constant_value
from ...ir.microkernels import FMA, choose
from ...ir.target import Target
from ...ir.tile import Buffer, Compute, Joined, MatrixProduct, Method, Scope
from ...ir.types import I32
from ..analysis.presence import TRUE, conjunction, zero_of
from .contraction import factors

FEWEST_CHANNELS, FEWEST_LINES = 8, 16
"""Channels, and rows and columns, below which most of a tile would be multiplied in vain: each point by itself is faster."""

_WIDE = ("f32", "f64")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factor:
    """An operand: what is read, and the conditions outside which it is 0."""

    read: Read
    guards: tuple[Expr, ...]

    @property
    def ranks(self) -> set[str]:
        return {*ranks_of(self.read), *(r for g in self.guards for r in ranks_of(g))}

    def expr(self, buffers: Mapping[str, Buffer]) -> Expr:
        """As it is stored."""
        dtype = buffers[self.read.tensor].dtype
        read = replace(self.read, dtype=dtype)
        guard = conjunction(list(self.guards))
        return read if guard == TRUE else Select(condition=guard, then=read, otherwise=zero_of(dtype), dtype=dtype)


def implicit(compute: Compute, buffers: Mapping[str, Buffer], target: Target, tolerance: float | None) -> Compute | None:
    """``compute`` as an implicit product on the best micro-kernel of ``target``, a GPU; None where it is none, or has too few
    channels or points."""
    if target.gpu is None or compute.reduction != "+" or compute.scatter or compute.along or len(compute.reduced) < 2:
        return None
    if compute.within is not None or compute.condition is not None or buffers[compute.target].scope is Scope.TILE:
        return None
    ranks = {r.name for r in compute.ranks}
    if any(ranks & set(ranks_of(r.extent)) or any(True for _ in reads_of(r.extent)) for r in compute.ranks):
        return None
    names = [i.name for i in compute.indices if isinstance(i, Rank)]
    if len(names) != len(compute.indices) or len(set(names)) != len(names) or set(names) != set(compute.output_ranks):
        return None
    pair = _factors(compute, buffers)
    if pair is None or not any(_mixes(i, names, compute.reduced) for factor in pair for i in factor.read.indices):
        return None
    channel = _channel(compute, pair)
    if channel is None:
        return None
    left, right = pair if names[-1] in pair[1].ranks else reversed(pair)
    rows, columns = (
        tuple(r for r in names if r in own.ranks and r not in other.ranks) for own, other in ((left, right), (right, left))
    )
    if not rows or not columns or columns[-1] != names[-1]:
        return None
    if _few(compute, (channel,), FEWEST_CHANNELS) or any(_few(compute, side, FEWEST_LINES) for side in (rows, columns)):
        return None
    a, b = left.expr(buffers), right.expr(buffers)
    kernel = choose(target, a.dtype, b.dtype, compute.accumulator, tolerance)
    if kernel is None and compute.accumulator.name not in _WIDE:
        return None
    taps = tuple(r for r in compute.reduced if r != channel)
    product = MatrixProduct(
        rows=rows[-1], columns=columns[-1], inner=channel, left=a, right=b, kernel=FMA if kernel is None else kernel.name,
        joined=Joined(rows=rows, columns=columns, taps=taps),
    )  # fmt: skip
    outer = tuple(r for r in names if r not in (*rows, *columns))
    return replace(compute, method=Method.CONTRACTION, vector=None, parallel=outer, product=product)


def _factors(compute: Compute, buffers: Mapping[str, Buffer]) -> tuple[_Factor, _Factor] | None:
    """The two operands, with the conditions of the sum; None where there are others."""
    found: list[_Factor] = []
    for kind, factor in factors(compute.value, compute.accumulator):
        one = _factor(factor) if kind == "mul" else None
        if one is None or one.read.tensor not in buffers or any(reads_of(e) for e in (*one.read.indices, *one.guards)):
            return None
        dtype = buffers[one.read.tensor].dtype
        if not (dtype.is_float or (compute.accumulator == I32 and dtype.bits == 8)):
            return None
        found.append(one)
    if len(found) != 2:
        return None
    for condition in conjuncts(compute.filter):
        owner = next((n for n, f in enumerate(found) if set(ranks_of(condition)) <= f.ranks), None)
        if owner is None or any(reads_of(condition)):
            return None
        if condition not in found[owner].guards:
            found[owner] = replace(found[owner], guards=(*found[owner].guards, condition))
    return found[0], found[1]


def _factor(factor: Expr) -> _Factor | None:
    match factor:
        case Select(condition=condition, then=Read() as read, otherwise=Const(value=0)):
            return _Factor(read=read, guards=tuple(conjuncts(condition)))
        case Read() as read:
            return _Factor(read=read, guards=())
        case _:
            return None


def _mixes(index: Expr, outputs: Collection[str], reduced: Collection[str]) -> bool:
    """Whether an index is of a window: of a point of the result and of a tap."""
    own = set(ranks_of(index))
    return bool(own & set(outputs)) and bool(own & set(reduced))


def _channel(compute: Compute, pair: tuple[_Factor, _Factor]) -> str | None:
    """The reduced rank that is one index of both operands, of no condition, and the longest; all reduced ones are of both."""
    if not all(set(compute.reduced) <= factor.ranks for factor in pair):
        return None

    def alone(factor: _Factor, name: str) -> bool:
        holding = [i for i in factor.read.indices if name in ranks_of(i)]
        return len(holding) == 1 and isinstance(holding[0], Rank) and not any(name in ranks_of(g) for g in factor.guards)

    found = [r for r in compute.reduced if all(alone(factor, r) for factor in pair)]
    return max(found, key=lambda r: _length(compute, (r,)), default=None)


def _length(compute: Compute, names: Collection[str]) -> float:
    """The points of some ranks, infinite where that is not known."""
    total = 1.0
    for name in names:
        extent = constant_value(compute.extent(name))
        total *= float("inf") if extent is None else max(extent, 1)
    return total


def _few(compute: Compute, names: Collection[str], fewest: int) -> bool:
    return _length(compute, names) < fewest

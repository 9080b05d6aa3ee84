"""Conditions that compare integers, as inequalities of indices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ...ir.expr import Cast, Const, Expr, Op, integer, op, rank, ranks_of, reads_of, size, substitute
from ...ir.index import affine_in, simplify
from ...ir.types import INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``difference < 0`` (``<= 0`` when ``inclusive``) of indices. ``held`` are the sizes in it that stand for data."""

    difference: Expr
    inclusive: bool
    held: Mapping[str, Expr]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What an inequality leaves to a rank: values from ``limit`` on (``is_low``), or those before it."""

    rank: str
    is_low: bool
    limit: Expr


def bound(condition: Expr, ranks: Collection[str]) -> Bound | None:
    """The bound that a comparison is of the only one of ``ranks`` in it; None where it is none, or multiplies the rank."""
    compared = comparison(condition, ranks)
    form = None if compared is None else affine_in(compared.difference, tuple(sorted(ranks)))
    if compared is None or form is None:
        return None
    mine = [name for name in form.ranks if name in ranks]
    factor = form.coefficient(mine[0]) if len(mine) == 1 else None
    if not (isinstance(factor, Const) and factor.value in (1, -1)):
        return None
    # ±r + rest < 0, or <= 0: r >= rest + 1, or r >= rest; r < -rest, or r < -rest + 1.
    rest = form.constant
    for other, coefficient in form.terms:
        if other != mine[0]:
            rest = op("add", rest, op("mul", coefficient, rank(other)))
    is_low = factor.value == -1
    if compared.inclusive != is_low:
        rest = op("add" if is_low else "sub", rest, integer(1))
    limit = simplify(rest if is_low else op("neg", rest))
    if not set(ranks_of(limit)).isdisjoint(ranks):
        return None
    return Bound(rank=mine[0], is_low=is_low, limit=substitute(limit, sizes=compared.held))


def comparison(condition: Expr, ranks: Collection[str]) -> Comparison | None:
    """A condition that compares two integers which are indices over ``ranks``, data that does not vary with them included;
    None for others."""
    match condition:
        case Op(op="lt" | "le" as name, args=(a, b)) if a.dtype.is_integer:
            smaller, larger = a, b
        case Op(op="gt" | "ge" as name, args=(a, b)) if a.dtype.is_integer:
            smaller, larger = b, a
        case _:
            return None
    held: dict[str, Expr] = {}
    smaller, larger = _indexed(smaller, ranks, held), _indexed(larger, ranks, held)
    if smaller.dtype != INDEX or larger.dtype != INDEX or reads_of(smaller) or reads_of(larger):
        return None
    return Comparison(difference=op("sub", smaller, larger), inclusive=name in ("le", "ge"), held=held)


def _indexed(side: Expr, ranks: Collection[str], held: dict[str, Expr]) -> Expr:
    """One side of a comparison of integers as an index: what is data, the same for all points of ``ranks``, is a size of
    ``held`` in it (``m < length[b]``). Not of type index where it is anything else.

    An index that was cast to the type of the data counts as itself: no rank has as many points as it would take to wrap.
    """
    match side:
        case Cast(value=value) if value.dtype == INDEX and side.dtype.bits >= 32:
            return _indexed(value, ranks, held)
        case Const(value=int(value)):
            return integer(value)
        case _ if not side.dtype.is_integer or not reads_of(side):
            return side
        case _ if set(ranks_of(side)).isdisjoint(ranks):
            name = f".data{len(held)}"
            held[name] = side if side.dtype == INDEX else Cast(value=side, dtype=INDEX)
            return size(name)
        case Op(op="add" | "sub" | "neg", args=args) if side.dtype == INDEX:
            return op(side.op, *(_indexed(a, ranks, held) for a in args))
        case _:
            return side

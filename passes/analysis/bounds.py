"""Bounds of index expressions over the ranges of their rank variables, and which reads they prove safe.

Requires: extents of all rank variables. Guarantees: an interval that is returned holds at every executed point (all
extents at least 1 there); a condition that is left out is provably true.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.expr import Expr, Op, Rank, Read, integer, op, walk
from ...ir.index import at_most, constant_value, non_negative, simplify

Interval = tuple[Expr | None, Expr | None]
Definitions = Mapping[str, Expr]
"""Sizes that lets define, by name."""


def interval(expr: Expr, extents: Mapping[str, Expr], lets: Definitions) -> Interval:
    """The least and the greatest value that an integer expression takes, over sizes; None where unknown."""
    match expr:
        case Rank(name=name):
            extent = extents.get(name)
            return (integer(0), None if extent is None else op("sub", extent, integer(1)))
        case Op(op="add", args=(a, b)):
            (low, high), (least, most) = interval(a, extents, lets), interval(b, extents, lets)
            return _apply("add", low, least), _apply("add", high, most)
        case Op(op="sub", args=(a, b)):
            (low, high), (least, most) = interval(a, extents, lets), interval(b, extents, lets)
            return _apply("sub", low, most), _apply("sub", high, least)
        case Op(op="mul", args=(a, b)):
            factor, other = (a, b) if not _varies(a) else (b, a)
            if _varies(factor) or not non_negative(factor, lets):
                return (None, None)
            low, high = interval(other, extents, lets)
            return _apply("mul", low, factor), _apply("mul", high, factor)
        case Op(op="mod", args=(_, divisor)) if not _varies(divisor) and _positive(divisor, lets):
            return (integer(0), op("sub", divisor, integer(1)))
        case Op(op="floordiv", args=(a, divisor)) if not _varies(divisor) and _positive(divisor, lets):
            low, high = interval(a, extents, lets)
            return _apply("floordiv", low, divisor), _apply("floordiv", high, divisor)
        case _ if not _varies(expr):
            return (expr, expr)
        case _:
            return (None, None)


def _apply(name: str, a: Expr | None, b: Expr | None) -> Expr | None:
    return None if a is None or b is None else op(name, a, b)


def _varies(expr: Expr) -> bool:
    return any(isinstance(node, Rank | Read) for node in walk(expr))


def _positive(expr: Expr, lets: Definitions) -> bool:
    value = constant_value(expr, lets)
    # A size that divides something is positive wherever a point exists: x // 0 is absent before it is read.
    return value > 0 if value is not None else non_negative(expr, lets)


def guard(index: Expr, extent: Expr, extents: Mapping[str, Expr], lets: Definitions) -> list[Expr]:
    """The conditions among ``0 <= index`` and ``index < extent`` that are not provably true."""
    low, high = interval(index, extents, lets)
    conditions: list[Expr] = []
    if low is None or not non_negative(low, lets):
        conditions.append(op("ge", index, integer(0)))
    if high is None or not _reaches(op("add", simplify(high), integer(1)), extent, lets):
        conditions.append(op("lt", index, extent))
    return conditions


def _reaches(high: Expr, extent: Expr, lets: Definitions) -> bool:
    """Whether ``high <= extent``. Most often the sizes of tiles cancel, and their definitions need not be expanded."""
    return at_most(high, extent) or at_most(high, extent, lets)

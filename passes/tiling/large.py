"""When a tensor is large: sizes of a program compared with numbers of bytes, as a condition on the sizes that are free."""

from __future__ import annotations

from functools import partial, reduce

from ...ir.expr import Const, Expr, integer, op
from ...ir.index import simplify
from ..analysis.presence import TRUE


def elements(shape: tuple[Expr, ...]) -> Expr:
    """How many elements a tensor of this shape has."""
    total: Expr = integer(1)
    for extent in shape:
        total = op("mul", total, extent)
    return simplify(total)


def at_least(value: Expr, limit: int) -> Expr | None:
    """Whether a size reaches a limit: TRUE, a condition, or None where it never does."""
    value = simplify(value)
    if isinstance(value, Const):
        return TRUE if value.value >= limit else None
    return op("ge", value, integer(limit))


def all_of(*conditions: Expr | None) -> Expr | None:
    """The conjunction of conditions such as :func:`at_least` gives; None where one of them never holds."""
    unknown: list[Expr] = []
    for condition in conditions:
        if condition is None:
            return None
        if condition != TRUE:
            unknown.append(condition)
    return reduce(partial(op, "and"), unknown) if unknown else TRUE

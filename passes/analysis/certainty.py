"""Conditions on rank variables and sizes that are always true, or always false, given the ranges of the variables.

``m >= 0``, a window wider than the row, a mask that a known size makes void. A condition that reads data, or divides by what
may be 0, may be absent, and is never decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...ir.expr import Const, Expr, Op, Read, integer, op, walk
from ...ir.index import at_most, constant_value, non_negative, simplify
from ...ir.types import INDEX
from .bounds import Interval, interval

Definitions = Mapping[str, Expr]

_DIVISIONS = frozenset({"floordiv", "mod", "ceildiv", "pow"})


def decide(condition: Expr, extents: Mapping[str, Expr], lets: Definitions) -> bool | None:
    """What ``condition`` is at every point, for all sizes; None where that depends or is not known."""
    match condition:
        case Const(value=bool(value)):
            return value
        case Op(op="not", args=(a,)):
            inner = decide(a, extents, lets)
            return None if inner is None else not inner
        case Op(op="and" | "or" as name, args=(a, b)):
            absorbing = name == "or"
            first, second = decide(a, extents, lets), decide(b, extents, lets)
            if absorbing in (first, second) and never_absent(condition):
                return absorbing
            return None if None in (first, second) else not absorbing
        case Op(op=name, args=(a, b)) if name in _DECIDERS and a.dtype == INDEX and never_absent(condition):
            return _DECIDERS[name](_difference(a, b, extents, lets), lets)
        case _:
            return None


def never_absent(expr: Expr) -> bool:
    """Whether an expression has a value everywhere because of its form alone: no read, no division by what may be 0."""
    return not any(isinstance(node, Read) or _is_partial(node) for node in walk(expr))


def _is_partial(node: Expr) -> bool:
    match node:
        case Op(op=name, args=(_, divisor)) if name in _DIVISIONS and node.dtype.is_integer:
            return not (isinstance(divisor, Const) and divisor.value > 0)
        case _:
            return False


def _difference(a: Expr, b: Expr, extents: Mapping[str, Expr], lets: Definitions) -> Interval:
    """The least and the greatest value of ``a - b``."""
    low, high = interval(simplify(op("sub", a, b)), extents, lets)
    if low is None or high is None:
        least, most = interval(simplify(op("sub", b, a)), extents, lets)
        low = op("neg", most) if low is None and most is not None else low
        high = op("neg", least) if high is None and least is not None else high
    return low, high


def _never_above(high: Expr | None, limit: int, lets: Definitions) -> bool:
    return high is not None and at_most(high, integer(limit), lets)


def _never_below(low: Expr | None, limit: int, lets: Definitions) -> bool:
    return low is not None and non_negative(op("sub", low, integer(limit)), lets)


def _less(found: Interval, lets: Definitions) -> bool | None:
    low, high = found
    return True if _never_above(high, -1, lets) else False if _never_below(low, 0, lets) else None


def _at_most(found: Interval, lets: Definitions) -> bool | None:
    low, high = found
    return True if _never_above(high, 0, lets) else False if _never_below(low, 1, lets) else None


def _equal(found: Interval, lets: Definitions) -> bool | None:
    low, high = found
    if low is not None and high is not None and constant_value(low, lets) == 0 == constant_value(high, lets):
        return True
    return False if _never_above(high, -1, lets) or _never_below(low, 1, lets) else None


def _not(decider: Callable[[Interval, Definitions], bool | None]) -> Callable[[Interval, Definitions], bool | None]:
    def opposite(found: Interval, lets: Definitions) -> bool | None:
        answer = decider(found, lets)
        return None if answer is None else not answer

    return opposite


_DECIDERS: Mapping[str, Callable[[Interval, Definitions], bool | None]] = {
    "lt": _less,
    "le": _at_most,
    "eq": _equal,
    "ge": _not(_less),
    "gt": _not(_at_most),
    "ne": _not(_equal),
}

"""Exact evaluation of size expressions (dimensions, lets, preconditions) with Python integers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

from .expr import Cast, Const, Expr, Op, Select, Size

Number = int | float | bool


def _round_half_even(x: Number) -> Number:
    return x if isinstance(x, int) else float(round(x))


def _shift_left(x: int, count: int) -> int:
    return x << count if 0 <= count < 64 else 0


def _shift_right(x: int, count: int) -> int:
    return x >> count if 0 <= count < 64 else (-1 if x < 0 else 0)


_EVALUATE: dict[str, Callable[..., Number]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "ceildiv": lambda a, b: -(-a // b),
    "neg": operator.neg,
    "pow": operator.pow,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
    "not": operator.not_,
    "bitor": operator.or_,
    "bitxor": operator.xor,
    "bitand": operator.and_,
    "shl": _shift_left,
    "shr": _shift_right,
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "log": math.log,
    "log2": math.log2,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1.0 / math.sqrt(x),
    "tanh": math.tanh,
    "sigmoid": lambda x: 0.5 * (1.0 + math.tanh(0.5 * x)),
    "erf": math.erf,
    "abs": abs,
    "sign": lambda x: (x > 0) - (x < 0),
    "floor": math.floor,
    "ceil": math.ceil,
    "round": _round_half_even,
    "min": min,
    "max": max,
    "clamp": lambda x, low, high: min(max(x, low), high),
}


def evaluate(expr: Expr, sizes: Mapping[str, int]) -> int:
    """The value of a size expression, an exact integer (a bool for conditions).

    Raises KeyError with the name of a size that ``sizes`` lacks, ZeroDivisionError for a division by zero,
    ValueError and OverflowError where a real function has no value, and for anything that is no size expression.
    """
    value = _evaluate(expr, sizes)
    if isinstance(value, int):
        return value
    raise ValueError(f"not an integer: {value}")


def _evaluate(expr: Expr, sizes: Mapping[str, int]) -> Number:
    match expr:
        case Const(value=value):
            return value
        case Size(name=name):
            return sizes[name]
        case Op(op="and" | "or" as name, args=(a, b)):
            first = bool(_evaluate(a, sizes))
            return first if first == (name == "or") else bool(_evaluate(b, sizes))
        case Op(op="pow", args=args):
            base, exponent = (_evaluate(a, sizes) for a in args)
            if isinstance(base, int) and isinstance(exponent, int):
                if exponent < 0:
                    raise ValueError("a negative power of an integer")
                if base not in (-1, 0, 1) and exponent * base.bit_length() > 4096:
                    raise OverflowError("a power that is no size")
            value = base**exponent
            if isinstance(value, complex):
                raise ValueError("a power of a negative number")
            return value
        case Op(op=name, args=args):
            return _EVALUATE[name](*(_evaluate(a, sizes) for a in args))
        case Select(condition=condition, then=then, otherwise=otherwise):
            return _evaluate(then if _evaluate(condition, sizes) else otherwise, sizes)
        case Cast(dtype=dtype, value=inner):
            value = _evaluate(inner, sizes)
            if dtype.is_float:
                return float(value)
            if dtype.is_bool:
                return value != 0
            return int(value)
        case _:
            raise ValueError("not an expression over sizes")

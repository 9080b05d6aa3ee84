"""Scalar operators of the language on TIR values, scalars or vectors alike: wrapping integers, NaN-propagating extremes.

TVM marks 32- and 64-bit integer arithmetic as never overflowing; the language wraps. 32-bit operations are therefore done
in 64 bits and cut, which LLVM folds back into one wrapping instruction.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import tvm_ffi
from tvm import tirx

from ..ir.types import DType, Kind
from . import functions
from .element import computed
from .microkernels.vector import lane_type, splat

Bind = Callable[[tirx.Expr], tirx.Expr]


def lanes_of(value: tirx.Expr) -> int:
    """The number of lanes of a TIR value, 1 for a scalar."""
    return int(tvm_ffi.dtype(str(value.ty.dtype)).lanes)


def literal(value: int | float | bool, dtype: str, lanes: int = 1) -> tirx.Expr:
    """A constant of a TIR type, in every lane."""
    if dtype == "bool":
        return splat(tirx.IntImm("bool", int(value)), lanes)
    if "float" in dtype:
        return splat(tirx.FloatImm(dtype, float(value)), lanes)
    bits = int("".join(filter(str.isdigit, dtype)))
    whole = int(value) & ((1 << bits) - 1)
    if not dtype.startswith("u") and whole >> (bits - 1):
        whole -= 1 << bits
    if dtype == "uint64" and whole >> 63:
        return splat(tirx.reinterpret("uint64", tirx.IntImm("int64", whole - (1 << 64))), lanes)
    return splat(tirx.IntImm(dtype, whole), lanes)


def convert(value: tirx.Expr, dtype: str) -> tirx.Expr:
    """A plain TIR conversion of a scalar or vector."""
    target = lane_type(dtype, lanes_of(value))
    return value if str(value.ty.dtype) == target else tirx.Cast(target, value)


def select(condition: tirx.Expr, then: tirx.Expr, otherwise: tirx.Expr) -> tirx.Expr:
    """A selection by value: both sides are evaluated."""
    return tirx.Select(condition, then, otherwise)


def not_equal(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Whether two values differ, as NaN does from everything: TVM's own comparison is false where an operand is NaN."""
    return tirx.Not(tirx.EQ(a, b)) if "float" in str(a.ty.dtype) else tirx.NE(a, b)


def wrap(value: tirx.Expr, dtype: DType) -> tirx.Expr:
    """Wraps an integer held in a byte to the width of its type."""
    if not dtype.is_integer or dtype.bits >= 8 or dtype.kind in (Kind.BIPOLAR, Kind.TERNARY):
        return value
    lanes, held = lanes_of(value), computed(dtype)
    if dtype.kind is Kind.UNSIGNED:
        return value & literal((1 << dtype.bits) - 1, held, lanes)
    cut = literal(8 - dtype.bits, held, lanes)
    return (value << cut) >> cut


def _wide(operation: Callable[[tirx.Expr, tirx.Expr], tirx.Expr], a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    held = computed(dtype)
    if held not in ("int32", "uint32"):
        return operation(a, b)
    return convert(operation(convert(a, "int64"), convert(b, "int64")), held)


def add(a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    return a + b if dtype.is_float else wrap(_wide(operator.add, a, b, dtype), dtype)


def subtract(a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    return a - b if dtype.is_float else wrap(_wide(operator.sub, a, b, dtype), dtype)


def multiply(a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    return a * b if dtype.is_float else wrap(_wide(operator.mul, a, b, dtype), dtype)


def _floor_divide(a: tirx.Expr, b: tirx.Expr, dtype: DType, bind: Bind) -> tirx.Expr:
    if dtype.is_float:
        return functions.floor(tirx.div(a, b))
    safe = bind(_safe_divisor(b, dtype))
    quotient = bind(tirx.truncdiv(a, safe))
    if dtype.kind is Kind.UNSIGNED:
        return quotient
    lanes, held = lanes_of(b), computed(dtype)
    zero, one = literal(0, held, lanes), literal(1, held, lanes)
    rest = bind(a - quotient * safe)
    down = tirx.And(tirx.NE(rest, zero), (rest ^ safe) < zero)
    floored = select(down, quotient - one, quotient)
    if isinstance(b, tirx.IntImm) and int(b.value) != -1:
        return floored
    # The least integer divided by -1 traps on x86; negation wraps.
    return select(tirx.EQ(b, literal(-1, held, lanes)), subtract(zero, a, dtype), floored)


def _modulo(a: tirx.Expr, b: tirx.Expr, dtype: DType, bind: Bind) -> tirx.Expr:
    if dtype.is_float:
        return a - functions.floor(tirx.div(a, b)) * b
    safe = bind(_safe_divisor(b, dtype))
    rest = bind(tirx.truncmod(a, safe))
    if dtype.kind is Kind.UNSIGNED:
        return rest
    zero = literal(0, computed(dtype), lanes_of(b))
    return select(tirx.And(tirx.NE(rest, zero), (rest ^ safe) < zero), rest + safe, rest)


def _safe_divisor(b: tirx.Expr, dtype: DType) -> tirx.Expr:
    """The divisor with 0 and -1, which trap, replaced by 1 (x % -1 is 0 either way)."""
    if isinstance(b, tirx.IntImm):
        return b if int(b.value) not in (0, -1) else tirx.IntImm(str(b.ty.dtype), 1)
    lanes, held = lanes_of(b), computed(dtype)
    one = literal(1, held, lanes)
    safe = select(tirx.EQ(b, literal(0, held, lanes)), one, b)
    return safe if dtype.kind is Kind.UNSIGNED else select(tirx.EQ(b, literal(-1, held, lanes)), one, safe)


def _shift(a: tirx.Expr, b: tirx.Expr, dtype: DType, *, left: bool) -> tirx.Expr:
    lanes, held = lanes_of(a), computed(dtype)
    limit = literal(dtype.bits, held, lanes)
    zero = literal(0, held, lanes)
    legal = b < limit if dtype.kind is Kind.UNSIGNED else tirx.And(b >= zero, b < limit)
    count = select(legal, b, zero)
    if left:
        return wrap(select(legal, a << count, zero), dtype)
    emptied = zero if dtype.kind is Kind.UNSIGNED else select(a < zero, literal(-1, held, lanes), zero)
    return select(legal, a >> count, emptied)


def _power(a: tirx.Expr, b: tirx.Expr, dtype: DType, bind: Bind) -> tirx.Expr:
    exponent = b.value if isinstance(b, tirx.Broadcast) else b
    if isinstance(exponent, tirx.IntImm | tirx.FloatImm) and float(exponent.value).is_integer():
        n = int(exponent.value)
        if abs(n) <= 64 and (n >= 0 or dtype.is_float):
            lanes = lanes_of(a)
            one = literal(1, computed(dtype), lanes)
            result: tirx.Expr | None = None
            square, rest = a, abs(n)
            while rest:
                if rest & 1:
                    result = square if result is None else bind(multiply(result, square, dtype))
                rest >>= 1
                if rest:
                    square = bind(multiply(square, square, dtype))
            powered = one if result is None else result
            return powered if n >= 0 else tirx.div(one, powered)
    if dtype.is_float:
        return tirx.pow(a, b)
    return convert(tirx.pow(convert(a, "float64"), convert(b, "float64")), computed(dtype))


def _sign(a: tirx.Expr, dtype: DType) -> tirx.Expr:
    lanes, held = lanes_of(a), computed(dtype)
    zero = literal(0, held, lanes)
    positive = select(a > zero, literal(1, held, lanes), a if dtype.is_float else zero)
    return positive if dtype.kind is Kind.UNSIGNED else select(a < zero, literal(-1, held, lanes), positive)


def _absolute(a: tirx.Expr, dtype: DType) -> tirx.Expr:
    if dtype.kind is Kind.UNSIGNED:
        return a
    if dtype.is_float:
        return functions.absolute(a)
    zero = literal(0, computed(dtype), lanes_of(a))
    return select(a < zero, subtract(zero, a, dtype), a)


def maximum(a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    """The greater; NaN where either is."""
    if dtype.is_bool:
        return tirx.Or(a, b)
    return functions.maximum(a, b) if dtype.is_float else tirx.Max(a, b)


def minimum(a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    """The smaller; NaN where either is."""
    if dtype.is_bool:
        return tirx.And(a, b)
    return functions.minimum(a, b) if dtype.is_float else tirx.Min(a, b)


def _ceil_divide(a: tirx.Expr, b: tirx.Expr, dtype: DType, bind: Bind) -> tirx.Expr:
    lanes, held = lanes_of(a), computed(dtype)
    zero = literal(0, held, lanes)
    down = _floor_divide(a, b, dtype, bind)
    exact = tirx.EQ(_modulo(a, b, dtype, bind), zero)
    return select(exact, down, add(down, literal(1, held, lanes), dtype))


_COMPARISONS = {"eq": tirx.EQ, "ne": not_equal, "lt": tirx.LT, "le": tirx.LE, "gt": tirx.GT, "ge": tirx.GE}

_ROUNDING = {"floor": functions.floor, "ceil": functions.ceil, "round": functions.round_half_even}

_UNARY: dict[str, Callable[[tirx.Expr, DType], tirx.Expr]] = {
    "neg": lambda a, t: functions.negate(a) if t.is_float else subtract(literal(0, computed(t), lanes_of(a)), a, t),
    "not": lambda a, _: tirx.Not(a),
    "abs": _absolute,
    "sign": _sign,
}

_BINARY: dict[str, Callable[[tirx.Expr, tirx.Expr, DType], tirx.Expr]] = {
    "add": add,
    "sub": subtract,
    "mul": multiply,
    "div": lambda a, b, _: tirx.div(a, b),
    "and": lambda a, b, _: tirx.And(a, b),
    "or": lambda a, b, _: tirx.Or(a, b),
    "bitor": lambda a, b, _: a | b,
    "bitand": lambda a, b, _: a & b,
    "bitxor": lambda a, b, _: a ^ b,
    "shl": lambda a, b, t: _shift(a, b, t, left=True),
    "shr": lambda a, b, t: _shift(a, b, t, left=False),
    "max": maximum,
    "min": minimum,
}

_SHARING: dict[str, Callable[[tirx.Expr, tirx.Expr, DType, Bind], tirx.Expr]] = {
    "floordiv": lambda a, b, t, bind: wrap(_floor_divide(a, b, t, bind), t),
    "mod": _modulo,
    "ceildiv": _ceil_divide,
    "pow": _power,
}
"""Operators whose code uses an intermediate value more than once."""


def apply(name: str, args: list[tirx.Expr], dtype: DType, bind: Bind) -> tirx.Expr:
    """The operator ``name`` of the language on values computed as ``dtype`` (the type of its arguments)."""
    if name in _COMPARISONS:
        if dtype.is_bool:
            lanes = lanes_of(args[0])
            args = [select(a, literal(1, "uint8", lanes), literal(0, "uint8", lanes)) for a in args]
        return _COMPARISONS[name](*args)
    if name in functions.REAL:
        return functions.REAL[name](args[0], bind)
    if name in _ROUNDING:
        return _ROUNDING[name](args[0]) if dtype.is_float else args[0]
    if name in _UNARY:
        return _UNARY[name](args[0], dtype)
    if name in _BINARY:
        return _BINARY[name](args[0], args[1], dtype)
    if name in _SHARING:
        return _SHARING[name](args[0], args[1], dtype, bind)
    assert name == "clamp", name
    return minimum(maximum(args[0], args[1], dtype), args[2], dtype)

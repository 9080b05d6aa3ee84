"""Scalar operators of the language on TIR values, scalars or vectors alike: wrapping integers, NaN-propagating extremes.

TVM marks 32- and 64-bit integer arithmetic as never overflowing; the language wraps. 32-bit operations are therefore done
in 64 bits and cut, which LLVM folds back into one wrapping instruction, and 64-bit ones by intrinsics that carry no such
mark. Operations on floats are built as nodes: TVM's Python operators fold ``0 * x`` to 0, whether x is finite or not.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import tvm_ffi
from tvm import tirx

from ..ir.types import INDEX, DType, Kind
from . import functions
from .element import computed
from .functions.lanes import on_device
from .microkernels.statements import constant
from .microkernels.vector import lane_type, shuffle, splat

Bind = Callable[[tirx.Expr], tirx.Expr]


def lanes_of(value: tirx.Expr) -> int:
    """The number of lanes of a TIR value, 1 for a scalar."""
    return int(tvm_ffi.dtype(str(value.ty.dtype)).lanes)


def literal(value: int | float | bool, dtype: str, lanes: int = 1) -> tirx.Expr:
    """A constant of a TIR type, in every lane."""
    if dtype == "bool":
        return splat(tirx.IntImm("bool", int(value)), lanes)
    if "float" in dtype:
        return splat(functions.float_constant(dtype, float(value)), lanes)
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
    """Wraps an integer held in a byte to the width of its type; on a GPU any below 32 bits, which C++ computes as ``int``."""
    if not dtype.is_integer or dtype.kind in (Kind.BIPOLAR, Kind.TERNARY):
        return value
    if on_device() and dtype.bits < 32 and not isinstance(value, tirx.IntImm):
        wide = convert(value, "int32")
        if dtype.bits < 8 and dtype.is_signed:
            cut = literal(32 - dtype.bits, "int32")
            wide = (wide << cut) >> cut
        elif dtype.bits < 8:
            wide = wide & literal((1 << dtype.bits) - 1, "int32")
        return convert(wide, computed(dtype))
    if dtype.bits >= 8:
        return value
    lanes, held = lanes_of(value), computed(dtype)
    if dtype.kind is Kind.UNSIGNED:
        return value & literal((1 << dtype.bits) - 1, held, lanes)
    cut = literal(8 - dtype.bits, held, lanes)
    return (value << cut) >> cut


_OPERATORS = {"add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul}


def _wrapping(name: str, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """`a` and `b` combined modulo 2^64 by a vector-predicated operation of LLVM, which promises nothing about overflow.

    With all lanes active it becomes the plain instruction. In CUDA C++ unsigned numbers wrap.
    """
    lanes = lanes_of(a)
    if functions.on_device():
        bits = _OPERATORS[name](*(tirx.Cast("uint64", x) for x in (a, b)))
        return convert(bits, str(a.ty.dtype))
    if lanes == 1:
        return shuffle([_wrapping(name, splat(a, 2), splat(b, 2))], range(1))
    active = tirx.Broadcast(tirx.IntImm("bool", 1), lanes)
    return tirx.call_llvm_pure_intrin(str(a.ty.dtype), f"llvm.vp.{name}", a, b, active, tirx.IntImm("uint32", lanes))


def _modular(
    name: str, operation: Callable[[tirx.Expr, tirx.Expr], tirx.Expr], a: tirx.Expr, b: tirx.Expr, dtype: DType
) -> tirx.Expr:
    match computed(dtype):
        case "int64" | "uint64":
            return _wrapping(name, a, b)
        case "uint32" if name == "mul":
            return convert(operation(convert(a, "uint64"), convert(b, "uint64")), "uint32")
        case "int32" | "uint32" as held:
            return convert(operation(convert(a, "int64"), convert(b, "int64")), held)
        case held:
            x, y = constant(a), constant(b)
            if x is None or y is None:
                return operation(a, b)
            # TVM folds constants, and refuses those that leave their type.
            return literal({"add": x + y, "sub": x - y, "mul": x * y}[name], held)


def add(a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    return tirx.Add(a, b) if dtype.is_float else wrap(_modular("add", operator.add, a, b, dtype), dtype)


def subtract(a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    return tirx.Sub(a, b) if dtype.is_float else wrap(_modular("sub", operator.sub, a, b, dtype), dtype)


def multiply(a: tirx.Expr, b: tirx.Expr, dtype: DType) -> tirx.Expr:
    return tirx.Mul(a, b) if dtype.is_float else wrap(_modular("mul", operator.mul, a, b, dtype), dtype)


def divide(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """a / b of floats. TVM refuses to divide by a literal zero; x · ±∞ is x / ±0 for every x."""
    divisor = b.value if isinstance(b, tirx.Broadcast) else b
    if not isinstance(divisor, tirx.FloatImm) or float(divisor.value) != 0.0:
        return tirx.Div(a, b)
    infinity = tirx.FloatImm(str(divisor.ty.dtype), math.copysign(math.inf, float(divisor.value)))
    return tirx.Mul(a, tirx.Broadcast(infinity, b.lanes) if isinstance(b, tirx.Broadcast) else infinity)


def on_coordinates(name: str, args: list[tirx.Expr], bind: Bind) -> tirx.Expr:
    """The operator ``name`` on rank variables and sizes, whose results fit 64 bits: the machine's plain instructions."""
    match name:
        case "add":
            return args[0] + args[1]
        case "sub":
            return args[0] - args[1]
        case "mul":
            return args[0] * args[1]
        case _:
            return apply(name, args, INDEX, bind)


def _floor_divide(a: tirx.Expr, b: tirx.Expr, dtype: DType, bind: Bind) -> tirx.Expr:
    if dtype.is_float:
        return functions.floor(divide(a, b))
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
        return tirx.Sub(a, tirx.Mul(functions.floor(divide(a, b)), b))
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
            return powered if n >= 0 else divide(one, powered)
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
    "div": lambda a, b, _: divide(a, b),
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
        return functions.real(name, args[0], bind)
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

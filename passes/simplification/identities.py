"""Identities of scalar expressions: each a small function that gives the simpler node, or None.

They hold exactly, for floats in IEEE arithmetic (NaN, infinities and the sign of zero included), for integers modulo their
width. ``x * 0`` is not 0 for floats, and ``x + 0.0`` is x only where x is never -0.0. An operand disappears only where it is
never absent, since absence is contagious. i1 and t2, which have no modular arithmetic, are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from ...ir.expr import Bitcast, Cast, Const, Default, Expr, Op, Select
from ...ir.types import BOOL, DType, Kind
from ..analysis.certainty import decide
from .folding import folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known at the points of one Einsum: the extents of its ranks, the lets, and what is never absent there.

    ``literals`` tells that new literals may appear: beside types of less than 32 bits they would adapt, and change the type of
    what they meet.
    """

    extents: Mapping[str, Expr]
    lets: Mapping[str, Expr]
    always_present: Callable[[Expr], bool]
    literals: bool


Rule = Callable[[Expr, Facts], Expr | None]


def _is_number(expr: Expr, value: int | float) -> bool:
    """Whether ``expr`` is that constant; 0.0 is not -0.0."""
    match expr:
        case Const(value=bool()):
            return False
        case Const(value=found):
            return repr(float(found)) == repr(float(value))
        case _:
            return False


def _is_ring(dtype: DType) -> bool:
    """Floats, and integers with modular arithmetic."""
    return dtype.is_float or dtype.kind in (Kind.SIGNED, Kind.UNSIGNED)


def _is_modular(dtype: DType) -> bool:
    return dtype.kind in (Kind.SIGNED, Kind.UNSIGNED)


def _zero(dtype: DType) -> Const:
    return Const(value=0.0 if dtype.is_float else 0, dtype=dtype)


def constant(node: Expr, facts: Facts) -> Expr | None:
    """An operator on constants is a constant."""
    return folded(node) if facts.literals or node.dtype.is_bool else None


def times_one(node: Expr, _: Facts) -> Expr | None:
    """x · 1 = 1 · x = x, exactly."""
    match node:
        case Op(op="mul", args=(a, b)) if _is_ring(node.dtype):
            return a if _is_number(b, 1) else b if _is_number(a, 1) else None
        case _:
            return None


def over_one(node: Expr, _: Facts) -> Expr | None:
    """x / 1 = x, exactly; x // 1 = x for integers."""
    match node:
        case Op(op="div", args=(a, b)) if node.dtype.is_float and _is_number(b, 1):
            return a
        case Op(op="floordiv" | "ceildiv", args=(a, b)) if _is_modular(node.dtype) and _is_number(b, 1):
            return a
        case _:
            return None


def minus_zero(node: Expr, _: Facts) -> Expr | None:
    """x − 0 = x, exactly: −0.0 − 0.0 = −0.0."""
    match node:
        case Op(op="sub", args=(a, b)) if _is_ring(node.dtype) and _is_number(b, 0):
            return a
        case _:
            return None


def plus_zero(node: Expr, _: Facts) -> Expr | None:
    """x + 0 = x: for integers, for floats with x never −0.0, or with −0.0 as the zero."""
    match node:
        case Op(op="add", args=(a, b)):
            for kept, zero in ((a, b), (b, a)):
                if _is_modular(node.dtype) and _is_number(zero, 0):
                    return kept
                if node.dtype.is_float and (
                    _is_number(zero, -0.0) or (_is_number(zero, 0.0) and _is_never_negative_zero(kept))
                ):
                    return kept
    return None


_POSITIVE = frozenset({"exp", "exp2", "abs", "sigmoid"})


def _is_never_negative_zero(expr: Expr) -> bool:
    match expr:
        case Const():
            return not _is_number(expr, -0.0)
        case Cast(value=value):
            return not value.dtype.is_float or (expr.dtype.bits >= value.dtype.bits and _is_never_negative_zero(value))
        case Op(op=name) if name in _POSITIVE:
            return True
        case Op(op="add", args=(a, b)):  # rounding to nearest: only (−0) + (−0) is −0
            return _is_never_negative_zero(a) or _is_never_negative_zero(b)
        case Op(op="mul", args=(a, b)) if a == b:
            return True
        case Select(then=a, otherwise=b) | Default(value=a, default=b):
            return _is_never_negative_zero(a) and _is_never_negative_zero(b)
        case _:
            return False


def times_zero(node: Expr, facts: Facts) -> Expr | None:
    """x · 0 = 0 and x & 0 = 0 for integers, where x is never absent."""
    match node:
        case Op(op="mul" | "bitand", args=(a, b)) if _is_modular(node.dtype):
            for lost, zero in ((a, b), (b, a)):
                if _is_number(zero, 0) and facts.always_present(lost):
                    return _zero(node.dtype)
    return None


def minus_itself(node: Expr, facts: Facts) -> Expr | None:
    """x − x = x ^ x = 0 for integers, where x is never absent."""
    match node:
        case Op(op="sub" | "bitxor", args=(a, b)) if a == b and _is_modular(node.dtype) and facts.always_present(a):
            return _zero(node.dtype)
        case _:
            return None


def modulo_one(node: Expr, facts: Facts) -> Expr | None:
    """x % 1 = 0 for integers, where x is never absent."""
    match node:
        case Op(op="mod", args=(a, b)) if _is_modular(node.dtype) and _is_number(b, 1) and facts.always_present(a):
            return _zero(node.dtype)
        case _:
            return None


def double_negation(node: Expr, _: Facts) -> Expr | None:
    """−(−x) = x, not not x = x."""
    match node:
        case Op(op="neg" | "not" as name, args=(Op(op=inner, args=(a,)),)) if inner == name:
            return a if name == "not" or _is_ring(node.dtype) else None
        case _:
            return None


def first_power(node: Expr, _: Facts) -> Expr | None:
    """x ** 1 = x."""
    match node:
        case Op(op="pow", args=(a, Const(value=int(n)))) if n == 1 and _is_ring(node.dtype):
            return a
        case _:
            return None


_NEUTRAL_BITS = {"bitor": 0, "bitxor": 0, "shl": 0, "shr": 0}


def neutral_bits(node: Expr, _: Facts) -> Expr | None:
    """x | 0 = x ^ 0 = x << 0 = x >> 0 = x; x | x = x & x = x."""
    match node:
        case Op(op="bitor" | "bitand", args=(a, b)) if a == b:
            return a
        case Op(op=name, args=(a, b)) if name in _NEUTRAL_BITS and _is_modular(node.dtype):
            return a if _is_number(b, 0) else b if name[:3] == "bit" and _is_number(a, 0) else None
        case _:
            return None


def idempotent(node: Expr, _: Facts) -> Expr | None:
    """max(x, x) = min(x, x) = x and x and x = x or x = x."""
    match node:
        case Op(op="max" | "min" | "and" | "or", args=(a, b)) if a == b:
            return a
        case _:
            return None


def extreme(node: Expr, _: Facts) -> Expr | None:
    """max(x, −∞) = x and min(x, ∞) = x (NaN stays NaN); for integers with the extremes of their type."""
    match node:
        case Op(op="max" | "min" as name, args=(a, b)) if _is_ring(node.dtype):
            limit = node.dtype.minimum if name == "max" else node.dtype.maximum
            if node.dtype.is_float:
                limit = -inf if name == "max" else inf
            return a if _is_exactly(b, limit) else b if _is_exactly(a, limit) else None
        case Op(op="clamp", args=(a, low, high)) if node.dtype.is_float and _is_exactly(low, -inf) and _is_exactly(high, inf):
            return a
        case _:
            return None


def _is_exactly(expr: Expr, value: int | float) -> bool:
    return isinstance(expr, Const) and not isinstance(expr.value, bool) and expr.value == value


def neutral_truth(node: Expr, facts: Facts) -> Expr | None:
    """x and true = x, x or false = x; x and false = false, x or true = true where x is never absent."""
    match node:
        case Op(op="and" | "or" as name, args=(a, b)):
            for kept, const in ((a, b), (b, a)):
                if isinstance(const, Const) and const.value is (name == "and"):
                    return kept
                if isinstance(const, Const) and facts.always_present(kept):
                    return const
    return None


def certain(node: Expr, facts: Facts) -> Expr | None:
    """A comparison of rank variables and sizes that the ranges of the variables decide."""
    match node:
        case Op(op="lt" | "le" | "gt" | "ge" | "eq" | "ne"):
            answer = decide(node, facts.extents, facts.lets)
            return None if answer is None else Const(value=answer, dtype=BOOL)
        case _:
            return None


def chosen(node: Expr, facts: Facts) -> Expr | None:
    """if true then x else y = x, if c then x else x = x where c is never absent."""
    match node:
        case Select(condition=Const(value=value), then=a, otherwise=b):
            return a if value else b
        case Select(condition=c, then=a, otherwise=b) if a == b and facts.always_present(c):
            return a
        case _:
            return None


def needless_default(node: Expr, facts: Facts) -> Expr | None:
    """x ?? y = x where x is never absent."""
    match node:
        case Default(value=a) if facts.always_present(a):
            return a
        case _:
            return None


def same_type(node: Expr, _: Facts) -> Expr | None:
    """A conversion of a value to the type that it has; bits read as another type and back."""
    match node:
        case Cast(value=Const()):
            return None  # a literal with a type of its own
        case Cast(value=a) | Bitcast(value=a) if a.dtype == node.dtype and not node.dtype.is_float:
            return a
        case Cast(value=a) if a.dtype == node.dtype and node.dtype.bits >= 32:
            return a
        case _:
            return None


_BY_OPERATOR: Mapping[str, tuple[Rule, ...]] = {
    "mul": (times_one, times_zero),
    "div": (over_one,),
    "floordiv": (over_one,),
    "ceildiv": (over_one,),
    "mod": (modulo_one,),
    "add": (plus_zero,),
    "sub": (minus_zero, minus_itself),
    "neg": (double_negation,),
    "pow": (first_power,),
    "bitor": (neutral_bits,),
    "bitand": (neutral_bits, times_zero),
    "bitxor": (neutral_bits, minus_itself),
    "shl": (neutral_bits,),
    "shr": (neutral_bits,),
    "max": (idempotent, extreme),
    "min": (idempotent, extreme),
    "clamp": (extreme,),
    "and": (neutral_truth, idempotent),
    "or": (neutral_truth, idempotent),
    "not": (double_negation,),
    **dict.fromkeys(("lt", "le", "gt", "ge", "eq", "ne"), (certain,)),
}

_SELECT: tuple[Rule, ...] = (chosen,)
_DEFAULT: tuple[Rule, ...] = (needless_default,)
_CAST: tuple[Rule, ...] = (same_type,)


def rules_for(node: Expr) -> tuple[Rule, ...]:
    """The identities that a node may be an instance of."""
    match node:
        case Op(op=name):
            return (constant, *_BY_OPERATOR.get(name, ()))
        case Select():
            return _SELECT
        case Default():
            return _DEFAULT
        case Cast() | Bitcast():
            return (constant, *_CAST)
        case _:
            return ()

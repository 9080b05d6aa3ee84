"""Signs that hold for all inputs: which expressions are never negative."""

from __future__ import annotations

from ...ir.cascade import Cascade
from ...ir.expr import Cast, Const, Default, Expr, Op, Rank, Read, Select, Size

_DEPTH = 24

_ALWAYS = frozenset({"abs", "exp", "exp2", "sqrt", "rsqrt", "sigmoid"})
_CLOSED = frozenset({"add", "mul", "div", "min", "floordiv", "mod", "ceildiv", "floor", "ceil", "round", "tanh", "erf"})


def non_negative(expr: Expr, cascade: Cascade, depth: int = _DEPTH) -> bool:
    """Whether ``expr`` is provably >= 0 wherever it is present and not NaN. A maximum over no point counts as none.

    False means unknown.
    """
    if depth == 0:
        return False
    match expr:
        case Const(value=value):
            return value >= 0
        case Size() | Rank():
            return True
        case Cast(value=value):
            return non_negative(value, cascade, depth - 1)
        case Op(op=name) if name in _ALWAYS:
            return True
        case Op(op="mul", args=(a, b)) if a == b:
            return True
        case Op(op="pow", args=(_, Const(value=int(n)))) if n % 2 == 0:
            return True
        case Op(op="max", args=args):
            return any(non_negative(a, cascade, depth - 1) for a in args)
        case Op(op=name, args=args) if name in _CLOSED:
            return all(non_negative(a, cascade, depth - 1) for a in args)
        case Select(then=a, otherwise=b) | Default(value=a, default=b):
            return non_negative(a, cascade, depth - 1) and non_negative(b, cascade, depth - 1)
        case Read(tensor=name):
            writers = cascade.writers(name)
            return bool(writers) and all(
                e.reduction in (None, "+", "*", "max", "min") and non_negative(e.value, cascade, depth - 1) for e in writers
            )
        case _:
            return False

"""A cascade as an `.ecs` program, and expressions as source text.

The text parses and lowers back to an equal cascade. Parentheses are printed only where precedence asks for them.
"""

from __future__ import annotations

from .expr import Bitcast, Cast, Const, Default, Expr, Op, Rank, Read, Select, Size
from .operators import FUNCTIONS

_IF, _OR, _AND, _NOT, _COMPARE = 0, 1, 2, 3, 4
_SUM, _PRODUCT, _MINUS, _POWER, _DEFAULT, _ATOM = 9, 10, 11, 12, 13, 14

# operator: its own level, and the least levels of its left and right operand
_INFIX: dict[str, tuple[int, int, int]] = {
    "or": (_OR, _OR, _AND),
    "and": (_AND, _AND, _NOT),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), (_COMPARE, 5, 5)),
    "bitor": (5, 5, 6),
    "bitxor": (6, 6, 7),
    "bitand": (7, 7, 8),
    "shl": (8, 8, _SUM),
    "shr": (8, 8, _SUM),
    "add": (_SUM, _SUM, _PRODUCT),
    "sub": (_SUM, _SUM, _PRODUCT),
    **dict.fromkeys(("mul", "div", "floordiv", "mod"), (_PRODUCT, _PRODUCT, _MINUS)),
    "pow": (_POWER, _DEFAULT, _MINUS),
}


def expr_to_source(expr: Expr) -> str:
    """An expression in the notation of the language."""
    return _print(expr)[0]


def index_to_source(expr: Expr) -> str:
    """An index or coordinate; a shifted rank variable is written without spaces (``RM[m1+1, p]``)."""
    match expr:
        case Op(op="add" | "sub", args=(Rank() | Size(), Const() | Size())):
            return expr_to_source(expr).replace(" ", "")
        case _:
            return expr_to_source(expr)


def _print(expr: Expr) -> tuple[str, int]:
    """The text of an expression and the level of its outermost operator."""
    match expr:
        case Const():
            return _literal(expr)
        case Rank(name=name) | Size(name=name):
            return name, _ATOM
        case Read(tensor=tensor, indices=()):
            return tensor, _ATOM
        case Read(tensor=tensor, indices=indices):
            return f"{tensor}[{', '.join(index_to_source(i) for i in indices)}]", _ATOM
        case Op(op="not", args=(a,)):
            return f"not {_at(a, _NOT)}", _NOT
        case Op(op="neg", args=(a,)):
            return f"-{_at(a, _MINUS)}", _MINUS
        case Op(op=name, args=(a, b)) if name in _INFIX:
            level, left, right = _INFIX[name]
            symbol = FUNCTIONS[name].symbol
            return f"{_at(a, left)} {symbol} {_at(b, right)}", level
        case Op(op=name, args=args):
            return f"{name}({', '.join(expr_to_source(a) for a in args)})", _ATOM
        case Select(condition=condition, then=then, otherwise=otherwise):
            parts = (expr_to_source(condition), expr_to_source(then), expr_to_source(otherwise))
            return f"if {parts[0]} then {parts[1]} else {parts[2]}", _IF
        case Default(value=value, default=default):
            return f"{_at(value, _DEFAULT)} ?? {_at(default, _ATOM)}", _DEFAULT
        case Cast(value=value):
            return f"cast({expr.dtype}, {expr_to_source(value)})", _ATOM
        case Bitcast(value=value):
            return f"bitcast({expr.dtype}, {expr_to_source(value)})", _ATOM
        case _:
            raise TypeError(f"no expression: {expr!r}")


def _at(expr: Expr, level: int) -> str:
    text, own = _print(expr)
    return text if own >= level else f"({text})"


def _literal(const: Const) -> tuple[str, int]:
    match const.value:
        case bool(value):
            return ("true" if value else "false"), _ATOM
        case int(value):
            return str(value), _ATOM if value >= 0 else _MINUS
        case float(value) if value != value:
            return "(inf - inf)", _ATOM
        case value:
            text = "inf" if abs(value) == float("inf") else repr(abs(value))
            negative = repr(value).startswith("-")
            return (f"-{text}", _MINUS) if negative else (text, _ATOM)

"""The type rules of expressions: weak operands, promotion, and the operators of the language.

A :class:`Value` is an expression with its type in the language. It is *weak* where it is made of literals, sizes
and rank variables only: then it adapts to the other operand. Weak integers are computed in i64, weak reals in the type
that they meet, f32 at least; until that is known their nodes carry ``REAL``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..ir.diagnostics import error
from ..ir.expr import Bitcast, Cast, Const, Default, Expr, Op, Select
from ..ir.operators import FUNCTIONS
from ..ir.span import Span
from ..ir.types import BOOL, DTYPES, F32, F64, I16, I32, I64, INDEX, DType, Kind, holds, promote

REAL = F64
PENDING = DType(name="pending", kind=Kind.FLOAT, bits=32)
"""The type of a tensor that is not inferred yet: it takes any other operand's type."""
POISON = DType(name="poison", kind=Kind.FLOAT, bits=32)
"""The type of a tensor whose Einsum was rejected: nothing is reported about what it meets."""

_LARGEST = 5_000
_DEEPEST = 250


@dataclass(frozen=True, slots=True)
class Value:
    """``expr``, of type ``dtype`` in the language (INDEX or REAL for weak values).

    ``expr`` may be computed in a wider float: a bf16 value that met ``1 / sqrt(E)`` is an f32 expression of
    type bf16. ``nodes`` and ``depth`` bound what ``def``s expand to.
    """

    expr: Expr
    dtype: DType
    weak: bool = False
    nodes: int = 1
    depth: int = 1

    @property
    def is_literal(self) -> bool:
        return self.weak and isinstance(self.expr, Const)

    @property
    def is_unknown(self) -> bool:
        return self.dtype is PENDING or self.dtype is POISON


def literal(value: int | float | bool, span: Span) -> Value:
    """A number or truth value of the program."""
    match value:
        case bool():
            return Value(Const(value=value, dtype=BOOL, span=span), BOOL)
        case int():
            return Value(Const(value=value, dtype=INDEX, span=span), INDEX, weak=True)
        case _:
            return Value(Const(value=value, dtype=REAL, span=span), REAL, weak=True)


def join(a: DType, b: DType) -> DType:
    """Promotion that also knows types that are not inferred yet or never will be."""
    if a is POISON or b is POISON:
        return POISON
    if a is PENDING or b is PENDING:
        return b if a is PENDING else a
    return promote(a, b)


def convert(expr: Expr, to: DType) -> Expr:
    """``expr`` cast to ``to``; conversions that lose nothing on the way there are left out."""
    match expr:
        case _ if expr.dtype == to:
            return expr
        case Cast(value=inner) if holds(expr.dtype, inner.dtype):
            return convert(inner, to)
        case _:
            return Cast(value=expr, dtype=to, span=expr.span)


def coerce(value: Value, to: DType) -> Expr:
    """The expression of ``value`` in type ``to``; literals become constants of that type.

    Raises E0403 for an integer literal that ``to`` cannot hold.
    """
    expr = value.expr
    if to is PENDING or to is POISON or value.is_unknown:
        return expr
    if not value.weak:
        return convert(expr, to)
    if isinstance(expr, Const):
        return _constant(expr, to)
    if value.dtype == REAL and to.is_float:
        return retarget(expr, to if to.bits >= 32 else F32)
    if value.dtype == REAL:
        return convert(retarget(expr, F32), to)
    return convert(expr, to)


def _constant(expr: Const, to: DType) -> Expr:
    number = expr.value
    if to.is_float:
        try:
            return Const(value=float(number), dtype=to, span=expr.span)
        except OverflowError:
            raise error("E0403", f"{number} is too large for {to.name}", span=expr.span) from None
    if to.is_bool or isinstance(number, float):
        return convert(Const(value=float(number), dtype=F32, span=expr.span), to)
    if not to.minimum <= number <= to.maximum or (to.kind is Kind.BIPOLAR and number == 0):
        shown = "±1" if to.kind is Kind.BIPOLAR else f"{to.minimum} … {to.maximum}"
        name = "a size or index" if to == INDEX else to.name
        wider = next((t for t in (I16, I32, I64) if t.minimum <= number <= t.maximum), None)
        raise error(
            "E0403",
            f"{number} does not fit {name}, which holds {shown}",
            span=expr.span,
            help=f"cast the other operand: `cast({wider}, …)`" if wider is not None and to != INDEX else None,
        )
    return Const(value=number, dtype=to, span=expr.span)


def retarget(expr: Expr, to: DType) -> Expr:
    """A weak real expression computed in ``to`` (f32 or f64)."""
    if expr.dtype != REAL:
        return expr
    match expr:
        case Const() | Cast():
            return replace(expr, dtype=to)
        case Op(args=args):
            return replace(expr, dtype=to, args=tuple(retarget(a, to) for a in args))
        case Select(then=then, otherwise=otherwise):
            return replace(expr, dtype=to, then=retarget(then, to), otherwise=retarget(otherwise, to))
        case Default(value=value, default=default):
            return replace(expr, dtype=to, value=retarget(value, to), default=retarget(default, to))
        case _:
            return expr


def settle(value: Value, to: DType | None = None) -> Value:
    """A weak value made typed: of type ``to`` if that is a number type, else i32 or f32."""
    if not value.weak:
        return value
    if to is None or to.is_bool or (to.is_integer and value.dtype == REAL):
        to = F32 if value.dtype == REAL else I32
    if to is PENDING or to is POISON:
        return Value(value.expr, to)
    expr = coerce(value, F32 if to.is_float and to.bits < 32 else to)
    return Value(expr, to, nodes=value.nodes, depth=value.depth)


@dataclass(frozen=True, slots=True)
class _Common:
    """Operands brought to one type: ``dtype`` in the language, computed in the type of ``exprs``."""

    exprs: tuple[Expr, ...]
    dtype: DType
    weak: bool

    @property
    def computed(self) -> DType:
        return self.dtype if self.dtype in (PENDING, POISON) else self.exprs[0].dtype


def unify(values: Sequence[Value], *, arithmetic: bool = True, real: bool = False) -> _Common:
    """One type for the operands. Arithmetic on truth values counts; ``real`` asks for floats."""
    if all(v.weak for v in values):
        dtype = REAL if real or any(v.dtype == REAL for v in values) else INDEX
        return _Common(tuple(coerce(v, dtype) for v in values), dtype, True)
    dtype = PENDING
    for v in values:
        if not v.weak:
            dtype = join(dtype, v.dtype)
    if dtype is PENDING or dtype is POISON:
        return _Common(tuple(v.expr for v in values), dtype, False)
    if dtype.is_bool and (arithmetic or any(v.weak for v in values)):
        dtype = I32
    if not dtype.is_float and (real or any(v.weak and v.dtype == REAL for v in values)):
        dtype = F32
    computed = dtype
    if dtype.is_float and dtype.bits < 32:
        wide = any(
            (v.weak and not v.is_literal) or (v.expr.dtype.is_float and v.expr.dtype.bits >= 32)
            for v in values
            if not v.is_literal
        )
        computed = F32 if wide else dtype
    return _Common(tuple(coerce(v, computed) for v in values), dtype, False)


def node(name: str, values: Sequence[Value], common: _Common, span: Span) -> Value:
    """The operator applied to unified operands."""
    expr = Op(op=name, args=common.exprs, dtype=common.computed, span=span)
    return sized(expr, common.dtype, common.weak, values, span)


def sized(expr: Expr, dtype: DType, weak: bool, values: Sequence[Value], span: Span) -> Value:
    """A value made of others. Raises E0214 where it has grown out of all bounds."""
    nodes = 1 + sum(v.nodes for v in values)
    depth = 1 + max((v.depth for v in values), default=0)
    if nodes > _LARGEST or depth > _DEEPEST:
        raise error(
            "E0214",
            "this expression is too large once its functions are expanded",
            span=span,
            help="give a part of it an Einsum of its own",
        )
    return Value(expr, dtype, weak, nodes, depth)


def require_integers(name: str, values: Sequence[Value], span: Span) -> None:
    """Raise E0401 unless all operands are integers."""
    for v in values:
        if not v.is_unknown and not v.dtype.is_integer:
            shown = "a real number" if v.weak else v.dtype.name
            raise error(
                "E0401",
                f"`{spelling(name)}` works on integers, but this is {shown}",
                span=v.expr.span or span,
                help="use `and`, `or`, `not` on conditions"
                if v.dtype.is_bool
                else "`^` is exclusive or; a power is `x ** 2`"
                if spelling(name) == "^"
                else "cast it: `cast(i32, …)`, or `bitcast(i32, …)` for its bits",
            )


def require_bool(what: str, value: Value, span: Span) -> Expr:
    """The expression of a condition. Raises E0402 unless it is one."""
    if not value.is_unknown and not value.dtype.is_bool:
        shown = "a number" if value.weak else f"of type {value.dtype.name}"
        raise error(
            "E0402",
            f"{what} is a condition, true or false, but this is {shown}",
            span=value.expr.span or span,
            help="compare it, for example with `!= 0`",
        )
    return value.expr


def require_numbers(name: str, values: Sequence[Value], span: Span) -> None:
    """Raise E0401 where an operand is a truth value."""
    for v in values:
        if v.dtype.is_bool:
            raise error(
                "E0401",
                f"`{spelling(name)}` works on numbers, but this is a condition",
                span=v.expr.span or span,
                help="write `if … then 1 else 0`",
            )


def spelling(name: str) -> str:
    return FUNCTIONS[name].symbol or name


def arithmetic(name: str, values: Sequence[Value], span: Span) -> Value:
    """``+ - * // %``, ``min``, ``max``, ``clamp``: the common type of the operands."""
    return node(name, values, unify(values), span)


def real_function(name: str, values: Sequence[Value], span: Span) -> Value:
    """``/``, ``exp``, ``sqrt``, …: integers become f32."""
    return node(name, values, unify(values, real=True), span)


def integer_function(name: str, values: Sequence[Value], span: Span) -> Value:
    """``| ^ &`` and ``ceildiv``."""
    require_integers(name, values, span)
    return node(name, values, unify(values), span)


def comparison(name: str, values: Sequence[Value], span: Span) -> Value:
    """Both sides in one type; weak reals are compared in f32."""
    ordered = name not in ("eq", "ne")
    if ordered:
        require_numbers(name, values, span)
    common = unify(values, arithmetic=False)
    exprs = tuple(retarget(e, F32) for e in common.exprs) if common.weak else common.exprs
    return sized(Op(op=name, args=exprs, dtype=BOOL, span=span), BOOL, False, values, span)


def logical(name: str, values: Sequence[Value], span: Span) -> Value:
    """``and``, ``or``, ``not``."""
    exprs = tuple(require_bool(f"an operand of `{name}`", v, span) for v in values)
    return sized(Op(op=name, args=exprs, dtype=BOOL, span=span), BOOL, False, values, span)


def negation(name: str, values: Sequence[Value], span: Span) -> Value:
    """Unary minus; the sign of a literal is part of it."""
    require_numbers(name, values, span)
    (v,) = values
    if v.is_literal and isinstance(v.expr, Const):
        return replace(v, expr=replace(v.expr, value=-v.expr.value, span=span))
    return node(name, values, unify(values), span)


def rounding(name: str, values: Sequence[Value], span: Span) -> Value:
    """``floor``, ``ceil``, ``round``: integers are what they are."""
    require_numbers(name, values, span)
    (v,) = values
    return v if v.dtype.is_integer else node(name, values, unify(values), span)


def magnitude(name: str, values: Sequence[Value], span: Span) -> Value:
    """``abs``, ``sign``."""
    require_numbers(name, values, span)
    return node(name, values, unify(values), span)


def shift(name: str, values: Sequence[Value], span: Span) -> Value:
    """``<<``, ``>>``: the type of the left operand; a wider count is not cut."""
    require_integers(name, values, span)
    left, _ = values
    common = unify(values)
    result = node(name, values, common, span)
    if left.weak or left.is_unknown or common.computed == left.dtype or common.dtype in (PENDING, POISON):
        return result
    return replace(result, expr=convert(result.expr, left.dtype), dtype=left.dtype)


def power(name: str, values: Sequence[Value], span: Span) -> Value:
    """``x ** n``: repeated multiplication for a constant integer n (an i64 constant), else a power of reals."""
    require_numbers(name, values, span)
    base, exponent = values
    if exponent.is_literal and exponent.dtype == INDEX and isinstance(exponent.expr, Const):
        if exponent.expr.value >= 0 or base.dtype.is_float:
            base_expr = base.expr
            constant = _constant(exponent.expr, INDEX)
            made = Op(op=name, args=(base_expr, constant), dtype=base_expr.dtype, span=span)
            return sized(made, base.dtype, base.weak, values, span)
        if not base.weak:
            raise error(
                "E0407",
                f"a negative power of an integer ({base.dtype.name}) is no integer",
                span=span,
                help="cast the base: `cast(f32, …)`",
            )
    both_integers = base.dtype.is_integer and exponent.dtype.is_integer
    if both_integers and not (base.weak and exponent.weak):
        raise error(
            "E0407",
            "an integer power needs a constant exponent",
            span=exponent.expr.span or span,
            help="cast the base, `cast(f32, …)`, or shift for powers of 2, `1 << n`",
        )
    return node(name, values, unify(values, real=True), span)


RULES: dict[str, Callable[[str, Sequence[Value], Span], Value]] = {
    **dict.fromkeys(("add", "sub", "mul", "floordiv", "mod", "min", "max", "clamp"), arithmetic),
    **{name: real_function for name, info in FUNCTIONS.items() if info.real_valued},
    **dict.fromkeys(("bitor", "bitxor", "bitand", "ceildiv"), integer_function),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), comparison),
    **dict.fromkeys(("and", "or", "not"), logical),
    **dict.fromkeys(("floor", "ceil", "round"), rounding),
    **dict.fromkeys(("abs", "sign"), magnitude),
    "neg": negation,
    "shl": shift,
    "shr": shift,
    "pow": power,
}
"""The rule of every operator and function of the operator table."""


def select(condition: Value, then: Value, otherwise: Value, span: Span) -> Value:
    """``if condition then then else otherwise``."""
    test = require_bool("what follows `if`", condition, span)
    common = unify((then, otherwise), arithmetic=False)
    expr = Select(condition=test, then=common.exprs[0], otherwise=common.exprs[1], dtype=common.computed, span=span)
    return sized(expr, common.dtype, common.weak, (condition, then, otherwise), span)


def default(value: Value, fallback: Value, span: Span) -> Value:
    """``value ?? fallback``."""
    common = unify((value, fallback), arithmetic=False)
    expr = Default(value=common.exprs[0], default=common.exprs[1], dtype=common.computed, span=span)
    return sized(expr, common.dtype, common.weak, (value, fallback), span)


def cast(value: Value, to: DType, span: Span) -> Value:
    """``cast(to, value)``: integers wrap, floats are truncated towards zero and saturate."""
    expr = value.expr
    if value.is_unknown:
        return sized(expr, to, False, (value,), span)
    if isinstance(expr, Const) and value.weak:
        if to.is_integer and isinstance(expr.value, int) and not to.minimum <= expr.value <= to.maximum:
            expr = replace(expr, value=(expr.value - int(to.minimum)) % (1 << to.bits) + int(to.minimum))
        expr = coerce(replace(value, expr=expr), F32 if to.is_float and to.bits < 32 else to)
    elif value.weak:
        expr = coerce(value, to if to.bits >= 32 else F32 if value.dtype == REAL else INDEX)
    made = expr if expr.dtype == to else Cast(value=expr, dtype=to, span=span)
    return sized(made, to, False, (value,), span)


def bitcast(value: Value, to: DType, span: Span) -> Value:
    """``bitcast(to, value)``: the same bits; literals take the type of the width of ``to``. Raises E0405."""
    if value.is_unknown:
        return sized(value.expr, to, False, (value,), span)
    source = value
    if value.weak and value.dtype == REAL and to.bits in (32, 64):
        source = settle(value, DTYPES[f"f{to.bits}"])
    elif value.weak and value.dtype == INDEX:
        constant = value.expr.value if isinstance(value.expr, Const) else 0
        signed = DTYPES.get(f"i{to.bits}", I32)
        source = settle(value, signed if constant <= signed.maximum else DTYPES.get(f"u{to.bits}", signed))
    if source.weak or source.dtype.bits != to.bits or source.dtype.is_bool or to.is_bool:
        shown = "a real number of no given width" if source.weak else f"{source.dtype.name} ({source.dtype.bits} bits)"
        raise error(
            "E0405",
            f"the bits of {shown} cannot be read as {to.name} ({to.bits} bits)",
            span=span,
            help="bitcast keeps the width; cast first, or use `cast` to convert the value",
        )
    expr = convert(source.expr, source.dtype)
    made = expr if expr.dtype == to else Bitcast(value=expr, dtype=to, span=span)
    return sized(made, to, False, (value,), span)

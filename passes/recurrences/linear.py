"""Expressions that are linear in some reads over a semiring: ``a_1 ⊗ S_1 ⊕ … ⊕ a_k ⊗ S_k ⊕ b``.

Which pairs (⊕, ⊗) are semirings the operator table says: ⊕ associative and commutative, ⊗ distributing over it. Requires:
expressions with the conversions that the front end makes. Guarantees: recombining the parts is an identity over the reals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from ...ir.expr import Cast, Const, Expr, Op, Read, Select, children, op, reads_of
from ...ir.operators import FUNCTIONS, REDUCTIONS
from ...ir.printer import expr_to_source
from ...ir.types import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class Semiring:
    """``add`` and ``times`` name scalar operators: ⊕ is associative and commutative, ⊗ distributes over it."""

    add: str
    times: str

    @property
    def reduction(self) -> str:
        """The reduction of the language whose operator is ⊕."""
        return next(r.name for r in REDUCTIONS.values() if r.combine == self.add and not r.coordinate)

    @property
    def product(self) -> str:
        """The reduction of the language whose operator is ⊗."""
        return next(r.name for r in REDUCTIONS.values() if r.combine == self.times and not r.coordinate)

    def zero(self, dtype: DType) -> Const:
        """The identity of ⊕."""
        return Const(value=REDUCTIONS[self.reduction].identity(dtype), dtype=dtype)

    def one(self, dtype: DType) -> Const:
        """The identity of ⊗."""
        value: int | float | bool = 0.0 if dtype.is_float else 0
        if self.times != "add":
            value = REDUCTIONS[self.product].identity(dtype)
        return Const(value=value, dtype=dtype)

    def __str__(self) -> str:
        return f"({FUNCTIONS[self.add].symbol or self.add}, {FUNCTIONS[self.times].symbol or self.times})"


ARITHMETIC = Semiring(add="add", times="mul")


def semirings() -> Iterator[Semiring]:
    """The semirings of the operator table that have a reduction, ordinary arithmetic first."""
    reductions = {r.combine for r in REDUCTIONS.values()}
    for times in ("mul", *FUNCTIONS):
        for add in FUNCTIONS[times].distributes_over:
            ring = FUNCTIONS[add]
            if ring.associative and ring.commutative and FUNCTIONS[times].associative and add in reductions:
                yield Semiring(add=add, times=times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """The coefficient of each read (None: the identity of ⊗), and what is left without them (None: the identity of ⊕)."""

    coefficients: dict[Read, Expr | None] = field(hash=False)
    rest: Expr | None


class NotLinearError(Exception):
    """Why an expression is not linear, as the end of a sentence."""


def linear(expr: Expr, states: Collection[str], ring: Semiring) -> Linear:
    """``expr`` as a linear form in its reads of the tensors ``states``. Raises :class:`NotLinearError`."""
    return _Decomposition(frozenset(states), ring).split(expr)


class _Decomposition:
    def __init__(self, states: frozenset[str], ring: Semiring) -> None:
        self.states = states
        self.ring = ring

    def free(self, expr: Expr) -> bool:
        return not any(r.tensor in self.states for r in reads_of(expr))

    def split(self, expr: Expr) -> Linear:
        if self.free(expr):
            return Linear(coefficients={}, rest=expr)
        match expr:
            case Read() if expr.tensor in self.states and all(self.free(i) for i in expr.indices):
                return Linear(coefficients={expr: None}, rest=None)
            case Cast(value=value) if expr.dtype.is_float and value.dtype.is_float and expr.dtype.bits >= value.dtype.bits:
                raise NotLinearError(f"`{expr_to_source(value)}` is rounded to {value.dtype} in every step")
            case Op(op=name, args=(a, b)) if name == self.ring.add:
                return self.sum(self.split(a), self.split(b), expr.dtype)
            case Op(op="sub", args=(a, b)) if self.ring.add == "add":
                return self.sum(self.split(a), self.negative(self.split(b)), expr.dtype)
            case Op(op="neg", args=(a,)) if self.ring.add == "add":
                return self.negative(self.split(a))
            case Op(op=name, args=(a, b)) if name == self.ring.times:
                if self.free(a):
                    return self.scaled(self.split(b), a, "left")
                if self.free(b):
                    return self.scaled(self.split(a), b, "right")
                raise NotLinearError(f"`{expr_to_source(expr)}` multiplies states with one another")
            case Op(op=name, args=(a, b)) if name == FUNCTIONS[self.ring.times].inverse and self.free(b):
                inverse = op("div", self.ring.one(b.dtype), b) if name == "div" else op("neg", b)
                return self.scaled(self.split(a), inverse, "right")
            case Select(condition=condition, then=a, otherwise=b) if self.free(condition):
                return self.chosen(condition, self.split(a), self.split(b), expr.dtype)
            case _:
                raise NotLinearError(self.reason(expr))

    def reason(self, expr: Expr) -> str:
        match expr:
            case Op(op=name):
                shown = FUNCTIONS[name].symbol or name
                inner = next(c for c in children(expr) if not self.free(c))
                return f"the state passes through `{shown}`, over which nothing distributes, in `{expr_to_source(inner)}`"
            case _:
                return f"`{expr_to_source(expr)}` is not linear in the state"

    def sum(self, a: Linear, b: Linear, dtype: DType) -> Linear:
        coefficients = dict(a.coefficients)
        for read, factor in b.coefficients.items():
            if read in coefficients:
                first = coefficients[read] or self.ring.one(dtype)
                coefficients[read] = op(self.ring.add, first, factor or self.ring.one(dtype))
            else:
                coefficients[read] = factor
        rests = [r for r in (a.rest, b.rest) if r is not None]
        return Linear(coefficients=coefficients, rest=op(self.ring.add, *rests) if len(rests) == 2 else next(iter(rests), None))

    def negative(self, a: Linear) -> Linear:
        coefficients: dict[Read, Expr | None] = {r: op("neg", f or self.ring.one(r.dtype)) for r, f in a.coefficients.items()}
        return Linear(coefficients=coefficients, rest=None if a.rest is None else op("neg", a.rest))

    def scaled(self, a: Linear, factor: Expr, side: str) -> Linear:
        def times(expr: Expr) -> Expr:
            return op(self.ring.times, *((factor, expr) if side == "left" else (expr, factor)))

        coefficients: dict[Read, Expr | None] = {r: factor if f is None else times(f) for r, f in a.coefficients.items()}
        return Linear(coefficients=coefficients, rest=None if a.rest is None else times(a.rest))

    def chosen(self, condition: Expr, a: Linear, b: Linear, dtype: DType) -> Linear:
        zero, one = self.ring.zero(dtype), self.ring.one(dtype)

        def side(form: Linear, read: Read) -> Expr:
            return (form.coefficients[read] or one) if read in form.coefficients else zero

        def either(x: Expr, y: Expr) -> Expr:
            return x if x == y else Select(condition=condition, then=x, otherwise=y, dtype=dtype)

        reads = dict.fromkeys([*a.coefficients, *b.coefficients])
        rest = None if a.rest is None and b.rest is None else either(a.rest or zero, b.rest or zero)
        return Linear(coefficients={r: either(side(a, r), side(b, r)) for r in reads}, rest=rest)

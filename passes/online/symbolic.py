"""Expressions of a chain of reductions as sympy terms, and back.

What varies along the reduced ranks but does not depend on the chain's own results is one symbol *x*; what depends on these
results but does not vary is one symbol *d*, a base; what does neither is a symbol *c*. Only what mixes x and d keeps its
form, so that terms stay small. sympy's general ``simplify`` is never used: dependence on x is tested numerically at
random points first, and what passes is rewritten by the few rules that it needs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias

import sympy

from ...ir.expr import Cast, Const, Expr, Op, Rank, Read, Select, Size, children, integer, op, ranks_of, reads_of
from ...ir.types import F32, DType
from ..analysis.signs import non_negative
from ..analysis.structure import Structure, is_widening
from ..construct import typed

Term: TypeAlias = sympy.Expr
"""A real-valued sympy term."""

_TERMS: dict[str, Callable[..., Term]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pow": lambda a, n: _power(a, n),
    "exp": sympy.exp,
    "exp2": lambda a: sympy.Integer(2) ** a,
    "log": sympy.log,
    "log2": lambda a: sympy.log(a) / sympy.log(2),
    "sqrt": sympy.sqrt,
    "rsqrt": lambda a: 1 / sympy.sqrt(a),
    "abs": sympy.Abs,
    "max": sympy.Max,
    "min": sympy.Min,
    "sigmoid": lambda a: 1 / (1 + sympy.exp(-a)),
    "tanh": sympy.tanh,
}
"""How the operators of the table read in sympy; every other operator is an opaque function there."""

_HIGHEST_POWER = 32
"""Whole powers up to this one are multiplied out where that helps; a sum to a higher one would have as many terms."""

_TRIALS = 6
_CLOSE = 1e-9


def _power(base: Term, exponent: Term) -> Term:
    if exponent.is_number and abs(exponent) > _HIGHEST_POWER:
        return sympy.Function("pow_", real=True)(base, exponent)
    return base**exponent


class Vocabulary:
    """The symbols of one chain. ``dependent`` tells which tensors depend on the chain's own results."""

    def __init__(self, structure: Structure, dependent: Callable[[str], bool]) -> None:
        self.structure, self.dependent = structure, dependent
        self.meaning: dict[sympy.Symbol, Expr] = {}
        self._symbols: dict[tuple[str, Expr], sympy.Symbol] = {}

    def symbol(self, kind: str, expr: Expr) -> sympy.Symbol:
        """The symbol of kind ``x``, ``d`` or ``c`` that stands for an expression."""
        if (kind, expr) not in self._symbols:
            positive = True if non_negative(expr, self.structure.cascade) else None
            made = sympy.Symbol(f"{kind}{len(self._symbols)}", real=True, positive=positive)
            self._symbols[kind, expr] = made
            self.meaning[made] = expr
        return self._symbols[kind, expr]

    def of_kind(self, term: Term, kind: str) -> list[sympy.Symbol]:
        """The symbols of one kind in a term, in order of creation."""
        found = [s for s in term.free_symbols if s in self.meaning and s.name[0] == kind]
        return sorted(found, key=lambda s: int(s.name[1:]))

    def term(self, expr: Expr, varying: Collection[str]) -> Term:
        """``expr`` over the symbols of the chain; ``varying`` are the reduced rank variables."""
        match expr:
            case Const(value=number) if not isinstance(number, bool):
                return _number(number)
        depends = any(self.dependent(r.tensor) for r in reads_of(expr))
        varies = not set(varying).isdisjoint(ranks_of(expr))
        if not (depends and varies):
            return self._pure(expr, "d" if depends else "x" if varies else "c", varying)
        match expr:
            case Cast() if is_widening(expr):
                return self.term(expr.value, varying)
            case Op(op=name, args=args) if name in _TERMS:
                return _TERMS[name](*(self.term(a, varying) for a in args))
            case Op(op=name, args=args):
                return sympy.Function(f"{name}_", real=True)(*(self.term(a, varying) for a in args))
            case Cast(dtype=dtype, value=value):
                return sympy.Function(f"cast_{dtype}", real=True)(self.term(value, varying))
            case Select(condition=condition, then=then, otherwise=otherwise):
                parts = (self.term(e, varying) for e in (condition, then, otherwise))
                return sympy.Function("select", real=True)(*parts)
            case _:
                return sympy.Function("opaque", real=True)(*(self.symbol("x", expr), *self._bases(expr)))

    def _pure(self, expr: Expr, kind: str, varying: Collection[str]) -> Term:
        """Signs and whole powers of pure parts stay visible, so that equal parts meet."""
        match expr:
            case Op(op="neg", args=(a,)):
                return -self.term(a, varying)
            case Cast() if is_widening(expr):
                return self.term(expr.value, varying)
            case Op(op="mul" | "div" as name, args=(a, b)) if expr.dtype.is_float:
                return _TERMS[name](self.term(a, varying), self.term(b, varying))
            case _:
                return self.symbol(kind, expr)

    def _bases(self, expr: Expr) -> Iterable[sympy.Symbol]:
        return (self.symbol("d", r) for r in reads_of(expr) if self.dependent(r.tensor))


def named_term(expr: Expr, symbol: Callable[[Read], Term]) -> Term:
    """``expr`` with ``symbol`` of every read in its place, and every operator kept, pure part or not."""
    match expr:
        case Const(value=number) if not isinstance(number, bool) and math.isfinite(number):
            return _number(number)
        case Read():
            return symbol(expr)
        case Cast() if is_widening(expr):
            return named_term(expr.value, symbol)
        case Rank(name=name) | Size(name=name):
            return sympy.Symbol(f"i_{name}", positive=True)
        case Op(op=name) if name in _TERMS:
            return _TERMS[name](*(named_term(c, symbol) for c in children(expr)))
        case Op(op=name):
            kind = f"{name}_"
        case Select():
            kind = "select"
        case Cast(dtype=dtype):
            kind = f"cast_{dtype}"
        case _:
            kind = "opaque"
    parts = [named_term(c, symbol) for c in children(expr)]
    return sympy.Function(kind, real=True)(*parts) if parts else sympy.Symbol(f"c_{expr!r}", real=True)


def _number(value: int | float) -> Term:
    return sympy.Integer(int(value)) if float(value).is_integer() else sympy.Float(value)


def is_constant_in(term: Term, symbols: Collection[sympy.Symbol]) -> bool:
    """Whether a term takes one value for random values of ``symbols``; the other symbols are fixed at random.

    False is certain, True is not: rewriting has the last word.
    """
    free = sorted(term.free_symbols, key=lambda s: s.name)
    moving = [s for s in free if s in symbols]
    if not moving:
        return True
    opaque = {f.func.__name__ for f in term.atoms(sympy.core.function.AppliedUndef)}
    stand_ins = dict.fromkeys(opaque, _stand_in)
    # "math" and not "numpy", whose every submodule sympy would import.
    evaluate = sympy.lambdify(free, term, modules=[stand_ins, "math"])
    draw = random.Random(len(free))
    for signed in (False, True):
        fixed = {s: draw.uniform(0.4, 1.9) for s in free}
        seen: float | None = None
        for _ in range(_TRIALS):
            point = [_draw(draw, s, signed) if s in moving else fixed[s] for s in free]
            try:
                value = float(evaluate(*point))
            except (ArithmeticError, ValueError, TypeError):  # outside of what a function is defined for; a complex number
                continue
            if not math.isfinite(value):
                continue
            if seen is None:
                seen = value
            elif abs(value - seen) > _CLOSE * max(1.0, abs(seen)):
                return False
    return True


def _draw(draw: random.Random, symbol: sympy.Symbol, signed: bool) -> float:
    value = draw.uniform(0.3, 1.7)
    return -value if signed and not symbol.is_positive and draw.random() < 0.5 else value


def _stand_in(*args: float) -> float:
    """A smooth function that is nothing in particular, in the place of one that sympy is not told about."""
    total = sum((k + 1) * a for k, a in enumerate(args))
    return 0.37 * total * total + 0.11 * total**3 + 0.5


def combined(term: Term, unwanted: Collection[sympy.Symbol]) -> Term:
    """A product without ``unwanted`` symbols where the rules for exponentials, and then cancellation, remove them."""
    result = sympy.powsimp(term, combine="exp")
    result = result.replace(lambda t: isinstance(t, sympy.exp), lambda t: sympy.exp(sympy.expand(t.args[0])))
    result = result.replace(
        lambda t: isinstance(t, sympy.Pow) and t.base.is_number and not t.exp.is_number,
        lambda t: sympy.Pow(t.base, sympy.expand(t.exp)),
    )
    if result.free_symbols.isdisjoint(unwanted):
        return result
    result = sympy.cancel(sympy.factor_terms(result))
    return sympy.powsimp(result, combine="exp")


def to_expr(term: Term, meaning: Mapping[sympy.Symbol, Expr], dtype: DType) -> Expr:
    """A term as an expression of type ``dtype``, with every symbol replaced by what it means."""

    def real(value: float) -> Expr:
        return Const(value=float(value), dtype=dtype)

    def go(t: Term) -> Expr:
        if t in meaning:
            return typed(meaning[t], dtype)
        if t.is_number and t.is_real:
            return real(float(t))
        match t:
            case sympy.Add():
                return _added([go_signed(a) for a in t.as_ordered_terms()], dtype)
            case sympy.exp():
                return op("exp", go(t.args[0]))
            case sympy.Pow() | sympy.Mul():
                return quotient(t)
            case sympy.log():
                return op("log", go(t.args[0]))
            case sympy.Abs():
                return op("abs", go(t.args[0]))
            case sympy.Max() | sympy.Min():
                name = "max" if isinstance(t, sympy.Max) else "min"
                first, *rest = (go(a) for a in t.args)
                for each in rest:
                    first = op(name, first, each)
                return first
            case _:
                raise ValueError(f"no operator for {t}")

    def go_signed(t: Term) -> tuple[bool, Expr]:
        negative = t.could_extract_minus_sign()
        return negative, go(-t if negative else t)

    def power(base: Term, exponent: Term) -> Expr:
        if base == 2 and not exponent.is_number:
            return op("exp2", go(exponent))
        if exponent == 1:
            return go(base)
        if exponent == sympy.Rational(1, 2):
            return op("sqrt", go(base))
        if exponent.is_Integer:
            return op("pow", go(base), integer(int(exponent)))
        raise ValueError(f"no operator for {base}**{exponent}")

    def quotient(t: Term) -> Expr:
        above: list[Expr] = []
        below: list[Expr] = []
        number = sympy.Integer(1)
        for factor in t.as_ordered_factors() if isinstance(t, sympy.Mul) else (t,):
            base, exponent = factor.as_base_exp() if isinstance(factor, sympy.Pow) else (factor, sympy.Integer(1))
            if factor.is_number:
                number *= factor
            elif exponent == -sympy.Rational(1, 2):
                above.append(op("rsqrt", go(base)))
            elif exponent.is_number and exponent.is_negative:
                below.append(power(base, -exponent))
            else:
                above.append(power(base, exponent))
        if number == -1 and above:
            above[0] = op("neg", above[0])
        elif number != 1 or not above:
            above.insert(0, real(float(number)))
        result = above[0]
        for each in above[1:]:
            result = op("mul", result, each)
        for each in below:
            result = op("div", result, each)
        return result

    return go(sympy.sympify(term))


def is_writable(terms: Iterable[Term]) -> bool:
    """Whether the operators of the language can compute some terms."""
    try:
        for term in terms:
            to_expr(term, {s: Const(value=1.0, dtype=F32) for s in term.free_symbols}, F32)
    except ValueError:
        return False
    return True


def _added(parts: list[tuple[bool, Expr]], dtype: DType) -> Expr:
    ordered = sorted(parts, key=lambda part: part[0])
    negative, result = ordered[0]
    if negative:
        result = op("neg", result)
    for minus, value in ordered[1:]:
        result = op("sub" if minus else "add", result, value)
    return result

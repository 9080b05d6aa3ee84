"""The algebra of sizes and indices: affine forms, provable equality, simplification, exact evaluation.

Integer expressions over sizes and rank variables have a normal form: a polynomial with integer coefficients whose
indeterminates are sizes, rank variables and *atoms*, subexpressions that are no polynomials (``//``, ``%``,
``ceildiv``, ``min``, ``max``, reads, ``if``), themselves with arguments in normal form. Sizes count as non-negative and
divisors as positive.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from .expr import (
    Cast,
    Const,
    Expr,
    Op,
    Rank,
    Size,
    children,
    integer,
    op,
    ranks_of,
    size,
    sizes_of,
    substitute,
    walk,
    with_children,
)
from .types import INDEX

Monomial = tuple[Expr, ...]
Polynomial = dict[Monomial, int]

_LARGEST, _HIGHEST = 64, 16
"""Terms and degree beyond which a product is kept as an atom: normal forms may not explode."""

_LARGEST_POWER = 8

_ZERO, _ONE = integer(0), integer(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """``sum(coefficient * rank) + constant``; coefficients and the constant are expressions over sizes.

    ``terms`` holds (rank variable, coefficient) in order of the variables' first occurrence; no coefficient is zero.
    """

    terms: tuple[tuple[str, Expr], ...]
    constant: Expr

    @property
    def ranks(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.terms)

    def coefficient(self, rank: str) -> Expr:
        """The coefficient of ``rank``; the constant 0 where it does not occur."""
        return dict(self.terms).get(rank, integer(0))

    @property
    def shifted_rank(self) -> tuple[str, Expr] | None:
        """(v, c) where the form is ``v + c`` for one rank variable v, else None."""
        match self.terms:
            case ((name, Const(value=1)),):
                return name, self.constant
            case _:
                return None


def affine(expr: Expr) -> Affine | None:
    """The affine form of an index expression, None if it has none (reads, ``//`` and ``%`` of rank variables, …)."""
    match expr:
        case Rank(name=name):  # the most frequent forms, without the way through polynomials
            return Affine(terms=((name, _ONE),), constant=_ZERO)
        case Const(value=int()) | Size():
            return Affine(terms=(), constant=expr)
        case _:
            return _affine(expr)


def affine_in(expr: Expr, ranks: Collection[str]) -> Affine | None:
    """The affine form of an index expression in some rank variables; the others may be used in any way, within the constant."""
    form = affine(expr)
    if form is not None:
        return form
    held: dict[str, Expr] = {}
    form = _affine(_holding(expr, ranks, held))
    if form is None or any(not set(sizes_of(factor)).isdisjoint(held) for _, factor in form.terms):
        return None
    return replace(form, constant=substitute(form.constant, sizes=held))


def _holding(expr: Expr, ranks: Collection[str], held: dict[str, Expr]) -> Expr:
    """``expr`` with a size in the place of every largest part that mentions rank variables, but none of ``ranks``."""
    own = ranks_of(expr)
    if own and set(own).isdisjoint(ranks):
        held[f".{len(held)}"] = expr
        return size(f".{len(held) - 1}")
    return with_children(expr, tuple(_holding(c, ranks, held) for c in children(expr)))


@lru_cache(maxsize=1 << 13)
def _affine(expr: Expr) -> Affine | None:
    coefficients: dict[str, Polynomial] = {}
    constant: Polynomial = {}
    for monomial, factor in _normaliser(None).polynomial(expr).items():
        names = [atom.name for atom in monomial if isinstance(atom, Rank)]
        rest = tuple(atom for atom in monomial if not isinstance(atom, Rank))
        if len(names) > 1 or not all(_is_size_like(atom) for atom in rest):
            return None
        if names:
            coefficients.setdefault(names[0], {})[rest] = factor
        else:
            constant[rest] = factor
    terms = tuple((name, expression_of(poly)) for name, poly in coefficients.items())
    return Affine(terms=terms, constant=expression_of(constant))


def normal_form(expr: Expr) -> Polynomial:
    """The polynomial that an integer expression is; not to be changed by the caller."""
    return _normaliser(None).polynomial(expr)


def simplify(expr: Expr) -> Expr:
    """An equal integer expression in normal form: folded, like terms collected, ``(a*b) // b`` reduced to ``a``."""
    return expression_of(_normaliser(None).polynomial(expr))


def equal(a: Expr, b: Expr, lets: Mapping[str, Expr] | None = None) -> bool:
    """Whether two size expressions are provably equal for all sizes; ``lets`` defines derived sizes."""
    if a == b:
        return True
    if not _difference(a, b, lets):
        return True
    # With rounded-up division kept as it is, its sign is known: min(0, ceildiv(A, B)) = 0.
    plain = _normaliser(lets)
    return not _sum(plain.polynomial(a), plain.polynomial(b), -1)


def constant_difference(a: Expr, b: Expr, lets: Mapping[str, Expr] | None = None) -> int | None:
    """``a - b`` where it is the same integer for all sizes, else None."""
    return _constant(_difference(a, b, lets))


def non_negative(expr: Expr, lets: Mapping[str, Expr] | None = None) -> bool:
    """Whether ``expr >= 0`` is provable, with all sizes non-negative. False means unknown."""
    return _non_negative(_normaliser(lets).polynomial(expr))


def at_most(a: Expr, b: Expr, lets: Mapping[str, Expr] | None = None) -> bool:
    """Whether ``a <= b`` is provable, with all sizes non-negative. False means unknown."""
    return _non_negative(_difference(b, a, lets))


def constant_value(expr: Expr, lets: Mapping[str, Expr] | None = None) -> int | None:
    """The integer that ``expr`` always is, or None."""
    return _constant(_normaliser(lets).polynomial(expr))


def upper_bound(expr: Expr, lets: Mapping[str, Expr]) -> int | None:
    """A number that an integer expression over sizes never exceeds, or None."""
    match expr:
        case Size(name=name):
            return upper_bound(lets[name], lets) if name in lets else None
        case Op(op="min", args=args):
            return min((b for a in args if (b := upper_bound(a, lets)) is not None), default=None)
        case Op(op="max", args=args):
            bounds = [upper_bound(a, lets) for a in args]
            return None if None in bounds else max(b for b in bounds if b is not None)
        case _:
            return constant_value(expr, lets)


def expand_lets(expr: Expr, lets: Mapping[str, Expr]) -> Expr:
    """``expr`` with the sizes of ``lets`` replaced by their (non-circular) definitions, down to free sizes."""
    if isinstance(expr, Size):
        definition = lets.get(expr.name)
        return expr if definition is None else expand_lets(definition, lets)
    old = children(expr)
    new = tuple(expand_lets(child, lets) for child in old)
    return expr if all(a is b for a, b in zip(old, new, strict=True)) else with_children(expr, new)


def _is_size_like(atom: Expr) -> bool:
    return all(isinstance(node, Size | Const | Op) and node.dtype == INDEX for node in walk(atom))


def _difference(a: Expr, b: Expr, lets: Mapping[str, Expr] | None) -> Polynomial:
    normaliser = _normaliser(lets, unify_division=True)
    return _sum(normaliser.polynomial(a), normaliser.polynomial(b), -1)


def _constant(poly: Polynomial) -> int | None:
    if not poly:
        return 0
    return poly[()] if poly.keys() == {()} else None


def _non_negative(poly: Polynomial) -> bool:
    """Every term is a product of non-negative atoms with a non-negative factor."""
    return all(factor >= 0 and all(_atom_is_non_negative(atom) for atom in m) for m, factor in poly.items())


def _atom_is_non_negative(atom: Expr) -> bool:
    match atom:
        case Size() | Rank():
            return True
        case Const(value=value):
            return value >= 0
        case Op(op="mod", args=(_, divisor)):
            return non_negative(divisor)
        case Op(op="max", args=args):
            return any(non_negative(a) for a in args)
        case Op(op="floordiv" | "ceildiv" | "min", args=args):
            return all(non_negative(a) for a in args)
        case _:
            return False


def _key(expr: Expr) -> str:
    """A total order of atoms: sizes and rank variables by name, then everything else."""
    match expr:
        case Size(name=name):
            return f"0{name}"
        case Rank(name=name):
            return f"1{name}"
        case Op(op=name, args=args):
            return f"2{name}({','.join(map(_key, args))})"
        case _:
            return f"3{expr!r}"


def _sum(a: Polynomial, b: Polynomial, sign: int = 1) -> Polynomial:
    total = dict(a)
    for monomial, factor in b.items():
        total[monomial] = total.get(monomial, 0) + sign * factor
        if total[monomial] == 0:
            del total[monomial]
    return total


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for left, p in a.items():
        for right, q in b.items():
            monomial = tuple(sorted(left + right, key=_key))
            total[monomial] = total.get(monomial, 0) + p * q
    return {m: f for m, f in total.items() if f != 0}


def _explodes(a: Polynomial, b: Polynomial) -> bool:
    """Whether a product is kept as an atom: too large, or of factors of which one is such a product already."""
    if len(a) * len(b) > 1 and any(isinstance(f, Op) and f.op == "mul" for p in (a, b) for m in p for f in m):
        return True
    degree = max(map(len, a), default=0) + max(map(len, b), default=0)
    return len(a) * len(b) > _LARGEST or degree > _HIGHEST


def _split(poly: Polynomial, divisor: Polynomial) -> tuple[Polynomial, Polynomial]:
    """(q, r) with ``poly = q * divisor + r``: for a divisor of one term, the multiples of it go to q."""
    if len(divisor) != 1:
        negated = {m: -f for m, f in divisor.items()}
        if poly == divisor:
            return {(): 1}, {}
        return ({(): -1}, {}) if poly == negated else ({}, poly)
    ((atoms, weight),) = divisor.items()
    quotient: Polynomial = {}
    rest: Polynomial = {}
    for monomial, factor in poly.items():
        remaining = list(monomial)
        for atom in atoms:
            if atom not in remaining:
                rest[monomial] = factor
                break
            remaining.remove(atom)
        else:
            whole, part = divmod(factor, weight)
            if whole:
                quotient[tuple(remaining)] = whole
            if part:
                rest[monomial] = part
    return quotient, rest


def _normaliser(lets: Mapping[str, Expr] | None, *, unify_division: bool = False) -> _Normaliser:
    """The normaliser of these definitions: what it has seen, it knows."""
    return _made(tuple(lets.items()) if lets else (), unify_division)


@lru_cache(maxsize=64)
def _made(lets: tuple[tuple[str, Expr], ...], unify_division: bool) -> _Normaliser:
    return _Normaliser(dict(lets), unify_division=unify_division)


class _Normaliser:
    """Expressions to polynomials. ``unify_division`` writes ``ceildiv(a, b)`` as ``(a + b - 1) // b``."""

    def __init__(self, lets: Mapping[str, Expr] | None = None, *, unify_division: bool = False) -> None:
        self.lets = lets or {}
        self.unify_division = unify_division
        self._known: dict[Expr, Polynomial] = {}

    def polynomial(self, expr: Expr) -> Polynomial:
        """The normal form of ``expr``; each subexpression is looked at once, however it is nested."""
        if not isinstance(expr, Op):
            return self._polynomial(expr)
        if expr not in self._known:
            self._known[expr] = self._polynomial(expr)
        return self._known[expr]

    def _polynomial(self, expr: Expr) -> Polynomial:
        match expr:
            case Const(value=bool()):
                return {(expr,): 1}
            case Const(value=int(value)):
                return {(): value} if value else {}
            case Size(name=name) if name in self.lets:
                return self.polynomial(self.lets[name])
            case Size(name=name):
                return {(Size(name=name, dtype=INDEX),): 1}
            case Rank(name=name):
                return {(Rank(name=name, dtype=INDEX),): 1}
            case Cast(dtype=dtype, value=value) if dtype == INDEX and value.dtype == INDEX:
                return self.polynomial(value)
            case Op() if expr.dtype == INDEX:
                return self.operation(expr)
            case _:
                return {(self.atom(expr),): 1}

    def atom(self, expr: Expr) -> Expr:
        old = children(expr)
        if not old:
            return expr
        arguments = tuple(expression_of(self.polynomial(c)) if c.dtype == INDEX else self.atom(c) for c in old)
        return with_children(expr, arguments)

    def operation(self, expr: Op) -> Polynomial:
        match expr:
            case Op(op="add", args=(a, b)):
                return _sum(self.polynomial(a), self.polynomial(b))
            case Op(op="sub", args=(a, b)):
                return _sum(self.polynomial(a), self.polynomial(b), -1)
            case Op(op="neg", args=(a,)):
                return _sum({}, self.polynomial(a), -1)
            case Op(op="mul", args=(a, b)):
                left, right = self.polynomial(a), self.polynomial(b)
                if _explodes(left, right):
                    return {(op("mul", expression_of(left), expression_of(right)),): 1}
                return _product(left, right)
            case Op(op="pow", args=(a, Const(value=int(n)))) if 0 <= n <= _LARGEST_POWER:
                base = self.polynomial(a)
                result: Polynomial = {(): 1}
                for _ in range(n):
                    if _explodes(result, base):
                        return {(self.atom(expr),): 1}
                    result = _product(result, base)
                return result
            case Op(op="floordiv" | "mod" | "ceildiv" as name, args=(a, b)):
                return self.division(name, self.polynomial(a), self.polynomial(b))
            case Op(op="min" | "max" as name, args=args):
                return self.extreme(name, [self.polynomial(a) for a in args])
            case _:
                return {(self.atom(expr),): 1}

    def division(self, name: str, a: Polynomial, b: Polynomial) -> Polynomial:
        """Floor division, its remainder and its rounded-up form: multiples of the divisor are split off."""
        if not b:  # division by zero: kept, it is absent
            return {(op(name, expression_of(a), integer(0)),): 1}
        quotient, rest = _split(a, b)
        divisor, top = _constant(b), _constant(rest)
        if divisor is not None and top is not None:
            value = {"floordiv": top // divisor, "mod": top % divisor, "ceildiv": -(-top // divisor)}[name]
            remainder: Polynomial = {(): value} if value else {}
        elif not rest:
            remainder = {}
        elif top == -1 and name != "ceildiv" and _non_negative(b):
            remainder = {(): -1} if name == "floordiv" else _sum(b, {(): -1})
        elif name == "ceildiv" and self.unify_division and _non_negative(b):
            remainder = self.division("floordiv", _sum(_sum(rest, b), {(): -1}), b)
        else:
            remainder = {(op(name, expression_of(rest), expression_of(b)),): 1}
        return remainder if name == "mod" else _sum(quotient, remainder)

    def extreme(self, name: str, candidates: list[Polynomial]) -> Polynomial:
        """``min`` and ``max``, flattened, with comparable arguments reduced to the winner."""
        kept: list[Polynomial] = []
        for poly in candidates:
            nested = [self.polynomial(e) for e in _arguments(name, poly)]
            for new in nested or [poly]:
                worse = [k for k in kept if _beats(name, new, k)]
                if not any(_beats(name, k, new) for k in kept):
                    kept = [k for k in kept if k not in worse] + [new]
        expressions = sorted((expression_of(k) for k in kept), key=_key)
        result = expressions[0]
        for following in expressions[1:]:
            result = op(name, result, following)
        return kept[0] if len(kept) == 1 else {(result,): 1}


def _arguments(name: str, poly: Polynomial) -> list[Expr]:
    """The arguments of a polynomial that is one bare ``min`` or ``max`` of the same name."""
    match list(poly.items()):
        case [((Op(op=other, args=args),), 1)] if other == name:
            return [b for a in args for b in (_arguments(name, {(a,): 1}) or [a])]
        case _:
            return []


def _beats(name: str, a: Polynomial, b: Polynomial) -> bool:
    """Whether ``min`` or ``max`` of a and b is provably a."""
    return _non_negative(_sum(a, b, -1) if name == "max" else _sum(b, a, -1))


def expression_of(poly: Polynomial) -> Expr:
    """The polynomial as an expression: higher degrees first, positive terms before negative ones."""
    order = sorted(poly.items(), key=lambda item: (item[1] < 0, -len(item[0]), [_key(a) for a in item[0]]))
    result: Expr | None = None
    for monomial, factor in order:
        term = _product_expression(monomial, abs(factor))
        if result is None:
            result = term if factor > 0 else _product_expression(monomial, factor)
        else:
            result = op("add" if factor > 0 else "sub", result, term)
    return integer(0) if result is None else result


def _product_expression(monomial: Monomial, factor: int) -> Expr:
    result: Expr | None = None if factor in (1, -1) and monomial else integer(factor)
    for atom in monomial:
        result = atom if result is None else op("mul", result, atom)
    assert result is not None
    return op("neg", result) if factor == -1 and monomial else result

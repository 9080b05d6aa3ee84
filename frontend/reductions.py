"""Map, reduce, populate: from a typed Einsum to its canonical form, with the rules on what a reduction may do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ..ir.cascade import Einsum, Origin, RankExtent
from ..ir.diagnostics import did_you_mean, error
from ..ir.expr import Cast, Default, Expr, Op, Select, conjuncts, ranks_of, reads_of
from ..ir.index import affine
from ..ir.injective import is_injective
from ..ir.operators import REDUCTIONS
from ..ir.printer import expr_to_source
from ..ir.span import Span
from ..ir.types import I32, DType, accumulator, holds, value_type
from .analysis import EinsumInfo
from .typing import Value, convert, settle

_ELSEWHERE = {
    "sum": "write `+`",
    "prod": "write `*`",
    "any": "write `or`",
    "all": "write `and`",
    "mean": "a mean is a sum, `Y[m] = X[m, k] / K`",
}
"""Reductions of other languages, and what stands for them here."""


def populate(info: EinsumInfo, lets: Mapping[str, Expr], source: str) -> Einsum:
    """The canonical form of an Einsum whose value, conditions, coordinates, types and extents are known.

    Raises E05 for a reduction that is not well formed, E04 for a value that its target cannot take.
    """
    assert info.value is not None and info.target.dtype is not None
    scattered = _scattered(info, lets)
    right = _right_ranks(info, info.value)
    left = list(dict.fromkeys(name for coord in info.coordinates for name in ranks_of(coord)))
    reduced = [name for name in right if name not in left or name in scattered]
    reduced += [name for name in left if name in scattered and name not in reduced]
    operator = _operator(info, reduced, bool(scattered) or _is_scatter(info, lets))
    if info.syntax.reduction is None and len(reduced) > 0:
        _check_implicit_sum(info, info.value, reduced, source)
    target_type = value_type(info.target.dtype)
    value = _checked_value(info, operator, target_type)
    output = [name for name in left if name not in reduced]
    gone = set(reduced)
    conditions = [part for condition in info.filters for part in conjuncts(condition)]
    return Einsum(
        target=info.target.name,
        coords=info.coordinates,
        value=value,
        ranks=tuple(RankExtent(name=name, extent=info.extents[name]) for name in (*output, *reduced)),
        reduction=operator,
        reduced=tuple(reduced),
        point_filter=tuple(c for c in conditions if gone & set(ranks_of(c))),
        output_filter=tuple(c for c in conditions if not gone & set(ranks_of(c))),
        accumulator=accumulator(value.dtype) if operator in ("+", "*") else value.dtype,
        scatter=_is_scatter(info, lets),
        initialiser=info.initialiser,
        origin=Origin(span=info.syntax.span),
    )


def _right_ranks(info: EinsumInfo, value: Value) -> list[str]:
    """Rank variables on the right, in order; those of reads inside coordinates count as read."""
    inside = (r for coord in info.coordinates for r in reads_of(coord))
    return list(dict.fromkeys(n for e in (value.expr, *info.filters, *inside) for n in ranks_of(e)))


def _is_scatter(info: EinsumInfo, lets: Mapping[str, Expr]) -> bool:
    """Whether a coordinate is data-dependent, or several points may meet in one coordinate."""
    return any(reads_of(coord) for coord in info.coordinates) or not is_injective(info.coordinates, info.extents, lets)


def _scattered(info: EinsumInfo, lets: Mapping[str, Expr]) -> set[str]:
    """The rank variables inside the coordinates that scatter; they count as reduced."""
    if not _is_scatter(info, lets):
        return set()
    found: set[str] = set()
    for coord in info.coordinates:
        form = affine(coord)
        if form is None or form.shifted_rank is None:
            found |= set(ranks_of(coord))
    return found


def _operator(info: EinsumInfo, reduced: list[str], scatter: bool) -> str | None:
    """The reduction, checked against the reduced ranks."""
    stated = info.syntax.reduction
    if stated is None:
        if scatter and not reduced:
            raise error(
                "E0504",
                f"a coordinate of `{info.target.name}` is known only when the kernel runs",
                span=info.syntax.target.span,
                help="use a rank variable and a condition, as in `Y[p] = X[e]  where p == pos`",
            )
        if scatter:
            ranks = ", ".join(reduced)
            raise error(
                "E0504",
                f"several points may be written to one coordinate of `{info.target.name}`: say how they combine",
                span=info.syntax.target.span,
                help=f"for a sum, write `:: +({ranks})`",
            )
        return "+" if reduced else None
    if stated.operator not in REDUCTIONS:
        raise error(
            "E0503",
            f"there is no reduction `{stated.operator}`",
            span=stated.span,
            help=_ELSEWHERE.get(stated.operator)
            or did_you_mean(stated.operator, REDUCTIONS)
            or f"the reductions are {' '.join(REDUCTIONS)}",
        )
    _check_list(info, reduced, stated.span)
    if not reduced:
        raise error(
            "E0505",
            "this reduction reduces nothing: every rank variable on the right is on the left",
            span=stated.span,
            help="remove it",
        )
    if REDUCTIONS[stated.operator].coordinate and len(reduced) > 1:
        raise error(
            "E0506",
            f"`{stated.operator}` gives the coordinate along one rank, not along {len(reduced)}",
            span=stated.span,
            help=f"reduce `{reduced[-1]}` first by `{stated.operator[3:]}`, or join the ranks by an Einsum such as "
            "`Z[m1*M0 + m0] = X[m1, m0]`",
        )
    return stated.operator


def _check_list(info: EinsumInfo, reduced: list[str], span: Span) -> None:
    stated = info.syntax.reduction
    assert stated is not None
    listed = [node.name for node in stated.ranks]
    for i, node in enumerate(stated.ranks):
        if node.name in listed[:i]:
            raise error("E0502", f"`{node.name}` is listed twice", span=node.span)
        if node.name not in reduced:
            raise error(
                "E0502",
                f"`{node.name}` is a rank of the output, on the left, and cannot be reduced",
                span=node.span,
                help=f"remove it from the list, or from `{info.target.name}[…]`",
            )
    if missing := [name for name in reduced if name not in listed]:
        names = _listing(missing)
        raise error(
            "E0502",
            f"{names} {'is' if len(missing) == 1 else 'are'} reduced too: on the right and not on the left",
            span=span,
            help=f"list every reduced rank: `:: {stated.operator}({', '.join(reduced)})`",
        )


def _listing(names: Iterable[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def _terms(expr: Expr) -> Iterator[tuple[str, Expr]]:
    """The terms of the top-level sum, each with its sign; conversions of the sum are looked through."""
    match expr:
        case Op(op="add" | "sub" as name, args=(a, b)):
            yield from _terms(a)
            for sign, term in _terms(b):
                yield (sign if name == "add" else "-" if sign == "+" else "+"), term
        case Op(op="neg", args=(a,)):
            yield from (("-" if sign == "+" else "+", term) for sign, term in _terms(a))
        case Cast(value=inner, span=span) if span == inner.span:
            yield from _terms(inner)
        case _:
            yield "+", expr


def _check_implicit_sum(info: EinsumInfo, value: Value, reduced: list[str], source: str) -> None:
    """E0501 where the terms of an implicit sum do not all use every reduced rank."""
    terms = list(_terms(value.expr))
    if len(terms) < 2:
        return
    for _, term in terms:
        missing = [name for name in reduced if name not in ranks_of(term)]
        if not missing:
            continue
        text = _text(term, source)
        ranks = " and ".join(missing)
        times = "*".join(_factor(info.extents[name]) for name in missing)
        names = " and ".join(f"`{name}`" for name in missing)
        raise error(
            "E0501",
            f"`{text}` does not depend on {names}, so summing over {ranks} would add it {times} times",
            span=term.span or info.syntax.span,
            help=_two_einsums(info, terms, reduced, source),
        )


def _factor(extent: Expr) -> str:
    text = expr_to_source(extent)
    return text if text.isalnum() else f"({text})"


def _two_einsums(info: EinsumInfo, terms: list[tuple[str, Expr]], reduced: list[str], source: str) -> str:
    """The program with the sum in an Einsum of its own."""
    full = [(s, t) for s, t in terms if set(reduced) <= set(ranks_of(t))]
    rest = [(s, t) for s, t in terms if not set(reduced) <= set(ranks_of(t))]
    stated = f"`:: +({', '.join(reduced)})` states that summing all of it is meant"
    if not full:
        return stated
    name = f"{info.target.name}_sum"
    left = [n for c in info.coordinates for n in ranks_of(c)]
    used = [n for n in dict.fromkeys(left) if any(n in ranks_of(t) for _, t in full)]
    indices = f"[{', '.join(used)}]" if used else ""
    target = _slice(info.syntax.target.span, source)
    first = f"{name}{indices} = {_sum_text(full, source)}"
    second = f"{target} = {_sum_text([('+', None), *rest], source, f'{name}{indices}')}"
    return f"write two Einsums, `{first}` and `{second}`; {stated}"


def _sum_text(terms: Iterable[tuple[str, Expr | None]], source: str, named: str = "") -> str:
    text = ""
    for sign, term in terms:
        part = named if term is None else _text(term, source)
        text += f" {sign} {part}" if text else part if sign == "+" else f"-{part}"
    return text


def _text(term: Expr, source: str) -> str:
    return expr_to_source(term) if term.span is None else _slice(term.span, source)


def _slice(span: Span, source: str) -> str:
    return " ".join(source[span.start : span.end].split())


def _checked_value(info: EinsumInfo, operator: str | None, target: DType) -> Expr:
    """The value in the type in which it is reduced or stored."""
    assert info.value is not None
    value = info.value
    span = info.syntax.value.span
    if operator in ("and", "or") and not value.dtype.is_bool:
        raise error(
            "E0507",
            f"`{operator}` reduces conditions, but this is {'a number' if value.weak else value.dtype.name}",
            span=span,
            help="compare it, for example with `!= 0`",
        )
    coordinate = operator in ("argmax", "argmin")
    value = settle(value, None if coordinate else target)
    expr = value.expr
    if operator in ("+", "*") and not value.dtype.is_float:
        # Products are formed in the accumulator's type: a sum of i8 * i8 does not wrap at 8 bits.
        expr = widen(expr, accumulator(value.dtype))
    given = I32 if coordinate else expr.dtype if value.dtype.is_integer else value.dtype
    if not info.value.weak or coordinate:
        _check_store(info, given, target, operator, span)
    elif target.is_bool or (target.is_integer and value.dtype.is_float):
        _check_store(info, value.dtype, target, operator, span)
    return expr


def _check_store(info: EinsumInfo, given: DType, target: DType, operator: str | None, span: Span) -> None:
    """E0404 for conversions that lose whole numbers: they are written out."""
    if target.is_float or holds(target, given):
        return
    name = info.target.name
    if given.is_float:
        problem = f"a value of type {given.name} is no {target.name}, which `{name}` holds"
    elif target.is_bool:
        problem = f"a number of type {given.name} is no condition, which `{name}` holds"
    else:
        problem = f"{given.name} may not fit {target.name}, which `{name}` holds"
    if target.is_bool:
        advice = "compare it, for example with `!= 0`"
    elif operator in ("+", "*"):
        advice = f"declare `{name}` as {given.name}, or convert the result in an Einsum of its own: `cast({target.name}, …)`"
    else:
        advice = f"write `cast({target.name}, …)`"
    raise error("E0404", problem, span=span, help=advice)


def widen(expr: Expr, to: DType) -> Expr:
    """An integer value computed in a wider type from its leaves on."""
    if expr.dtype == to or not (expr.dtype.is_integer or expr.dtype.is_bool):
        return expr
    match expr:
        case Op(op="add" | "sub" | "mul" | "neg" as name, args=args) if holds(to, expr.dtype):
            return Op(op=name, args=tuple(widen(a, to) for a in args), dtype=to, span=expr.span)
        case Select(then=then, otherwise=otherwise):
            return replace(expr, then=widen(then, to), otherwise=widen(otherwise, to), dtype=to)
        case Default(value=value, default=fallback):
            return replace(expr, value=widen(value, to), default=widen(fallback, to), dtype=to)
        case _:
            return convert(expr, to)

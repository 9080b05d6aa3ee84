"""The ratio test: a running result is corrected by one factor when the value it depends on moves.

With a fresh d' for the results that F depends on: where ⊗ distributes over ⊕ and has an inverse, and
ρ = F(x, d') ⊗⁻¹ F(x, d) has no x, ⊕ F(x, d') = ρ(d, d') ⊗ (⊕ F(x, d)) (conditions C2 and C3 of design page 3; the
corrections of online softmax, Milakov and Gimelshein, arXiv 1805.02867, and RedFuser, arXiv 2603.10026).
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from ...ir.cascade import Einsum
from ...ir.operators import FUNCTIONS, REDUCTIONS, ScalarOperator
from .description import base_names, describe
from .symbolic import Term, Vocabulary, combined, is_constant_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a reduction is not part of a chain: the condition of design page 3 that fails, and how."""

    target: str
    condition: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The running result is multiplied (or added to, as ``operator`` says) with ``term``, over the bases ``before`` and
    ``after``; ``poles`` are the bases by which F divides."""

    operator: str
    term: Term
    before: tuple[sympy.Symbol, ...]
    after: tuple[sympy.Symbol, ...]
    poles: tuple[sympy.Symbol, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """Everything that is to be computed."""
        return (self.term,)


def primed(symbol: sympy.Symbol) -> sympy.Symbol:
    """The base after the next tile."""
    return sympy.Symbol(symbol.name + "'", **symbol.assumptions0)


def correction(einsum: Einsum, term: Term, vocabulary: Vocabulary) -> Ratio | Refusal:
    """The correction of F = ``term`` under the reduction of ``einsum``, or why there is none."""
    assert einsum.reduction is not None
    before = tuple(vocabulary.of_kind(term, "d"))
    after = tuple(primed(d) for d in before)
    moved = term.subs(dict(zip(before, after, strict=True)), simultaneous=True)
    unwanted = vocabulary.of_kind(term, "x")
    combine = REDUCTIONS[einsum.reduction].combine
    names = base_names(before, vocabulary)
    depends: str | None = None
    for operator, positive_only in _candidates(combine):
        ratio = moved / term if operator.inverse == "div" else moved - term
        if not is_constant_in(ratio, unwanted):
            depends = depends or _ratio_text(operator, names)
            continue
        value = combined(ratio, unwanted) if operator.inverse == "div" else sympy.expand(ratio)
        if not value.free_symbols.isdisjoint(unwanted):
            depends = depends or _ratio_text(operator, names)
            continue
        if positive_only and not value.is_positive:
            continue
        if operator.inverse == "div" and any(sympy.sympify(term.subs(d, 0)) == 0 for d in before):
            reason = f"it is 0 where {' and '.join(names)} is, and forgets the data"
            return Refusal(target=einsum.target, condition="C6", reason=reason)
        poles = tuple(d for d in before if _divides(d, term))
        return Ratio(operator=operator.name, term=value, before=before, after=after, poles=poles)
    if depends is None:
        reason = f"no operator that can be undone distributes over the reduction `{einsum.reduction}`"
        return Refusal(target=einsum.target, condition="C3", reason=reason)
    data = ", ".join(describe(x, vocabulary) for x in unwanted)
    return Refusal(target=einsum.target, condition="C2", reason=f"{depends} depends on {data}")


def _candidates(combine: str) -> list[tuple[ScalarOperator, bool]]:
    """The operators ⊗ that distribute over ⊕ and can be undone, and whether only positive corrections do."""
    usable = [f for f in FUNCTIONS.values() if f.associative and f.commutative and f.inverse is not None]
    always = [(f, False) for f in usable if combine in f.distributes_over]
    return always + [(f, True) for f in usable if combine in f.distributes_if_positive]


def _ratio_text(operator: ScalarOperator, names: list[str]) -> str:
    old, new = ", ".join(names), ", ".join(f"{n}'" for n in names)
    if operator.inverse == "div":
        return f"the ratio F(x, {new})/F(x, {old})"
    return f"the difference F(x, {new}) - F(x, {old})"


def _divides(base: sympy.Symbol, term: Term) -> bool:
    return any(
        base in power.base.free_symbols and power.exp.is_number and power.exp.is_negative for power in term.atoms(sympy.Pow)
    )

"""Terms of a chain in the words of the program."""

from __future__ import annotations

import sympy

from ...ir.cascade import Einsum
from ...ir.expr import Expr, reads_of
from ...ir.printer import expr_to_source
from .symbolic import Term, Vocabulary

_LONGEST = 72

_SIGNS = {"+": "Σ", "*": "Π"}


def formula(einsum: Einsum, value: Expr) -> str:
    """A reduction as a formula, with ``value`` in the place of what is written: ```D` = Σ abs(X[m, n] - MU[m])``."""
    assert einsum.reduction is not None
    return f"`{einsum.target}` = {_SIGNS.get(einsum.reduction, einsum.reduction)} {_shortened(expr_to_source(value))}"


def describe(term: Term, vocabulary: Vocabulary) -> str:
    """A term as a reader of the program would write it, shortened where it is long."""
    meaning = vocabulary.meaning
    names = {s: sympy.Symbol(expr_to_source(meaning[s])) for s in term.free_symbols if s in meaning}
    return f"`{_shortened(str(term.xreplace(names)))}`"


def base_names(bases: tuple[sympy.Symbol, ...], vocabulary: Vocabulary) -> list[str]:
    """The results of the chain that bases are made of, by name."""
    return list(
        dict.fromkeys(r.tensor for d in bases for r in reads_of(vocabulary.meaning[d]) if vocabulary.dependent(r.tensor))
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

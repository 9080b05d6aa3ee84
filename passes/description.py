"""Terms of a chain in the words of the program: symbols are shown as the expressions that they stand for."""

from __future__ import annotations

import sympy

from ..ir.printer import expr_to_source
from .symbolic import Term, Vocabulary

_LONGEST = 72


def describe(term: Term, vocabulary: Vocabulary) -> str:
    """A term as a reader of the program would write it, shortened where it is long."""
    names = {s: sympy.Symbol(expr_to_source(vocabulary.meaning[s])) for s in term.free_symbols if s in vocabulary.meaning}
    text = str(term.xreplace(names))
    return f"`{text}`" if len(text) <= _LONGEST else f"`{text[:_LONGEST]}…`"

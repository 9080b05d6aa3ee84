"""Fresh names for the tensors, sizes and rank variables that a rewrite adds."""

from __future__ import annotations

from ..ir.cascade import Cascade
from ..ir.operators import FUNCTIONS

_KEYWORDS = frozenset(
    [
        "kernel",
        "def",
        "let",
        "type",
        "check",
        "const",
        "require",
        "where",
        "if",
        "then",
        "else",
        "and",
        "or",
        "not",
        "inf",
        "true",
        "false",
        "cast",
        "bitcast",
        "quant",
    ]
)


class Names:
    """Names that collide with nothing in a cascade; each is given out once."""

    def __init__(self, cascade: Cascade, beside: Cascade | None = None) -> None:
        """Names for ``cascade``; ``beside`` is another that shares a program with it."""
        self._taken = {t.name for t in cascade.tensors} | set(cascade.sizes) | {let.name for let in cascade.lets}
        self._taken |= _KEYWORDS | set(FUNCTIONS)
        self._ranks = {r.name for e in cascade.einsums for r in e.ranks} | _KEYWORDS

        if beside is not None:
            self._taken |= {t.name for t in beside.tensors} | {let.name for let in beside.lets}

    def tensor(self, wish: str) -> str:
        """A name for a tensor or a size: ``wish``, with primes as needed."""
        while wish in self._taken:
            wish += "'"
        self._taken.add(wish)
        return wish

    def size(self, wish: str) -> str:
        return self.tensor(wish)

    def rank(self, wish: str) -> str:
        """A name for a rank variable. They have a namespace of their own, but a scalar of the same name would win."""
        while wish in self._ranks or wish in self._taken:
            wish += "'"
        self._ranks.add(wish)
        return wish

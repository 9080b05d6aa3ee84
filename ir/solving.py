"""Dimensions as linear functions of one size, which an array of known extents determines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .expr import Expr, size, sizes_of
from .index import Polynomial, expression_of, normal_form
from .sizes import evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearDim:
    """A dimension ``coefficient * symbol + offset`` that can be solved for ``symbol``."""

    symbol: str
    coefficient: Expr
    offset: Expr

    def solve(self, extent: int, sizes: Mapping[str, int]) -> int | None:
        """The value of ``symbol`` that makes the dimension ``extent``, given the other sizes; None if there is none.

        Raises KeyError for a size that is not given.
        """
        factor, rest = evaluate(self.coefficient, sizes), extent - evaluate(self.offset, sizes)
        if factor == 0 or rest % factor != 0 or rest // factor < 0:
            return None
        return rest // factor


def solve_for(symbol: str, expr: Expr) -> LinearDim | None:
    """``expr`` as a linear function of the size ``symbol``, None where it is none or does not depend on it.

    Example: ``2*N + 1`` gives coefficient 2 and offset 1; ``N * C`` gives coefficient ``C``, offset 0.
    """
    factor: Polynomial = {}
    offset: Polynomial = {}
    target = size(symbol)
    for monomial, count in normal_form(expr).items():
        rest = list(monomial)
        if target in rest:
            rest.remove(target)
            factor[tuple(rest)] = count
        else:
            offset[monomial] = count
        if any(symbol in sizes_of(atom) for atom in rest):
            return None
    if not factor:
        return None
    return LinearDim(symbol=symbol, coefficient=expression_of(factor), offset=expression_of(offset))

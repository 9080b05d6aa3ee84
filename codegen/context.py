"""What all Computes of one kernel share: where its tensors lie, what its sizes are, what its target can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tvm import tirx

from ..ir.expr import Expr
from .expressions import Evaluator, Lanes
from .microkernels.statements import Statements
from .views import View

Variables = dict[str, tirx.Expr]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What all Computes of one kernel share."""

    views: Mapping[str, View]
    sizes: Mapping[str, tirx.Expr]
    scalars: Mapping[str, tirx.Expr]
    lets: Mapping[str, Expr]  # how sizes that are no arguments are computed
    vector_bits: int
    fused: bool  # the target has fused multiply-add
    threads: int
    held: Callable[[Variables], Iterable[tuple[Expr, tirx.Expr]]] | None = None  # expressions whose values are known at a point

    def evaluator(
        self,
        s: Statements,
        variables: Variables,
        lanes: Lanes | None = None,
        values: Mapping[str, tirx.Expr] | None = None,
    ) -> Evaluator:
        """An evaluator at a point or a vector of points; ``values`` are known values beside the scalar parameters."""
        known = {**self.scalars, **(values or {})}
        made = Evaluator(s, self.views, self.sizes, variables, lanes, known, fused=self.fused)
        for expr, value in () if self.held is None else self.held(variables):
            made.knows(expr, value)
        return made

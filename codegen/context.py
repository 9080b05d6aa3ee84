"""What all Computes of one kernel share: where its tensors lie, what its sizes are, what its target can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm import tirx

from ..ir.expr import Const, Expr, Op, Size
from .expressions import Evaluator, Lanes
from .microkernels.statements import Statements, constant
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

    def evaluator(
        self,
        s: Statements,
        variables: Variables,
        lanes: Lanes | None = None,
        values: Mapping[str, tirx.Expr] | None = None,
    ) -> Evaluator:
        """An evaluator at a point or a vector of points; ``values`` are known values beside the scalar parameters."""
        known = {**self.scalars, **(values or {})}
        return Evaluator(s, self.views, self.sizes, variables, lanes, known, fused=self.fused)

    def bound(self, extent: Expr) -> int | None:
        """An upper bound of an extent that is known when the code is made."""
        match extent:
            case Const(value=value):
                return int(value)
            case Size(name=name):
                known = constant(self.sizes[name])
                return self.bound(self.lets[name]) if known is None and name in self.lets else known
            case Op(op="min", args=args):
                return min((b for b in map(self.bound, args) if b is not None), default=None)
            case Op(op="max", args=args):
                bounds = [self.bound(a) for a in args]
                return None if None in bounds else max(b for b in bounds if b is not None)
            case _:
                return None

"""How many operations the points of a loop nest take. Functions count as what they cost beside an addition
(``ir/operators.py``)."""

from __future__ import annotations

from functools import lru_cache

from ...ir.expr import Const, Expr, Op, ranks_of, walk
from ...ir.operators import FUNCTIONS
from ...ir.tile import Compute


@lru_cache(maxsize=4096)
def operations_of(compute: Compute) -> float:
    """Operations of one point, functions at their weight.

    What does not vary along the vectors is done once for all of them, and factors of a sum without a reduced rank once for the
    finished sum.
    """
    inner = {compute.vector} if compute.vector is not None else {r.name for r in compute.ranks}
    value = _summed(compute.value, set(compute.reduced)) if compute.reduction == "+" else compute.value
    rest = [e for e in (compute.filter, compute.condition) if e is not None]
    nodes = (n for e in (value, *rest) for n in walk(e) if isinstance(n, Op) and inner & set(ranks_of(n)))
    return 1.0 + sum(map(_flops, nodes)) + sum(operations_of(each) for each in compute.along)


def _summed(value: Expr, reduced: set[str]) -> Expr:
    """The factor of a product that varies with the reduced ranks, where it is only one."""
    while isinstance(value, Op) and value.op in ("mul", "div"):
        varying = [a for a in value.args if reduced & set(ranks_of(a))]
        if len(varying) != 1:
            break
        value = varying[0]
    return value


def weight_of(expr: Expr) -> float:
    """Operations of an expression at one point, functions at their weight."""
    return float(sum(_flops(n) for n in walk(expr) if isinstance(n, Op)))


def _flops(node: Op) -> int:
    match node:
        case Op(op="pow", args=(_, Const(value=exponent))) if exponent in (2, 3, 4):
            return 1 if exponent == 2 else 2
        case _:
            return FUNCTIONS[node.op].flops

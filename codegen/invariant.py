"""Parts of expressions that a loop leaves alone, to be computed before it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

from ..ir.expr import Cast, Expr, Op, Read, Select, conjuncts, op, ranks_of, reads_of
from ..ir.tile import Compute


def invariant(expr: Expr, rank: str) -> Iterator[Expr]:
    """The largest parts of a value that do not depend on ``rank`` and are worth keeping."""
    if rank not in ranks_of(expr):
        if isinstance(expr, Op | Select | Cast | Read) and reads_of(expr):
            yield expr
        return
    match expr:
        case Op(args=args):
            for part in args:
                yield from invariant(part, rank)
        case Cast(value=value):
            yield from invariant(value, rank)
        case _:  # a branch may read what only its condition allows
            return


def shared_by_row(compute: Compute, vector: str) -> list[Expr]:
    """What all points of a reduction along ``vector`` share: what is stored among them would make LLVM read it again."""
    own = {inner.target for inner in compute.along}
    parts = [e for c in (compute, *compute.along) for e in invariant(c.value, vector)]
    fixed = [e for e in parts if not set(ranks_of(e)) & set(compute.reduced)]
    return [e for e in fixed if own.isdisjoint(r.tensor for r in reads_of(e))]


def filters(compute: Compute, vector: str | None = None) -> tuple[list[Expr], Expr | None]:
    """The parts of the filter that the output point alone decides, in all lanes of ``vector`` alike, and the rest of it."""
    varying = {*compute.reduced, vector}
    parts = list(conjuncts(compute.filter))
    outer = [c for c in parts if not varying & set(ranks_of(c))]
    inner = [c for c in parts if c not in outer]
    return outer, reduce(lambda a, b: op("and", a, b), inner) if inner else None

"""Parts of expressions that a loop leaves alone, to be computed before it."""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.expr import Cast, Expr, Op, Read, Select, ranks_of, reads_of


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


def conjuncts(condition: Expr | None) -> Iterator[Expr]:
    """The parts that ``and`` joins."""
    match condition:
        case None:
            return
        case Op(op="and", args=args):
            for part in args:
                yield from conjuncts(part)
        case _:
            yield condition

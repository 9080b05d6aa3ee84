"""Results that are written past the caches: stores that neither read the line before nor keep it after.

A common store first reads the line that it is about to fill, and the written line pushes another one out: a copy moves three
bytes for two. Where a result is larger than the caches hold, nobody finds it there anyway.
Requires: Computes with their methods. Guarantees: the same values at the same places; only Computes of results that no
Compute of the kernel reads are marked.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.expr import Expr, integer, ranks_of
from ...ir.index import affine_in
from ...ir.target import Target
from ...ir.tile import Buffer, Compute, Decision, Method, Scope, TileProgram, map_computes, walk
from ..analysis.presence import TRUE
from .large import all_of, at_least, elements

LEAST_BYTES = 8 << 20
"""Of a result that is streamed, at least, and no less than twice the second-level caches. Copies on two Sapphire Rapids cores
with 2 MB each gain 1.4 to 1.9 times from 8 MB on, and from 16 MB on even where the copy is read again at once."""

LEAST_ROW = 256
"""Elements of a row that is streamed: its first and last elements, up to the borders of the lines, are not."""


def streaming(program: TileProgram, target: Target) -> TileProgram:
    """``program`` with the conditions under which Computes stream their results (``Compute.streams``), for x86 processors."""
    if target.arch not in ("x86_64", "any"):
        return program
    least = max(LEAST_BYTES, 2 * target.cores * target.l2)
    results = {b.name: b for b in program.buffers if b.scope is Scope.OUTPUT}
    for node in walk(program.body):
        if isinstance(node, Compute):
            for read in node.reads():
                results.pop(read.tensor, None)
    conditions = {name: c for name, b in results.items() if (c := _condition(b, least)) is not None}
    marked = map_computes(program.body, lambda compute: _mark(compute, conditions))
    if marked == program.body:
        return program
    names = dict.fromkeys(n.target for n in walk(marked) if isinstance(n, Compute) and n.streams is not None)
    decisions = tuple(
        Decision(
            made_by="stream",
            subject=name,
            chosen="stored past the caches" + ("" if conditions[name] == TRUE else " where it is large"),
            because=f"a result of {least >> 20} MB and more does not stay in the caches of {target}",
        )
        for name in names
    )
    return replace(program, body=marked, decisions=(*program.decisions, *decisions))


def _condition(buffer: Buffer, least: int) -> Expr | None:
    """Whether a result has so many bytes and such long rows; None where it never has."""
    if not buffer.shape:
        return None
    needed = -(-least * 8 // buffer.dtype.bits)
    return all_of(at_least(elements(buffer.shape), needed), at_least(buffer.shape[-1], LEAST_ROW))


def _mark(compute: Compute, conditions: dict[str, Expr]) -> Compute:
    if compute.target not in conditions or not _writes_rows(compute):
        return compute
    return replace(compute, streams=conditions[compute.target])


def _writes_rows(compute: Compute) -> bool:
    """Whether a Compute fills its target row by row, each element once."""
    if compute.method is not Method.LANES or compute.reduction is not None or compute.scatter or compute.along:
        return False
    *outer, last = compute.indices
    if compute.vector is None or any(compute.vector in ranks_of(i) for i in outer):
        return False
    form = affine_in(last, (compute.vector,))
    return form is not None and form.coefficient(compute.vector) == integer(1)

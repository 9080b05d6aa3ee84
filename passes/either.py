"""Two forms of a kernel in one program, behind a test on the sizes; and when the split form is one of them.

A form in parts pays where what is independent leaves cores of the target idle and the row is long enough that every part is
worth a thread. How many cores there are is the target description's to say: the machine that a kernel happens to run on, or
the threads of a call, decide nothing, so that results are the same bit by bit.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.cascade import Cascade
from ..ir.expr import Const, Expr, integer, op, sizes_of
from ..ir.index import constant_value
from ..ir.printer import expr_to_source
from ..ir.sizes import evaluate
from ..ir.target import Target
from ..ir.tile import Buffer, Decision, Scope, TileProgram, When, all_buffers
from .online.derive import Derivation
from .online.split import LEAST_PART, Splitting, split
from .tiling import contraction
from .tiling.assemble import assemble

MOST_PARTS = 64
"""More parts than this cost more to merge than further cores save."""

PARTS_OF_A_CORE = 2
"""Parts for each core of the target, so that one that is held up does not hold up all."""

RESIDENT = 3
"""Thread blocks of parts that a multiprocessor of a GPU has room for at a time, enough to fill the memory's bandwidth: more
would run in a second wave. With half of them or more there are no parts."""

LEAST_OF_A_BLOCK, LEAST_OF_VECTORS = 4096, 256
"""Positions of a part that are worth a thread block: of numbers, and of vectors that are multiplied (keys and values)."""

TILE_OF_PRODUCTS = 64
"""Positions of a tile of products of matrices: its scores stay in a thread block's registers."""

LONG = 1 << 24
"""A row with all the parts that there can be: no buffer of the split form may be larger for a longer one."""


def either(condition: Expr, first: TileProgram, second: TileProgram) -> TileProgram | None:
    """``first`` where ``condition`` (over sizes) holds, else ``second``; None where one buffer would have to be two.

    What explains the whole is taken from ``second``.
    """
    buffers: dict[str, Buffer] = {}
    for buffer in (*all_buffers(first), *all_buffers(second)):
        known = buffers.setdefault(buffer.name, buffer)
        if known != buffer and Scope.WORKSPACE in (known.scope, buffer.scope):
            return None
    shared = {b.name for b in second.buffers}
    lets = {let.name for let in second.cascade.lets}
    more = tuple(let for let in first.cascade.lets if let.name not in lets)
    return replace(
        second,
        cascade=replace(second.cascade, lets=(*second.cascade.lets, *more)) if more else second.cascade,
        buffers=(*second.buffers, *(b for b in first.buffers if b.name not in shared)),
        body=(When(condition=condition, body=first.body), When(condition=op("not", condition), body=second.body)),
        derived=(*first.derived, *second.derived),
        decisions=(*first.decisions, *second.decisions),
    )


def most_parts(target: Target) -> int:
    """The parts of a row that keep all cores of a target busy."""
    if target.gpu is not None:
        return PARTS_OF_A_CORE * target.gpu.multiprocessors
    return min(PARTS_OF_A_CORE * target.cores, MOST_PARTS)


def _side_by_side(target: Target) -> int:
    """Tasks that keep a target busy without parts."""
    return target.cores if target.gpu is None else RESIDENT * target.gpu.multiprocessors // 2


def _least_part(derivation: Derivation, target: Target) -> int:
    """Positions of a part that are worth a worker."""
    if target.gpu is None:
        return LEAST_PART
    products = any(contraction.product_of(e) is not None for e in derivation.cascade.einsums)
    return LEAST_OF_VECTORS if products and derivation.chains else LEAST_OF_A_BLOCK


def _tile(derivation: Derivation, least: int) -> int:
    """Positions of a tile of a thread block's part: those of products of matrices stay in registers, others are many."""
    for einsum in derivation.cascade.einsums:
        product = contraction.product_of(einsum)
        sides = () if product is None else (product.rows, product.columns)
        if sides and all(r is not None and einsum.extent(r) != integer(1) for r in sides):
            return TILE_OF_PRODUCTS
    return least


def in_parts(program: TileProgram, source: Cascade, derivation: Derivation, target: Target) -> TileProgram:
    """``program``, or its split form where few independent ranks meet a long one, or both behind a test on the sizes."""
    workers, least = _side_by_side(target), _least_part(derivation, target)
    if workers < 2:
        return program
    most, on_gpu = most_parts(target), target.gpu is not None
    if target.gpu is not None:
        blocks = integer(RESIDENT * target.gpu.multiprocessors)
        found = split(
            derivation, most=most, least=least, tile=_tile(derivation, least), beside=derivation.cascade, blocks=blocks
        )
    else:
        found = split(derivation, most=most, least=least, beside=derivation.cascade)
    if found is None or (not on_gpu and found.heavy and derivation.chains and program.cascade == source):
        return program
    lets = {let.name: let.value for let in source.lets}
    tasks, length = constant_value(found.tasks, lets), constant_value(found.length, lets)
    if (tasks is not None and tasks >= workers) or (length is not None and length < 2 * least):
        return program
    subject = f"the positions of {', '.join(found.ranks)}"
    if not on_gpu and found.heavy and tasks is None:
        reason = f"how many rows share the work ({expr_to_source(found.tasks)}) is not known, and the products' code is large"
        return _noting(program, Decision(made_by="split", subject=subject, chosen="in one part", because=reason))
    parts = assemble(found.cascade, target, prefix="split_")
    kept = _kept(parts, program, found.length)
    if kept is not None:
        reason = f"`{kept}` would be kept in memory for every step of every part"
        return _noting(program, Decision(made_by="split", subject=subject, chosen="in one part", because=reason))
    parts = replace(parts, decisions=(*found.decisions, *parts.decisions))
    few, long = op("lt", found.tasks, integer(workers)), op("ge", found.length, integer(2 * least))
    conditions = [c for c, known in ((few, tasks), (long, length)) if known is None]
    if not conditions:
        return _noting(parts, _decision(subject, f"up to {most} parts, side by side", found, target, least))
    condition = conditions[0] if len(conditions) == 1 else op("and", *conditions)
    both = either(condition, parts, program)
    if both is None:
        reason = "the forms would need one buffer in two places"
        return _noting(program, Decision(made_by="split", subject=subject, chosen="in one part", because=reason))
    chosen = f"up to {most} parts, side by side, if {expr_to_source(condition)}"
    return _noting(both, _decision(subject, chosen, found, target, least))


def _kept(parts: TileProgram, whole: TileProgram, length: Expr) -> str | None:
    """A buffer of the split form that grows with the row, and that the other form does not need; None where there is none."""

    def sizes(longest: int) -> dict[str, int]:
        found = {name: longest if name in sizes_of(length) else 1 for name in parts.cascade.sizes}
        for let in (*parts.cascade.lets, *parts.derived):
            found[let.name] = evaluate(let.value, found)
        return found

    known, long, longer = {b.name for b in whole.buffers}, sizes(LONG), sizes(4 * LONG)
    added = (b for b in parts.buffers if b.scope is Scope.WORKSPACE and b.name not in known)
    return next((b.name for b in added if any(evaluate(e, longer) > evaluate(e, long) for e in b.shape)), None)


def _decision(subject: str, chosen: str, found: Splitting, target: Target, least: int) -> Decision:
    rows = expr_to_source(found.tasks) if not isinstance(found.tasks, Const) else str(found.tasks.value)
    workers = f"{target.cores} cores of the target, leave some of them idle"
    if target.gpu is not None:
        workers = f"{_side_by_side(target)} thread blocks that keep the target's multiprocessors busy, leave some of them idle"
    worth = "a thread" if target.gpu is None else "a thread block"
    because = f"{rows} independent tasks, where fewer than the {workers}; a part of {least} positions is worth {worth}"
    return Decision(made_by="split", subject=subject, chosen=chosen, because=because)


def _noting(program: TileProgram, decision: Decision) -> TileProgram:
    return replace(program, decisions=(decision, *program.decisions))

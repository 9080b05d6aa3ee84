"""Which form of a cascade is compiled: as written, with its reductions in one pass, or both behind a test on the sizes.

The one-pass form recomputes a little for every tile and reads its input once. It pays where what the passes share is not an
input but is computed, and larger than the inputs (the scores of attention), and where a row does not stay in a core's cache
between its passes (the variance of a long row). The cost model decides, at the sizes of the program or, where they are
free, at rows of all lengths: the length beyond which the one-pass form is cheaper becomes a test at the start of a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt

from ..ir.blocks import fits_blocks
from ..ir.cascade import Cascade
from ..ir.expr import Const, Expr, integer, op, sizes_of
from ..ir.index import expand_lets, simplify
from ..ir.microkernels import FMA, PRODUCTS, TF32
from ..ir.target import Target
from ..ir.tile import Compute, Decision, Method, Scope, TileProgram, walk
from .cost import estimate
from .either import either, in_parts
from .online.derive import PRODUCT_TILE, ROW_TILE, Derivation, derive
from .shifting.unified import unified
from .tiling.assemble import assemble
from .tiling.contraction import kernel_as_held, on_tensor_cores, product_of

GAIN = 0.95
"""Share of the time as written that the one-pass form must stay below."""

WORTH_BOTH, WORTH_PRODUCTS = 0.9, 0.75
"""Share of the one-pass form's time below which, for short rows, the form as written is worth its code besides; the same where
that code has matrix products, which are long."""

LONG_ROW = 1 << 17
"""Elements of a row from which on the form without a maximum is taken: the row and its exponentials leave the cache between
passes. Softmax as written, in one pass, without a maximum, on one core of Sapphire Rapids: 13.1, 15.5, 11.4 ms for 64 rows of
131072; 8.0, 7.9, 4.7 ms for 4 of 1048576; 20.8, 20.3, 12.3 ms for 2 of 4194304. The cost model does not see the gain."""

TILE_ON_CORES = 64
"""Positions of a tile that a product on tensor cores makes or takes: with 32 rows a warp, its registers hold the tile and sums
of 128 columns."""

LONG_ROW_ON_GPU, ROW_TILE_ON_GPU = 1 << 15, 1 << 13
"""Elements of a row beyond which those of all thread blocks that run at a time leave a GPU's second-level cache between
passes (132 multiprocessors with 4 blocks each hold 69 MB of f32, an H100's cache 50 MB); and of the tiles of the one-pass form,
each of which costs some barriers."""

ALONE_ON_GPU = 1 << 14
"""Elements of a row beyond which the thread block whose registers hold it is alone on a multiprocessor: nothing arrives while
it computes. Where no result has as many elements, one pass reads the row once too, for several blocks side by side."""

OTHER_SIZE = 64
"""What a free size is taken to be that is no part of a row."""

LENGTHS = tuple(4**n for n in range(2, 12))
"""The lengths of rows at which forms are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The chosen tile program, and the derivation that was weighed."""

    program: TileProgram
    derivation: Derivation


def select(cascade: Cascade, target: Target, *, online: bool = True) -> Form:
    """The form that is expected to run fastest on ``target``; ``online=False`` keeps the passes as written."""
    form = _unsplit(cascade, target, online=online)
    if target.gpu is not None:
        form = replace(form, program=_noting_rounding(_noting_order(form.program), cascade, target))
    return replace(form, program=in_parts(form.program, cascade, form.derivation, target)) if online else form


def _unsplit(cascade: Cascade, target: Target, *, online: bool) -> Form:
    """The form in which one thread goes through all of a row."""
    cores = any(on_tensor_cores(cascade, einsum, target) for einsum in cascade.einsums)
    row_tile = ROW_TILE if target.gpu is None else ROW_TILE_ON_GPU
    derivation = derive(cascade, product_tile=TILE_ON_CORES if cores else PRODUCT_TILE, row_tile=row_tile)
    fewer = [r for r, passes in derivation.passes.items() if passes.after < passes.before]
    plain = assemble(cascade, target)
    if not online or not fewer:
        return Form(program=plain, derivation=derivation)
    if target.gpu is not None:
        return Form(program=_for_blocks(plain, cascade, derivation.cascade, target, fewer), derivation=derivation)
    shiftless, decisions = _without_maximum(cascade, target)
    if shiftless is not None:
        long = _for_long_rows(plain, shiftless, cascade, fewer)
        if long is not None:
            return Form(program=long, derivation=derivation)
    derived = assemble(derivation.cascade, target, prefix="online_")
    derived = replace(derived, decisions=(*derived.decisions, *decisions))
    return Form(program=_cheaper(plain, derived, cascade, target, fewer), derivation=derivation)


def _for_blocks(plain: TileProgram, cascade: Cascade, derived: Cascade, target: Target, fewer: list[str]) -> TileProgram:
    """The form of which the thread blocks of a GPU can hold the tiles: as written, if they can, else in one pass; for rows that
    do not stay in a cache between their passes one pass in any case."""
    ranks, length = ", ".join(fewer), _row(cascade, fewer)
    fits = fits_blocks(plain, target)
    because = "what the passes share stays in a thread block's shared memory, and rows in a cache"
    most = LONG_ROW_ON_GPU if _written(cascade, fewer) else ALONE_ON_GPU
    if fits and isinstance(length, Const) and int(length.value) <= most:
        return _noting(plain, ranks, "as written", because)
    online = assemble(derived, target, prefix="online_")
    if not fits:
        return _noting(
            online, ranks, "one pass", "what the passes share as written does not fit a thread block's shared memory"
        )
    if not fits_blocks(online, target):
        return _noting(plain, ranks, "as written", "a thread block cannot hold the tiles of the other form")
    what = "leave the caches between passes" if most == LONG_ROW_ON_GPU else "fill the registers of a multiprocessor"
    longer = f"rows of more than {most} elements {what}"
    if isinstance(length, Const):
        return _noting(online, ranks, "one pass", longer)
    both = either(op("le", length, integer(most)), plain, online)
    if both is None:
        return _noting(plain, ranks, "as written", because)
    return _noting(both, ranks, "both forms, chosen at the call", longer)


def _noting_order(program: TileProgram) -> TileProgram:
    """Says of scattered sums of floats that their last bits differ from run to run on a GPU."""
    sums = [n for n in walk(program.body) if isinstance(n, Compute) and n.scatter and n.reduction in ("+", "*")]
    targets = ", ".join(dict.fromkeys(n.target for n in sums if n.accumulator.is_float))
    if not targets:
        return program
    because = "threads add to the same element in the order in which they come: the last bits differ from run to run"
    decision = Decision(made_by="scatter", subject=targets, chosen="by atomic operations of all threads", because=because)
    return replace(program, decisions=(*program.decisions, decision))


def _noting_rounding(program: TileProgram, cascade: Cascade, target: Target) -> TileProgram:
    """Says of products of matrices of f32 whether they are on tensor cores, which round their operands to tf32."""
    kernels = {n.product.kernel for n in walk(program.body) if isinstance(n, Compute) and n.product is not None}
    permitted = replace(cascade, tolerance=TF32.tolerance)
    rounded = (cascade.tolerance or 0.0) >= TF32.tolerance
    products = ((einsum, product_of(einsum)) for einsum in cascade.einsums)
    matrices = [e for e, product in products if product is not None and None not in (product.rows, product.columns)]
    names = [e.target for e in matrices if kernel_as_held(permitted, e, target) == TF32.name]
    if not names or (TF32.name if rounded else FMA) not in kernels:
        return program
    chosen, because = (
        "f32 multiply-adds, no tensor cores",
        "f32 products are exact; @tolerance(1e-2) or --tolerance 1e-2 permits tf32",
    )
    if rounded:
        chosen, because = "tf32 on tensor cores", f"@tolerance({cascade.tolerance!r}) permits operands of 11 bits"
    decision = Decision(made_by=PRODUCTS, subject=", ".join(dict.fromkeys(names)), chosen=chosen, because=because)
    return replace(program, decisions=(*program.decisions, decision))


def _without_maximum(cascade: Cascade, target: Target) -> tuple[TileProgram | None, tuple[Decision, ...]]:
    """The form with one shift for all exponentials, where the kernel's tolerance allows another shift than the maximum.

    Beside matrix products it gained 2 to 11 % (attention on two cores), no more than the noise: it is left out there.
    """
    if cascade.tolerance is None:
        return None, ()
    found = unified(cascade)
    if found.cascade == cascade:
        return None, found.decisions
    program = assemble(found.cascade, target, prefix="online_")
    if any(isinstance(n, Compute) and n.method is Method.CONTRACTION for n in walk(program.body)):
        because = "matrix products take its time, and the maximum of a tile costs little beside them"
        subject = ", ".join(d.subject for d in found.decisions)
        return None, (Decision(made_by="unify", subject=subject, chosen="the maximum stays", because=because),)
    return replace(program, decisions=(*found.decisions, *program.decisions)), ()


def _for_long_rows(plain: TileProgram, shiftless: TileProgram, cascade: Cascade, fewer: list[str]) -> TileProgram | None:
    """The form without a maximum for long rows; None where the rows are short."""
    length, ranks = _row(cascade, fewer), ", ".join(fewer)
    gain = (
        f"rows of {LONG_ROW} elements and more leave the cache between passes, and this form adds up exponentials as they come"
    )
    if isinstance(length, Const):
        return None if int(length.value) < LONG_ROW else _noting(shiftless, ranks, "without a maximum", gain)
    both = either(op("lt", length, integer(LONG_ROW)), plain, shiftless)
    return None if both is None else _noting(both, ranks, "as written, and without a maximum for long rows", gain)


def _cheaper(plain: TileProgram, derived: TileProgram, cascade: Cascade, target: Target, fewer: list[str]) -> TileProgram:
    """The cheaper of the two forms, or both behind a test of the row's length."""
    length = _row(cascade, fewer)
    ranks = ", ".join(fewer)
    faster: list[bool] = []
    lengths: list[int] = []
    said: list[str] = []
    for points, sizes in _samples(cascade, length):
        before, after = (estimate(p, target, sizes).seconds for p in (plain, derived))
        faster.append(after < before * GAIN)
        lengths.append(points)
        said.append(f"{_time(after)} in one pass and {_time(before)} as written, where a row has {points} elements")
    model = f"by the cost model of {target}"
    if not any(faster):
        return _noting(plain, ranks, "as written", f"{model} one pass is not faster: {said[-1]}")
    first = faster.index(True)
    if first == 0 or not _is_worse(plain, derived, cascade, target, length, lengths[:first]):
        return _noting(derived, ranks, "one pass", f"{model} it is not slower: {said[first]}")
    workspaces = [b for p in (plain, derived) for b in p.buffers if b.scope is Scope.WORKSPACE]
    limit = int(sqrt(lengths[first - 1] * lengths[first]))
    both = None if workspaces else either(op("le", length, integer(limit)), plain, derived)
    if both is None:
        return _noting(derived, ranks, "one pass", f"{model} it is faster for long rows ({said[first]})")
    because = f"{model} rows of up to {limit} elements are faster as written ({said[first - 1]}; {said[first]})"
    return _noting(both, ranks, "both forms, chosen at the call", because)


def _is_worse(
    plain: TileProgram, derived: TileProgram, cascade: Cascade, target: Target, length: Expr, lengths: list[int]
) -> bool:
    """Whether the derived form loses so much at some of these lengths that the other is worth its code."""
    products = any(isinstance(n, Compute) and n.method is Method.CONTRACTION for n in walk(plain.body))
    worth = WORTH_PRODUCTS if products else WORTH_BOTH
    return any(
        estimate(plain, target, sizes).seconds < estimate(derived, target, sizes).seconds * worth
        for points, sizes in _samples(cascade, length)
        if points in lengths
    )


def _samples(cascade: Cascade, length: Expr) -> Iterator[tuple[int, Mapping[str, int]]]:
    """Lengths of a row, with sizes that give it; the sizes of the program where they are all known."""
    row = [s for s in cascade.sizes if s in sizes_of(length)]
    others = {s: OTHER_SIZE for s in cascade.sizes if s not in row}
    if isinstance(length, Const):
        yield int(length.value), others
        return
    for points in LENGTHS:
        *most, last = row
        yield points, {**others, **dict.fromkeys(most, 8), last: max(1, points // 8 ** len(most))}


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.2g} us"


def _written(cascade: Cascade, fewer: list[str]) -> bool:
    """Whether a result has the elements of a row."""
    results = {tensor.name for tensor in cascade.results}
    return any(e.target in results and set(e.output_ranks) & set(fewer) for e in cascade.einsums)


def _row(cascade: Cascade, fewer: list[str]) -> Expr:
    """The elements of one row: the product of the extents of the ranks whose passes fell."""
    found: dict[str, Expr] = {}
    for einsum in cascade.einsums:
        for r in einsum.ranks:
            if r.name in fewer:
                found.setdefault(r.name, r.extent)
    total: Expr = integer(1)
    for extent in found.values():
        total = op("mul", total, extent)
    return simplify(expand_lets(total, {let.name: let.value for let in cascade.lets}))


def _noting(program: TileProgram, ranks: str, chosen: str, because: str) -> TileProgram:
    decision = Decision(made_by="select", subject=f"the passes over {ranks}", chosen=chosen, because=because)
    return replace(program, decisions=(decision, *program.decisions))

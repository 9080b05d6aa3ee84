"""The register tile: mr rows by nv vectors of the result, one rank-1 update per step of k, all accumulators in
registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx

from .operand import Epilogue, Operand, Site
from .statements import Statements, both, ceil_div, condition, constant, index, minimum, negation
from .vector import first_lanes, fma, lane_type, load_aligned, load_masked, prefetch, splat, store_masked, widen, zeros

Tile = Sequence[Sequence[tirx.Expr]]
"""The values of a register tile: `tile[row][vector]`."""


def emit_rank_one_updates(
    s: Statements,
    *,
    rows: int,
    vectors: int,
    lanes: int,
    dtype: str,
    depth: tirx.Expr | int,
    a_at: Callable[[int, tirx.Expr], tirx.Expr],
    b_at: Callable[[int, tirx.Expr], tirx.Expr],
    unroll: int,
    fused: bool,
    ahead: Callable[[tirx.Expr], Sequence[tirx.Expr]] | None = None,
) -> Tile:
    """Emits Σ_p a(row, p) · b(vector, p) over p < depth, in ascending order, and returns the sums as expressions.

    `a_at` gives a scalar, `b_at` a vector, `ahead` the prefetches of each turn of the unrolled loop. The accumulators are
    buffers of one vector each, which LLVM promotes to registers as long as rows · vectors + vectors + 1 of them exist.
    """
    vector = lane_type(dtype, lanes)
    sums = [[s.allocate(f"sum_{i}_{v}", (1,), vector, scope="local") for v in range(vectors)] for i in range(rows)]
    for row in sums:
        for total in row:
            s.store(total, 0, zeros(dtype, lanes))

    def step(p: tirx.Expr) -> None:
        b = [s.bind(f"b_{v}", b_at(v, p)) for v in range(vectors)]
        for i, row in enumerate(sums):
            a = s.bind(f"a_{i}", splat(a_at(i, p), lanes))
            for total, factor in zip(row, b, strict=True):
                s.store(total, 0, fma(a, factor, tirx.BufferLoad(total, [index(0)]), fused=fused))

    depth = s.bind("depth", depth)
    turns = s.bind("turns", tirx.truncdiv(depth, index(unroll)) if unroll > 1 else depth)
    with s.loop("p", turns) as turn:
        if ahead is not None:
            for each in ahead(turn):
                s.evaluate(each)
        for u in range(unroll):
            step(turn * unroll + u)
    if unroll > 1:
        with s.loop("p_tail", depth - turns * unroll) as rest:
            step(turns * unroll + rest)
    return [[tirx.BufferLoad(total, [index(0)]) for total in row] for row in sums]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a register tile lies in the result: its first element, and how many rows and columns follow."""

    row: tirx.Expr
    col: tirx.Expr
    rows: tirx.Expr
    cols: tirx.Expr


def emit_prefetch_tile(s: Statements, *, c: Operand, place: Place, rows: int, cols: int) -> None:
    """Asks for the lines of C that a tile will be written to: they arrive while the sums are made."""
    if not c.rows_contiguous:
        return
    line = line_of(c)
    with s.loop("i", rows) as i:
        for j in range(0, cols, line):
            s.evaluate(prefetch(c.buffer, c.at(place.row + i, place.col + j), write=True))


def line_of(c: Operand) -> int:
    """Elements of a cache line."""
    bits: int = tvm_ffi.dtype(c.dtype).bits
    return 64 * 8 // bits


def prefetch_line(c: Operand, place: Place, turn: tirx.Expr, *, rows: int, cols: int) -> tirx.Expr:
    """Asks for line ``turn`` of those of :func:`emit_prefetch_tile`, the last one again after it: one for each turn of the
    loop. All at once they take every buffer that L1 has for what is on its way."""
    line = line_of(c)
    across = -(-cols // line)
    at = minimum(turn, rows * across - 1)
    row, column = tirx.truncdiv(at, index(across)), tirx.truncmod(at, index(across))
    return prefetch(c.buffer, c.at(place.row + row, place.col + column * line), write=True)


def emit_store_tile(
    s: Statements,
    tile: Tile,
    *,
    c: Operand,
    place: Place,
    lanes: int,
    dtype: str,
    add: bool | tirx.Expr,
    last: bool | tirx.Expr,
    epilogue: Epilogue | None,
    partial: Operand | None = None,
) -> None:
    """Writes the elements of the tile that lie inside C.

    `add`: whether the sums so far are added first (a literal or a condition). The epilogue is applied where `last` holds.
    Sums so far are in C, or in `partial`, a whole tile of them: then C is written once, in the end.
    A tile that is inside as a whole goes from the registers to C. Others, and those with a heavy epilogue, go through a
    scratch tile and a loop over its rows: one copy of the code instead of one for each register.
    """
    if partial is not None:
        sums = []
        for i, values in enumerate(tile):
            waiting = [_held(partial, partial.at(i, v * lanes), lanes, dtype, add) for v in range(len(values))]
            sums.append([x if held is None else x + held for x, held in zip(values, waiting, strict=True)])
        with s.when(negation(last)):
            for i, values in enumerate(sums):
                for v, value in enumerate(values):
                    s.store(partial.buffer, tirx.Ramp(partial.at(i, v * lanes), index(1), lanes), value)
        with s.when(last):
            emit_store_tile(
                s, sums, c=c, place=place, lanes=lanes, dtype=dtype, add=False, last=True, epilogue=epilogue
            )  # fmt: skip
        return
    width = len(tile[0]) * lanes
    inside = both(place.rows >= len(tile), place.cols >= width)
    direct: bool | tirx.Expr = c.rows_contiguous
    inline = epilogue is not None and epilogue.light and constant(condition(last)) == 1
    if direct:
        direct = inside
        if epilogue is not None and not inline:
            direct = both(direct, negation(last))
        direct = s.bind("direct", direct)
    with s.when(direct):
        for i, values in enumerate(tile):
            place_at = s.bind("at", c.at(place.row + i, place.col))
            for v, value in enumerate(values):
                held = _held(c, place_at + v * lanes, lanes, dtype, add)
                value = value if held is None else value + held
                if inline and epilogue is not None:
                    site = Site(row=place.row + i, col=place.col + v * lanes, lanes=lanes, count=lanes)
                    value = epilogue.apply(s, site, value)
                s.evaluate(store_masked(c.buffer, place_at + v * lanes, first_lanes(lanes, lanes), _encoded(c, value)))
    with s.when(negation(direct)):
        scratch = s.allocate("scratch", (len(tile) * width,), dtype, scope="local")
        for i, values in enumerate(tile):
            for v, value in enumerate(values):
                s.store(scratch, tirx.Ramp(index(i * width + v * lanes), index(1), lanes), value)
        across = ceil_div(minimum(place.cols, width), lanes)
        with s.loop("i", minimum(place.rows, len(tile))) as i, s.loop("v", across) as v:
            site = Site(
                row=s.bind("row", place.row + i),
                col=s.bind("col", place.col + v * lanes),
                lanes=lanes,
                count=s.bind("count", place.cols - v * lanes),
            )
            value = load_aligned(scratch, i * width + v * lanes, lanes)
            emit_store_vector(s, value, c=c, site=site, dtype=dtype, add=add, last=last, epilogue=epilogue)


def _encoded(c: Operand, value: tirx.Expr) -> tirx.Expr:
    return widen(value, c.dtype) if c.encode is None else c.encode(value)


def _held(c: Operand, at: tirx.Expr, lanes: int, dtype: str, add: bool | tirx.Expr) -> tirx.Expr | None:
    """A whole vector of C if `add` holds, else zeros; None if it is known not to hold. The mask is the branch."""
    known = constant(condition(add))
    if known == 0:
        return None
    count = lanes if known else tirx.Select(add, index(lanes), index(0))
    return load_masked(c.buffer, at, first_lanes(count, lanes), dtype, lanes)


def emit_store_vector(
    s: Statements,
    value: tirx.Expr,
    *,
    c: Operand,
    site: Site,
    dtype: str,
    add: bool | tirx.Expr,
    last: bool | tirx.Expr,
    epilogue: Epilogue | None,
) -> None:
    """Writes one vector of results, or the part of it that lies inside C."""
    total = s.allocate("total", (1,), lane_type(dtype, site.lanes), scope="local")
    held = tirx.BufferLoad(total, [index(0)])
    s.store(total, 0, value)
    with s.when(add):
        s.store(total, 0, held + site.load(c, dtype))
    if epilogue is None:
        emit_write(s, held, c=c, site=site)
    elif constant(condition(last)) == 1:
        emit_write(s, epilogue.apply(s, site, held), c=c, site=site)  # perhaps of another type
    else:
        with s.when(last):
            s.store(total, 0, epilogue.apply(s, site, held))
        emit_write(s, held, c=c, site=site)


def emit_write(s: Statements, value: tirx.Expr, *, c: Operand, site: Site) -> None:
    """Stores the lanes of `value` that lie inside C, rounded to C's type."""
    at = c.at(site.row, site.col)
    value = _encoded(c, value)
    if site.lanes == 1:
        s.store(c.buffer, at, value)
    elif c.rows_contiguous:
        s.evaluate(store_masked(c.buffer, at, site.mask, value))
    else:
        spill = s.allocate("spill", (site.lanes,), c.dtype, scope="local")
        s.store(spill, tirx.Ramp(index(0), index(1), site.lanes), value)
        with s.loop("lane", minimum(site.count, site.lanes)) as lane:
            s.store(c.buffer, at + lane * c.col_stride, tirx.BufferLoad(spill, [lane]))

"""The register tile: mr rows by nv vectors of the result, one rank-1 update per step of k, all accumulators in
registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from .operand import Epilogue, Operand, Site
from .statements import Statements, constant, index, minimum
from .vector import fma, lane_type, splat, store_masked, widen, zeros

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
) -> Tile:
    """Emits Σ_p a(row, p) · b(vector, p) over p < depth, in ascending order, and returns the sums as expressions.

    `a_at` gives a scalar, `b_at` a vector. The accumulators are buffers of one vector each, which LLVM promotes to
    registers as long as rows · vectors + vectors + 1 of them exist.
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
        for u in range(unroll):
            step(turn * unroll + u)
    if unroll > 1:
        with s.loop("p_tail", depth - turns * unroll) as rest:
            step(turns * unroll + rest)
    return [[tirx.BufferLoad(total, [index(0)]) for total in row] for row in sums]


def emit_store_tile(
    s: Statements,
    tile: Tile,
    *,
    c: Operand,
    row: tirx.Expr,
    col: tirx.Expr,
    rows: tirx.Expr,
    cols: tirx.Expr,
    lanes: int,
    dtype: str,
    add: bool | tirx.Expr,
    last: bool | tirx.Expr,
    epilogue: Epilogue | None,
) -> None:
    """Writes the `rows` × `cols` elements of the tile that lie inside C, its first at (row, col).

    `add`: whether what C holds is added first (a literal or a condition). The epilogue is applied where `last` holds.
    """
    for v in range(len(tile[0])):
        with s.when(cols > v * lanes):
            for i, values in enumerate(tile):
                with s.when(rows > i):
                    site = Site(row=row + i, col=col + v * lanes, lanes=lanes, count=cols - v * lanes)
                    _store_vector(s, values[v], c=c, site=site, dtype=dtype, add=add, last=last, epilogue=epilogue)


def _store_vector(
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
    """Writes one vector of results, through a scratch vector where a condition or C's stride needs one."""
    known = {constant(flag) if not isinstance(flag, bool) else int(flag) for flag in (add, last)}
    if None in known or (not c.rows_contiguous and site.lanes > 1):
        scratch = s.allocate("result", (1,), lane_type(dtype, site.lanes), scope="local")
        held = tirx.BufferLoad(scratch, [index(0)])
        s.store(scratch, 0, value)
        with s.when(add):
            s.store(scratch, 0, held + site.load(c, dtype))
        if epilogue is not None:
            with s.when(last):
                s.store(scratch, 0, epilogue(site, held))
        _write(s, held, c, site)
        return
    if _is_true(add):
        value = value + site.load(c, dtype)
    if epilogue is not None and _is_true(last):
        value = epilogue(site, s.bind("total", value))
    _write(s, value, c, site)


def _is_true(flag: bool | tirx.Expr) -> bool:
    return bool(flag if isinstance(flag, bool) else constant(flag))


def _write(s: Statements, value: tirx.Expr, c: Operand, site: Site) -> None:
    at = c.at(site.row, site.col)
    value = widen(value, c.dtype)
    if site.lanes == 1:
        s.store(c.buffer, at, value)
    elif c.rows_contiguous:
        s.evaluate(store_masked(c.buffer, at, site.mask, value))
    else:
        spill = s.allocate("spill", (site.lanes,), c.dtype, scope="local")
        s.store(spill, tirx.Ramp(index(0), index(1), site.lanes), value)
        with s.loop("lane", minimum(site.count, index(site.lanes))) as lane:
            s.store(c.buffer, at + lane * c.col_stride, tirx.BufferLoad(spill, [lane]))

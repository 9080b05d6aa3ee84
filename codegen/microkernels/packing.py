"""Packing: blocks of the operands of a matrix product copied to where the register tile reads them best.

The operand that feeds vectors (B) becomes panels of nr columns, each a dense kc × nr matrix. The operand that feeds
broadcasts (A) becomes rows with a fixed stride when k is contiguous in it (a broadcast needs no particular neighbour,
and a copy of rows is cheaper than a transposition), or panels of mr interleaved rows when its columns are contiguous.
Narrow types are widened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from .operand import Operand
from .plan import GemmPlan
from .statements import Statements, ceil_div, index, minimum, round_up
from .vector import first_lanes, load_aligned, load_masked, load_scalar, shuffle, store_masked


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """A packed block of A. `element(base, i, p)` reads row i of a register tile whose `base(panel)` has been
    computed."""

    buffer: tirx.Buffer
    base: Callable[[tirx.Expr], tirx.Expr]
    element: Callable[[tirx.Expr, int, tirx.Expr], tirx.Expr]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedColumns:
    """A packed block of B. `vector(base, v, p)` reads vector v of step p of the panel whose `base(panel)` has been
    computed."""

    buffer: tirx.Buffer
    base: Callable[[tirx.Expr], tirx.Expr]
    vector: Callable[[tirx.Expr, int, tirx.Expr], tirx.Expr]


def row_stride(plan: GemmPlan) -> int:
    """Elements between packed rows of A: an odd number of vectors, so that rows fall into different sets of L1."""
    vectors = -(-plan.kc // plan.lanes)
    return (vectors + 1 - vectors % 2) * plan.lanes


def rows_capacity(plan: GemmPlan, a: Operand) -> int:
    """Elements of the buffer that holds a packed block of A."""
    per_row = -(-plan.kc // plan.lanes) * plan.lanes if a.columns_contiguous else row_stride(plan)
    return plan.mc * per_row


def columns_capacity(plan: GemmPlan) -> int:
    """Elements of the buffer that holds a packed block of B."""
    return -(-plan.kc // plan.lanes) * plan.lanes * plan.nc


def emit_pack_rows(
    s: Statements,
    *,
    a: Operand,
    target: tirx.Buffer,
    row: tirx.Expr,
    rows: tirx.Expr,
    start: tirx.Expr,
    depth: tirx.Expr,
    plan: GemmPlan,
    dtype: str,
) -> PackedRows:
    """Copies A[row : row + rows, start : start + depth]; rows beyond the last repeat it up to a multiple of mr."""
    if a.columns_contiguous:
        return _pack_interleaved(
            s, a=a, target=target, row=row, rows=rows, start=start, depth=depth, plan=plan, dtype=dtype
        )
    stride, lanes = row_stride(plan), plan.lanes
    with s.loop("row", round_up(rows, plan.mr)) as i:
        source = s.bind("source", a.at(row + minimum(i, rows - 1), start))
        if a.rows_contiguous:
            with s.loop("chunk", ceil_div(depth, lanes)) as chunk:
                mask = first_lanes(depth - chunk * lanes, lanes)
                value = load_masked(a.buffer, source + chunk * lanes, mask, dtype, lanes)
                s.store(target, tirx.Ramp(i * stride + chunk * lanes, index(1), lanes), value)
        else:
            with s.loop("p", depth) as p:
                s.store(target, i * stride + p, load_scalar(a.buffer, source + p * a.col_stride, dtype))
    return PackedRows(
        buffer=target,
        base=lambda panel: panel * (plan.mr * stride),
        element=lambda base, i, p: tirx.BufferLoad(target, [base + i * stride + p]),
    )


def _pack_interleaved(
    s: Statements,
    *,
    a: Operand,
    target: tirx.Buffer,
    row: tirx.Expr,
    rows: tirx.Expr,
    start: tirx.Expr,
    depth: tirx.Expr,
    plan: GemmPlan,
    dtype: str,
) -> PackedRows:
    mr, lanes = plan.mr, plan.lanes
    with s.loop("panel", ceil_div(rows, mr)) as panel:
        inside = s.bind("inside", minimum(rows - panel * mr, mr))
        with s.loop("p", depth) as p:
            source = s.bind("source", a.at(row + panel * mr, start + p))
            for first in range(0, mr, lanes):
                value = load_masked(a.buffer, source + first, first_lanes(inside - first, lanes), dtype, lanes)
                kept = first_lanes(min(lanes, mr - first), lanes)
                s.evaluate(store_masked(target, (panel * depth + p) * mr + first, kept, value))
    return PackedRows(
        buffer=target,
        base=lambda panel: panel * depth * mr,
        element=lambda base, i, p: tirx.BufferLoad(target, [base + p * mr + i]),
    )


def emit_pack_columns(
    s: Statements,
    *,
    b: Operand,
    target: tirx.Buffer,
    start: tirx.Expr,
    depth: tirx.Expr,
    col: tirx.Expr,
    cols: tirx.Expr,
    plan: GemmPlan,
    dtype: str,
) -> PackedColumns:
    """Copies B[start : start + depth, col : col + cols] as panels of nr columns; lanes beyond the last column are
    harmless."""
    nr, nv, lanes = plan.nr, plan.nv, plan.lanes
    height = s.bind("height", round_up(depth, lanes) if b.columns_contiguous else depth)
    with s.loop("panel", ceil_div(cols, nr)) as panel:
        inside = s.bind("inside", minimum(cols - panel * nr, nr))
        if b.rows_contiguous:
            with s.loop("p", depth) as p:
                source = s.bind("source", b.at(start + p, col + panel * nr))
                for v in range(nv):
                    mask = first_lanes(inside - v * lanes, lanes)
                    value = load_masked(b.buffer, source + v * lanes, mask, dtype, lanes)
                    s.store(target, _ramp((panel * height + p) * nr + v * lanes, lanes), value)
        elif b.columns_contiguous:
            with s.loop("chunk", ceil_div(depth, lanes)) as chunk:
                mask = first_lanes(depth - chunk * lanes, lanes)
                for v in range(nv):
                    columns = []
                    for j in range(v * lanes, (v + 1) * lanes):
                        at = b.at(start + chunk * lanes, col + panel * nr + minimum(index(j), inside - 1))
                        columns.append(s.bind(f"column_{j}", load_masked(b.buffer, at, mask, dtype, lanes)))
                    for i, value in enumerate(_emit_transpose(s, columns)):
                        at = (panel * height + chunk * lanes + i) * nr + v * lanes
                        s.store(target, _ramp(at, lanes), value)
        else:
            with s.loop("p", depth) as p, s.loop("j", nr) as j:
                at = b.at(start + p, col + panel * nr + minimum(j, inside - 1))
                s.store(target, (panel * height + p) * nr + j, load_scalar(b.buffer, at, dtype))
    return PackedColumns(
        buffer=target,
        base=lambda panel: panel * height * nr,
        vector=lambda base, v, p: load_aligned(target, base + p * nr + v * lanes, lanes),
    )


def _emit_transpose(s: Statements, rows: list[tirx.Expr]) -> list[tirx.Expr]:
    """A square of registers transposed: log₂(lanes) rounds, each interleaving the first half of the rows with the
    second."""
    lanes = len(rows)
    half = lanes // 2
    low = [lane // 2 + (lane % 2) * lanes for lane in range(lanes)]
    high = [lane + half for lane in low]
    for _ in range(lanes.bit_length() - 1):
        pairs = [(rows[i], rows[i + half]) for i in range(half)]
        rows = [s.bind("woven", shuffle(pair, lanes)) for pair in pairs for lanes in (low, high)]
    return rows


def _ramp(start: tirx.Expr, lanes: int) -> tirx.Expr:
    return tirx.Ramp(start, index(1), lanes)

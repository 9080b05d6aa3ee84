"""Packing: blocks of the operands of a matrix product copied to where the register tile reads them best.

The operand that feeds vectors (B) becomes panels of nr columns, in which step after step of k follows in memory; where
k is its contiguous direction, squares of it are transposed in registers. The one that feeds broadcasts (A) needs no order
but a distance between its rows that is known when the code is made, so that one register addresses all of them: rows are
copied as they lie, or read in place where that holds already. Narrow types are widened. Elements that
are a formula of others are computed on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from .operand import Formula, Operand, Site, load
from .plan import GemmPlan
from .statements import Statements, ceil_div, constant, index, minimum, round_up
from .vector import first_lanes, load_aligned, shuffle, store_masked


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


def row_pitch(plan: GemmPlan) -> int:
    """The distance of two rows of a packed block of A: an odd number of vectors, so that they fall into different sets."""
    vectors = -(-plan.kc // plan.lanes)
    return (vectors + 1 - vectors % 2) * plan.lanes


def rows_capacity(plan: GemmPlan) -> int:
    """Elements of the buffer that holds a packed block of A, in either of its layouts."""
    return -(-plan.mc // plan.mr) * plan.mr * row_pitch(plan) + plan.lanes


def columns_capacity(plan: GemmPlan) -> int:
    """Elements of the buffer that holds a packed block of B."""
    return -(-plan.kc // plan.lanes) * plan.lanes * plan.nc


def emit_pack_rows(
    s: Statements,
    *,
    a: Operand | Formula,
    target: tirx.Buffer,
    row: tirx.Expr,
    rows: tirx.Expr,
    start: tirx.Expr,
    depth: tirx.Expr,
    plan: GemmPlan,
    dtype: str,
) -> PackedRows:
    """Copies A[row : row + rows, start : start + depth] row by row, or, where A is contiguous along its columns, as panels of
    mr interleaved rows; rows beyond the last are harmless."""
    mr, lanes, pitch = plan.mr, plan.lanes, row_pitch(plan)
    with s.loop("panel", ceil_div(rows, mr)) as panel:
        inside = s.bind("inside", minimum(rows - panel * mr, mr))
        first = s.bind("first", row + panel * mr)
        if a.columns_contiguous:
            with s.loop("p", depth) as p:
                col = s.bind("col", start + p)
                for i in range(0, mr, lanes):
                    count = s.bind("count", inside - i)
                    site = Site(row=s.bind("row", first + i), col=col, lanes=lanes, count=count, along_row=False)
                    value = load(s, a, site, dtype)
                    _emit_keep(s, target, (panel * depth + p) * mr + i, value, mr - i, lanes)
        elif a.rows_contiguous:
            # The last row again instead of rows beyond it: what lay in the memory there may be subnormal, which stalls.
            with s.loop("i", mr) as i:
                source = s.bind("source", first + minimum(i, inside - 1))
                held = s.bind("held", (panel * mr + i) * pitch)
                with s.loop("chunk", ceil_div(depth, lanes)) as chunk:
                    step = s.bind("step", chunk * lanes)
                    count = s.bind("count", depth - step)
                    site = Site(row=source, col=s.bind("col", start + step), lanes=lanes, count=count)
                    s.store(target, _ramp(held + step, lanes), load(s, a, site, dtype))
        else:
            with s.loop("p", depth) as p, s.loop("i", mr) as i:
                site = Site(row=first + minimum(i, inside - 1), col=start + p, lanes=1, count=1)
                s.store(target, (panel * depth + p) * mr + i, load(s, a, site, dtype))
    if a.rows_contiguous and not a.columns_contiguous:
        return PackedRows(
            buffer=target,
            base=lambda panel: panel * (mr * pitch),
            element=lambda base, i, p: tirx.BufferLoad(target, [base + p + i * pitch]),
        )
    return PackedRows(
        buffer=target,
        base=lambda panel: panel * depth * mr,
        element=lambda base, i, p: tirx.BufferLoad(target, [base + p * mr + i]),
    )


def rows_in_place(a: Operand | Formula, row: tirx.Expr, start: tirx.Expr, plan: GemmPlan, dtype: str) -> PackedRows | None:
    """A as it lies, from (row, start) on; None where the register tile cannot read it so."""
    if isinstance(a, Formula):
        return None
    pitch = constant(a.row_stride)
    if pitch is None or not a.rows_contiguous or a.slack < plan.mr - 1 or a.dtype != dtype:
        return None
    first = a.at(row, start)
    return PackedRows(
        buffer=a.buffer,
        base=lambda panel: first + panel * (plan.mr * pitch),
        element=lambda base, i, p: tirx.BufferLoad(a.buffer, [base + p + i * pitch]),
    )


def _emit_keep(s: Statements, target: tirx.Buffer, at: tirx.Expr, value: tirx.Expr, width: int, lanes: int) -> None:
    """Stores the first `width` lanes of a vector, or all of them."""
    s.evaluate(store_masked(target, at, first_lanes(min(lanes, width), lanes), value))


def emit_pack_columns(
    s: Statements,
    *,
    b: Operand | Formula,
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
                row, first = s.bind("row", start + p), s.bind("first", col + panel * nr)
                for v in range(nv):
                    count = s.bind("count", inside - v * lanes)
                    site = Site(row=row, col=s.bind("at", first + v * lanes), lanes=lanes, count=count)
                    value = load(s, b, site, dtype)
                    s.store(target, _ramp((panel * height + p) * nr + v * lanes, lanes), value)
        elif b.columns_contiguous:
            with s.loop("chunk", ceil_div(depth, lanes)) as chunk:
                row, count = s.bind("row", start + chunk * lanes), s.bind("count", depth - chunk * lanes)
                for v in range(nv):
                    columns = []
                    for j in range(v * lanes, (v + 1) * lanes):
                        at = s.bind("at", col + panel * nr + minimum(index(j), inside - 1))
                        site = Site(row=row, col=at, lanes=lanes, count=count, along_row=False)
                        columns.append(s.bind(f"column_{j}", load(s, b, site, dtype)))
                    for i, value in enumerate(_emit_transpose(s, columns)):
                        at = (panel * height + chunk * lanes + i) * nr + v * lanes
                        s.store(target, _ramp(at, lanes), value)
        else:
            with s.loop("p", depth) as p, s.loop("j", nr) as j:
                site = Site(row=start + p, col=col + panel * nr + minimum(j, inside - 1), lanes=1, count=1)
                s.store(target, (panel * height + p) * nr + j, load(s, b, site, dtype))
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

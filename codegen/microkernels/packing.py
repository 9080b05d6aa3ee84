"""Packing: blocks of the operands of a matrix product copied to where the register tile reads them best.

The operand that feeds vectors (B) becomes panels of nr columns, in which step after step of k follows in memory. The one
that feeds broadcasts (A) needs no order but a distance between its rows that is known when the code is made, so that one
register addresses all of them: rows are copied one after the other, or read in place where that holds already. An operand
that is contiguous in the other direction is transposed in registers, square by square. Narrow types are widened. Elements that
are a formula of others are computed on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from ...ir.plans import GemmPlan
from .operand import Formula, Operand, Site, load
from .statements import Statements, ceil_div, condition, constant, index, minimum, round_up
from .vector import load_aligned, prefetch, shuffle
from .window import WindowOperand


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """A packed block of A. `element(base, i, p)` reads row i of a register tile whose `base(panel)` has been
    computed."""

    buffer: tirx.Buffer
    base: Callable[[tirx.Expr], tirx.Expr]
    element: Callable[[tirx.Expr, int, tirx.Expr], tirx.Expr]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMatrix:
    """All of B as panels of nr columns from the start of `buffer` on, each with room for `height` steps of k.

    `single` tells that it is one block of what stays in the caches.
    """

    buffer: tirx.Buffer
    height: tirx.Expr | int
    single: bool

    def block(self, col: tirx.Expr, start: tirx.Expr, plan: GemmPlan) -> PackedColumns:
        """The columns from `col` on, a multiple of nr, at the steps from `start` on."""
        return packed_columns(self.buffer, col * self.height + start * plan.nr, plan, self.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedColumns:
    """A packed block of B. `vector(base, v, p)` reads vector v of step p of the panel whose `base(panel)` has been
    computed; `ahead(base, i)` asks for line i of the panel after it."""

    buffer: tirx.Buffer
    base: Callable[[tirx.Expr], tirx.Expr]
    vector: Callable[[tirx.Expr, int, tirx.Expr], tirx.Expr]
    ahead: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]


def row_pitch(plan: GemmPlan) -> int:
    """The distance of two rows of a packed block of A."""
    return -(-plan.kc // plan.lanes) * plan.lanes


def rows_size(rows: tirx.Expr, plan: GemmPlan) -> tirx.Expr:
    """Elements of a packed block of A of so many rows, a multiple of mr."""
    return rows * row_pitch(plan)


def columns_size(cols: tirx.Expr, plan: GemmPlan) -> tirx.Expr:
    """Elements of a packed block of B of so many columns, a multiple of nr."""
    return cols * row_pitch(plan)


def emit_pack_rows(
    s: Statements,
    *,
    a: Operand | Formula,
    target: tirx.Buffer,
    base: tirx.Expr,
    row: tirx.Expr,
    rows: tirx.Expr,
    start: tirx.Expr,
    depth: tirx.Expr,
    plan: GemmPlan,
    dtype: str,
) -> None:
    """Copies A[row : row + rows, start : start + depth] to `base`, row by row; rows that fill the last panel are harmless.

    Where A is contiguous along its columns, squares of it are transposed in registers.
    """
    lanes, pitch = plan.lanes, row_pitch(plan)
    if a.columns_contiguous:
        # Whole squares of rows are written as long as they fit into the block, whose rows are a multiple of mr.
        with s.loop("square", ceil_div(rows, lanes)) as square, s.loop("chunk", ceil_div(depth, lanes)) as chunk:
            first, step = s.bind("first", square * lanes), s.bind("step", chunk * lanes)
            count = s.bind("count", rows - first)
            columns = []
            for p in range(lanes):
                col = s.bind("col", start + minimum(step + p, depth - 1))
                site = Site(row=row + first, col=col, lanes=lanes, count=count, along_row=False)
                columns.append(s.bind("column", load(s, a, site, dtype)))
            room = s.bind("room", round_up(rows, plan.mr) - first)
            for i, value in enumerate(emit_transpose(s, columns)):
                with s.when(condition(room > i)):
                    s.store(target, _ramp(base + (first + i) * pitch + step, lanes), value)
        return
    # The last row again instead of rows beyond it: what lay in the memory there may be subnormal, which stalls.
    with s.loop("i", round_up(rows, plan.mr)) as i:
        source = s.bind("source", row + minimum(i, rows - 1))
        held = s.bind("held", base + i * pitch)
        if a.rows_contiguous:
            whole = s.bind("whole", tirx.truncdiv(depth, index(lanes)) if isinstance(a, Operand) else index(0))
            with s.loop("chunk", whole) as chunk:
                step = s.bind("step", chunk * lanes)
                site = Site(row=source, col=s.bind("col", start + step), lanes=lanes, count=lanes)
                s.store(target, _ramp(held + step, lanes), load(s, a, site, dtype))
            with s.loop("chunk", ceil_div(depth, lanes) - whole) as chunk:
                step = s.bind("step", (whole + chunk) * lanes)
                count = s.bind("count", depth - step)
                site = Site(row=source, col=s.bind("col", start + step), lanes=lanes, count=count)
                s.store(target, _ramp(held + step, lanes), load(s, a, site, dtype))
        else:
            with s.loop("p", depth) as p:
                site = Site(row=source, col=start + p, lanes=1, count=1)
                s.store(target, held + p, load(s, a, site, dtype))


def packed_rows(buffer: tirx.Buffer, at: tirx.Expr, plan: GemmPlan) -> PackedRows:
    """The block of A that `emit_pack_rows` left at `at`."""
    pitch = row_pitch(plan)
    return PackedRows(
        buffer=buffer,
        base=lambda panel: at + panel * (plan.mr * pitch),
        element=lambda base, i, p: tirx.BufferLoad(buffer, [base + p + i * pitch]),
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


def emit_pack_columns(
    s: Statements,
    *,
    b: Operand | Formula | WindowOperand,
    target: tirx.Buffer,
    base: tirx.Expr,
    start: tirx.Expr,
    depth: tirx.Expr,
    col: tirx.Expr,
    cols: tirx.Expr,
    plan: GemmPlan,
    dtype: str,
    height: tirx.Expr | int,
) -> None:
    """Copies B[start : start + depth, col : col + cols] to `base` as panels of nr columns and `height` rows, a multiple of a
    vector; lanes beyond the last column are harmless."""
    nr, nv, lanes = plan.nr, plan.nv, plan.lanes
    if isinstance(b, WindowOperand):
        b.emit_pack(
            s, target=target, base=base, start=start, depth=depth, col=col, cols=cols, plan=plan, dtype=dtype, height=height
        )
        return
    if b.columns_contiguous and not b.rows_contiguous:
        emit_pack_transposed(
            s, b=b, target=target, base=base, size=index(0), start=start, blocks=index(1), kc=depth, depth=start + depth,
            col=col, cols=cols, plan=plan, dtype=dtype, height=height,
        )  # fmt: skip
        return

    def row_of_panel(panel: tirx.Expr, p: tirx.Expr, count: tirx.Expr | None) -> None:
        row, first = s.bind("row", start + p), s.bind("first", col + panel * nr)
        held = s.bind("held", base + (panel * height + p) * nr)
        for v in range(nv):
            inside = lanes if count is None else s.bind("inside", count - v * lanes)
            site = Site(row=row, col=s.bind("at", first + v * lanes), lanes=lanes, count=inside)
            s.store(target, _ramp(held + v * lanes, lanes), load(s, b, site, dtype))

    if b.rows_contiguous:
        whole = s.bind("whole", tirx.truncdiv(cols, index(nr)) if isinstance(b, Operand) else index(0))
        with s.loop("p", depth) as p:
            with s.loop("panel", whole) as panel:
                row_of_panel(panel, p, None)
            with s.loop("panel", ceil_div(cols, nr) - whole) as rest:
                panel = s.bind("panel", whole + rest)
                row_of_panel(panel, p, s.bind("count", cols - panel * nr))
        return
    with s.loop("panel", ceil_div(cols, nr)) as panel, s.loop("p", depth) as p, s.loop("j", nr) as j:
        inside = minimum(cols - panel * nr, nr)
        site = Site(row=start + p, col=col + panel * nr + minimum(j, inside - 1), lanes=1, count=1)
        s.store(target, base + (panel * height + p) * nr + j, load(s, b, site, dtype))


def emit_pack_transposed(
    s: Statements,
    *,
    b: Operand | Formula,
    target: tirx.Buffer,
    base: tirx.Expr,
    size: tirx.Expr,
    start: tirx.Expr,
    blocks: tirx.Expr,
    kc: tirx.Expr,
    depth: tirx.Expr,
    col: tirx.Expr,
    cols: tirx.Expr,
    plan: GemmPlan,
    dtype: str,
    height: tirx.Expr | int,
) -> None:
    """Copies B[start : depth, col : col + cols] to `base`, `blocks` blocks of `kc` rows, each of `size` elements: for B whose
    columns are contiguous, squares of which are transposed in registers.

    All the way down a few columns: each lies in pages of its own, which cost more to find than to read.
    """
    nr, lanes = plan.nr, plan.lanes
    with s.loop("strip", ceil_div(cols, nr) * plan.nv) as strip, s.loop("block", blocks) as block:
        # The last column again instead of columns beyond it, up to a whole panel: see `emit_pack_rows`.
        places = [s.bind(f"at_{j}", col + minimum(strip * lanes + j, cols - 1)) for j in range(lanes)]
        panel = s.bind("panel", tirx.truncdiv(strip, index(plan.nv)))
        first = s.bind("first", base + block * size + panel * (height * nr) + tirx.truncmod(strip, index(plan.nv)) * lanes)
        top = s.bind("top", start + block * kc)
        rows = s.bind("rows", minimum(kc, depth - top))

        def square(chunk: tirx.Expr, count: tirx.Expr | int) -> None:
            row, columns = s.bind("row", top + chunk * lanes), []
            for place in places:
                site = Site(row=row, col=place, lanes=lanes, count=count, along_row=False)
                columns.append(s.bind("column", load(s, b, site, dtype)))
            held = s.bind("held", first + chunk * (lanes * nr))
            for i, value in enumerate(emit_transpose(s, columns)):
                s.store(target, _ramp(held + i * nr, lanes), value)

        with s.loop("chunk", ceil_div(rows, lanes)) as chunk:
            square(chunk, s.bind("count", rows - chunk * lanes))


def packed_columns(buffer: tirx.Buffer, at: tirx.Expr, plan: GemmPlan, height: tirx.Expr | int) -> PackedColumns:
    """The block of B that `emit_pack_columns` left at `at`, in panels of `height` rows."""
    nr = plan.nr
    return PackedColumns(
        buffer=buffer,
        base=lambda panel: at + panel * (height * nr),
        vector=lambda base, v, p: load_aligned(buffer, base + p * nr + v * plan.lanes, plan.lanes),
        ahead=lambda base, i: prefetch(buffer, base + height * nr + i * plan.lanes, level=2),
    )


def emit_transpose(s: Statements, rows: list[tirx.Expr]) -> list[tirx.Expr]:
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

"""The blocked matrix product: loops over cache blocks around the register tile, serial or cut into independent tasks.

Loop order: column blocks nc, row blocks mc, depth blocks kc, panels of nr columns, panels of mr rows. Goto and van de
Geijn have the depth outside of the rows; here a block of C stays in L2 until it is complete, so that kc may be as small as
L1 wants it, and packed blocks of A and B, which are read seldom, wait in the outer levels; the panel of B that comes next
is asked for while the one before is in use. Every element of C is a sum in ascending k, in groups of kc,
whatever the number of tasks and wherever their borders fall: results are bitwise the same for every number of
threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import tirx

from ...ir.plans import GemmPlan
from .fma import Place, emit_prefetch_tile, emit_rank_one_updates, emit_store_tile, prefetch_line
from .gemv import emit_skinny
from .operand import Epilogue, Formula, Operand
from .packing import (
    PackedColumns,
    PackedMatrix,
    PackedRows,
    columns_size,
    emit_pack_columns,
    emit_pack_rows,
    emit_pack_transposed,
    packed_columns,
    packed_rows,
    row_pitch,
    rows_in_place,
    rows_size,
)
from .statements import Statements, both, ceil_div, condition, constant, index, maximum, minimum, negation, round_up
from .tasks import emit_grid, packing_cost
from .window import WindowOperand

ORIGIN = Place(row=index(0), col=index(0), rows=index(0), cols=index(0))

DOWN = 8
"""Blocks of the depth that are packed at once where B is contiguous in that direction, of a share of the columns."""


def emit_gemm(
    *,
    a: Operand | Formula,
    b: Operand | Formula | WindowOperand,
    c: Operand,
    m: tirx.Expr | int,
    n: tirx.Expr | int,
    k: tirx.Expr | int,
    dtype: str,
    accumulate: bool,
    plan: GemmPlan,
    parallel: bool,
    epilogue: Epilogue | None = None,
    packed: PackedMatrix | None = None,
) -> tirx.Stmt:
    """C[m, n] = epilogue(A[m, k] · B[k, n]), or epilogue(C + A · B) with `accumulate`, in `dtype` ("float32" or
    "float64").

    A and B may be of a narrower floating type; so may C, without `accumulate`. B may also be a window's view of an image; C's
    rows are contiguous then. Any size may be 0; k = 0 still writes C. The operands must not overlap C. `parallel` makes one
    parallel loop of `plan.threads` tasks: it must not stand inside another. `packed` is all of B, packed already; C's rows
    are contiguous then.
    """
    if packed is None and c.columns_contiguous and not c.rows_contiguous and not isinstance(b, WindowOperand):
        flipped = None if epilogue is None else epilogue.transposed()
        a, b, c, m, n, epilogue = b.transposed(), a.transposed(), c.transposed(), n, m, flipped
    s = Statements()
    m, n, k = (s.bind(name, size) for name, size in (("m", m), ("n", n), ("k", k)))
    ragged = [None if size is None else size % tile for size, tile in ((constant(m), plan.mr), (constant(n), plan.nr))]
    product = _Product(
        a=a, b=b, c=c, k=k, dtype=dtype, accumulate=accumulate, plan=plan, epilogue=epilogue, ragged_rows=ragged[0],
        ragged_cols=ragged[1], packed=packed,
    )  # fmt: skip
    if isinstance(b, WindowOperand):
        product.emit_tasks(s, m, n, parallel=parallel)
        return s.finish()
    wide = emit_skinny(
        s, a=a, b=b, c=c, m=m, n=n, k=k, dtype=dtype, accumulate=accumulate, plan=plan, epilogue=epilogue, parallel=parallel
    )  # fmt: skip
    if constant(wide) != 0:
        with s.when(wide):
            product.emit_tasks(s, m, n, parallel=parallel)
    return s.finish()


def pack_right(
    s: Statements, *, b: Operand | Formula, n: tirx.Expr | int, k: tirx.Expr | int, dtype: str, plan: GemmPlan
) -> PackedMatrix:
    """All of B[k, n] packed, for products that share it. It must fit one block: `plan.shallow` and n at most `plan.nc`."""
    k, n = s.bind("k", k), s.bind("n", n)
    target = s.reserve("packed_right", columns_size(round_up(n, plan.nr), plan), dtype)
    emit_pack_columns(
        s, b=b, target=target, base=index(0), start=index(0), depth=k, col=index(0), cols=n, plan=plan, dtype=dtype,
        height=row_pitch(plan),
    )  # fmt: skip
    return PackedMatrix(buffer=target, height=row_pitch(plan), single=True)


def _choose(condition: tirx.Expr, yes: tirx.Expr, no: tirx.Expr) -> tirx.Expr:
    known = constant(condition)
    return tirx.Select(condition, yes, no) if known is None else (yes if known else no)


def _down(value: tirx.Expr, multiple: int) -> tirx.Expr:
    return tirx.truncdiv(value, index(multiple)) * multiple


def _balanced(s: Statements, name: str, total: tirx.Expr, limit: tirx.Expr | int, multiple: int) -> tuple[tirx.Expr, tirx.Expr]:
    """How many blocks of at most `limit` cover `total` (at least one), and their equal size, a multiple of
    `multiple`."""
    blocks = s.bind(f"{name}_blocks", maximum(ceil_div(total, limit), 1))
    return blocks, s.bind(f"{name}_block", round_up(ceil_div(total, blocks), multiple))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """One product; `emit` writes the code for any rectangle of its result.

    `ragged_rows` and `ragged_cols`: what the last tile of a direction holds, 0 where it is whole, None where that is known
    at run time only.
    """

    a: Operand | Formula
    b: Operand | Formula | WindowOperand
    c: Operand
    k: tirx.Expr
    dtype: str
    accumulate: bool
    plan: GemmPlan
    epilogue: Epilogue | None
    ragged_rows: int | None
    ragged_cols: int | None
    packed: PackedMatrix | None

    @property
    def packs_down(self) -> bool:
        """Whether B is packed several blocks of the depth at a time, and fewer columns: it is contiguous along the depth."""
        if self.packed is not None or isinstance(self.b, WindowOperand):
            return False
        return self.b.columns_contiguous and not self.b.rows_contiguous

    def emit_tasks(self, s: Statements, m: tirx.Expr, n: tirx.Expr, *, parallel: bool) -> None:
        """All of C, in one piece or as a parallel loop over a grid of rectangles.

        Vectors are multiplied, single elements packed. What is packed already is read, at a tenth of that, and so are the
        weights of a window. Images have few columns: theirs are cut by vectors, not by panels.
        """
        plan = self.plan
        windowed = isinstance(self.b, WindowOperand)
        threads = plan.threads if parallel else 1
        read = max(1, plan.lanes // 10)
        cost = packing_cost(read if windowed else plan.lanes, plan.lanes if self.packed is None else read)
        units = (plan.mr, plan.lanes if windowed else plan.nr)
        emit_grid(s, partial(self.emit, s), m=m, n=n, threads=threads, units=units, cost=cost)

    def emit(self, s: Statements, *, row: tirx.Expr, height: tirx.Expr, col: tirx.Expr, width: tirx.Expr) -> None:
        """The `height` × `width` elements of C from (row, col) on, neither of them negative."""
        plan = self.plan
        if self.packed is not None and self.packed.single:
            one, mc = index(1), round_up(height, plan.mr)
            blocks = _Blocks(
                row=row, height=height, col=col, width=width, rows=one, mc=mc, cols=one, nc=width, depths=one, kc=self.k
            )  # fmt: skip
            self._emit_blocks(s, blocks)
            return
        deep = maximum(self.k, 1)
        widest = max(plan.nr, plan.nc // DOWN // plan.nr * plan.nr) if self.packs_down else plan.nc
        limit: tirx.Expr = index(widest)
        if self.packed is None:
            limit = minimum(widest, maximum(_down(tirx.truncdiv(index(plan.keep), deep), plan.nr), plan.nr))
        col_blocks, nc = _balanced(s, "col", width, s.bind("col_limit", limit), plan.nr)
        depth_blocks, kc = (index(1), self.k) if plan.shallow else _balanced(s, "depth", self.k, plan.kc, plan.unit)
        tall = maximum(_down(tirx.truncdiv(index(plan.keep), deep), plan.mr), plan.mc)
        stacks, stack = _balanced(s, "stack", height, s.bind("stack_limit", tall), plan.mr)
        with s.loop("stack", stacks) as at:
            first = s.bind("first", at * stack)
            rows = s.bind("stack_rows", minimum(stack, height - first))
            # All of B passes by once for each block of rows: where nobody packs it, that is from far away.
            tallest = plan.mc if self.packed is None else plan.mc * 5 // 4 // plan.mr * plan.mr
            row_blocks, mc = _balanced(s, "row", rows, tallest, plan.mr)
            blocks = _Blocks(
                row=s.bind("stack_row", row + first), height=rows, col=col, width=width, rows=row_blocks, mc=mc,
                cols=col_blocks, nc=nc, depths=depth_blocks, kc=kc,
            )  # fmt: skip
            self._emit_blocks(s, blocks)

    def _emit_blocks(self, s: Statements, blocks: _Blocks) -> None:
        """Blocks of C one after the other, each with the whole depth: it stays in L2 until its sums are complete.

        Blocks of A are packed while the first column block is computed, blocks of B while the first row block is, and
        kept where there is a second one.
        """
        plan, depths = self.plan, blocks.depths
        a_size, b_size = rows_size(blocks.mc, plan), columns_size(blocks.nc, plan)
        a_count = _choose(blocks.cols > 1, blocks.rows * depths, index(1))
        at_once = self.packs_down
        group = s.bind("group", minimum(depths, DOWN)) if at_once else index(1)
        b_count = _choose(blocks.rows > 1, depths, group)
        in_place = rows_in_place(self.a, blocks.row, index(0), plan, self.dtype) is not None
        packed_a = None if in_place else s.reserve("packed_a", a_count * a_size + plan.lanes, self.dtype)
        packed_b = None if self.packed is not None else s.reserve("packed_b", b_count * b_size, self.dtype)
        waiting = self._partial(s, blocks)
        with (
            s.loop("col_block", blocks.cols) as jc,
            s.loop("row_block", blocks.rows) as ic,
            s.loop("depth_block", depths) as pc,
        ):
            start, first_row, first_col = pc * blocks.kc, ic * blocks.mc, jc * blocks.nc
            start, first_row, first_col = (
                s.bind(name, x) for name, x in (("start", start), ("first_row", first_row), ("first_col", first_col))
            )
            depth = s.bind("depth", minimum(blocks.kc, self.k - start))
            rows = s.bind("rows", minimum(blocks.mc, blocks.height - first_row))
            cols = s.bind("cols", minimum(blocks.nc, blocks.width - first_col))
            row, col = s.bind("row", blocks.row + first_row), s.bind("col", blocks.col + first_col)
            slot = _choose(blocks.rows > 1, pc, tirx.truncmod(pc, group) if at_once else index(0))
            b_at = s.bind("b_at", slot * b_size)
            columns = None if self.packed is None else self.packed.block(col, start, plan)
            if packed_b is not None:
                if at_once and not isinstance(self.b, WindowOperand):
                    with s.when(both(condition(ic == 0), condition(tirx.truncmod(pc, group) == 0))):
                        emit_pack_transposed(
                            s, b=self.b, target=packed_b, base=b_at, size=b_size, start=start,
                            blocks=minimum(group, depths - pc), kc=blocks.kc, depth=self.k, col=col, cols=cols,
                            plan=plan, dtype=self.dtype, height=row_pitch(plan),
                        )  # fmt: skip
                else:
                    with s.when(condition(ic == 0)):
                        emit_pack_columns(
                            s, b=self.b, target=packed_b, base=b_at, start=start, depth=depth, col=col, cols=cols,
                            plan=plan, dtype=self.dtype, height=row_pitch(plan),
                        )  # fmt: skip
                columns = packed_columns(packed_b, b_at, plan, row_pitch(plan))
            assert columns is not None
            packed = rows_in_place(self.a, row, start, plan, self.dtype)
            if packed is None:
                assert packed_a is not None
                a_at = s.bind("a_at", _choose(blocks.cols > 1, (ic * depths + pc) * a_size, index(0)))
                with s.when(condition(jc == 0)):
                    emit_pack_rows(
                        s, a=self.a, target=packed_a, base=a_at, row=row, rows=rows, start=start, depth=depth,
                        plan=plan, dtype=self.dtype,
                    )  # fmt: skip
                packed = packed_rows(packed_a, a_at, plan)
            block = _Block(
                row=row, rows=rows, col=col, cols=cols, depth=depth, packed=packed, columns=columns, partial=waiting,
                first=condition(pc == 0), last=condition(pc == depths - 1),
            )  # fmt: skip
            self._emit_tiles(s, block)

    def _emit_tiles(self, s: Statements, block: _Block) -> None:
        """The register tiles of a block: whole ones, and narrower or lower ones at its far edges."""
        plan = self.plan
        with s.loop("col_tile", ceil_div(block.cols, plan.nr)) as jr:
            width = s.bind("tile_cols", block.cols - jr * plan.nr)
            base = s.bind("b_base", block.columns.base(jr))
            for vectors, chosen in self._widths(s, width):
                with s.when(chosen), s.loop("row_tile", ceil_div(block.rows, plan.mr)) as ir:
                    height = s.bind("tile_rows", block.rows - ir * plan.mr)
                    a_base = s.bind("a_base", block.packed.base(ir))
                    for rows, inside in _shares(s, height, self.ragged_rows, plan.mr, 1):
                        with s.when(inside):
                            self._emit_tile(s, block, ir, jr, (height, width), (a_base, base), rows, vectors)

    def _widths(self, s: Statements, left: tirx.Expr) -> list[tuple[int, tirx.Expr | bool]]:
        """How many vectors wide the tiles are, and when."""
        plan = self.plan
        if not isinstance(self.b, WindowOperand):
            return _shares(s, left, self.ragged_cols, plan.nr, plan.lanes)
        widths = [plan.nv >> i for i in range(plan.nv.bit_length())]  # 4, 2, 1: a third would only be more code
        least = [s.bind("least", left > width // 2 * plan.lanes) for width in widths]
        return [
            (w, both(here, negation(least[i - 1]) if i else True))
            for i, (w, here) in enumerate(zip(widths, least, strict=True))
        ]

    def _emit_tile(
        self,
        s: Statements,
        block: _Block,
        ir: tirx.Expr,
        jr: tirx.Expr,
        left: tuple[tirx.Expr, tirx.Expr],
        bases: tuple[tirx.Expr, tirx.Expr],
        rows: int,
        vectors: int,
    ) -> None:
        """One register tile of `rows` rows and `vectors` vectors, of which `left` (rows, columns) lie inside C."""
        plan = self.plan
        place = Place(
            row=s.bind("tile_row", block.row + ir * plan.mr),
            col=s.bind("tile_col", block.col + jr * plan.nr),
            rows=left[0],
            cols=left[1],
        )
        a_base, b_base = bases
        waiting = self._waiting(block, ir, jr)
        size = {"rows": rows, "cols": vectors * plan.lanes}
        lines = rows * vectors
        spread = plan.kc >= lines * plan.unroll and self.c.rows_contiguous
        if waiting is not None:
            with s.when(block.last):
                emit_prefetch_tile(s, c=self.c, place=place, **size)
        elif not spread:
            emit_prefetch_tile(s, c=self.c, place=place, **size)

        def ahead(turn: tirx.Expr) -> list[tirx.Expr]:
            asked = [block.columns.ahead(b_base, ir * ceil_div(block.depth, plan.unroll) + turn)]
            if waiting is not None:
                asked.append(prefetch_line(waiting, ORIGIN, turn, **size))
            elif spread:
                asked.append(prefetch_line(self.c, place, turn, **size))
            return asked

        tile = emit_rank_one_updates(
            s,
            rows=rows,
            vectors=vectors,
            lanes=plan.lanes,
            dtype=self.dtype,
            depth=block.depth,
            a_at=lambda i, p: block.packed.element(a_base, i, p),
            b_at=lambda v, p: block.columns.vector(b_base, v, p),
            unroll=plan.unroll,
            fused=plan.fused,
            ahead=ahead,
        )
        emit_store_tile(
            s,
            tile,
            c=self.c,
            place=place,
            lanes=plan.lanes,
            dtype=self.dtype,
            add=True if self.accumulate else negation(block.first),
            last=block.last,
            epilogue=self.epilogue,
            partial=waiting,
        )

    def _waiting(self, block: _Block, ir: tirx.Expr, jr: tirx.Expr) -> Operand | None:
        """Where the sums of a tile wait for the next block of the depth, line after line."""
        if block.partial is None:
            return None
        plan = self.plan
        tile = jr * ceil_div(block.rows, plan.mr) + ir
        return Operand(buffer=block.partial, offset=tile * (plan.mr * plan.nr), row_stride=plan.nr, col_stride=1)

    def _partial(self, s: Statements, blocks: _Blocks) -> tirx.Buffer | None:
        """Memory for sums that wait for the next block of the depth: a block of C, tile after tile. None where they wait in C,
        which is so unless C cannot hold them, or its rows fall upon the same few sets of L2."""
        kept = self.epilogue is not None and self.epilogue.reads_result
        holds = not kept and self.c.encode is None and self.c.dtype == self.dtype
        stride = constant(self.c.row_stride)
        crowded = stride is not None and not self.accumulate and self.plan.crowds(stride)
        if (holds and not crowded) or constant(blocks.depths) == 1:
            return None
        assert not self.accumulate
        several = _choose(blocks.depths > 1, index(1), index(0))
        return s.reserve("partial", maximum(several * blocks.mc * blocks.nc, 1), self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """A rectangle of C cut into cache blocks: how many, and their sizes."""

    row: tirx.Expr
    height: tirx.Expr
    col: tirx.Expr
    width: tirx.Expr
    rows: tirx.Expr
    mc: tirx.Expr
    cols: tirx.Expr
    nc: tirx.Expr
    depths: tirx.Expr
    kc: tirx.Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """One block of C at one step of the depth, with its packed operands. `first` and `last` are conditions."""

    row: tirx.Expr
    rows: tirx.Expr
    col: tirx.Expr
    cols: tirx.Expr
    depth: tirx.Expr
    packed: PackedRows
    columns: PackedColumns
    partial: tirx.Buffer | None
    first: tirx.Expr
    last: tirx.Expr


def _shares(s: Statements, left: tirx.Expr, ragged: int | None, whole: int, unit: int) -> list[tuple[int, tirx.Expr | bool]]:
    """The sizes of tile, in units, that one direction needs, and when: the last tile may be smaller than the others.

    `left` is what remains from the tile on, `ragged` the size of the last one where it is known, 0: as the others.
    """
    full = whole // unit
    if ragged is None:
        if unit == 1 or full < 4:
            return [(full, True)]
        narrow = s.bind("narrow", left <= whole // 2)
        return [(full, negation(narrow)), (full // 2, narrow)]
    last = -(-ragged // unit)
    if last in (0, full):
        return [(full, True)]
    narrow = s.bind("narrow", left < whole)
    return [(full, negation(narrow)), (last, narrow)]

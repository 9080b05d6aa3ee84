"""The blocked matrix product: loops over cache blocks around the register tile, serial or cut into independent tasks.

Loop order (Goto and van de Geijn): column blocks nc, depth blocks kc (B packed here), row blocks mc (A
packed here), panels of nr columns, panels of mr rows. Every element of C is a sum in ascending k, in groups of kc,
whatever the number of tasks and wherever their borders fall: results are bitwise the same for every number of
threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.stmt import ForKind

from .fma import Place, emit_prefetch_tile, emit_rank_one_updates, emit_store_tile
from .gemv import emit_skinny
from .operand import Epilogue, Formula, Operand
from .packing import columns_capacity, emit_pack_columns, emit_pack_rows, rows_capacity, rows_in_place
from .plan import GemmPlan
from .statements import Statements, ceil_div, constant, index, maximum, minimum, round_up


def emit_gemm(
    *,
    a: Operand | Formula,
    b: Operand | Formula,
    c: Operand,
    m: tirx.Expr | int,
    n: tirx.Expr | int,
    k: tirx.Expr | int,
    dtype: str,
    accumulate: bool,
    plan: GemmPlan,
    parallel: bool,
    epilogue: Epilogue | None = None,
) -> tirx.Stmt:
    """C[m, n] = epilogue(A[m, k] · B[k, n]), or epilogue(C + A · B) with `accumulate`, in `dtype` ("float32" or
    "float64").

    A and B may be of a narrower floating type; so may C, without `accumulate`. Any size may be 0; k = 0 still writes C. The
    operands must not overlap C. `parallel` makes one parallel loop of `plan.threads` tasks: it must not stand inside another.
    """
    if c.columns_contiguous and not c.rows_contiguous:
        flipped = None if epilogue is None else epilogue.transposed()
        a, b, c, m, n, epilogue = b.transposed(), a.transposed(), c.transposed(), n, m, flipped
    s = Statements()
    m, n, k = (s.bind(name, size) for name, size in (("m", m), ("n", n), ("k", k)))
    product = _Product(a=a, b=b, c=c, k=k, dtype=dtype, accumulate=accumulate, plan=plan, epilogue=epilogue)
    wide = emit_skinny(
        s, a=a, b=b, c=c, m=m, n=n, k=k, dtype=dtype, accumulate=accumulate, plan=plan, epilogue=epilogue, parallel=parallel
    )  # fmt: skip
    if constant(wide) != 0:
        with s.when(wide):
            product.emit_tasks(s, m, n, parallel=parallel)
    return s.finish()


def _emit_cut(s: Statements, m: tirx.Expr, n: tirx.Expr, plan: GemmPlan) -> tuple[tirx.Expr, tirx.Expr]:
    """The rows and columns of one task: of all grids of `plan.threads` tasks the one whose largest task costs least.

    A task of x rows and y columns does x · y multiplications per step of k, one vector at a time, and packs x + y
    elements; an element packed costs about as much as `lanes` multiplied.
    """
    row_tiles, col_tiles = s.bind("row_tiles", ceil_div(m, plan.mr)), s.bind("col_tiles", ceil_div(n, plan.nr))
    best: tuple[tirx.Expr, tirx.Expr, tirx.Expr] | None = None
    for down in range(1, plan.threads + 1):
        if plan.threads % down:
            continue
        x = s.bind("x", maximum(ceil_div(row_tiles, down), 1) * plan.mr)
        y = s.bind("y", maximum(ceil_div(col_tiles, plan.threads // down), 1) * plan.nr)
        cost = s.bind("cost", x * y + (x + y) * plan.lanes)
        if best is None:
            best = cost, x, y
        else:
            better = cost < best[0]
            best = (
                s.bind("cost", minimum(cost, best[0])),
                s.bind("rows", _choose(better, x, best[1])),
                s.bind("cols", _choose(better, y, best[2])),
            )
    assert best is not None
    return best[1], best[2]


def _choose(condition: tirx.Expr, yes: tirx.Expr, no: tirx.Expr) -> tirx.Expr:
    known = constant(condition)
    return tirx.Select(condition, yes, no) if known is None else (yes if known else no)


def _balanced(s: Statements, name: str, total: tirx.Expr, limit: int, multiple: int) -> tuple[tirx.Expr, tirx.Expr]:
    """How many blocks of at most `limit` cover `total` (at least one), and their equal size, a multiple of
    `multiple`."""
    blocks = s.bind(f"{name}_blocks", maximum(ceil_div(total, limit), 1))
    return blocks, s.bind(f"{name}_block", round_up(ceil_div(total, blocks), multiple))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """One product; `emit` writes the code for any rectangle of its result."""

    a: Operand | Formula
    b: Operand | Formula
    c: Operand
    k: tirx.Expr
    dtype: str
    accumulate: bool
    plan: GemmPlan
    epilogue: Epilogue | None

    def emit_tasks(self, s: Statements, m: tirx.Expr, n: tirx.Expr, *, parallel: bool) -> None:
        """All of C, in one piece or as a parallel loop over a grid of rectangles."""
        plan = self.plan
        if not parallel or plan.threads == 1:
            self.emit(s, row=index(0), height=m, col=index(0), width=n)
            return
        rows, cols = _emit_cut(s, m, n, plan)
        across = s.bind("across", maximum(ceil_div(n, cols), 1))
        with s.loop("task", plan.threads, kind=ForKind.PARALLEL) as task:
            row = s.bind("row", tirx.truncdiv(task, across) * rows)
            col = s.bind("col", tirx.truncmod(task, across) * cols)
            with s.when(row < m):
                height = s.bind("height", minimum(rows, m - row))
                width = s.bind("width", minimum(cols, n - col))
                self.emit(s, row=row, height=height, col=col, width=width)

    def emit(self, s: Statements, *, row: tirx.Expr, height: tirx.Expr, col: tirx.Expr, width: tirx.Expr) -> None:
        """The `height` × `width` elements of C from (row, col) on, neither of them negative."""
        plan = self.plan
        packed_a = s.allocate("packed_a", (rows_capacity(plan),), self.dtype)
        packed_b = s.allocate("packed_b", (columns_capacity(plan),), self.dtype)
        col_blocks, nc = _balanced(s, "col", width, plan.nc, plan.nr)
        depth_blocks, kc = (index(1), self.k) if plan.shallow else _balanced(s, "depth", self.k, plan.kc, 1)
        row_blocks, mc = _balanced(s, "row", height, plan.mc, plan.mr)
        partial = self._partial(s, depth_blocks, height, nc)
        with s.loop("col_block", col_blocks) as jc, s.loop("depth_block", depth_blocks) as pc:
            first_col, start = s.bind("first_col", jc * nc), s.bind("start", pc * kc)
            cols = s.bind("cols", minimum(nc, width - first_col))
            depth = s.bind("depth", minimum(kc, self.k - start))
            columns = emit_pack_columns(
                s, b=self.b, target=packed_b, start=start, depth=depth, col=col + first_col, cols=cols,
                plan=plan, dtype=self.dtype,
            )  # fmt: skip
            with s.loop("row_block", row_blocks) as ic:
                first_row = s.bind("first_row", ic * mc)
                rows = s.bind("rows", minimum(mc, height - first_row))
                packed = rows_in_place(self.a, row + first_row, start, plan, self.dtype) or emit_pack_rows(
                    s, a=self.a, target=packed_a, row=row + first_row, rows=rows, start=start, depth=depth,
                    plan=plan, dtype=self.dtype,
                )  # fmt: skip
                with s.loop("col_tile", ceil_div(cols, plan.nr)) as jr:
                    b_base = s.bind("b_base", columns.base(jr))
                    with s.loop("row_tile", ceil_div(rows, plan.mr)) as ir:
                        place = Place(
                            row=s.bind("tile_row", row + first_row + ir * plan.mr),
                            col=s.bind("tile_col", col + first_col + jr * plan.nr),
                            rows=s.bind("tile_rows", rows - ir * plan.mr),
                            cols=s.bind("tile_cols", cols - jr * plan.nr),
                        )
                        emit_prefetch_tile(s, c=self.c, place=place, rows=plan.mr, cols=plan.nr)
                        a_base = s.bind("a_base", packed.base(ir))
                        tile = emit_rank_one_updates(
                            s,
                            rows=plan.mr,
                            vectors=plan.nv,
                            lanes=plan.lanes,
                            dtype=self.dtype,
                            depth=depth,
                            a_at=lambda i, p: packed.element(a_base, i, p),
                            b_at=lambda v, p: columns.vector(b_base, v, p),
                            unroll=plan.unroll,
                            fused=plan.fused,
                        )
                        emit_store_tile(
                            s,
                            tile,
                            c=self.c,
                            place=place,
                            lanes=plan.lanes,
                            dtype=self.dtype,
                            add=True if self.accumulate else pc > 0,
                            last=pc == depth_blocks - 1,
                            epilogue=self.epilogue,
                            partial=partial,
                            at=(first_row + ir * plan.mr, jr * plan.nr),
                        )

    def _partial(self, s: Statements, depth_blocks: tirx.Expr, height: tirx.Expr, nc: tirx.Expr) -> Operand | None:
        """Where sums wait for the next block of the depth when C cannot hold them: a column block of all rows."""
        kept = self.epilogue is not None and self.epilogue.reads_result
        if not kept and self.c.encode is None and self.c.dtype == self.dtype:
            return None
        if constant(depth_blocks) == 1:
            return None
        assert not self.accumulate
        several = tirx.Select(depth_blocks > 1, index(1), index(0))
        size = s.bind("waiting", maximum(several * round_up(height, self.plan.mr) * nc, 1))
        buffer = tirx.decl_buffer((size,), self.dtype, name="partial")
        s.add(tirx.AllocBuffer(buffer))
        return Operand(buffer=buffer, row_stride=nc, col_stride=1)

"""The blocked matrix product on dot-product instructions: both operands packed into panels, blocks of 32 × 32 sums.

A task packs its rows of A once, then column block after column block of B, and multiplies panel by panel while a block of B
lies in L2: every element is packed once for each task. Sums are added up in ascending k, in the same order wherever the
borders of tasks and blocks fall, so that results are bitwise the same for every number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import tirx

from ...ir.microkernels import PANEL
from ...ir.plans import DotPlan
from .fma import emit_store_vector
from .operand import Epilogue, Formula, Operand, Site
from .panels import PackedWords, PanelProduct, Panels
from .statements import Statements, both, ceil_div, constant, index, maximum, minimum, negation
from .tasks import emit_grid, packing_cost
from .vector import fma, load_aligned, splat
from .window import WindowOperand
from .window_words import WindowLines, WindowPanels
from .words import CHUNK, LINES, Lines, emit_pack_panel, reinterpreted


@dataclass(frozen=True, slots=True, kw_only=True)
class DotProduct:
    """C[m, n] = epilogue((C +) A[m, k] · B[k, n]): `left` are A's rows as lines, `right` B's columns, or a window's.

    Any size may be 0; k = 0 still writes C. The operands must not overlap C. Blocks with subnormal bf16 operands, which tiles
    take for zero, are computed with multiply-adds. `packed` is all of B, packed already.
    """

    kernel: PanelProduct
    left: Lines
    right: Lines | WindowLines
    c: Operand
    m: tirx.Expr
    n: tirx.Expr
    k: tirx.Expr
    accumulate: bool
    plan: DotPlan
    epilogue: Epilogue | None
    packed: PackedWords | None

    @property
    def subnormals(self) -> bool:
        """Whether the operands' subnormal numbers need care."""
        return self.kernel.dtype == "float32"

    def emit_tasks(self, s: Statements, *, parallel: bool) -> None:
        """All of C, in one piece or as a parallel loop over a grid of rectangles.

        Packing a line costs as much as multiplying it by about 64 others, reading one that is packed already as much as by 8.
        A window's weights are few beside its columns, which are cut finer than a panel.
        """
        threads = self.plan.threads if parallel else 1
        across = LINES if isinstance(self.right, WindowLines) else PANEL
        cost = packing_cost(64, 64 if self.packed is None else 8)
        emit_grid(s, partial(self.emit, s), m=self.m, n=self.n, threads=threads, units=(PANEL, across), cost=cost)

    def emit(self, s: Statements, *, row: tirx.Expr, height: tirx.Expr, col: tirx.Expr, width: tirx.Expr) -> None:
        """The `height` × `width` elements of C from (row, col) on, neither of them negative."""
        plan, step = self.plan, self.left.step
        steps = s.bind("steps", maximum(ceil_div(self.k, step), 1))
        pitch = s.bind("pitch", steps * (2 * CHUNK))  # words of a packed panel of A
        most = s.bind("most", maximum(tirx.truncdiv(index(plan.packed), pitch * 4), 4))
        panels = s.bind("panels", ceil_div(height, PANEL))
        turns = s.bind("turns", maximum(ceil_div(panels, most), 1))
        share = s.bind("share", ceil_div(panels, turns))
        single = constant(self.k) is not None and (constant(self.k) or 0) <= plan.kc
        depth_blocks = index(1) if single else s.bind("depth_blocks", ceil_div(steps, plan.kc // step))
        block_steps = s.bind("block_steps", ceil_div(steps, depth_blocks))
        across = plan.nc // PANEL
        packed_a = s.reserve("packed_a", maximum(share * pitch, 1), "uint32")
        packed_b = None if self.packed else s.allocate("packed_b", (plan.nc * (plan.kc // step) * LINES,), "uint32")
        kept = index(1) if single else tirx.Select(depth_blocks > 1, share * across, index(1))
        sums = s.reserve("sums", maximum(kept * (PANEL * PANEL), 1), self.kernel.dtype)
        a_flags = s.reserve("a_flags", maximum(share, 1), "int32") if self.subnormals else None
        b_flags = s.allocate("b_flags", (across,), "int32") if self.subnormals and packed_b is not None else None
        right = self.right.prepared(s) if isinstance(self.right, WindowLines) else self.right
        self.kernel.configure(s)
        with s.loop("turn", turns) as turn:
            top = s.bind("top", turn * share)
            rows = s.bind("rows", minimum(share, panels - top))
            with s.loop("panel", rows) as panel:
                first = s.bind("first", (top + panel) * PANEL)
                emit_pack_panel(
                    s, lines=self.left, target=packed_a, at=s.bind("at", panel * pitch), first=s.bind("line", row + first),
                    inside=s.bind("inside", minimum(height - first, PANEL)), start=index(0), depth=self.k,
                    transposed=False, subnormal=a_flags, flag=panel,
                )  # fmt: skip
            with s.loop("col_block", ceil_div(width, plan.nc)) as jc, s.loop("depth_block", depth_blocks) as pc:
                first_col = s.bind("first_col", jc * plan.nc)
                cols = s.bind("cols", minimum(width - first_col, plan.nc))
                start = s.bind("start", pc * block_steps * step)
                depth = s.bind("depth", maximum(minimum(self.k - start, block_steps * step), 0))
                chunks = s.bind("chunks", ceil_div(depth, step))
                b_pitch = s.bind("b_pitch", block_steps * (2 * CHUNK))
                if self.packed is not None:
                    ready = self.packed.part(s.bind("panel", tirx.truncdiv(col + first_col, index(PANEL))), pc * b_pitch)
                else:
                    ready = PackedWords(words=packed_b, start=index(0), pitch=b_pitch, notes=b_flags, noted=index(0))
                    with s.loop("panel", ceil_div(cols, PANEL)) as panel:
                        _pack_right(
                            s, right, target=packed_b, at=s.bind("at", panel * b_pitch),
                            first=s.bind("line", col + first_col + panel * PANEL),
                            inside=s.bind("inside", minimum(cols - panel * PANEL, PANEL)), start=start, depth=depth,
                            flags=b_flags, panel=panel,
                        )  # fmt: skip
                with s.loop("row_panel", rows) as ir, s.loop("col_panel", ceil_div(cols, PANEL)) as jr:
                    panels_of_block = Panels(
                        a=packed_a,
                        a_at=s.bind("a_at", ir * pitch + pc * b_pitch),
                        b=ready.words,
                        b_at=s.bind("b_at", ready.start + jr * ready.pitch),
                        sums=sums,
                        sums_at=index(0) if single else s.bind("sums_at", self._kept(depth_blocks, ir * across + jr)),
                        chunks=chunks,
                        more=pc > 0 if not single else False,
                        near=isinstance(right, WindowPanels),
                    )
                    block = Block(
                        kernel=self.kernel,
                        c=self.c,
                        accumulate=self.accumulate,
                        epilogue=self.epilogue,
                        panels=panels_of_block,
                        row=s.bind("tile_row", row + (top + ir) * PANEL),
                        col=s.bind("tile_col", col + first_col + jr * PANEL),
                        rows=s.bind("tile_rows", height - (top + ir) * PANEL),
                        cols=s.bind("tile_cols", cols - jr * PANEL),
                    )
                    block.emit(s, _flagged(a_flags, ir, ready.notes, ready.noted + jr))
                    with s.when(pc == depth_blocks - 1 if not single else True):
                        block.store(s)
        self.kernel.release(s)

    def _kept(self, depth_blocks: tirx.Expr, block: tirx.Expr) -> tirx.Expr:
        """Where a block of sums waits for the next block of the depth; with one block of it all use the same place."""
        return tirx.Select(depth_blocks > 1, block * (PANEL * PANEL), index(0))


def _pack_right(
    s: Statements,
    right: Lines | WindowPanels,
    *,
    target: tirx.Buffer,
    at: tirx.Expr,
    first: tirx.Expr,
    inside: tirx.Expr,
    start: tirx.Expr,
    depth: tirx.Expr,
    flags: tirx.Buffer | None,
    panel: tirx.Expr,
) -> None:
    """Packs a panel of B, and notes in `flags` whether it has subnormal numbers."""
    if isinstance(right, WindowPanels):
        right.emit_pack(
            s, target=target, at=at, first=first, inside=inside, start=start, depth=depth, subnormal=flags, flag=panel
        )  # fmt: skip
        return
    emit_pack_panel(
        s, lines=right, target=target, at=at, first=first, inside=inside, start=start, depth=depth, transposed=True,
        subnormal=flags, flag=panel,
    )  # fmt: skip


def _flagged(a: tirx.Buffer | None, row: tirx.Expr, b: tirx.Buffer | None, col: tirx.Expr) -> bool | tirx.Expr:
    if a is None or b is None:
        return False
    return tirx.BufferLoad(a, [row]) + tirx.BufferLoad(b, [col]) > tirx.IntImm("int32", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of 32 × 32 sums, of which `rows` × `cols` exist."""

    kernel: PanelProduct
    c: Operand
    accumulate: bool
    epilogue: Epilogue | None
    panels: Panels
    row: tirx.Expr
    col: tirx.Expr
    rows: tirx.Expr
    cols: tirx.Expr

    def emit(self, s: Statements, flags: bool | tirx.Expr, *, whole: bool = False) -> None:
        """Adds the product of the panels to the sums; where `flags` holds, without taking subnormal numbers for zero. `whole`:
        what lies beyond the rows and columns that exist may be multiplied too."""
        plain = flags if isinstance(flags, bool) else s.bind("subnormal", tirx.Cast("int32", flags)) > 0
        with s.when(negation(plain)):
            for down in (1, 2) if not whole else (2,):
                for across in (1, 2) if not whole else (2,):
                    tall = self.rows > LINES if down == 2 else self.rows <= LINES
                    wide = self.cols > LINES if across == 2 else self.cols <= LINES
                    with s.when(both(tall, wide) if not whole else True):
                        self.kernel.emit(s, self.panels, down=down, across=across)
        if plain is not False:
            with s.when(plain):
                self.multiply_add(s)

    def multiply_add(self, s: Statements) -> None:
        """The same with multiply-adds on f32, for bf16 operands that tiles would take for zero."""
        panels = self.panels
        with s.loop("i", minimum(self.rows, PANEL)) as i:
            totals = [s.allocate("total", (1,), f"float32x{LINES}", scope="local") for _ in range(2)]
            places = [s.bind("at", panels.sums_at + i * panels.sums_pitch + v * LINES) for v in range(2)]
            for total, at in zip(totals, places, strict=True):
                s.store(total, 0, splat(tirx.FloatImm("float32", 0.0), LINES))
                with s.when(panels.more):
                    s.store(total, 0, load_aligned(panels.sums, at, LINES))
            with s.loop("step", panels.chunks) as step, s.loop("word", LINES) as word:
                pair = s.bind("pair", panels.pair(i, step, word))
                pairs = [
                    load_aligned(panels.b, panels.b_at + step * (2 * CHUNK) + v * CHUNK + word * LINES, LINES) for v in (0, 1)
                ]
                for part in range(2):
                    factor = s.bind("factor", _half(pair, part, 1))
                    for total, both_halves in zip(totals, pairs, strict=True):
                        held = tirx.BufferLoad(total, [index(0)])
                        s.store(total, 0, fma(splat(factor, LINES), _half(both_halves, part, LINES), held, fused=True))
            for total, at in zip(totals, places, strict=True):
                s.store(panels.sums, tirx.Ramp(at, index(1), LINES), tirx.BufferLoad(total, [index(0)]))

    def store(self, s: Statements) -> None:
        """Writes the sums, or what the epilogue makes of them, to C: whole blocks without masks, where that is worth its
        code."""
        light = self.epilogue is None or self.epilogue.light
        whole: tirx.Expr | bool = self.cols >= PANEL if light and self.c.rows_contiguous else False
        if whole is not False:
            with s.when(whole), s.loop("i", minimum(self.rows, PANEL)) as i:
                for v in range(2):
                    self._store_vector(s, i, index(v), LINES)
        rows, vectors = minimum(self.rows, PANEL), ceil_div(minimum(self.cols, PANEL), LINES)
        with s.when(negation(whole)), s.loop("i", rows) as i, s.loop("v", vectors) as v:
            self._store_vector(s, i, v, s.bind("count", self.cols - v * LINES))

    def _store_vector(self, s: Statements, i: tirx.Expr, v: tirx.Expr, count: tirx.Expr | int) -> None:
        site = Site(row=s.bind("row", self.row + i), col=s.bind("col", self.col + v * LINES), lanes=LINES, count=count)
        value = load_aligned(self.panels.sums, self.panels.sums_at + i * PANEL + v * LINES, LINES)
        emit_store_vector(
            s,
            value,
            c=self.c,
            site=site,
            dtype=self.kernel.dtype,
            add=self.accumulate,
            last=True,
            epilogue=self.epilogue,
        )


def _half(words: tirx.Expr, part: int, lanes: int) -> tirx.Expr:
    """One of the two bf16 elements of every word, in f32."""
    if part == 0:
        words = words << splat(tirx.IntImm("uint32", 16), lanes)
    else:
        words = words & splat(tirx.IntImm("uint32", 0xFFFF0000), lanes)
    return reinterpreted(words, "float32", lanes)


def emit_dot(
    *,
    kernel: PanelProduct,
    a: Operand | Formula,
    b: Operand | Formula | WindowOperand,
    c: Operand,
    raw: str,
    m: tirx.Expr | int,
    n: tirx.Expr | int,
    k: tirx.Expr | int,
    accumulate: bool,
    plan: DotPlan,
    parallel: bool,
    epilogue: Epilogue | None = None,
    packed: PackedWords | None = None,
) -> tirx.Stmt:
    """C[m, n] = epilogue(A[m, k] · B[k, n]), or epilogue(C + A · B) with `accumulate`, summed up in the kernel's type.

    `raw` is the unsigned type of an operand's element. A formula computes that type. `parallel` makes one parallel loop of
    `plan.threads` tasks: it must not stand inside another. `packed` is all of B, packed already; C's rows are contiguous then,
    and also where B is a window's view of an image.
    """
    if packed is None and c.columns_contiguous and not c.rows_contiguous and not isinstance(b, WindowOperand):
        a, b, c, m, n, kernel = b.transposed(), a.transposed(), c.transposed(), n, m, kernel.mirrored()
        epilogue = None if epilogue is None else epilogue.transposed()
    s = Statements()
    m, n, k = (s.bind(name, size) for name, size in (("m", m), ("n", n), ("k", k)))
    DotProduct(
        kernel=kernel,
        left=Lines(source=a, raw=raw, flip=kernel.flip),
        right=WindowLines(window=b, raw=raw) if isinstance(b, WindowOperand) else Lines(source=b.transposed(), raw=raw),
        c=c,
        m=m,
        n=n,
        k=k,
        accumulate=accumulate,
        plan=plan,
        epilogue=epilogue,
        packed=packed,
    ).emit_tasks(s, parallel=parallel)
    return s.finish()

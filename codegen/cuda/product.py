"""Matrix products by the threads of a block: operands in steps of the depth through shared memory, sums in registers.

A tile of C is dealt to the block's warps in rectangles. On tensor cores a warp's rectangle is made of fragments of 16 × 8 sums
(``mma.sync`` m16n8k16 for 16-bit floats; PTX ISA, section Matrix Fragments for mma.m16n8k16), elsewhere each thread has sums of
its own. Operands are whatever can be evaluated at a point; elements beyond an edge are 0, as is what they are multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx

from ...ir.expr import Const, integer, ranks_of, reads_of
from ...ir.microkernels import BY_NAME, FMA
from ...ir.target import Gpu, Target
from ...ir.tile import Compute, MatrixProduct
from ..context import Context, Variables
from ..element import computed
from ..microkernels.statements import Statements, as_index, ceil_div, divisor, index
from . import mma, simt, wgmma
from .chunks import moves_along
from .mma import Exchange
from .operand_loads import Staged
from .operands import Operand, Side, Staging
from .simt import Scalars
from .staging import SLAB, Bring, Slot, Source, address, aligned, beyond, copy, i32, pipeline
from .statements import WARP, DeviceStatements, Team
from .writing import Finish, Rows, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Knobs: the ``rows`` and ``columns`` of C that a block computes at a time, in steps of ``depth``, how many warps share
    its rows and its columns, and for how many steps there is shared memory."""

    rows: int
    columns: int
    depth: int
    warps: tuple[int, int]
    stages: int = 1
    grouped: bool = False  # four warps multiply together (``wgmma.py``)

    @property
    def threads(self) -> int:
        return self.warps[0] * self.warps[1] * WARP


MOST_STAGES = 4
"""Steps under way at once: copies take about a microsecond, a step of the products some hundred nanoseconds."""

GROUP = 8
"""Rows of tiles that are done column by column, so that blocks that run at the same time share their operands in the
second-level cache."""


def shape_of(
    kernel: str,
    bits: int,
    rows: int | None,
    columns: int | None,
    target: Target,
    threads: int | None = None,
    *,
    along: bool = False,
    bulk: bool = False,
) -> Shape:
    """The tile for a product of at most so many rows and columns (None: any number), added up in so many ``bits``; ``threads``
    are given inside a block, whose shared memory other things fill. ``along``: lines of both operands are of the depth;
    ``bulk``: they are copied in bulk, which rounds to tf32."""
    assert target.gpu is not None
    cores, gpu = kernel != FMA, target.gpu
    most = 128 if cores or (threads is None and bits == 32) else 64
    height, width = (_side(extent, most) for extent in (rows, columns))
    # Rectangles of 64 × 64 for a warp, so that loading them from shared memory takes less time than multiplying (``mma.py``).
    many = 8 if height * width > 64 * 64 and not cores else 4
    warps = many if threads is None else threads // WARP
    # Rectangles of a warp are whole fragments, and as square as can be: what is loaded is their sides.
    down = min(
        (d for d in (1, 2, 4, 8) if d <= warps and height // d >= mma.ROWS),
        key=lambda d: (max(width, 2 * mma.COLUMNS * (warps // d)), height // d + width * d // warps),
    )
    width = max(width, 2 * mma.COLUMNS * (warps // down))  # ldmatrix loads two fragments of B at once
    size = mma.element_bytes(BY_NAME[kernel]) if cores else 0
    groups = size == 2 or (along and (size == 1 or (size == 4 and bulk)))  # only 16 bits are transposed on the way
    if threads is None and groups and target.has("wgmma") and height == width == most:
        columns = wgmma.COLUMNS[0] if columns is None or columns > most else width
        return Shape(rows=height, columns=columns, depth=SLAB // size, warps=(8, 1), stages=MOST_STAGES, grouped=True)
    shape = Shape(rows=height, columns=width, depth=64 // size if cores else simt.DEPTH, warps=(down, warps // down))
    if threads is not None:
        return shape
    return _staged(shape, gpu, size) if cores else replace(shape, stages=2)


def _staged(shape: Shape, gpu: Gpu, size: int) -> Shape:
    """As many and as deep steps as leave room for two blocks on a multiprocessor: one computes where the other one waits."""
    room = gpu.shared_per_multiprocessor // 2 - 1024  # of each block 1 KB is the system's (CUDA C++ Programming Guide)
    for line, fewest in ((128, 3), (64, 2)):
        stages = room // ((shape.rows + shape.columns) * line)
        if stages >= fewest:
            return replace(shape, depth=line // size, stages=min(MOST_STAGES, stages))
    return shape


def _side(extent: int | None, most: int) -> int:
    side = mma.ROWS
    while side < most and (extent is None or side < extent):
        side *= 2
    return side


def on_blocks(compute: Compute) -> bool:
    """Whether a block computes the product in tiles: a matrix by a matrix, all of whose points count."""
    product = compute.product
    if product is None or product.rows is None or product.columns is None or compute.filter is not None or product.joined:
        return False
    if few_of(compute) is not None or any(compute.extent(r) == integer(1) for r in (product.rows, product.columns)):
        return False  # a matrix by a vector, or by few
    tile = {product.rows, product.columns, product.inner}
    return not any(set(ranks_of(r.extent)) & tile for r in compute.ranks)


FEW = 8
"""Rows of a product up to which threads add up the products of rows of the other side, which they read once."""


def few_of(compute: Compute) -> str | None:
    """The side of a product that has a few points only, where the operands' rows lie along its depth; None where none has."""
    product = compute.product
    if product is None or product.rows is None or product.columns is None:
        return None
    moving = [moves_along(r.indices, product.inner) for e in (product.left, product.right) for r in reads_of(e)]
    if not any(moving) or None in moving:
        return None
    for rank in (product.rows, product.columns):
        extent = compute.extent(rank)
        if isinstance(extent, Const) and 1 < int(extent.value) <= FEW:
            return rank
    return None


def scratch_of(compute: Compute, shape: Shape) -> int:
    """Bytes of shared memory that the operands of a product are staged in."""
    product = compute.product
    assert product is not None
    if product.kernel != FMA:
        staged = shape.stages * (shape.rows + shape.columns) * shape.depth * mma.element_bytes(BY_NAME[product.kernel])
        staged += wgmma.ALIGNED if shape.grouped else 0
        return staged if shape.stages == 1 else max(staged, mma.exchanged(shape))
    return shape.stages * simt.panels_bytes(shape, compute.accumulator.bits // 8)


def tile_of(s: Statements, number: tirx.Expr, down: tirx.Expr, across: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
    """The row and the column of tile ``number`` of ``down`` × ``across``: :data:`GROUP` rows of them at a time."""
    of_group = s.bind("of_group", divisor(across) * GROUP)
    first = s.bind("first", tirx.truncdiv(number, of_group) * GROUP)
    inside = s.bind("inside", tirx.truncmod(number, of_group))
    high = s.bind("high", tirx.min(down - first, index(GROUP)))
    return s.bind("row", first + tirx.truncmod(inside, high)), s.bind("column", tirx.truncdiv(inside, high))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockProduct:
    """One product at the point of its batch that ``variables`` tell; ``finish`` stores its sums."""

    context: Context
    compute: Compute
    team: Team
    shape: Shape
    value: Value
    finish: Finish
    scratch: tirx.Buffer  # bytes of shared memory, as many as :func:`scratch_of` says
    chunks: bool = True  # operands may be copied 16 bytes at a time

    @property
    def product(self) -> MatrixProduct:
        assert self.compute.product is not None
        return self.compute.product

    def everywhere(self, s: DeviceStatements, variables: Variables) -> None:
        """All tiles of C one after the other, by one block."""
        rows, columns = (self._extent(s, r, variables) for r in (self.product.rows, self.product.columns))
        with s.loop("down", ceil_div(rows, self.shape.rows)) as i, s.loop("across", ceil_div(columns, self.shape.columns)) as j:
            self.tile(s, variables, s.bind("top", i * self.shape.rows), s.bind("left", j * self.shape.columns))

    def tile(self, s: DeviceStatements, variables: Variables, top: tirx.Expr, left: tirx.Expr) -> None:
        """The tile of C whose first point is (top, left)."""
        product, shape = self.product, self.shape
        m, n, k = (self._extent(s, r, variables) for r in (product.rows, product.columns, product.inner))
        outer = [r for r in self.compute.reduced if r != product.inner]
        kernel = BY_NAME.get(product.kernel)
        work: mma.Fragments | Scalars
        operands = self.operands((top, left), (m, n))
        if kernel is None:
            work = Scalars.start(s, self.team, shape, computed(self.compute.accumulator))
            steps = partial(work.steps, self.scratch, operands, k)
        else:
            left_turned, right_turned = (operand.interleaved for operand in operands)
            fragments = wgmma.Groups if shape.grouped else mma.Fragments
            work = fragments(s, self.team, shape, kernel, (left_turned, right_turned))
            steps = partial(self._fragments, work, operands, k)
        self._around(s, outer, variables, steps)
        self.write(s, work, variables, (top, left), (m, n), s.barrier)

    def operands(self, corner: tuple[tirx.Expr, tirx.Expr], extents: tuple[tirx.Expr, tirx.Expr]) -> list[Operand]:
        """Both operands of the tile of C of these ``extents`` whose first point is ``corner``."""
        product, shape = self.product, self.shape
        sides = (
            Side(expr=product.left, rank=product.rows or "", top=corner[0], height=shape.rows, most=extents[0]),
            Side(expr=product.right, rank=product.columns or "", top=corner[1], height=shape.columns, most=extents[1]),
        )
        kernel = BY_NAME.get(product.kernel)
        if kernel is None:
            number = self.compute.accumulator
            return [Operand.by_steps(self.context, side, product.inner, simt.DEPTH, number) for side in sides]
        size = mma.element_bytes(kernel)
        return [Operand.of(self.context, side, product.inner, shape.depth, size) for side in sides]

    def write(
        self, s: DeviceStatements, work: mma.Fragments | Scalars, variables: Variables, corner: tuple[tirx.Expr, tirx.Expr],
        extents: tuple[tirx.Expr, tirx.Expr], meet: Callable[[], None], exchange: Exchange | None = None,
    ) -> None:  # fmt: skip
        """Stores the finished sums of the tile at ``corner``. The team's threads ``meet`` before they use its memory again,
        from its beginning on if ``exchange`` does not tell where."""
        product, (top, left), (m, n) = self.product, corner, extents
        if self.shape.stages > 1 and work.fours:
            rows = Rows.at(s, self.context, self.compute, variables, extents, self.value, self.finish)
            meet()  # all are done with the operands

            def together(s: DeviceStatements, row: tirx.Expr, column: tirx.Expr, sums: tirx.Buffer) -> None:
                rows.write(s, s.bind("i", top + row), s.bind("j", left + column), sums)

            if exchange is None:
                work.by_rows(s, self.scratch, together)
            else:
                assert isinstance(work, mma.Fragments)
                work.by_rows(s, self.scratch, together, exchange)
            return

        def done(s: Statements, row: tirx.Expr, column: tirx.Expr, value: tirx.Expr) -> None:
            i, j = s.bind("i", top + row), s.bind("j", left + column)
            with s.when(tirx.And(i < m, j < n)):
                self.finish(s, {**variables, product.rows or "": i, product.columns or "": j}, value)

        work.results(s, done)

    def _around(
        self, s: Statements, ranks: Sequence[str], variables: Variables, body: Callable[[DeviceStatements, Variables], None]
    ) -> None:
        if not ranks:
            assert isinstance(s, DeviceStatements)
            body(s, variables)
            return
        with s.loop(ranks[0], self._extent(s, ranks[0], variables)) as at:
            self._around(s, ranks[1:], {**variables, ranks[0]: at}, body)

    def _extent(self, s: Statements, rank: str | None, variables: Variables) -> tirx.Expr:
        value = self.context.evaluator(s, variables).value(self.compute.extent(rank or ""))
        return s.bind("extent", as_index(value))

    def _fragments(
        self, work: mma.Fragments, operands: Sequence[Operand], depth: tirx.Expr, s: DeviceStatements, variables: Variables
    ) -> None:
        """All steps of the depth. Operands that are matrices in memory are copied in chunks where these are aligned, which
        only the arguments tell: there are two loops, of which the block takes one."""
        sources = [operand.source(s, variables, depth) if self.chunks else None for operand in operands]
        if not any(sources):
            self._steps(s, work, operands, sources, depth, variables)
            return
        tests = [aligned(source) for source in sources if source is not None]
        whole = s.share(tests[0] if len(tests) == 1 else tests[0] * tests[1])
        with s.when(tirx.NE(whole, i32(0))):
            self._steps(s, work, operands, sources, depth, variables)
        with s.when(tirx.EQ(whole, i32(0))):
            self._steps(s, work, operands, [None, None], depth, variables)

    def _steps(
        self,
        s: DeviceStatements,
        work: mma.Fragments,
        operands: Sequence[Operand],
        sources: Sequence[Source | None],
        depth: tirx.Expr,
        variables: Variables,
    ) -> None:
        def bring(s: DeviceStatements, number: int, step: tirx.Expr, slot: Slot) -> None:
            operand, source = operands[number], sources[number]
            first = s.bind("first", step * self.shape.depth)
            if source is not None:
                copy(s, self.team, operand.panel, slot.address, source, *operand.corner(first))
            else:
                start = s.share(tirx.truncdiv(slot.start, i32(operand.panel.size)))
                operand.elements(s, self.team, slot.raw, start, variables, first, depth)

        self.pipelined(s, work, operands, ceil_div(depth, self.shape.depth), bring)

    def pipelined(
        self, s: DeviceStatements, work: mma.Fragments, operands: Sequence[Staging], steps: tirx.Expr, bring: Bring
    ) -> None:
        """All steps of a product on tensor cores, the panels of whose operands ``bring`` brings."""
        slot_bytes = sum(operand.panel.bytes for operand in operands)
        starts = (0, operands[0].panel.bytes)
        base, before = address(s, self.scratch), i32(0)
        if self.shape.grouped:
            before = s.share(tirx.Cast("int32", (tirx.IntImm("uint32", 0) - base) & tirx.IntImm("uint32", wgmma.ALIGNED - 1)))
            base = s.share(beyond(base, before))
        raw = tirx.decl_buffer((index(1 << 20),), operands[0].raw, name="staged", data=self.scratch.data)
        s.add(tirx.DeclBuffer(raw, data=self.scratch.data))

        def stage(s: DeviceStatements, step: tirx.Expr, slot: tirx.Expr) -> None:
            for number, start in enumerate(starts):
                byte = slot * slot_bytes + start
                bring(s, number, step, Slot(address=beyond(base, byte), raw=raw, start=before + byte))

        def multiply(s: DeviceStatements, slot: tirx.Expr) -> None:
            at = s.share(beyond(base, slot * slot_bytes))
            a, b = (
                Staged(panel=operand.panel, along=operand.along, address=beyond(at, i32(start)))
                for operand, start in zip(operands, starts, strict=True)
            )
            work.multiply(s, a, b)

        if isinstance(work, wgmma.Groups):
            wgmma.pipeline(s, steps, self.shape.stages, stage, multiply)
            work.wait(s, 0)
        else:
            pipeline(s, steps, self.shape.stages, stage, multiply)


__all__ = ["BlockProduct", "Finish", "Shape", "on_blocks", "scratch_of", "shape_of", "tile_of"]

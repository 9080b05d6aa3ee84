"""A convolution as the matrix product of its points with its weights: vectors run along the channels of the result.

C[row, point] = Σ_k A[row, k] · B[k, point], turned round: the register tile has 6 points and 4 vectors of rows. The weights are
packed ahead, in panels of 64 rows; of the image a box is copied with the zeros around it, and what feeds the broadcasts is read
there: nothing is made of it for each tap, and no point is multiplied that does not exist. In exchange the result is transposed
when it is stored, once. (Direct convolution with the channels of the result in vectors: E. Georganas et al., "Anatomy of
High-Performance Deep Learning Convolutions on SIMD Architectures", SC18, section II.)

A thread takes a block of points, goes down the channels some at a time and multiplies their box by all its panels; sums wait in
L2. Every element is a sum in ascending k in groups of kc: the same bits for every number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ...ir.plans import GemmPlan
from .fma import Tile, emit_rank_one_updates, emit_write
from .operand import Operand, Site
from .packing import PackedMatrix, emit_transpose
from .padded import Box
from .statements import Statements, as_index, ceil_div, condition, constant, index, maximum, minimum, negation, round_up
from .tasks import emit_grid
from .vector import load_aligned, prefetch
from .window import WindowOperand

_NEAR, _FAR = 4, 48
"""Multiplications (of 32 in a cycle) that one element takes to arrive from the second-level cache, and from beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointProduct:
    """C[rows, points], its rows contiguous, of the packed weights [k, rows] and the view of an image at its points."""

    weights: PackedMatrix
    image: WindowOperand
    c: Operand
    rows: tirx.Expr
    points: tirx.Expr
    k: tirx.Expr
    dtype: str
    plan: GemmPlan

    def emit_tasks(self, s: Statements, *, parallel: bool) -> None:
        """All of C, in one piece or as a parallel loop over a grid of rectangles."""
        plan = self.plan
        copied = max(1, plan.lanes // self.image.unit)

        def cost(points: tirx.Expr, rows: tirx.Expr) -> tirx.Expr:
            read = tirx.Select(rows * self.k > plan.near * 3, index(_FAR), index(_NEAR))
            return points * rows + points * copied + rows * read

        emit_grid(
            s,
            lambda *, row, height, col, width: self.emit(s, point=row, count=height, row=col, height=width),
            m=self.points, n=self.rows, threads=plan.threads if parallel else 1, units=(1, plan.nr), cost=cost,
        )  # fmt: skip

    def emit(self, s: Statements, *, point: tirx.Expr, count: tirx.Expr, row: tirx.Expr, height: tirx.Expr) -> None:
        """``height`` rows from ``row`` on, which begins a panel, at ``count`` points from ``point`` on."""
        plan, unit = self.plan, self.image.unit
        wide = s.bind("wide", maximum(round_up(height, plan.nr), plan.nr))
        limit = s.bind("limit", maximum(tirx.truncdiv(index(plan.near), wide), 16 * plan.mr))
        turns = s.bind("turns", ceil_div(count, limit))
        share = s.bind("share", ceil_div(count, maximum(turns, 1)))
        room = s.bind("room", round_up(share, plan.lanes) + plan.lanes)
        channels = s.bind("channels", tirx.truncdiv(self.k, index(unit)))
        depths = s.bind("depths", maximum(ceil_div(channels, plan.kc // unit), 1))
        deep = s.bind("deep", ceil_div(channels, depths))
        sums = s.reserve("sums", wide * room, self.dtype)
        places = s.reserve("places", room, "int64")
        shifts = s.allocate("shifts", (plan.kc,), "int64")
        with s.loop("turn", turns) as turn:
            first = s.bind("first", point + turn * share)
            here = s.bind("here", minimum(share, count - turn * share))
            box = Box.around(s, self.image, first, here)
            held = s.reserve("box", deep * box.size + plan.lanes, self.dtype)
            self._look(s, box, places, shifts, first, here, deep)
            with s.loop("depth_block", depths) as pc:
                channel = s.bind("channel", pc * deep)
                some = s.bind("some", maximum(minimum(deep, channels - channel), 0))
                box.emit_copy(s, target=held, first=channel, channels=some, dtype=self.dtype, lanes=plan.lanes)
                with s.loop("panel", ceil_div(height, plan.nr)) as panel:
                    block = _Block(
                        box=held, places=places, shifts=shifts, count=here, depth=s.bind("depth", some * unit), sums=sums,
                        sums_at=s.bind("sums_at", panel * (room * plan.nr)),
                        first=condition(pc == 0) if constant(depths) != 1 else condition(True),
                        ahead=s.bind("ahead", self._next(row, channel, panel, height, deep)),
                    )  # fmt: skip
                    left = s.bind("left", height - panel * plan.nr)
                    base = s.bind("base", (row + panel * plan.nr) * self.weights.height + channel * (unit * plan.nr))
                    self._emit_panel(s, block, base, left)
            self._emit_result(s, sums, room, first, here, row, height)

    def _next(self, row: tirx.Expr, channel: tirx.Expr, panel: tirx.Expr, height: tirx.Expr, deep: tirx.Expr) -> tirx.Expr:
        """Where the weights begin that are multiplied after those of ``panel``: the next panel's, or some channels further."""
        plan, step = self.plan, index(self.image.unit * self.plan.nr)
        beside = (row + (panel + 1) * plan.nr) * self.weights.height + channel * step
        below = row * self.weights.height + (channel + deep) * step
        return tirx.Select((panel + 1) * plan.nr < height, beside, below)

    def _look(
        self,
        s: Statements,
        box: Box,
        places: tirx.Buffer,
        shifts: tirx.Buffer,
        first: tirx.Expr,
        count: tirx.Expr,
        deep: tirx.Expr,
    ) -> None:
        """Where each point is in the box, points that do not exist being at the first one; and each channel's taps."""
        lanes, unit = self.plan.lanes, self.image.unit
        with s.loop("chunk", ceil_div(count, lanes)) as chunk:
            at = s.bind("at", chunk * lanes)
            s.store(places, _ramp(at, lanes), box.points(s, s.bind("point", first + at), lanes))
        with s.loop("spare", lanes) as spare:
            s.store(places, count + spare, tirx.BufferLoad(places, [index(0)]))
        with s.loop("tap", unit) as tap:
            moved = s.bind("moved", box.tap(s, tap))
            with s.loop("channel", deep) as channel:
                s.store(shifts, channel * unit + tap, channel * box.size + moved)

    def _emit_panel(self, s: Statements, block: _Block, base: tirx.Expr, left: tirx.Expr) -> None:
        """All points by one panel: tiles of mr points, and of one less such that none is left."""
        plan = self.plan
        tiles = s.bind("tiles", ceil_div(block.count, plan.mr))
        less = s.bind("less", tiles * plan.mr - block.count)
        lower = s.bind("lower", tirx.Select(less <= tiles, less, index(0)))
        tall = s.bind("tall", tiles - lower)
        for vectors, chosen in self._widths(s, left):
            with s.when(chosen):
                for points, number, before in ((plan.mr, tall, index(0)), (plan.mr - 1, lower, tall)):
                    if points == 0 or constant(number) == 0:
                        continue
                    with s.loop("tile", number) as tile:
                        first = s.bind("first", tile * points + before * plan.mr)
                        self._emit_tile(s, block, base, s.bind("number", before + tile), first, points, vectors)

    def _widths(self, s: Statements, left: tirx.Expr) -> list[tuple[int, tirx.Expr | bool]]:
        """How many vectors wide the tiles of a panel are, and when: the last panel may have fewer rows."""
        plan, rows = self.plan, constant(self.rows)
        last = -(-(plan.nr if rows is None else rows % plan.nr or plan.nr) // plan.lanes)
        if last == plan.nv:
            return [(plan.nv, True)]
        whole = s.bind("whole", left >= plan.nr)
        return [(plan.nv, whole), (last, negation(whole))]

    def _emit_tile(
        self, s: Statements, block: _Block, base: tirx.Expr, number: tirx.Expr, first: tirx.Expr, points: int, vectors: int
    ) -> None:
        plan = self.plan
        at = [s.bind(f"at_{i}", tirx.BufferLoad(block.places, [first + i])) for i in range(points)]
        lines = s.bind("lines", block.depth * (plan.nr // plan.lanes) - 1)
        turns = ceil_div(block.depth, plan.unroll)

        def ahead(turn: tirx.Expr) -> list[tirx.Expr]:
            line = minimum(number * turns + turn, lines)
            return [prefetch(self.weights.buffer, block.ahead + line * plan.lanes, level=2)]

        tile = emit_rank_one_updates(
            s, rows=points, vectors=vectors, lanes=plan.lanes, dtype=self.dtype, depth=block.depth,
            a_at=lambda i, p: tirx.BufferLoad(block.box, [at[i] + tirx.BufferLoad(block.shifts, [p])]),
            b_at=lambda v, p: load_aligned(self.weights.buffer, base + p * plan.nr + v * plan.lanes, plan.lanes),
            unroll=plan.unroll, fused=plan.fused, ahead=ahead,
        )  # fmt: skip
        with s.when(block.first):
            self._keep(s, block, tile, first, more=False)
        with s.when(negation(block.first)):
            self._keep(s, block, tile, first, more=True)

    def _keep(self, s: Statements, block: _Block, tile: Tile, first: tirx.Expr, *, more: bool) -> None:
        """The sums of a tile, with those so far where there are ``more``."""
        plan = self.plan
        at = s.bind("kept", block.sums_at + first * plan.nr)
        for i, values in enumerate(tile):
            for v, value in enumerate(values):
                place = at + (i * plan.nr + v * plan.lanes)
                total = value + load_aligned(block.sums, place, plan.lanes) if more else value
                s.store(block.sums, _ramp(place, plan.lanes), total)

    def _emit_result(
        self,
        s: Statements,
        sums: tirx.Buffer,
        room: tirx.Expr,
        first: tirx.Expr,
        count: tirx.Expr,
        row: tirx.Expr,
        height: tirx.Expr,
    ) -> None:
        """Writes the sums to C: squares of them transposed."""
        plan, lanes = self.plan, self.plan.lanes
        with s.loop("strip", ceil_div(height, lanes)) as strip, s.loop("chunk", ceil_div(count, lanes)) as chunk:
            at = s.bind("at", chunk * lanes)
            top = s.bind("top", strip * lanes)
            panel, inner = tirx.truncdiv(strip, index(plan.nv)), tirx.truncmod(strip, index(plan.nv))
            held = s.bind("held", (panel * room + at) * plan.nr + inner * lanes)
            square = [s.bind("sums", load_aligned(sums, held + i * plan.nr, lanes)) for i in range(lanes)]
            inside = s.bind("inside", count - at)
            for i, value in enumerate(emit_transpose(s, square)):
                with s.when(True if (constant(height) or 1) % lanes == 0 else top + i < height):
                    site = Site(row=s.bind("row", row + top + i), col=s.bind("col", first + at), lanes=lanes, count=inside)
                    emit_write(s, value, c=self.c, site=site)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A box, and the sums of one panel at its points from element ``sums_at`` on; ``first`` tells that there are none yet.

    ``ahead`` is where the weights begin that will be multiplied next.
    """

    box: tirx.Buffer
    places: tirx.Buffer
    shifts: tirx.Buffer
    count: tirx.Expr
    depth: tirx.Expr
    sums: tirx.Buffer
    sums_at: tirx.Expr
    first: tirx.Expr
    ahead: tirx.Expr


def _ramp(start: tirx.Expr, lanes: int) -> tirx.Expr:
    return tirx.Ramp(as_index(start), index(1), lanes)

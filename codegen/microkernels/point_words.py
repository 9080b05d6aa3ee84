"""A convolution of bytes as the product of its points with its packed weights, on dot-product instructions.

The box of the image is held with 64 channels of a position side by side: 16 positions one after the other are what the
instructions take for 16 rows of A, at every tap the same rows from another position on. So nothing is interleaved for each tap.
Points that follow one another do so in the box too, but for the places between two lines, which are multiplied for nothing: as
many as the window is wide, less one. The depth goes down 64 channels tap by tap, then the next 64; sums of bytes are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ...ir.microkernels import PANEL
from ...ir.plans import DotPlan
from .fma import emit_write
from .operand import Operand, Site
from .padded import Box, inside_of, neighbours
from .panels import PackedWords, PanelProduct, Panels
from .statements import Statements, as_index, ceil_div, constant, index, maximum, minimum
from .tasks import emit_grid
from .vector import lane_type, load_aligned, prefetch, shuffle, splat, zeros
from .window import WindowOperand
from .words import LINES, reinterpreted, turned

_NEAR, _FAR = 16, 200
"""Multiplications (of 1024 in a cycle) that one byte takes to arrive from the second-level cache, and from beyond it."""

_GROUP = 4
"""Channels of a word."""

_TOGETHER = 7 * PANEL
"""Points whose sums at a panel of weights stay in L1 until they are stored."""

_BOX = 32
"""A box takes a quarter of L2: of what packed rows may take, such a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointWords:
    """C[rows, points], its rows contiguous, of the packed weights and the view of an image of ``channels`` at its points.

    ``kernel`` multiplies the image by the weights; ``raw`` is the unsigned type of an element's bits. No bit
    depends on the ``plan``.
    """

    kernel: PanelProduct
    weights: PackedWords
    image: WindowOperand
    c: Operand
    rows: tirx.Expr
    points: tirx.Expr
    channels: tirx.Expr
    raw: str
    plan: DotPlan

    def emit_tasks(self, s: Statements, *, parallel: bool) -> None:
        """All of C, in one piece or as a parallel loop over a grid of rectangles."""
        plan, unit = self.plan, self.image.unit
        copied = max(1, 64 // unit)

        def cost(points: tirx.Expr, rows: tirx.Expr) -> tirx.Expr:
            read = tirx.Select(rows * self.channels * unit > 3 * self._room, index(_FAR), index(_NEAR))
            return points * rows + points * copied + rows * read

        emit_grid(
            s,
            lambda *, row, height, col, width: self.emit(s, point=row, count=height, row=col, height=width),
            m=self.points, n=self.rows, threads=plan.threads if parallel else 1, units=(1, PANEL), cost=cost,
        )  # fmt: skip

    def emit(self, s: Statements, *, point: tirx.Expr, count: tirx.Expr, row: tirx.Expr, height: tirx.Expr) -> None:
        """``height`` rows from ``row`` on, which begins a panel, at ``count`` points from ``point`` on."""
        unit = self.image.unit
        chunks = s.bind("chunks", ceil_div(self.channels, LINES * _GROUP))
        limit = s.bind("limit", maximum(tirx.truncdiv(index(self._room), maximum(chunks * (LINES * _GROUP), 1)), _TOGETHER))
        turns = s.bind("turns", ceil_div(count, limit))
        share = s.bind("share", ceil_div(count, maximum(turns, 1)))
        places = s.reserve("places", share + 2 * LINES, "int64")
        moves = s.reserve("moves", maximum(chunks * unit, 1), "int64")
        self.kernel.configure(s)
        with s.loop("turn", turns) as turn:
            first = s.bind("first", point + turn * share)
            here = s.bind("here", minimum(share, count - turn * share))
            box = Box.around(s, self.image, first, here)
            # What lies between the last points and a whole block of them is read, but not stored.
            held = s.reserve("box", (chunks * box.size + 2 * PANEL) * LINES, "uint32")
            self._copy(s, box, held, chunks)
            with s.loop("some", ceil_div(here, LINES)) as some:
                at = s.bind("at", some * LINES)
                s.store(places, _ramp(at, LINES), box.points(s, s.bind("point", first + at), LINES))
            with s.loop("tap", unit) as tap:
                moved = s.bind("moved", box.tap(s, tap))
                with s.loop("chunk", chunks) as chunk:
                    s.store(moves, chunk * unit + tap, (chunk * box.size + moved) * LINES)
            sums = s.reserve("sums", (box.size + PANEL) * PANEL, "int32")
            groups = s.bind("groups", ceil_div(here, _TOGETHER))
            size = s.bind("size", ceil_div(here, groups))
            with s.loop("group", groups) as group, s.loop("panel", ceil_div(height, PANEL)) as panel:
                begin = s.bind("begin", group * size)
                some = s.bind("some", minimum(size, here - begin))
                start = s.bind("start", tirx.BufferLoad(places, [begin]))
                span = s.bind("span", tirx.BufferLoad(places, [begin + some - 1]) - start + 1)
                block = _Block(
                    box=held, moves=moves, start=start, span=span, sums=sums, chunks=s.bind("steps", chunks * unit),
                    weights=self.weights.part(s.bind("number", tirx.truncdiv(row, index(PANEL)) + panel), index(0)),
                    left=s.bind("left", height - panel * PANEL),
                )  # fmt: skip
                with s.when(some > 0):
                    top = s.bind("top", row + panel * PANEL)
                    self._multiply(s, block, top, s.bind("left", first + begin))
                    self._store(s, block, places, begin, some, first, top)
        self.kernel.release(s)

    def _multiply(self, s: Statements, block: _Block, row: tirx.Expr, col: tirx.Expr) -> None:
        """The sums of one panel of weights from the group's first position to its last, that of C's element (row, col).

        Lines of C that L2 does not hold are asked for some time before they are written.
        """
        far = self.rows * self.points > self._room
        with s.loop("block", ceil_div(block.span, PANEL)) as number:
            position = s.bind("position", number * PANEL)
            with s.when(far), s.loop("line", minimum(block.left, PANEL)) as line:
                for part in range(0, PANEL, LINES):
                    s.evaluate(prefetch(self.c.buffer, self.c.at(row + line, col + position + part), write=True))
            panels = Panels(
                a=block.box,
                a_at=s.bind("a_at", (block.start + position) * LINES),
                b=block.weights.words,
                b_at=s.bind("b_at", block.weights.start),
                sums=block.sums,
                sums_at=s.bind("sums_at", position * PANEL),
                chunks=block.chunks,
                more=False,
                moves=block.moves,
                near=self._near,
            )
            rest = s.bind("rest", block.span - position)
            for down in (1, 2):
                for across in self._widths():
                    tall = rest > LINES if down == 2 else rest <= LINES
                    wide: tirx.Expr | bool = True
                    if len(self._widths()) > 1:
                        wide = block.left > LINES if across == 2 else block.left <= LINES
                    with s.when(tall), s.when(wide):
                        self.kernel.emit(s, panels, down=down, across=across)

    @property
    def _room(self) -> int:
        """Bytes of a quarter of L2."""
        return self.plan.packed // _BOX

    @property
    def _near(self) -> bool:
        """Whether all weights are known to stay in L2, from where they need not be asked for."""
        known = constant(self.rows * self.channels * self.image.unit)
        return known is not None and known <= 3 * self._room

    def _widths(self) -> tuple[int, ...]:
        """How many squares wide the blocks are: the last panel may have fewer rows."""
        rows = constant(self.rows)
        return (1, 2) if rows is None or 0 < rows % PANEL <= LINES else (2,)

    def _store(
        self,
        s: Statements,
        block: _Block,
        places: tirx.Buffer,
        begin: tirx.Expr,
        count: tirx.Expr,
        first: tirx.Expr,
        top: tirx.Expr,
    ) -> None:
        """Writes the sums at ``count`` points to C: squares of them transposed."""
        strips = ceil_div(minimum(block.left, PANEL), LINES)
        with s.loop("strip", strips) as strip, s.loop("some", ceil_div(count, LINES)) as some:
            at = s.bind("at", some * LINES)
            rows = []
            for i in range(LINES):
                place = s.bind("place", tirx.BufferLoad(places, [begin + minimum(at + i, count - 1)]) - block.start)
                rows.append(s.share(load_aligned(block.sums, place * PANEL + strip * LINES, LINES)))
            inside = s.bind("inside", count - at)
            for i, value in enumerate(turned(s, rows)):
                row = strip * LINES + i
                with s.when(True if (constant(self.rows) or 1) % LINES == 0 else row < block.left):
                    site = Site(row=s.bind("row", top + row), col=s.bind("col", first + begin + at), lanes=LINES, count=inside)
                    emit_write(s, value, c=self.c, site=site)

    def _copy(self, s: Statements, box: Box, target: tirx.Buffer, chunks: tirx.Expr) -> None:
        """Fills the box: for each position the words of 64 channels, then of the next 64; 0 beyond the last channel."""
        side, buffer = box.sides[-1], self.image.buffer
        woven = s.allocate("woven", (LINES * LINES,), "uint32")
        flip = splat(tirx.IntImm("uint32", self.kernel.flip), LINES)
        with s.loop("chunk", chunks) as chunk:
            channel = s.bind("channel", chunk * (LINES * _GROUP))

            def line(source: tirx.Expr, held: tirx.Expr, inside: tirx.Expr | bool) -> None:
                extent = side.axis.extent if inside is True else tirx.Select(inside, side.axis.extent, index(0))
                extent = s.bind("extent", extent)
                with s.loop("some", ceil_div(side.extent, LINES)) as some:
                    step = s.bind("step", some * LINES)
                    position = s.bind("from", side.low + step)
                    ramp = s.share(neighbours(position, LINES))
                    with s.loop("word", LINES) as word:
                        parts = []
                        for part in range(_GROUP):
                            number = s.bind("number", channel + (word * _GROUP + part))
                            limit = s.bind("limit", tirx.Select(number < self.channels, extent, index(0)))
                            mask = inside_of(ramp, limit, LINES)
                            begin = s.bind("begin", source + (word * _GROUP + part) * self.image.channel_stride)
                            if constant(side.axis.stride) == 1:
                                address = tirx.address_of(tirx.BufferLoad(buffer, [begin + position]))
                                value = tirx.call_llvm_pure_intrin(
                                    lane_type(self.raw, LINES), "llvm.masked.load", address, mask, zeros(self.raw, LINES)
                                )
                            else:
                                where = box.scattered(s, side, begin, ramp, mask, LINES)
                                value = reinterpreted(tirx.BufferLoad(buffer, [where]), self.raw, LINES)
                                value = tirx.Select(mask, value, zeros(self.raw, LINES))
                            parts.append(s.share(value))
                        words = _woven(s, parts)
                        s.store(woven, _ramp(word * LINES, LINES), words ^ flip if self.kernel.flip else words)
                    rows = [s.share(load_aligned(woven, i * LINES, LINES)) for i in range(LINES)]
                    for i, value in enumerate(turned(s, rows)):
                        s.store(target, _ramp((held + step + i) * LINES, LINES), value)

            origin = as_index(self.image.offset) + channel * self.image.channel_stride
            box.each_line(s, s.bind("origin", origin), s.bind("held", chunk * box.size), line)


def _woven(s: Statements, parts: list[tirx.Expr]) -> tirx.Expr:
    """Words of the bytes of four vectors, the first in the lowest bits."""
    order = [lane // 2 + (lane % 2) * LINES for lane in range(2 * LINES)]
    pairs = [reinterpreted(s.share(shuffle(pair, order)), "uint16", LINES) for pair in (parts[:2], parts[2:])]
    return s.share(reinterpreted(s.share(shuffle(pairs, order)), "uint32", LINES))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A group of points, which begins at position ``start`` of the box and ends ``span`` positions further, and a panel of
    weights of which ``left`` rows and the next ones exist."""

    box: tirx.Buffer
    moves: tirx.Buffer
    start: tirx.Expr
    span: tirx.Expr
    sums: tirx.Buffer
    chunks: tirx.Expr
    weights: PackedWords
    left: tirx.Expr


def _ramp(start: tirx.Expr, lanes: int) -> tirx.Expr:
    return tirx.Ramp(as_index(start), index(1), lanes)

"""Products by multiply-adds of single threads, each of which has a rectangle of sums, from operands in shared memory.

Both operands are staged by steps of k, so that a thread reads four neighbours at once. Elements of 32 and 64 bits are copied
one by one (``cp.async`` of 4 or 8 bytes), for which every address will do: there is one loop. Of the 128 × 128 sums of a block
each of 256 threads has 8 × 8; for each k it reads 2 · 8 floats by four loads and does 64 multiply-adds, so shared memory and
the multipliers are busy for about as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.stmt import ForKind

from ..context import Variables
from ..functions.lanes import pure
from ..microkernels.statements import Statements, as_index, ceil_div, index
from .operand_loads import register
from .operands import Operand, Staging
from .staging import Bring, Lines, Slot, Source, address, beyond, i32, narrow, pipeline
from .statements import WARP, DeviceStatements, Team
from .writing import TOGETHER

if TYPE_CHECKING:
    from .product import Shape

DEPTH = 16
"""Of a step."""

COPY = """
__device__ __forceinline__ void einfall_copyBYTES(unsigned to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], BYTES, %2;" :: "r"(to), "l"(from), "r"(bytes));
}
"""

_READ = """
__device__ __forceinline__ void einfall_read_TYPECOUNT(TYPE* to, const TYPE* from) {
  *reinterpret_cast<TYPECOUNT*>(to) = *reinterpret_cast<const TYPECOUNT*>(from);
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """Of one side of a block's tile the part of one thread: ``groups`` of ``together`` neighbours, the same distance apart;
    ``threads`` share the side, of which ``beside`` are in one warp."""

    groups: int
    together: int
    threads: int
    beside: int

    @property
    def count(self) -> int:
        return self.groups * self.together

    @property
    def apart(self) -> int:
        """Elements from group to group."""
        return self.threads * self.together


def rectangles(rows: int, columns: int, threads: int, size: int) -> tuple[Rectangle, Rectangle]:
    """The parts of a thread: as square as can be, of which as much as can be is read at once."""
    most = 16 // size
    found = []
    for down in (2**n for n in range(11)):
        across = threads // down
        if down * across != threads or rows % down or columns % across:
            continue
        high, wide = rows // down, columns // across
        beside = min(8, across)
        above = WARP // beside
        if above <= down:
            sides = ((high, down, above), (wide, across, beside))
            parts = [
                Rectangle(groups=count // (together := min(most, count)), together=together, threads=among, beside=near)
                for count, among, near in sides
            ]
            found.append((high + wide, -parts[1].together, -parts[0].together, parts))
    _, _, _, (first, second) = min(found, key=lambda each: each[:3])
    return first, second


@dataclass(frozen=True, slots=True)
class Scalars:
    """Sums of f32 or f64 in the registers of single threads."""

    team: Team
    shape: Shape
    element: str
    down: Rectangle
    across: Rectangle
    sums: tirx.Buffer

    @staticmethod
    def start(s: DeviceStatements, team: Team, shape: Shape, element: str) -> Scalars:
        """Sums of ``element`` type (``float32``, ``float64``) that are 0."""
        down, across = rectangles(shape.rows, shape.columns, team.threads, 8 if element == "float64" else 4)
        sums = s.allocate("sums", (down.count * across.count,), element, scope="local")
        with s.loop("i", down.count * across.count, kind=ForKind.UNROLLED) as i:
            s.store(sums, i, tirx.const(0, element))
        return Scalars(team, shape, element, down, across, sums)

    def steps(
        self, scratch: tirx.Buffer, operands: Sequence[Operand], depth: tirx.Expr, s: DeviceStatements, variables: Variables
    ) -> None:
        """All steps of the depth."""
        sources = [operand.source(s, variables, depth) for operand in operands]

        def bring(s: DeviceStatements, number: int, step: tirx.Expr, slot: Slot) -> None:
            operand, source = operands[number], sources[number]
            first = s.bind("first", step * DEPTH)
            if source is not None:
                self._copy(s, operand, source, slot.address, first)
            else:
                start = s.share(tirx.truncdiv(slot.start, i32(operand.panel.size)))
                operand.elements(s, self.team, slot.raw, start, variables, first, depth)

        self.pipelined(s, scratch, operands, ceil_div(depth, DEPTH), bring)

    def pipelined(
        self, s: DeviceStatements, scratch: tirx.Buffer, operands: Sequence[Staging], steps: tirx.Expr, bring: Bring
    ) -> None:
        """All steps of a product, the panels of whose operands ``bring`` brings."""
        panels = [lines for operand in operands if isinstance(lines := operand.panel, Lines)]
        starts, slot_bytes = (0, panels[0].bytes), sum(panel.bytes for panel in panels)
        base = address(s, scratch)
        raw = tirx.decl_buffer((index(1 << 20),), self.element, name="staged", data=scratch.data)
        s.add(tirx.DeclBuffer(raw, data=scratch.data))
        size = panels[0].size

        def stage(s: DeviceStatements, step: tirx.Expr, slot: tirx.Expr) -> None:
            for number, start in enumerate(starts):
                byte = s.share(slot * slot_bytes + start)
                bring(s, number, step, Slot(address=beyond(base, byte), raw=raw, start=byte))

        def multiply(s: DeviceStatements, slot: tirx.Expr) -> None:
            first = s.share(tirx.truncdiv(slot * slot_bytes, i32(size)))
            self._multiply(s, raw, [first + start // size for start in starts], [panel.pitch for panel in panels])

        pipeline(s, steps, self.shape.stages, stage, multiply)

    def _copy(self, s: DeviceStatements, operand: Operand, source: Source, to: tirx.Expr, first: tirx.Expr) -> None:
        """Begins to copy a panel element by element; what lies beyond the matrix is 0."""
        panel, thread = operand.panel, narrow(s, self.team.thread)
        rows, depth = (source.lines, source.width) if operand.lies_along else (source.width, source.lines)
        rows_left = narrow(s, tirx.min(rows - operand.side.top, index(panel.width)))
        depth_left = narrow(s, tirx.min(depth - first, index(DEPTH)))
        row_step, step = (source.stride, index(1)) if operand.lies_along else (index(1), source.stride)
        start = s.bind("start", source.origin + operand.side.top * row_step + first * step)
        source_code = COPY.replace("BYTES", str(panel.size))
        with s.loop("turn", -(-DEPTH * panel.width // self.team.threads), kind=ForKind.UNROLLED) as turn:
            number = s.share(tirx.Cast("int32", turn) * self.team.threads + thread)
            if operand.lies_along:  # a warp reads 32 bytes of four rows
                k = (number & i32(7)) | ((number >> i32(2)) & i32(DEPTH - 8))
                row = ((number >> i32(6)) << i32(2)) | ((number >> i32(3)) & i32(3))
            else:
                k, row = number >> i32(panel.width.bit_length() - 1), number & i32(panel.width - 1)
            k, row = s.share(k), s.share(row)
            with s.when(True if DEPTH * panel.width % self.team.threads == 0 else number < i32(DEPTH * panel.width)):
                there = tirx.Select(tirx.And(row < rows_left, k < depth_left), i32(panel.size), i32(0))
                pointer = register(source.flat, start + as_index(row) * row_step + as_index(k) * step)
                place = beyond(to, panel.element(k, row) * panel.size)
                s.evaluate(cuda_func_call(f"einfall_copy{panel.size}", place, pointer, there, source_code=source_code))

    def _place(self, s: Statements) -> tuple[tirx.Expr, tirx.Expr]:
        """The first row and the first column of the thread; int32."""
        thread = narrow(s, self.team.thread)
        lane, warp = thread & i32(WARP - 1), thread >> i32(WARP.bit_length() - 1)
        beside = self.across.beside
        warps = self.across.threads // beside
        row = tirx.truncdiv(warp, i32(warps)) * self.down.beside + tirx.truncdiv(lane, i32(beside))
        column = tirx.truncmod(warp, i32(warps)) * beside + tirx.truncmod(lane, i32(beside))
        return s.share(row * self.down.together), s.share(column * self.across.together)

    def _multiply(self, s: DeviceStatements, raw: tirx.Buffer, starts: Sequence[tirx.Expr], pitches: Sequence[int]) -> None:
        places = self._place(s)
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        sides = (self.down, self.across)
        held = [s.allocate(name, (side.count,), self.element, scope="local") for name, side in zip("ab", sides, strict=True)]
        firsts = [s.share(start + place) for start, place in zip(starts, places, strict=True)]
        kind = "double" if self.element == "float64" else "float"
        with unrolled("k", DEPTH) as k:
            for side, to, first, pitch in zip(sides, held, firsts, pitches, strict=True):
                with unrolled("group", side.groups) as group:
                    at = as_index(first + tirx.Cast("int32", k) * pitch + tirx.Cast("int32", group) * side.apart)
                    if side.together == 1:
                        s.store(to, group, tirx.BufferLoad(raw, [at]))
                        continue
                    name, count = f"einfall_read_{kind}{side.together}", str(side.together)
                    code = _READ.replace("TYPE", kind).replace("COUNT", count)
                    s.evaluate(cuda_func_call(name, register(to, group * side.together), register(raw, at), source_code=code))
            with unrolled("i", self.down.count) as i, unrolled("j", self.across.count) as j:
                at = i * self.across.count + j
                x, y = tirx.BufferLoad(held[0], [i]), tirx.BufferLoad(held[1], [j])
                s.store(self.sums, at, pure("llvm.fma", x, y, tirx.BufferLoad(self.sums, [at])))

    @property
    def fours(self) -> bool:
        """Whether a thread has four neighbours of a row."""
        return self.across.together == TOGETHER

    def by_rows(
        self,
        s: DeviceStatements,
        scratch: tirx.Buffer,
        done: Callable[[DeviceStatements, tirx.Expr, tirx.Expr, tirx.Buffer], None],
    ) -> None:
        """Gives four sums of a row at a time, with their row and first column in the tile, to ``done`` (:attr:`fours`): all
        rows of the same columns, then others, so that registers hold the coordinates of some only."""
        top, left = (as_index(place) for place in self._place(s))
        four = s.allocate("four", (TOGETHER,), self.element, scope="local")
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        with unrolled("j", self.across.groups) as j, unrolled("i", self.down.count) as i:
            with unrolled("e", TOGETHER) as e:
                s.store(four, e, tirx.BufferLoad(self.sums, [i * self.across.count + j * TOGETHER + e]))
            done(s, top + _at(self.down, i), left + j * self.across.apart, four)

    def results(self, s: DeviceStatements, done: Callable[[Statements, tirx.Expr, tirx.Expr, tirx.Expr], None]) -> None:
        """Gives each sum with its row and column in the tile to ``done``."""
        top, left = (as_index(place) for place in self._place(s))
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        with unrolled("i", self.down.count) as i, unrolled("j", self.across.count) as j:
            value = s.share(tirx.BufferLoad(self.sums, [i * self.across.count + j]))
            done(s, top + _at(self.down, i), left + _at(self.across, j), value)


def _at(side: Rectangle, number: tirx.Expr) -> tirx.Expr:
    """How far from the thread's first element its element ``number`` is."""
    together = index(side.together)
    return tirx.truncdiv(number, together) * side.apart + tirx.truncmod(number, together)


def panels_bytes(shape: Shape, size: int) -> int:
    """Bytes of shared memory in which both operands of a step are staged."""
    return sum(Lines(lines=DEPTH, width=side, size=size).bytes for side in (shape.rows, shape.columns))

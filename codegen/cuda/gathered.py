"""Operands of an implicit product on their way to shared memory, element by element from where a point's window lies.

The rows (or columns) of an operand are the points of several ranks. Where neighbouring points are neighbours in memory each
thread copies the elements of points of its own: it divides their numbers once for a tile, finds their places once for a step,
at which all threads are at the same tap, and goes down the channels in equal steps. Else neighbouring threads copy neighbouring
channels. Elements of 32 and 64 bits are copied asynchronously, of none of its bytes where the point lies outside of the image
(``cp.async`` with a source size of 0 writes zeros; PTX ISA); others go through registers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.stmt import ForKind

from ...ir.expr import Expr, Rank, Read, Select, ranks_of
from ...ir.index import affine_in
from ...ir.types import DType
from ..arithmetic import convert
from ..context import Context, Variables
from ..element import computed
from ..expressions import Evaluator
from ..microkernels.statements import Statements, as_index, constant, index
from ..views import decode
from .operand_loads import order_of, register
from .operands import BATCH, Staging
from .simt import COPY
from .staging import (
    CHUNK,
    Lines,
    Panel,
    Slot,
    Source,
    aligned,
    beyond,
    copy,
    copy_chunk,
    i32,
    lies_along,
    narrow,
    source_of,
    stride_along,
)
from .statements import DeviceStatements, Team

_FURTHER = """
__device__ __forceinline__ void einfall_further(int64_t* place, int64_t distance) {
  asm("add.s64 %0, %0, %1;" : "+l"(*place) : "l"(distance));
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """A side of a tile: so many (``height``) points of ``ranks``, which have these ``extents``, from number ``top`` on, of
    ``most`` in all."""

    ranks: tuple[str, ...]
    extents: tuple[tirx.Expr, ...]
    top: tirx.Expr
    height: int
    most: tirx.Expr

    def at(self, s: Statements, number: tirx.Expr) -> Variables:
        """The coordinates of a point."""
        return s.coordinates(number, self.ranks, self.extents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Points whose elements a thread copies: their coordinates, and whether there are such points (an int32)."""

    places: tuple[Variables, ...]
    there: tuple[tirx.Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered(Staging):
    """How an operand is staged: ``read`` where ``guard`` holds, else 0. ``beside``: neighbours along the depth ``inner`` are
    closer in memory than neighbouring points."""

    context: Context
    read: Read
    guard: Expr | None
    points: Points
    inner: str
    beside: bool

    @staticmethod
    def of(context: Context, expr: Expr, points: Points, inner: str, depth: int, number: DType | None, size: int) -> Gathered:
        """An operand in steps of ``depth``: for tensor cores, of elements of ``size`` bytes, or as numbers of a type."""
        read, guard = parted(expr)
        beside = _last(read, {inner}) > _last(read, {*points.ranks})
        along = number is None and beside
        panel: Panel
        if number is not None:
            panel = Lines(lines=depth, width=points.height, size=size)
        else:
            lines, width = (points.height, depth) if along else (depth, points.height)
            panel = Panel(lines=lines, width=width, size=size, order=order_of(size, along=along, paired=False))
        return Gathered(
            context=context, read=read, guard=guard, points=points, inner=inner, panel=panel, beside=beside, along=along,
            number=number,
        )  # fmt: skip

    @property
    def in_chunks(self) -> bool:
        """Whether 16 bytes of neighbours may be copied at once, where they are aligned (:meth:`aligned`)."""
        view = self.context.views[self.read.tensor]
        if self.number is not None or view.dtype.bits // 8 != self.panel.size or constant(view.strides[-1]) != 1:
            return False
        last = self.read.indices[-1]
        if self.along:
            return isinstance(last, Rank) and last.name == self.inner
        return self._straight and lies_along(self.context, self.read, self.inner, self.points.ranks[0])

    def aligned(self, s: Statements) -> tirx.Expr:
        """Whether all that is copied at once is aligned: an int32."""
        view, steps = self.context.views[self.read.tensor], index(0)
        for stride in view.strides[:-1]:
            steps = s.bind("steps", steps | stride)
        one = index(1)
        return aligned(Source(flat=view.flat, origin=index(0), stride=steps, lines=one, width=one, size=self.panel.size))

    def own(self, s: DeviceStatements, team: Team, *, chunks: bool) -> Own:
        """The points that are the calling thread's for all of the tile; none where neighbours are not. ``chunks``: it will
        copy 16 bytes at a time."""
        points, thread = self.points, narrow(s, team.thread)
        if chunks and self.along and not self._straight:
            per = self.panel.across
            rows = [(thread + i32(n * team.threads)) >> i32(per.bit_length() - 1) for n in range(self._turns(team))]
        elif self.beside or chunks:
            return Own(places=(), there=())
        else:
            turns = range(max(1, points.height // team.threads))
            rows = [(thread & i32(points.height - 1)) + i32(turn * team.threads) for turn in turns]
        places, there = [], []
        for row in rows:
            number = s.bind("number", points.top + as_index(row))
            # In 32 bits: extents are no larger, and these registers are held for long.
            places.append({name: as_index(narrow(s, at)) for name, at in points.at(s, number).items()})
            there.append(s.share(tirx.Cast("int32", number < points.most)))
        return Own(places=tuple(places), there=tuple(there))

    def _turns(self, team: Team) -> int:
        """Chunks that each thread copies."""
        return max(1, self.panel.bytes // CHUNK // team.threads)

    def bring(
        self, s: DeviceStatements, team: Team, own: Own, slot: Slot, variables: Variables, first: tirx.Expr, depth: tirx.Expr,
        *, chunks: bool,
    ) -> None:  # fmt: skip
        """The panel of the steps of the depth from ``first`` on, of which there are ``depth``, at one point of all other ranks;
        ``chunks``: 16 bytes at a time."""
        points = self.points
        if chunks and self._straight:
            sides = (points.ranks[0], self.inner) if self.along else (self.inner, points.ranks[0])
            extents = (points.most, depth) if self.along else (depth, points.most)
            source = source_of(s, self.context, self.read, *sides, variables, *extents)
            copy(s, team, self.panel, slot.address, source, *((points.top, first) if self.along else (first, points.top)))
            return
        deep = self.panel.lines * self.panel.width // self.points.height
        left = narrow(s, tirx.min(depth - first, index(deep)))
        start = {**variables, self.inner: first}
        if chunks:
            self._chunks(s, team, own, slot, start, left)
        elif self.beside:
            self._across_depth(s, team, slot, start, left, deep)
        else:
            self._down_depth(s, team, own, slot, start, left, deep)

    def _chunks(self, s: DeviceStatements, team: Team, own: Own, slot: Slot, start: Variables, left: tirx.Expr) -> None:
        """16 bytes of the channels of each of the thread's own points."""
        panel, thread, total = self.panel, narrow(s, team.thread), self.panel.bytes // CHUNK
        per = panel.across
        chunk = s.share(thread & i32(per - 1))
        bytes_ = s.share(tirx.max(tirx.min(left - chunk * panel.elements, i32(panel.elements)), i32(0)) * panel.size)
        flat = self.context.views[self.read.tensor].flat
        with s.when(True if total % team.threads == 0 else thread < i32(total)):
            for turn, (place, there) in enumerate(zip(own.places, own.there, strict=True)):
                row = (thread + i32(turn * team.threads)) >> i32(per.bit_length() - 1)
                at = self.context.evaluator(s, {**start, **place})
                origin = s.bind("origin", at.offset(self.read.tensor, self.read.indices) + as_index(chunk * panel.elements))
                here = tirx.Select(self._holds(at, there), bytes_, i32(0))
                copy_chunk(s, beyond(slot.address, panel.place(row, chunk)), register(flat, origin), here)

    def _down_depth(
        self, s: DeviceStatements, team: Team, own: Own, slot: Slot, start: Variables, left: tirx.Expr, deep: int
    ) -> None:
        """Each thread the elements of its own points."""
        height, thread = self.points.height, narrow(s, team.thread)
        among = max(1, team.threads // height)  # threads that have the same point
        below = s.share(thread >> i32(height.bit_length() - 1)) if among > 1 else i32(0)
        for turn, (place, there) in enumerate(zip(own.places, own.there, strict=True)):
            row = s.share((thread & i32(height - 1)) + i32(turn * team.threads))
            at = self.context.evaluator(s, {**start, **place})
            step = self._step(s, at)
            origin = s.bind("origin", at.offset(self.read.tensor, self.read.indices) + as_index(below) * step)
            apart, here = s.bind("apart", step * among), s.share(tirx.Select(self._holds(at, there), left, i32(0)))
            count = max(1, deep // among)
            element = partial(_down, row=row, origin=origin, apart=apart, first=below, step=among, end=here)
            with s.when(True if deep >= among else below < i32(deep)):
                if self._asynchronous:
                    number = s.share(tirx.truncdiv(here - below + (among - 1), i32(among)))
                    self._run(s, slot, count, (row, below), (0, among), number, origin, apart)
                else:
                    self._copies(s, slot, count, element)

    def _across_depth(self, s: DeviceStatements, team: Team, slot: Slot, start: Variables, left: tirx.Expr, deep: int) -> None:
        """Neighbouring threads neighbouring elements of the depth."""
        points, thread, total = self.points, narrow(s, team.thread), deep * self.points.height
        ranks, rows = points.ranks, narrow(s, tirx.min(points.most - points.top, index(points.height)))
        straight = self._straight
        at = self.context.evaluator(s, {**start, **points.at(s, points.top)})
        step = self._step(s, at)
        origin = s.bind("origin", at.offset(self.read.tensor, self.read.indices))
        apart = stride_along(s, at, self.context, self.read, ranks[0], ranks) if straight else index(0)
        whole = total % team.threads == 0
        if straight and whole and self._asynchronous and team.threads % (4 * deep) == 0:
            k, row = self._depth_first(s, thread, deep)
            first, among = origin + as_index(row) * apart + as_index(k) * step, team.threads // deep
            number = s.share(tirx.Select(k < left, tirx.truncdiv(rows - row + (among - 1), i32(among)), i32(0)))
            self._run(s, slot, total // team.threads, (row, k), (among, 0), number, first, apart * among)
            return

        def element(s: Statements, turn: tirx.Expr) -> _Element:
            k, row = self._depth_first(s, s.share(tirx.Cast("int32", turn) * team.threads + thread), deep)
            there = tirx.And(row < rows, k < left)
            if straight:
                return _Element(row=row, k=k, place=origin + as_index(row) * apart + as_index(k) * step, there=there)
            number = s.bind("number", points.top + as_index(row))
            here = self.context.evaluator(s, {**start, **points.at(s, number)})
            place = here.offset(self.read.tensor, self.read.indices) + as_index(k) * step
            return _Element(row=row, k=k, place=place, there=tirx.And(there, self._holds(here, i32(1))))

        with s.when(True if whole else thread < i32(total)):
            self._copies(s, slot, max(1, total // team.threads), element)

    def _depth_first(self, s: Statements, number: tirx.Expr, deep: int) -> tuple[tirx.Expr, tirx.Expr]:
        """(the step of the depth, the row) of an element of those that are numbered along the depth."""
        if isinstance(self.panel, Lines):  # eight steps of four points lie in different banks
            k = (number & i32(7)) | ((number >> i32(2)) & i32(deep - 8))
            row = ((number >> i32(deep.bit_length() + 1)) << i32(2)) | ((number >> i32(3)) & i32(3))
        else:
            k, row = number & i32(deep - 1), number >> i32(deep.bit_length() - 1)
        return s.share(k), s.share(row)

    def _run(
        self, s: Statements, slot: Slot, count: int, at: tuple[tirx.Expr, tirx.Expr], step: tuple[int, int], there: tirx.Expr,
        place: tirx.Expr, apart: tirx.Expr,
    ) -> None:  # fmt: skip
        """Copies ``count`` elements, of which the first is in the row and the step of the depth ``at``, at ``place``; each
        next one is ``step`` further, and ``apart`` in memory. The first ``there`` of them exist."""
        distance = s.bind("distance", apart)
        # From element to element: distances that the compiler knows to be multiples of one fill its registers.
        here = s.allocate("here", (1,), "int64", scope="local")
        s.store(here, 0, place)
        with s.loop("turn", count, kind=ForKind.UNROLLED) as turn:
            number = tirx.Cast("int32", turn)
            row, k = (s.share(first + number * each) for first, each in zip(at, step, strict=True))
            one = _Element(row=row, k=k, place=tirx.BufferLoad(here, [index(0)]), there=number < there)
            self._copy(s, slot, one)
            s.evaluate(cuda_func_call("einfall_further", register(here, 0), distance, source_code=_FURTHER))

    def _copies(
        self, s: DeviceStatements, slot: Slot, count: int, element: Callable[[Statements, tirx.Expr], _Element]
    ) -> None:
        """So many elements by the calling thread."""
        panel, flat = self.panel, self.context.views[self.read.tensor].flat
        if self._asynchronous:
            with s.loop("turn", count, kind=ForKind.UNROLLED) as turn:
                self._copy(s, slot, element(s, turn))
            return
        start, each = s.share(tirx.truncdiv(slot.start, i32(panel.size))), min(BATCH, count)
        values = s.allocate("values", (each,), self.raw, scope="local")
        with s.loop("batch", count // each) as batch:
            # All loads of a batch first: the memory's latency is waited for once.
            with s.loop("load", each, kind=ForKind.UNROLLED) as number:
                one = element(s, batch * each + number)
                s.store(values, number, tirx.const(0, self.raw))
                with s.when(one.there):
                    s.store(values, number, self._value(tirx.BufferLoad(flat, [one.place])))
            with s.loop("store", each, kind=ForKind.UNROLLED) as number:
                one = element(s, batch * each + number)
                s.store(slot.raw, as_index(start + self._panel_place(one)), tirx.BufferLoad(values, [number]))

    def _copy(self, s: Statements, slot: Slot, one: _Element) -> None:
        """Begins to copy an element; 0 where there is none."""
        size, flat = self.panel.size, self.context.views[self.read.tensor].flat
        place, bytes_ = beyond(slot.address, self._panel_place(one) * size), tirx.Select(one.there, i32(size), i32(0))
        code = COPY.replace("BYTES", str(size))
        s.evaluate(cuda_func_call(f"einfall_copy{size}", place, register(flat, one.place), bytes_, source_code=code))

    def _panel_place(self, one: _Element) -> tirx.Expr:
        """Counted in elements from the panel's beginning."""
        return self.panel.element(one.row, one.k) if self.along else self.panel.element(one.k, one.row)

    def _value(self, held: tirx.Expr) -> tirx.Expr:
        """An element of memory as it is staged."""
        if self.number is not None:
            return convert(decode(held, self.context.views[self.read.tensor].dtype, 1), computed(self.number))
        return held if str(held.ty.dtype) == self.raw else tirx.reinterpret(self.raw, held)

    @property
    def _straight(self) -> bool:
        """Whether neighbouring points are at one distance, and all exist."""
        ranks = self.points.ranks
        return self.guard is None and len(ranks) == 1 and None not in (affine_in(i, ranks) for i in self.read.indices)

    @property
    def _asynchronous(self) -> bool:
        """Whether elements are copied as they are, in words."""
        dtype = self.context.views[self.read.tensor].dtype
        return self.panel.size >= 4 and dtype.bits // 8 == self.panel.size and (self.number is None or dtype == self.number)

    def _holds(self, at: Evaluator, there: tirx.Expr) -> tirx.Expr:
        """Whether an element exists: the point of the tile does (an int32), and it is inside of the image."""
        condition = at.condition(self.guard)
        exists = tirx.NE(there, i32(0))
        return exists if condition is None else tirx.And(exists, condition)

    def _step(self, s: Statements, at: Evaluator) -> tirx.Expr:
        """Elements from one point of the depth to the next."""
        return stride_along(s, at, self.context, self.read, self.inner, (self.inner,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Element:
    """An element of a panel, in its row and step of the depth (int32): where it lies in global memory, and whether it does."""

    row: tirx.Expr
    k: tirx.Expr
    place: tirx.Expr
    there: tirx.Expr


def _down(
    s: Statements, turn: tirx.Expr, *, row: tirx.Expr, origin: tirx.Expr, apart: tirx.Expr, first: tirx.Expr, step: int,
    end: tirx.Expr,
) -> _Element:  # fmt: skip
    """The element of a row in step ``first + turn · step`` of the depth, which exists below ``end``."""
    k = s.share(tirx.Cast("int32", turn) * step + first)
    return _Element(row=row, k=k, place=origin + turn * apart, there=k < end)


def parted(expr: Expr) -> tuple[Read, Expr | None]:
    """(what an operand of an implicit product reads, the condition outside which it is 0)."""
    match expr:
        case Select(condition=condition, then=Read() as read):
            return read, condition
        case Read():
            return expr, None
        case _:
            raise AssertionError(expr)


def _last(read: Read, ranks: Collection[str]) -> int:
    """The last dimension that any of these ranks moves."""
    return max(d for d, i in enumerate(read.indices) if set(ranks) & set(ranks_of(i)))

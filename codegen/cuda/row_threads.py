"""What the threads of one row do: passes over their chunks of it, which stay in registers, and numbers that all of them have.

Every thread has all numbers of its row's point (tiles of the loop) in registers of its own: results of reductions reach all
threads by shuffles, those of several warps through shared memory, in a fixed order. So a reduction costs one barrier at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Expr, Op, Read
from ...ir.tile import Buffer, Compute, Fill, Loop, Node, walk
from ..arithmetic import literal
from ..context import Context, Variables
from ..element import computed, stored
from ..expressions import Evaluator
from ..functions import Inverse
from ..invariant import invariant, shared_by_row
from ..microkernels.statements import Statements, as_index, both, ceil_div, constant, index, maximum, minimum
from ..reduction import Accumulator
from ..views import View, encode
from .block import coordinates, total_of
from .chunks import WIDEST, Chunks
from .compute import DeviceComputeEmitter
from .folds import combine_lanes, states_of
from .rows import Form, Key, Row, Rows, chunks_of, divisors, pass_of, rows_in, stored_read
from .statements import WARP, DeviceStatements, Team

OTHERS = 16
"""Elements that a thread loads before it uses the first, of what is not held."""

TOGETHER = 4
"""Chunks of a thread that are under way in rows that are not held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """One chunk of a thread: its first point, whether all of its points exist, and whether some do (None: all or none)."""

    base: tirx.Expr
    full: tirx.Expr
    some: tirx.Expr | None
    held: Mapping[Read, tirx.Buffer]
    parts: Mapping[Expr, tirx.Buffer]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a thread is in a row: how long it is, and its chunks, or how they are found where they are not held.

    Chunks from number ``first`` up to ``end`` are whole, those up to ``last`` have some points. Where a row begins within a
    chunk, ``more`` has the points that the held chunks lack at its end.
    """

    row: Row
    extent: tirx.Expr
    shift: tirx.Expr
    first: tirx.Expr
    end: tirx.Expr
    last: tirx.Expr
    chunks: tuple[_Chunk, ...] = ()
    more: _Chunk | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowEmitter(DeviceComputeEmitter):
    """Emits a Compute for one row: ``alone`` is the thread that stores what no chunk does."""

    alone: tirx.Expr
    private: frozenset[str]
    numbers: Mapping[str, tirx.Buffer]

    def _store_within(self, s: Statements, at: Evaluator, value: tirx.Expr, within: tirx.Expr | None) -> None:
        if (kept := self.numbers.get(self.compute.target)) is not None:
            s.store(kept, 0, value)
        with s.when(True if self.compute.target in self.private else self.alone):
            DeviceComputeEmitter._store_within(self, s, at, value, within)


def fits(extent: tirx.Expr, form: Form, key: Key) -> tirx.Expr:
    """Whether the threads of a row have registers for so long a one, wherever it begins."""
    room = form.threads * form.points[key]
    return tirx.Or(extent <= room - WIDEST, both(extent <= room, tirx.EQ(tirx.truncmod(extent, index(WIDEST)), index(0))))


def take_row(
    context: Context,
    s: DeviceStatements,
    team: Team,
    loop: Loop,
    found: Rows,
    form: Form,
    total: tirx.Expr,
    extents: Sequence[tirx.Expr],
    variables: Variables,
) -> None:
    """The row of a parallel loop that this thread has a part in, of ``total`` ones; ``extents`` are those of the loop."""
    number, own, active = team.block, team.thread, tirx.IntImm("bool", 1)
    if form.beside > 1:
        own = s.bind("own", tirx.truncmod(team.thread, index(form.threads)))
        number = s.bind("row", number * form.beside + tirx.truncdiv(team.thread, index(form.threads)))
        active = number < total
        number = s.bind("row", minimum(number, total - 1))
    inside: Variables = {name: index(0) for name in found.units}
    inside |= s.coordinates(number, ["turn", *found.points], [total, *map(index, found.bounds)])
    inside |= {**variables, **coordinates(s, loop, inside.pop("turn"), extents)}
    for name, extent in zip(found.points, found.extents, strict=True):
        most = s.bind("extent", as_index(context.evaluator(s, inside).value(extent)))
        active = both(active, inside[name] < most)
        inside[name] = s.bind(name, maximum(minimum(inside[name], most - 1), 0))
    row = RowThreads(context, s, team, found, form, own, active if constant(active) is not None else _flag(s, active))
    row.begin(loop.buffers)
    row.nodes(loop.body, inside)


class RowThreads:
    """The threads of one row. ``own`` is the number of this one, ``active`` whether there is such a row."""

    def __init__(
        self,
        context: Context,
        s: DeviceStatements,
        team: Team,
        found: Rows,
        form: Form,
        own: tirx.Expr,
        active: tirx.Expr,
    ) -> None:
        self.s, self.team, self.found, self.form, self.own, self.active = s, team, found, form, own, active
        self.small = s.share(tirx.Cast("int32", own))
        self.numbers = {r: s.allocate("number", (1,), computed(r.dtype), scope="local") for r in found.numbers}
        known = [(read, tirx.BufferLoad(kept, [index(0)])) for read, kept in self.numbers.items()]
        context = replace(context, held=lambda _: known)
        self.context, self.views, self.private = context, dict(context.views), frozenset[str]()

    def begin(self, buffers: Sequence[Buffer]) -> None:
        """Registers for tiles: each has one number for the point of a row."""
        for buffer in buffers:
            flat = self.s.allocate(buffer.name, (1,), stored(buffer.dtype), scope="local")
            none = tuple(index(0) for _ in buffer.shape)
            self.views[buffer.name] = View(flat=flat, strides=none, extents=none, dtype=buffer.dtype)
        self.private |= {b.name for b in buffers}
        self.context = replace(self.context, views=dict(self.views))

    def nodes(self, nodes: tuple[Node, ...], variables: Variables, *, repeated: bool = False) -> None:
        """The nodes in order; ``repeated``: in each turn of a loop."""
        rows = rows_in(nodes, self.found, self.context.views)
        places: dict[Key, _Place] = {}
        folds = sum(isinstance(n, Compute) and n.reduction is not None for n in walk(nodes))
        for node in nodes:
            match node:
                case Fill(target=target, value=value):
                    view = self.views[target]
                    self.s.store(view.flat, 0, encode(literal(value, computed(view.dtype)), view.dtype, 1))
                case Loop():
                    self._loop(node, variables)
                case Compute():
                    each = pass_of(node, self.found, self.context.views)
                    assert each is not None
                    if each.rank is None:
                        with self.s.when(self.active):
                            self._emitter(node, variables).at_point(self.s, variables)
                        continue
                    key: Key = (each.rank, node.extent(each.rank))
                    if key not in places:
                        places[key] = self._place(rows[key], node, variables)
                    # With one reduction in a loop a thread may be a turn ahead of one that still reads what it is to write.
                    self._pass(node, places[key], variables, again=repeated and folds == 1)

    def _loop(self, loop: Loop, variables: Variables) -> None:
        s = self.s
        self.begin(loop.buffers)
        at = self.context.evaluator(s, variables)
        extents = [s.bind("extent", as_index(at.value(e))) for e in loop.extents]
        with s.loop(loop.variable, s.bind("turns", total_of(extents))) as step:
            self.nodes(loop.body, {**variables, **coordinates(s, loop, step, extents)}, repeated=True)

    def _emitter(self, compute: Compute, variables: Variables, *, chunks: bool = False) -> _RowEmitter:
        alone = tirx.IntImm("bool", 1) if chunks else tirx.EQ(self.own, index(0))
        return _RowEmitter(
            context=self.context,
            compute=compute,
            variables=variables,
            serial=True,
            team=self.team,
            alone=alone,
            private=self.private,
            numbers={read.tensor: kept for read, kept in self.numbers.items()},
        )

    # -- the chunks of a thread ----------------------------------------------------------------------------------------------

    def _place(self, row: Row, first: Compute, variables: Variables) -> _Place:
        """This thread's place in a row, whose held chunks are loaded."""
        s, width = self.s, row.width
        start = self.context.evaluator(s, {**variables, row.rank: index(0)})
        extent = s.bind("extent", as_index(start.value(row.extent)))
        chunks, points = chunks_of(first, row, self.context.views), self.form.points.get(row.key)
        read = chunks.reads[0] if chunks.reads else stored_read(first, self.context.views)
        begins, within = start.offset(read.tensor, read.indices), points is not None and row.key not in self.form.short
        shift = chunks.shift(s, self.context.views[read.tensor], begins, extent, always=within)

        def number(points: tirx.Expr) -> tirx.Expr:
            known = constant(points)
            made = tirx.truncdiv(points, index(width))
            return s.share(tirx.Cast("int32", made)) if known is None else tirx.IntImm("int32", known // width)

        first_, end, last = (number(points) for points in (shift + (width - 1), extent + shift, extent + shift + (width - 1)))
        place = _Place(row=row, extent=extent, shift=shift, first=first_, end=end, last=last)
        if points is None:
            return place
        made = tuple(self._chunk(place, n) for n in range(points // width))
        for each in made:
            given = {read: raw for read, raw in each.held.items() if read not in row.made}
            with self._within(each, variables, row) as at:
                chunks.fetch(s, at, given)
            for point, here in self._edges(each, place, variables):
                here_at = self.context.evaluator(s, here)
                for read, raw in given.items():
                    flat = self.context.views[read.tensor].flat
                    s.store(raw, point, tirx.BufferLoad(flat, [here_at.offset(read.tensor, read.indices)]))
        place = replace(place, chunks=made)
        most = constant(extent)
        if within and constant(shift) is None and (most is None or most + width > points * self.form.threads):
            return replace(place, more=replace(self._chunk(place, len(made), keeps=False), full=tirx.IntImm("bool", 0)))
        return place

    def _chunk(self, place: _Place, number: tirx.Expr | int, *, keeps: bool = True) -> _Chunk:
        s, row, known = self.s, place.row, constant(place.extent)
        count = self.form.threads
        base = s.bind("base", (as_index(number) * count + self.own) * row.width - place.shift)
        aligned = constant(place.shift) == 0
        if aligned and known is not None and isinstance(number, int) and (number + 1) * count * row.width <= known:
            full, some = self.active, None
        else:
            step = tirx.IntImm("int32", number * count) if isinstance(number, int) else tirx.Cast("int32", number * count)
            own = self.small + step
            full = both(self.active, own < place.end if aligned else tirx.And(own >= place.first, own < place.end))
            some = None
            if known is None or known % row.width:
                edge = own >= place.end if aligned else tirx.Or(own < place.first, own >= place.end)
                some = both(self.active, tirx.And(edge, own < place.last))
        views = self.context.views
        held = {r: s.allocate("held", (row.width,), str(views[r.tensor].flat.dtype), scope="local") for r in row.held if keeps}
        parts = {e: s.allocate("kept", (row.width,), computed(e.dtype), scope="local") for e in row.parts if keeps}
        return _Chunk(base=base, full=full, some=some, held=held, parts=parts)

    @contextmanager
    def _within(self, chunk: _Chunk, variables: Variables, row: Row) -> Iterator[Evaluator]:
        """Where all points of a chunk exist: an evaluator at its first one."""
        with self.s.when(chunk.full):
            yield self.context.evaluator(self.s, {**variables, row.rank: chunk.base})

    def _edges(self, chunk: _Chunk, place: _Place, variables: Variables) -> Iterator[tuple[int, Variables]]:
        """Those points that exist of a chunk that lacks some, by their number in it."""
        s = self.s
        if chunk.some is None:
            return
        with s.when(chunk.some):
            for n in range(place.row.width):
                point = s.bind("place", chunk.base + n)
                with s.when(tirx.And(point >= 0, point < place.extent)):
                    yield n, {**variables, place.row.rank: point}

    # -- passes ----------------------------------------------------------------------------------------------------------------

    def _pass(self, compute: Compute, place: _Place, variables: Variables, *, again: bool) -> None:
        """One Compute over a row."""
        s, row = self.s, place.row
        emitter = self._emitter(compute, variables, chunks=True)
        work = _Work(emitter=emitter, place=place, variables=variables, inverses={})
        acc = None if compute.reduction is None else Accumulator.start(s, compute.reduction, emitter._combined, 1)
        with s.when(both(self.active, place.extent > 0)):
            start = self.context.evaluator(s, variables)
            parts = invariant(compute.value, row.rank) if acc is None else shared_by_row(compute, row.rank)
            shared = {e: s.share(start.value(e)) for e in parts if not e.dtype.is_bool}
            work = replace(work, inverses=self._inverses(work, start.given(shared)))
            if place.chunks:
                self._batches(work, place.chunks, acc, shared)
                if place.more is not None:
                    self._batches(work, [place.more], acc, shared)
            else:
                count = self.form.threads * TOGETHER * row.width
                with s.loop("turn", ceil_div(place.extent + place.shift, count)) as turn:
                    chunks = [self._chunk(place, s.bind("n", turn * TOGETHER + n), keeps=False) for n in range(TOGETHER)]
                    self._batches(work, chunks, acc, shared)
        if acc is not None:
            self._combine(acc, again=again)
            with s.when(self.active):
                self._emitter(compute, variables).finish(s, variables, acc.result())

    def _inverses(self, work: _Work, start: Evaluator) -> dict[Expr, Inverse]:
        """Those of what the whole row is divided by."""
        row, compute = work.place.row, work.emitter.compute
        found: dict[Expr, Inverse] = {}
        for by in dict.fromkeys(e for v in (compute.value, *(a.value for a in compute.along)) for e in divisors(v, row.rank)):
            # Of a quotient that is rounded to 16 bits the last places of 32 do not count.
            rounded = compute.reduction is None and work.emitter.target.dtype.bits <= 16 and _divisor(compute.value) == by
            found[by] = Inverse.of(start.value(by), start.bind, exact=not rounded)
        return found

    def _batches(self, work: _Work, taken: Sequence[_Chunk], acc: Accumulator | None, shared: Mapping[Expr, tirx.Expr]) -> None:
        """Some chunks at a time: what is not held of them is loaded before the first is used."""
        s, row = self.s, work.place.row
        chunks = work.chunks(self.context.views)
        reads = [r for r in chunks.reads if r not in taken[0].held]
        together = len(taken) if not reads else max(1, OTHERS // (row.width * len(reads)))
        for first in range(0, len(taken), together):
            batch = taken[first : first + together]
            loaded = []
            for each in batch:
                more = {
                    r: s.allocate("chunk", (row.width,), str(self.views[r.tensor].flat.dtype), scope="local") for r in reads
                }
                with self._within(each, work.variables, row) as at:
                    chunks.fetch(s, at, more)
                loaded.append({**each.held, **more})
            for each, held in zip(batch, loaded, strict=True):
                with self._within(each, work.variables, row) as at:
                    work.whole(s, at, each, held, acc, shared)
                for n, here in self._edges(each, work.place, work.variables):
                    work.point(s, here, each, n, acc, shared)

    def _combine(self, acc: Accumulator, *, again: bool) -> None:
        """The results of all threads of a row as one, which all of them have."""
        s, count = self.s, self.form.threads
        combine_lanes(s, [acc], count)
        if count <= WARP:
            return
        states, warps = states_of(acc), count // WARP
        rooms = [s.allocate("partial", (warps,), str(state.dtype), scope="shared") for state in states]
        if again:
            s.barrier()
        with s.when(tirx.EQ(self.team.lane, index(0))):
            for room, state in zip(rooms, states, strict=True):
                s.store(room, self.team.warp, tirx.BufferLoad(state, [index(0)]))
        s.barrier()
        place = s.bind("place", tirx.truncmod(self.team.lane, index(warps)))
        for room, state in zip(rooms, states, strict=True):
            s.store(state, 0, tirx.BufferLoad(room, [place]))
        combine_lanes(s, [acc], warps)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a pass does with the points of a chunk."""

    emitter: _RowEmitter
    place: _Place
    variables: Variables
    inverses: Mapping[Expr, Inverse]

    def chunks(self, views: Mapping[str, View]) -> Chunks:
        return chunks_of(self.emitter.compute, self.place.row, views)

    def whole(
        self,
        s: Statements,
        first: Evaluator,
        chunk: _Chunk,
        held: Mapping[Read, tirx.Buffer],
        acc: Accumulator | None,
        shared: Mapping[Expr, tirx.Expr],
    ) -> None:
        """All points of a whole chunk."""
        emitter, row, compute = self.emitter, self.place.row, self.emitter.compute
        chunks = self.chunks(emitter.context.views)
        made = emitter.beside(s, row.rank, row.width)
        again = chunk.held.get(stored_read(compute, emitter.context.views))
        if acc is None and again is not None:
            made[compute.target] = again
        elif acc is None:
            made[compute.target] = s.allocate("out", (row.width,), str(emitter.target.flat.dtype), scope="local")
        with s.loop("c", row.width, kind=ForKind.UNROLLED) as c:
            at = emitter.context.evaluator(s, {**self.variables, row.rank: s.bind("place", chunk.base + c)})
            chunks.given(at.given(shared), {r: held[r] for r in chunks.reads}, c)
            self._parts(s, at, chunk, c)
            if acc is not None:
                emitter.take_beside(s, at, acc, made, c)
            else:
                s.store(made[compute.target], c, encode(self._value(at), emitter.target.dtype, 1))
        for each in (compute, *compute.along):
            if each.target in made:
                chunks.store(s, first, each.target, each.indices, made[each.target])

    def point(
        self, s: Statements, here: Variables, chunk: _Chunk, n: int, acc: Accumulator | None, shared: Mapping[Expr, tirx.Expr]
    ) -> None:
        """Point number ``n`` of a chunk that lacks some."""
        emitter = self.emitter
        at = emitter.context.evaluator(s, here).given(shared)
        chunks = self.chunks(emitter.context.views)
        chunks.given(at, {r: chunk.held[r] for r in chunks.reads if r in chunk.held}, index(n))
        self._parts(s, at, chunk, index(n))
        if acc is not None:
            emitter.take_beside(s, at, acc, {}, index(n))
        else:
            value = self._value(at)
            if (again := chunk.held.get(stored_read(emitter.compute, emitter.context.views))) is not None:
                s.store(again, n, encode(value, emitter.target.dtype, 1))
            emitter._store(s, at, value)

    def _value(self, at: Evaluator) -> tirx.Expr:
        compute, target = self.emitter.compute, self.emitter.target.dtype
        return self.emitter._convert(at, at.value_in(compute.value, target), compute.value.dtype)

    def _parts(self, s: Statements, at: Evaluator, chunk: _Chunk, c: tirx.Expr) -> None:
        """Values that this pass leaves to later ones, or has from earlier ones; inverses."""
        row = self.place.row
        number = row.number(self.emitter.compute)
        at.inverses = self.inverses
        for part, kept in chunk.parts.items():
            if row.parts[part] < number:
                at.knows(part, tirx.BufferLoad(kept, [c]))
            elif row.parts[part] == number:
                s.store(kept, c, at.value(part))


def _divisor(value: Expr) -> Expr | None:
    """What a quotient is divided by."""
    return value.args[1] if isinstance(value, Op) and value.op == "div" else None


def _flag(s: Statements, condition: tirx.Expr) -> tirx.Expr:
    """A condition that is computed once."""
    return tirx.NE(s.share(tirx.Cast("int32", condition)), tirx.IntImm("int32", 0))

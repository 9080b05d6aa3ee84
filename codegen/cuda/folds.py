"""Reductions along a rank whose points lie side by side: several threads for each output point, which combine what they have.

A thread takes chunks of neighbouring elements (``chunks.py``), several of which are loaded before the first is used, so that
enough is under way to fill the memory's bandwidth; the threads of a warp combine their results by shuffles, those of a block in
shared memory. All in a fixed order: results are the same bits in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Const, Expr, Read, ranks_of
from ...ir.index import upper_bound
from ...ir.operators import REDUCTIONS
from ...ir.tile import Compute, Method
from ..context import Variables
from ..invariant import filters, shared_by_row
from ..microkernels.statements import Statements, ceil_div, constant, index
from ..reduction import Accumulator
from .chunks import SIGNS, WIDEST, Chunks, chunks_along, factors_of_bytes, moves_along
from .statements import WARP, DeviceStatements, Team, exchanged

if TYPE_CHECKING:
    from .compute import DeviceComputeEmitter

Finish = Callable[[Statements, Variables, tirx.Expr], None]
"""Stores the finished reduction of a point."""

UNDER_WAY = 16
"""Elements that a thread loads before it uses the first, of each of two tensors; less of more."""

UNDER_WAY_BYTES = 64
"""The same where they are bytes, four of which are added up at a time."""

TOGETHER = 4
"""Points of one chunk for each thread that are loaded before the first is added up."""


def folded_rank(compute: Compute, team: Team, lets: Mapping[str, Expr]) -> str | None:
    """The reduced rank along which several threads reduce one output point; None where each point is one thread's."""
    if compute.scatter or compute.reduction is None:
        return None
    if compute.method is Method.FOLD:
        return compute.vector
    if compute.product is not None or REDUCTIONS[compute.reduction].coordinate:
        reads = [r for r in compute.reads() if r.tensor != compute.target]
        for rank in compute.reduced:
            moving = [moves_along(r.indices, rank) for r in reads]
            if any(moving) and None not in moving:
                return rank
    # Few results would leave most threads of a block without work, and one to go through everything by itself.
    if team.launch or points_of(compute, lets) >= team.warps or compute.along:
        return None
    return max(compute.reduced, key=lambda r: upper_bound(compute.extent(r), lets) or MANY)


MANY = 1 << 40
"""What an extent counts of which no bound is known."""


def points_of(compute: Compute, lets: Mapping[str, Expr]) -> int:
    """A bound of the output points."""
    total = 1
    for rank in compute.output_ranks:
        extent = upper_bound(compute.extent(rank), lets)
        total *= MANY if extent is None else extent
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFold:
    """The reduction of a Compute along ``rank`` by ``threads`` threads for each output point: some of a warp, or a block."""

    emitter: DeviceComputeEmitter
    rank: str
    threads: int
    finish: Finish  # stores the finished reduction of a point
    few: str | None = None  # a short output rank, all of whose points are done together
    rooms: tuple[tirx.Buffer, ...] = ()  # where the warps of a block meet

    @staticmethod
    def threads_for(emitter: DeviceComputeEmitter, rank: str) -> int:
        """How many threads do one output point: a block's where there are few points, less than a warp for short rows."""
        compute, team = emitter.compute, emitter.team
        if points_of(compute, emitter.context.lets) < team.warps:
            return team.threads
        length = upper_bound(compute.extent(rank), emitter.context.lets)
        chunks = chunks_along(compute, rank, emitter.context.views, stores=False)
        width = 1 if chunks is None else chunks.width
        threads = WARP
        while length is not None and threads > 1 and threads // 2 * width >= length:
            threads //= 2
        return threads

    @property
    def compute(self) -> Compute:
        return self.emitter.compute

    def meeting_rooms(self, s: DeviceStatements) -> tuple[tirx.Buffer, ...]:
        """Shared memory for what each warp of a block has."""
        acc = Accumulator.start(s, self.compute.reduction or "+", self.emitter._combined, 1)
        return tuple(
            s.allocate("partial", (self.emitter.team.warps,), str(state.dtype), scope="shared") for state in states_of(acc)
        )

    def rows(self, s: Statements, points: Sequence[Variables], insides: Sequence[tirx.Expr | None]) -> None:
        """Output points, side by side. All threads of a warp come here, those without a point too: ``insides`` tells.

        Points that differ in :attr:`few` alone share what they read besides; others come together only where
        :meth:`is_one_chunk`.
        """
        compute, emitter = self.compute, self.emitter
        assert compute.reduction is not None and isinstance(s, DeviceStatements)
        accs = [Accumulator.start(s, compute.reduction, emitter._combined, 1) for _ in points]
        chunks = chunks_along(compute, self.rank, emitter.context.views, stores=False)
        if len(points) > 1 and self.few is None:
            assert chunks is not None
            self._chunks(s, points, accs, chunks, [s.bind("base", self._own(s) * chunks.width)], {})
        else:
            self._guarded(s, points, accs, chunks, insides[0])
        self._combine(s, accs)
        chosen = tirx.EQ(self._own(s), index(0))
        for variables, acc, inside in zip(points, accs, insides, strict=True):
            with s.when(chosen if inside is None else tirx.And(chosen, inside)):
                self.finish(s, variables, acc.result())

    def _guarded(
        self,
        s: Statements,
        points: Sequence[Variables],
        accs: Sequence[Accumulator],
        chunks: Chunks | None,
        inside: tirx.Expr | None,
    ) -> None:
        compute, emitter, first = self.compute, self.emitter, points[0]
        others = [r for r in compute.reduced if r != self.rank]
        outer, filtered = filters(compute)
        condition = emitter.context.evaluator(s, first).condition(compute.condition)

        def run(s: Statements, inner: Variables) -> None:
            places = [{**variables, **{r: inner[r] for r in others}} for variables in points]
            if chunks is not None and chunks.reads:
                where = emitter.context.evaluator(s, places[0]).condition(filtered)
                with s.when(True if where is None else where):  # which no point of a chunk decides
                    self._by_chunks(s, places, accs, chunks)
            else:
                self._by_elements(s, places, accs, filtered)

        with (
            s.when(True if inside is None else inside),
            s.when(True if condition is None else condition),
            emitter._where(s, outer, first),
        ):
            emitter._loops(s, others, first, (), run)

    def is_one_chunk(self) -> bool:
        """Whether the points have nothing but one whole chunk for each thread of a warp or less."""
        compute = self.compute
        chunks = chunks_along(compute, self.rank, self.emitter.context.views, stores=False)
        extent = compute.extent(self.rank)
        if chunks is None or not chunks.reads or not isinstance(extent, Const) or self.threads > WARP:
            return False
        plain = compute.filter is None and compute.condition is None and not compute.along and len(compute.reduced) == 1
        return plain and int(extent.value) == self.threads * chunks.width

    def _own(self, s: Statements) -> tirx.Expr:
        """The number of this thread among those of its point."""
        team = self.emitter.team
        if self.threads == team.threads:
            return team.thread
        return s.bind("own", tirx.truncmod(team.thread, index(self.threads)))

    # -- what one thread takes ---------------------------------------------------------------------------------------------

    def _by_elements(
        self, s: Statements, points: Sequence[Variables], accs: Sequence[Accumulator], filtered: Expr | None
    ) -> None:
        extent = s.bind("extent", self.emitter._extent(s, self.rank, points[0]))
        first, count = self._own(s), index(self.threads)
        with s.loop("turn", ceil_div(tirx.max(extent - first, index(0)), count)) as turn:
            self._element(s, points, accs, turn * count + first, filtered)

    def _element(
        self,
        s: Statements,
        points: Sequence[Variables],
        accs: Sequence[Accumulator],
        place: tirx.Expr,
        filtered: Expr | None,
    ) -> None:
        context, place = self.emitter.context, s.bind("place", place)
        for variables, acc in zip(points, accs, strict=True):
            at = {**variables, self.rank: place}
            where = context.evaluator(s, at).condition(filtered)
            with s.when(True if where is None else where):
                self.emitter._take(s, context.evaluator(s, at), acc, None)

    def _by_chunks(self, s: Statements, points: Sequence[Variables], accs: Sequence[Accumulator], chunks: Chunks) -> None:
        """Whole chunks, several at a time, then one by one, then the elements before the first and behind the last."""
        variables, acc = points[0], accs[0]
        context, width = self.emitter.context, chunks.width
        extent = s.bind("extent", self.emitter._extent(s, self.rank, variables))
        start = context.evaluator(s, {**variables, self.rank: index(0)})
        first, count = self._own(s), index(self.threads)
        with s.when(extent > 0):
            shared: dict[Expr, tirx.Expr] = {}
            if len(points) == 1:
                parts = shared_by_row(self.compute, self.rank)
                shared = {e: s.share(start.value(e)) for e in parts if not e.dtype.is_bool}
            main = chunks.reads[0]
            shift = chunks.shift(s, context.views[main.tensor], start.offset(main.tensor, main.indices), extent)
            low = s.bind("low", tirx.Select(shift > 0, index(1), index(0)) if constant(shift) is None else shift)
            high = s.bind("high", tirx.truncdiv(extent + shift, index(width)))
            own = s.bind("own", ceil_div(tirx.max(high - low - first, index(0)), count))
            before = s.bind("before", tirx.min(tirx.max(low * width - shift, index(0)), extent))
            after = s.bind("after", tirx.max(high * width - shift, before))
            together = max(1, UNDER_WAY // (width * max(1, len(chunks.reads) - 1)))
            if width > WIDEST:  # each point has a chunk of its own of one of the two
                together = max(1, UNDER_WAY_BYTES // (width * max(1, len(points) // 2)))
            full = s.bind("full", tirx.truncdiv(own, index(together)))

            def base(turn: tirx.Expr) -> tirx.Expr:
                return s.bind("base", (low + first + turn * count) * width - shift)

            def elements(many: tirx.Expr, place: Callable[[tirx.Expr], tirx.Expr]) -> None:
                with s.loop("turn", ceil_div(tirx.max(many - first, index(0)), count)) as turn:
                    self._element(s, points, accs, place(s.bind("edge", turn * count + first)), None)

            in_order = acc.best is not None  # of equal values the first counts
            if in_order:
                elements(before, lambda edge: edge)
            with s.loop("turn", full) as turn:
                self._chunks(s, points, accs, chunks, [base(turn * together + n) for n in range(together)], shared)
            with s.loop("turn", own - full * together) as turn:
                self._chunks(s, points, accs, chunks, [base(full * together + turn)], shared)
            if in_order:
                elements(s.bind("behind", extent - after), lambda edge: after + edge)
            else:
                edges = s.bind("edges", before + extent - after)
                elements(edges, lambda edge: tirx.Select(edge < before, edge, after + edge - before))

    def _chunks(
        self,
        s: Statements,
        points: Sequence[Variables],
        accs: Sequence[Accumulator],
        chunks: Chunks,
        bases: list[tirx.Expr],
        shared: dict[Expr, tirx.Expr],
    ) -> None:
        """Takes the chunks that begin at ``bases`` in each of the points, all of which are loaded first."""
        emitter, compute = self.emitter, self.compute
        loaded: list[list[dict[Read, tirx.Buffer]]] = []
        for base in bases:
            common: dict[Read, tirx.Buffer] = {}
            loaded.append([])
            for variables in points:
                at = emitter.context.evaluator(s, {**variables, self.rank: base})
                held = chunks.load(s, at, common)
                if self.few is not None:
                    common = {r: b for r, b in held.items() if all(self.few not in ranks_of(i) for i in r.indices)}
                loaded[-1].append(held)
        pair = factors_of_bytes(compute)
        signs = None if pair is None or not set(pair) <= set(chunks.reads) else tuple(SIGNS[r.dtype.name] for r in pair)
        for base, held_by_point in zip(bases, loaded, strict=True):
            for variables, acc, held in zip(points, accs, held_by_point, strict=True):
                if pair is not None and signs is not None:
                    chunks.dots(s, acc.state, held[pair[0]], held[pair[1]], (signs[0], signs[1]))
                    continue
                made = emitter.beside(s, self.rank, chunks.width)
                with s.loop("c", chunks.width, kind=ForKind.UNROLLED) as c:
                    place = {**variables, self.rank: s.bind("place", base + c)}
                    at = chunks.given(emitter.context.evaluator(s, place).given(shared), held, c)
                    emitter.take_beside(s, at, acc, made, c)
                first = emitter.context.evaluator(s, {**variables, self.rank: base})
                for inner in compute.along:
                    if inner.target in made:
                        chunks.store(s, first, inner.target, inner.indices, made[inner.target])

    # -- the results of several threads as one -----------------------------------------------------------------------------

    def _combine(self, s: DeviceStatements, accs: Sequence[Accumulator]) -> None:
        """The results of all threads of each point, in the first of them (of a warp, in all)."""
        combine_lanes(s, accs, self.threads)
        for acc in accs if self.rooms else ():
            self._combine_warps(s, acc)

    def _combine_warps(self, s: DeviceStatements, acc: Accumulator) -> None:
        """The results of a block's warps as one, in the order of the warps, in the block's first thread."""
        team = self.emitter.team
        with s.when(tirx.EQ(team.lane, index(0))):
            for room, state in zip(self.rooms, states_of(acc), strict=True):
                s.store(room, team.warp, tirx.BufferLoad(state, [index(0)]))
        s.barrier()
        with s.when(tirx.EQ(team.thread, index(0))), s.loop("w", index(team.warps - 1)) as w:
            _join(s, acc, _held(s, acc), [s.share(tirx.BufferLoad(room, [w + 1])) for room in self.rooms])
        s.barrier()


def combine_lanes(s: Statements, accs: Sequence[Accumulator], count: int) -> None:
    """The results of ``count`` neighbouring lanes (a power of two; of more than a warp, of each warp) as one, which all of them
    then have."""
    distance = min(count, WARP) // 2
    while distance:
        for acc in accs:
            held = _held(s, acc)
            _join(s, acc, held, [s.share(exchanged(value, distance)) for value in held])
        distance //= 2


def states_of(acc: Accumulator) -> list[tirx.Buffer]:
    """The registers that hold a reduction."""
    return [acc.state] if acc.best is None else [acc.state, acc.best]


def _held(s: Statements, acc: Accumulator) -> list[tirx.Expr]:
    return [s.share(tirx.BufferLoad(state, [index(0)])) for state in states_of(acc)]


def _join(s: Statements, acc: Accumulator, mine: list[tirx.Expr], other: list[tirx.Expr]) -> None:
    """Combines what two threads have; a fixed order of the operands, so that all threads hold the same bits."""
    if acc.best is None:
        s.store(acc.state, 0, acc.combine(mine[0], other[0]))
        return
    value, place = (s.share(e) for e in acc.join(mine[0], mine[1], other[0], other[1]))
    s.store(acc.state, 0, value)
    s.store(acc.best, 0, place)

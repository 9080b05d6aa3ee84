"""Reductions whose neighbouring results lie side by side, by all threads of a block: each thread has a chunk of results and a
part of what is added up, and the parts are combined in shared memory, in a fixed order.

Of a sum over the rows of a matrix, 32 threads read what lies side by side in one row, others the rows next to it: the block
reads whole stretches of memory and no result waits for one thread to go through all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx

from ...ir.expr import Expr, ranks_of
from ...ir.index import upper_bound
from ...ir.operators import REDUCTIONS
from ...ir.tile import Compute
from ..context import Variables
from ..invariant import filters
from ..microkernels.statements import Statements, ceil_div, index
from ..reduction import Accumulator
from ..views import encode
from .chunks import Chunks
from .folds import UNDER_WAY
from .statements import WARP, DeviceStatements, Team, exchanged

if TYPE_CHECKING:
    from .compute import DeviceComputeEmitter

WORTH = 32
"""Values of one result below which one thread combines them."""

LINE, DEEP = 8, 512
"""Chunks that fill a line of memory: as many results as a block has in hand where each has so many values that its threads, all
at different rows, are busy. Of 4096 columns of f32 that makes 128 blocks, where a warp's width of chunks made 32."""


def columns_of(compute: Compute, chunks: Chunks, team: Team, lets: Mapping[str, Expr]) -> int | None:
    """How many chunks of results a block has in hand; None where each thread does best with a chunk of its own."""
    if compute.reduction is None or REDUCTIONS[compute.reduction].coordinate or compute.along:
        return None
    values, deep = 1, False
    for rank in compute.reduced:
        extent = upper_bound(compute.extent(rank), lets)
        values *= WORTH if extent is None else extent
        deep = deep or extent is None
    if values < WORTH:
        return None
    if team.launch:
        return LINE if deep or values >= DEEP else WARP
    points = 1
    for rank in compute.output_ranks:
        extent = upper_bound(compute.extent(rank), lets)
        if extent is None:
            return None
        points *= -(-extent // chunks.width) if rank == chunks.rank else extent
    columns = 1
    while columns < points:
        columns *= 2
    return columns if columns <= team.threads // 2 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFold:
    """A Compute of which a block has ``columns`` chunks of results in hand at a time. ``emitter`` has the value that is
    reduced, ``whole`` stores what becomes of it."""

    emitter: DeviceComputeEmitter
    whole: DeviceComputeEmitter
    chunks: Chunks
    columns: int

    @property
    def _parts(self) -> int:
        """Threads for each result."""
        return self.emitter.team.threads // self.columns

    @property
    def _meeting(self) -> int:
        """Those that meet in shared memory: threads of one warp have met before."""
        return min(self._parts, self.emitter.team.warps)

    @property
    def _apart(self) -> int:
        """From one point of a chunk to the next where they meet: so adjacent threads write to adjacent banks."""
        return self._meeting * self.columns

    def emit(self, s: DeviceStatements, total: tirx.Expr, ranks: list[str], extents: list[tirx.Expr]) -> None:
        """All ``total`` chunks of results, of these ranks and extents."""
        team, width, emitter = self.emitter.team, self.chunks.width, self.emitter
        rank, compute = self.chunks.rank, self.emitter.compute
        assert compute.reduction is not None
        part = s.bind("part", tirx.truncdiv(team.thread, index(self.columns)))
        column = s.bind("column", tirx.truncmod(team.thread, index(self.columns)))
        extent = s.bind("extent", emitter._extent(s, rank, emitter.variables))
        probe = Accumulator.start(s, compute.reduction, emitter._combined, 1)
        room = s.allocate("room", (self._apart * width,), str(probe.state.dtype), scope="shared")
        with team.each(s, s.bind("tasks", ceil_div(total, self.columns)), index(1), index(0)) as task:
            at = s.bind("at", task * self.columns + column)
            placed = {**emitter.variables, **s.coordinates(tirx.min(at, total - 1), ranks, extents)}
            start = emitter.context.evaluator(s, {**placed, rank: index(0)})
            shift = self.chunks.shift(s, emitter.target, start.offset(compute.target, compute.indices), extent)
            base = s.bind("base", placed[rank] * width - shift)
            placed[rank] = base
            fits = tirx.And(base >= 0, base + width <= extent)
            # 2: a whole chunk, 1: some of its points, 0: none
            inside = s.share(tirx.Select(at < total, tirx.Select(fits, _number(2), _number(1)), _number(0)))
            acc = Accumulator.start(s, compute.reduction, emitter._combined, 1, width)
            with s.when(tirx.EQ(inside, _number(2))):
                self._take(s, placed, acc, part, None)
            with s.when(tirx.EQ(inside, _number(1))):
                self._take(s, placed, acc, part, extent)
            self._meet(s, acc, room, part, column)
            with s.when(tirx.And(tirx.EQ(part, index(0)), inside > 0)):
                self._gather(s, acc, room, column)
                with s.when(tirx.EQ(inside, _number(2))):
                    self._store(s, placed, acc)
                with s.when(tirx.EQ(inside, _number(1))):
                    for c in range(width):
                        place = s.bind("place", base + c)
                        with s.when(tirx.And(place >= 0, place < extent)):
                            self.whole.finish(s, {**placed, rank: place}, acc.result_of(c))
            s.barrier()

    def _take(self, s: Statements, variables: Variables, acc: Accumulator, part: tirx.Expr, extent: tirx.Expr | None) -> None:
        """A thread's part of the values of its chunk; with ``extent`` only of the points within it."""
        emitter, compute, chunks = self.emitter, self.emitter.compute, self.chunks
        outer, filtered = filters(compute, chunks.rank)
        *others, split = self._order()
        together = (
            max(1, UNDER_WAY // (chunks.width * max(1, len(chunks.reads) - 1))) if extent is None and filtered is None else 1
        )

        def step(s: Statements, places: list[Variables]) -> None:
            firsts = [emitter.context.evaluator(s, place) for place in places]
            loaded = [chunks.load(s, first) if extent is None else {} for first in firsts]
            for place, held in zip(places, loaded, strict=True):
                for c in range(chunks.width):
                    at = chunks.given(emitter._at(s, place, chunks, index(c)), held, index(c))
                    point = at.variables[chunks.rank]
                    with s.when(True if extent is None else tirx.And(point >= 0, point < extent)):
                        emitter._take(s, at, acc, None, c)

        def rows(s: Statements, variables: Variables) -> None:
            many = s.bind("many", emitter._extent(s, split, variables))
            own = s.bind("own", ceil_div(tirx.max(many - part, index(0)), index(self._parts)))
            full = s.bind("full", tirx.truncdiv(own, index(together)))

            def place(turn: tirx.Expr) -> Variables:
                return {**variables, split: s.bind("row", turn * self._parts + part)}

            with s.loop("turn", full) as turn:
                step(s, [place(turn * together + n) for n in range(together)])
            if together > 1:
                with s.loop("turn", own - full * together) as turn:
                    step(s, [place(full * together + turn)])

        def filtered_rows(s: Statements, variables: Variables) -> None:
            with s.loop("turn", emitter._extent(s, split, variables)) as turn:
                at = {**variables, split: turn}
                mine = tirx.EQ(tirx.truncmod(turn, index(self._parts)), part)
                with s.when(mine):
                    where = emitter.context.evaluator(s, at).condition(filtered)
                    with s.when(True if where is None else where):
                        step(s, [at])

        with emitter._where(s, outer, variables):
            emitter._loops(s, others, variables, (), rows if filtered is None else filtered_rows)

    def _order(self) -> list[str]:
        """The reduced ranks, the one last whose points are dealt out: the longest that no other's extent depends on."""
        compute, lets = self.emitter.compute, self.emitter.context.lets

        def length(rank: str) -> float:
            most = upper_bound(compute.extent(rank), lets)
            return float("inf") if most is None else float(most)

        last = max(compute.reduced, key=lambda r: (not self._is_used(r), length(r)))
        return [*(r for r in compute.reduced if r != last), last]

    def _is_used(self, rank: str) -> bool:
        compute = self.emitter.compute
        return any(rank in ranks_of(compute.extent(r)) for r in compute.reduced)

    def _meet(self, s: DeviceStatements, acc: Accumulator, room: tirx.Buffer, part: tirx.Expr, column: tirx.Expr) -> None:
        """What the threads of a result have, in shared memory, one number for each warp or each of them."""
        team, width = self.emitter.team, self.chunks.width
        distance = self.columns
        while distance < WARP:
            for c in range(width):
                mine = s.share(tirx.BufferLoad(acc.state, [index(c)]))
                s.store(acc.state, c, acc.combine(mine, s.share(exchanged(mine, distance))))
            distance *= 2
        chosen: tirx.Expr | bool = True if self.columns >= WARP else team.lane < self.columns
        row = part if self.columns >= WARP else team.warp
        with s.when(chosen):
            first = s.bind("first", row * self.columns + column)
            for c in range(width):
                s.store(room, first + c * self._apart, tirx.BufferLoad(acc.state, [index(c)]))
        s.barrier()

    def _gather(self, s: Statements, acc: Accumulator, room: tirx.Buffer, column: tirx.Expr) -> None:
        width = self.chunks.width
        with s.loop("w", index(self._meeting - 1)) as w:
            first = s.bind("first", (w + 1) * self.columns + column)
            for c in range(width):
                other = s.share(tirx.BufferLoad(room, [first + c * self._apart]))
                s.store(acc.state, c, acc.combine(s.share(tirx.BufferLoad(acc.state, [index(c)])), other))

    def _store(self, s: Statements, variables: Variables, acc: Accumulator) -> None:
        whole, chunks = self.whole, self.chunks
        first = whole.context.evaluator(s, variables)

        def body() -> None:
            out = s.allocate("out", (chunks.width,), str(whole.target.flat.dtype), scope="local")
            for c in range(chunks.width):
                at = whole._at(s, variables, chunks, index(c))
                s.store(out, c, encode(whole._final(s, at, acc.result_of(c)), whole.target.dtype, 1))
            whole.store_chunk(s, first, chunks, out)

        whole._guarded_chunk(s, first, variables, chunks, body)


def _number(value: int) -> tirx.Expr:
    return tirx.IntImm("int32", value)

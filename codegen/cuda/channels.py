"""Recurrences whose channels need nothing of one another: some neighbouring lanes for each, which take all steps without a
barrier.

A channel is a point of one rank of a parallel loop's tiles (a feature of a diagonal state space, a column of a matrix state),
or a turn of the loop by itself. Its tiles are in the registers of its lanes: numbers are in all of them, vectors along one
further rank (the entries of the state) are dealt out, entry n to lane n modulo their number. A sum over that rank is each
lane's own, then one of all by shuffles, in a fixed order. What is loaded for a step does not wait for the steps before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Expr, Rank, Read, rank, ranks_of, reads_of, transform
from ...ir.index import upper_bound
from ...ir.tile import Compute, Fill, Loop, Node, walk
from ..arithmetic import literal
from ..context import Variables
from ..element import computed, stored
from ..microkernels.statements import as_index, both, ceil_div, constant, divisor, identifier, index
from ..reduction import Accumulator
from ..views import View, decode, encode
from .block import coordinates, total_of
from .channel_ranks import MOST, Channels
from .chunks import always_read
from .compute import DeviceComputeEmitter
from .folds import combine_lanes
from .statements import DeviceStatements, Team

THREADS = 128
"""Threads of a block."""

TOGETHER, UNDER_WAY = 8, 64
"""Steps whose loads are under way at a time, at most, and how many elements those may be: each takes a register."""


@dataclass(kw_only=True)
class _Ahead:
    """A read that a Compute does in each step: of ``slots`` elements, one for each of a lane's entries."""

    compute: int
    read: Read
    slots: int
    entry: str | None
    held: list[tirx.Buffer] = field(default_factory=list)

    def number(self, step: tirx.Expr, at: Variables) -> tirx.Expr:
        """The number of an element among those that are held."""
        return step if self.entry is None else step * self.slots + at[f"{self.entry}~"]


@dataclass(kw_only=True)
class ChannelThread:
    """What a thread does for its channel: the nodes of the loop, in order. ``at`` has the variables of the loop's turn."""

    channels: Channels
    loop: Loop
    emitters: Sequence[DeviceComputeEmitter]  # of the loop's Computes, in the order of the program
    s: DeviceStatements
    views: dict[str, View]
    lets: Mapping[str, Expr]
    lane: tirx.Expr
    place: tirx.Expr  # of the channel in its tile
    active: tirx.Expr  # whether there is such a channel: a warp's threads all take part

    def __post_init__(self) -> None:
        self.number = 0
        self.known: dict[int, list[_Ahead]] = {}
        self.taken: tirx.Expr = index(0)
        for buffer in self.loop.buffers:
            slots = (
                self._slots(buffer.shape[self.channels.spread[buffer.name]]) if buffer.name in self.channels.spread else None
            )
            memory = self.s.allocate(identifier(buffer.name), (slots or 1,), stored(buffer.dtype), scope="local")
            strides = () if slots is None else (index(1),)
            extents = () if slots is None else (index(slots),)
            self.views[buffer.name] = View(flat=memory, strides=strides, extents=extents, dtype=buffer.dtype)

    def _slots(self, extent: Expr) -> int:
        most = upper_bound(extent, self.lets)
        return -(-(MOST if most is None else most) // self.channels.lanes)

    def nodes(self, nodes: tuple[Node, ...], variables: Variables) -> None:
        """The nodes one after the other."""
        for node in nodes:
            match node:
                case Fill(target=target, value=value):
                    view = self.views[target]
                    with self.s.loop("i", int(view.flat.shape[0]), kind=ForKind.UNROLLED) as i:
                        self.s.store(view.flat, i, encode(literal(value, computed(view.dtype)), view.dtype, 1))
                case Loop():
                    self._steps(node, variables)
                case Compute():
                    self._compute(self.number, variables)
                    self.number += 1

    def _steps(self, loop: Loop, variables: Variables) -> None:
        s, context = self.s, self.emitters[0].context
        at = context.evaluator(s, variables)
        extents = [s.bind("extent", as_index(at.value(e))) for e in loop.extents]
        total = s.bind("total", total_of(extents))
        first = self.number

        def placed(number: tirx.Expr) -> Variables:
            return {**variables, **coordinates(s, loop, number, extents)}

        def step(number: tirx.Expr) -> None:
            self.number = first
            self.nodes(loop.body, placed(number))

        ahead = self._ahead(loop, first)
        each = sum(a.slots for a in ahead)
        together = next(n for n in (TOGETHER, TOGETHER // 2, TOGETHER // 4, 1) if n == 1 or n * each <= UNDER_WAY)
        whole = s.bind("whole", tirx.truncdiv(total, index(together)))
        with s.loop("turn", whole) as turn:
            for a in ahead:
                held = self.views[a.read.tensor].flat
                a.held.append(s.allocate("ahead", (together * a.slots,), str(held.dtype), scope="local"))
            with s.loop("c", together, kind=ForKind.UNROLLED) as c:
                self._ask(ahead, c, placed(s.bind("step", turn * together + c)))
            with s.loop("c", together, kind=ForKind.UNROLLED) as c:
                self.known = {i: [a for a in ahead if a.compute == i] for i in {a.compute for a in ahead}}
                self.taken = c
                step(s.bind("step", turn * together + c))
                self.known = {}
        with s.loop("rest", total - whole * together) as rest:
            step(s.bind("step", whole * together + rest))

    # -- what is loaded ahead ----------------------------------------------------------------------------------------------

    def _ahead(self, loop: Loop, first: int) -> list[_Ahead]:
        """What the Computes of a step read from memory, whatever they find there."""
        found: list[_Ahead] = []
        for i, node in enumerate((n for n in walk(loop.body) if isinstance(n, Compute)), first):
            if node.filter is not None or node.condition is not None or node.within is not None:
                continue
            product = node.product
            values = (node.value,) if product is None else (product.left, product.right)
            entry = self.channels.entries.get(i)
            if entry is not None and upper_bound(node.extent(entry), self.lets) is None and not self._is_dealt(i):
                continue
            for read in dict.fromkeys(r for e in (*values, *(a.value for a in node.along)) for r in always_read(e)):
                names = {n for index in read.indices for n in ranks_of(index)}
                if read.tensor in {b.name for b in self.loop.buffers} or not names & set(loop.variables):
                    continue
                if any(True for index in read.indices for _ in reads_of(index)):
                    continue
                slots = self._slots(node.extent(entry)) if entry is not None and entry in names else None
                found.append(_Ahead(compute=i, read=read, slots=slots or 1, entry=None if slots is None else entry))
        return found

    def _ask(self, ahead: Sequence[_Ahead], c: tirx.Expr, variables: Variables) -> None:
        """Loads what step ``c`` of several reads."""
        s = self.s
        for a in ahead:
            emitter = self.emitters[a.compute]
            inside = self._inside(a.compute, variables)

            def load(at: Variables, a: _Ahead = a, emitter: DeviceComputeEmitter = emitter) -> None:
                view = self.views[a.read.tensor]
                place = emitter.context.evaluator(s, at).offset(a.read.tensor, a.read.indices)
                s.store(a.held[-1], a.number(c, at), tirx.BufferLoad(view.flat, [place]))

            if a.entry is None:
                load(inside)
            else:
                self._each(a.compute, a.entry, emitter, inside, load)

    def _loaded(self, known: Sequence[_Ahead], step: tirx.Expr, at: Variables) -> Iterator[tuple[Read, tirx.Expr]]:
        """What was loaded ahead for a Compute's ``step``, at one of its points."""
        for each in known:
            if each.entry is None or f"{each.entry}~" in at:
                raw = tirx.BufferLoad(each.held[-1], [each.number(step, at)])
                yield each.read, decode(raw, self.views[each.read.tensor].dtype, 1)

    # -- Computes --------------------------------------------------------------------------------------------------------

    def _compute(self, i: int, variables: Variables) -> None:
        s, channels = self.s, self.channels
        given, entry = self.emitters[i], channels.entries.get(i)
        compute = self._localised(given.compute)
        inside = self._inside(i, variables)
        context = replace(given.context, held=partial(self._loaded, self.known.get(i, []), self.taken))
        emitter = replace(given, compute=compute, variables=inside, context=context)
        in_tile = compute.target in channels.dims or compute.target in {b.name for b in self.loop.buffers}
        # What all channels of a tile share, each has by itself: one of them writes it to memory.
        mine: tirx.Expr | bool = True if in_tile else self.active
        if not in_tile and i not in channels.ranks and channels.points is not None:
            mine = both(mine, tirx.EQ(self.place, index(0)))
        first = mine if in_tile else both(mine, tirx.EQ(self.lane, index(0)))
        if compute.reduction is None and entry is None:
            with s.when(first):
                emitter.at_point(s, inside)
        elif compute.reduction is None:
            assert entry is not None
            with s.when(mine):
                self._each(i, entry, emitter, inside, lambda at: emitter.at_point(s, at))
        else:
            total = self._reduced(i, entry, emitter, inside)
            with s.when(first):
                emitter.finish(s, inside, total)

    def _inside(self, i: int, variables: Variables) -> Variables:
        """The variables of a Compute at this thread's channel."""
        inside = {**variables, **dict.fromkeys(self.channels.units[i], index(0))}
        if i in self.channels.ranks:
            inside[self.channels.ranks[i]] = self.place
        return inside

    def _reduced(self, i: int, entry: str | None, emitter: DeviceComputeEmitter, inside: Variables) -> tirx.Expr:
        """A reduction over the entries, which all lanes of the channel then have."""
        s, summing = self.s, emitter._summing
        compute = summing.compute
        assert compute.reduction is not None
        acc = Accumulator.start(s, compute.reduction, summing._combined, 1)

        def take(at: Variables) -> None:
            where = summing.context.evaluator(s, at).condition(compute.filter)
            with s.when(True if where is None else where):
                summing._take(s, summing.context.evaluator(s, at), acc, None)

        if entry is None:
            take({**inside})
        else:
            self._each(i, entry, emitter, inside, take)
            combine_lanes(s, [acc], self.channels.lanes)
        return acc.result()

    def _each(
        self, i: int, entry: str, emitter: DeviceComputeEmitter, inside: Variables, body: Callable[[Variables], None]
    ) -> None:
        """``body`` at each of this lane's entries: their numbers, and as ``entry~`` those among its own."""
        s, lanes = self.s, self.channels.lanes
        written = self.emitters[i].compute.extent(entry)
        extent = s.bind("extent", as_index(emitter.context.evaluator(s, inside).value(written)))
        slots, known = self._slots(written), constant(extent)
        own = self.lane
        if upper_bound(written, self.lets) is None and not self._is_dealt(i):
            with s.loop("slot", ceil_div(tirx.max(extent - own, index(0)), index(lanes))) as slot:
                body({**inside, entry: s.bind(entry, own + slot * lanes), f"{entry}~": slot})
            return
        with s.loop("slot", slots, kind=ForKind.UNROLLED) as slot:
            number = s.bind(entry, own + slot * lanes)
            with s.when(True if known == slots * lanes else number < extent):
                body({**inside, entry: number, f"{entry}~": slot})

    def _is_dealt(self, i: int) -> bool:
        """Whether a Compute touches a tile whose entries are dealt out."""
        compute = self.emitters[i].compute
        names = {compute.target, *(a.target for a in compute.along), *(r.tensor for r in compute.reads())}
        return not names.isdisjoint(self.channels.spread)

    def _localised(self, compute: Compute) -> Compute:
        """A Compute whose tiles are this thread's: a number, or its entries of a vector by their number."""
        tiles = {b.name for b in self.loop.buffers}

        def indices(name: str, old: tuple[Expr, ...]) -> tuple[Expr, ...]:
            if name not in tiles:
                return tuple(map(placed, old))
            d = self.channels.spread.get(name)
            if d is None:
                return ()
            at = old[d]
            assert isinstance(at, Rank)
            return (rank(f"{at.name}~"),)

        def rule(node: Expr) -> Expr | None:
            match node:
                case Read(tensor=name, indices=old) if name in tiles:
                    return replace(node, indices=indices(name, old))
                case _:
                    return None

        def placed(expr: Expr) -> Expr:
            return transform(expr, rule)

        product = compute.product
        if product is not None:
            epilogue = None if product.epilogue is None else placed(product.epilogue)
            product = replace(product, left=placed(product.left), right=placed(product.right), epilogue=epilogue)
        return replace(
            compute,
            indices=indices(compute.target, compute.indices),
            value=placed(compute.value),
            filter=None if compute.filter is None else placed(compute.filter),
            condition=None if compute.condition is None else placed(compute.condition),
            within=None if compute.within is None else placed(compute.within),
            product=product,
            along=tuple(map(self._localised, compute.along)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a thread is: the turn of the loop, the channel in its tile, the lane of the channel; and whether there is one."""

    turn: tirx.Expr
    place: tirx.Expr
    lane: tirx.Expr
    active: tirx.Expr


def place_of(s: DeviceStatements, team: Team, channels: Channels, turns: tirx.Expr, points: tirx.Expr) -> Place:
    """That of a thread; one that is too many is beside the last turn's."""
    number = s.bind("number", team.block * team.threads + team.thread)
    lane = s.bind("lane", tirx.truncmod(number, index(channels.lanes)))
    channel = s.bind("channel", tirx.truncdiv(number, index(channels.lanes)))
    place = s.bind("place", tirx.truncmod(channel, divisor(points)))
    turn = s.bind("turn", tirx.truncdiv(channel, divisor(points)))
    return Place(turn=s.bind("turn", tirx.min(turn, turns - 1)), place=place, lane=lane, active=turn < turns)

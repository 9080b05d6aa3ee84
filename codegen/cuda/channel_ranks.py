"""Which parallel loops fall into channels that need nothing of one another, and what is dealt out to the lanes of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...ir.expr import Expr, Rank, rank, ranks_of, reads_of, sizes_of
from ...ir.index import upper_bound
from ...ir.tile import Compute, Fill, Loop, Node, When, accesses, walk
from .product import on_blocks
from .statements import WARP

ENTRIES = 4
"""Entries of a vector that a lane has, where there are lanes enough: operations that hide one another's latency."""

MOST = 128
"""What the length of a vector is taken to be at most where it is free: a call with longer ones goes another way."""

REGISTERS = 96
"""Of a thread's that may hold tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """How a parallel loop falls into channels.

    ``ranks`` gives the rank of each Compute that numbers the channels of a tile, ``dims`` the dimension of each tile that it
    indexes, ``points`` how many there are in a tile (None: one). ``entries`` gives the rank of each Compute that is dealt out
    to ``lanes``, ``spread`` the dimension of each tile. ``short`` are extents that must not exceed :data:`MOST`.
    """

    ranks: Mapping[int, str]
    dims: Mapping[str, int]
    points: Expr | None
    entries: Mapping[int, str]
    spread: Mapping[str, int]
    lanes: int
    short: tuple[Expr, ...]
    units: Mapping[int, frozenset[str]] = field(hash=False)


def channels_of(loop: Loop, lets: Mapping[str, Expr]) -> Channels | None:
    """The channels of a parallel loop that goes through the steps of a recurrence; None where it is none, or where its threads
    need one another."""
    if not any(isinstance(node, Loop) for node in loop.body) or not all(map(_is_plain, walk(loop.body))):
        return None
    computes = [node for node in walk(loop.body) if isinstance(node, Compute)]
    return _Search(loop, computes, lets).channels()


def _is_plain(node: Node) -> bool:
    match node:
        case Compute(scatter=scatter, origin=origin):
            return not scatter and not (origin.made_by or "").startswith(("online", "split")) and not on_blocks(node)
        case Loop(parallel=parallel, buffers=buffers, extents=extents):
            return not parallel and not buffers and not any(ranks_of(e) or any(True for _ in reads_of(e)) for e in extents)
        case Fill():
            return True
        case When():
            return False


class _Search:
    def __init__(self, loop: Loop, computes: list[Compute], lets: Mapping[str, Expr]) -> None:
        self.loop, self.computes, self.lets = loop, computes, lets
        self.tiles = {b.name: b for b in loop.buffers}
        self.units = {i: frozenset(r.name for r in c.ranks if upper_bound(r.extent, lets) == 1) for i, c in enumerate(computes)}

    def channels(self) -> Channels | None:
        """What is found, if the lanes of a channel have room for all of it."""
        written = {name for node in walk(self.loop.body) for name in accesses(node)[1]}
        read = {r.tensor for c in self.computes for r in c.reads()}
        if written & read - set(self.tiles) or any(a.target not in self.tiles for c in self.computes for a in c.along):
            return None
        ranks, dims = self._best()
        spread = self._spread(dims)
        entries = None if spread is None else self._entries(ranks, spread)
        if spread is None or entries is None:
            return None
        lengths = [self.tiles[name].shape[d] for name, d in spread.items()]
        short = tuple(dict.fromkeys(e for e in lengths if upper_bound(e, self.lets) is None))
        if any(ranks_of(e) or not sizes_of(e) for e in short):
            return None
        longest = max((self._most(e) for e in lengths), default=1)
        lanes = 1
        while lanes < WARP and lanes * ENTRIES < longest:
            lanes *= 2
        held = sum(-(-self._most(self.tiles[n].shape[d]) // lanes) for n, d in spread.items()) + len(self.tiles) - len(spread)
        if held > REGISTERS:
            return None
        points = next((self.tiles[name].shape[d] for name, d in dims.items()), None)
        return Channels(
            ranks=ranks, dims=dims, points=points, entries=entries, spread=spread, lanes=lanes, short=short, units=self.units
        )

    def _most(self, extent: Expr) -> int:
        most = upper_bound(extent, self.lets)
        return MOST if most is None else most

    def _places(self, i: int) -> Iterator[tuple[str, tuple[Expr, ...]]]:
        """The tiles that a Compute touches, and where."""
        compute = self.computes[i]
        for each in (compute, *compute.along):
            if each.target in self.tiles:
                yield each.target, each.indices
        yield from ((r.tensor, r.indices) for r in compute.reads() if r.tensor in self.tiles)

    # -- the rank that numbers channels ----------------------------------------------------------------------------------

    def _best(self) -> tuple[dict[int, str], dict[str, int]]:
        """The rank along which the most Computes have points of their own."""
        found: list[tuple[dict[int, str], dict[str, int]]] = [({}, {})]
        for i, compute in enumerate(self.computes):
            for name in compute.output_ranks:
                if name not in self.units[i] and (made := self._class(i, name)) is not None:
                    found.append(made)
        return max(found, key=lambda each: len(each[0]))

    def _class(self, start: int, name: str) -> tuple[dict[int, str], dict[str, int]] | None:
        ranks, dims = {start: name}, dict[str, int]()
        changed = True
        while changed:
            changed = False
            for i in range(len(self.computes)):
                for tile, indices in self._places(i):
                    if i in ranks and tile not in dims and rank(ranks[i]) in indices:
                        dims[tile] = indices.index(rank(ranks[i]))
                        changed = True
                    elif i not in ranks and tile in dims:
                        at = indices[dims[tile]]
                        if not isinstance(at, Rank):
                            return None
                        ranks[i] = at.name
                        changed = True
        for i, own in ranks.items():
            compute = self.computes[i]
            if own in compute.reduced or own not in compute.output_ranks:
                return None
            if any(tile in dims and indices[dims[tile]] != rank(own) for tile, indices in self._places(i)):
                return None
            if any(rank(own) not in each.indices for each in (compute, *compute.along) if each.target in self.tiles):
                return None
            if compute.target not in self.tiles and not any(own in ranks_of(e) for e in compute.indices):
                return None
        return (ranks, dims) if dims else None

    # -- the rank that is dealt out to lanes -------------------------------------------------------------------------------

    def _spread(self, dims: Mapping[str, int]) -> dict[str, int] | None:
        found: dict[str, int] = {}
        for name, tile in self.tiles.items():
            long = [d for d, e in enumerate(tile.shape) if d != dims.get(name) and upper_bound(e, self.lets) != 1]
            if len(long) > 1:
                return None
            if long:
                found[name] = long[0]
        return found

    def _entries(self, ranks: Mapping[int, str], spread: Mapping[str, int]) -> dict[int, str] | None:
        """The rank of each Compute beside the channel; None where one has several, or goes through a tile in another way."""
        found: dict[int, str] = {}
        for i, compute in enumerate(self.computes):
            rest = [r.name for r in compute.ranks if r.name not in self.units[i] and r.name != ranks.get(i)]
            at = {indices[spread[tile]] for tile, indices in self._places(i) if tile in spread}
            if len(rest) > 1 or not at <= {rank(n) for n in rest}:
                return None
            if rest and any(
                compute.target in self.tiles and compute.target not in spread and n in compute.output_ranks for n in rest
            ):
                return None
            if any(set(ranks_of(r.extent)) & {q.name for q in compute.ranks} for r in compute.ranks):
                return None
            if rest:
                found[i] = rest[0]
        return found

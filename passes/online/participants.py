"""Which Einsums a chain takes into its pass: tiles that only it needs, and what its results are read through."""

from __future__ import annotations

import sympy

from ...ir.cascade import Role
from ...ir.expr import (
    Expr,
    Rank,
    reads_of,
)
from ..analysis.structure import varies
from .chain import Chain
from .closure import Closure


class Participants:
    """The Einsums of one chain's pass, by index. ``absorbed`` are computed tile by tile, ``needed_bases`` once for each
    step; ``scaled`` are the sums by which data is shifted, whose running values are scaled to what was seen so far."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.structure, self.cascade = chain, chain.structure, chain.structure.cascade
        self.members = {m.index: m for m in chain.members}
        self.states = {self.cascade.einsums[i].target: i for i in self.members}
        self.scaled = self._scaled()
        self.absorbed = self._absorbed()
        self.needed_bases = self._needed_bases()

    @property
    def order(self) -> list[int]:
        """Members, tiles and needed bases in the order of execution."""
        part = set(self.members) | self.absorbed | self.needed_bases
        return [i for i in self.structure.straight if i in part]

    def meaning(self, symbol: sympy.Symbol) -> Expr:
        return self.chain.vocabulary.meaning[symbol]

    def _scaled(self) -> frozenset[str]:
        """The sums by which data is shifted: their running values are scaled to what was seen so far."""
        found: set[str] = set()
        for member in self.chain.members:
            if isinstance(member.correction, Closure):
                for symbol in member.correction.shifted:
                    found |= self.states_behind(self.meaning(symbol))
        return frozenset(t for t in found if self.cascade.einsums[self.states[t]].reduction == "+")

    def states_behind(self, expr: Expr) -> set[str]:
        """The results of the chain that an expression depends on."""
        found: set[str] = set()
        for read in reads_of(expr):
            if read.tensor in self.states:
                found.add(read.tensor)
            else:
                writer = self.structure.writer(read.tensor)
                if writer in self.chain.bases:
                    assert writer is not None
                    found |= self.states_behind(self.cascade.einsums[writer].value)
        return found

    def _readers(self, tensor: str) -> list[int]:
        return [i for i, e in enumerate(self.cascade.einsums) if any(r.tensor == tensor for r in e.reads())]

    def _carries_all(self, i: int) -> bool:
        names = self.cascade.einsums[i].output_ranks
        return all(each.variables.get(i) in names for each in self.chain.ranks)

    def _absorbed(self) -> set[int]:
        """The Einsums that are computed tile by tile: those that depend on running results and that members need, and those
        that nothing else reads. Of the former a copy stays where others read it, and then also what it reads."""
        dependent = {i for i in self.chain.tiles if self._feeds_members(i)}
        inside = set(self.members)
        while True:
            more: set[int] = set()
            for reader in inside:
                for read in self.cascade.einsums[reader].reads():
                    i = self.structure.writer(read.tensor)
                    if i is None or i in inside or read.tensor in self.states or not self.structure.is_plain(i):
                        continue
                    if not self._carries_all(i) or self.cascade.by_name[read.tensor].role is not Role.LOCAL:
                        continue
                    if all(r in inside and self._reads_in_step(r, read.tensor) for r in self._readers(read.tensor)):
                        more.add(i)
            if not more:
                return (inside - set(self.members)) | dependent
            inside |= more

    def _feeds_members(self, i: int) -> bool:
        readers = self._readers(self.cascade.einsums[i].target)
        return any(r in self.members or (r in self.chain.tiles and self._feeds_members(r)) for r in readers)

    def _reads_in_step(self, reader: int, tensor: str) -> bool:
        """Whether all reads are at the reader's own position in the ranks."""
        writer = self.structure.writer(tensor)
        assert writer is not None
        coords = self.cascade.einsums[writer].coords
        for read in self.cascade.einsums[reader].reads():
            if read.tensor != tensor:
                continue
            for coord, index in zip(coords, read.indices, strict=True):
                for each in self.chain.ranks:
                    own, theirs = each.variables.get(reader), each.variables.get(writer)
                    if isinstance(coord, Rank) and coord.name == theirs:
                        if not (isinstance(index, Rank) and index.name == own):
                            return False
                    elif own is not None and varies(index, (own,)):
                        return False
        return True

    def _needed_bases(self) -> set[int]:
        part = set(self.members) | self.absorbed
        needed: set[int] = set()
        while True:
            reads = {r.tensor for i in part | needed for r in self.cascade.einsums[i].reads()}
            more = {i for i in self.chain.bases if self.cascade.einsums[i].target in reads} - needed
            if not more:
                return needed
            needed |= more

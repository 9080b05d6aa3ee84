"""Collects chains of reductions: those over one rank that are linked only by pointwise Einsums, with what decides each.

A chain over rank r is T_k = ⊕_k over r of F_k(x, d) with d among the earlier results T_1 … T_{k-1} (design page 3). Its
members are taken in the order of execution as long as each can be carried along while the data goes by: F_k as it would
be written with all pointwise Einsums inlined either does not depend on the earlier results, or the ratio test or the
closure gives its correction. A reduction that is refused ends the chain for everything that depends on it and may
start the next one, for which the results of the first are finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...ir.cascade import Einsum
from ...ir.expr import Cast, Expr, Rank, Read, reads_of, transform
from ...ir.operators import REDUCTIONS
from ..analysis.exponents import may_overflow
from ..analysis.ranks import RankClass
from ..analysis.structure import Structure, varies
from ..construct import is_small
from .closure import Closure, close
from .description import formula
from .ratio import Ratio, Refusal, correction
from .symbolic import Term, Vocabulary, is_writable


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A reduction of a chain: F_k with pointwise Einsums inlined, over the chain's symbols as ``term``, and how its running
    value is corrected (None: never)."""

    index: int
    value: Expr
    term: Term | None
    correction: Ratio | Closure | None

    @property
    def is_corrected(self) -> bool:
        return self.correction is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Reductions that one pass over ``ranks`` computes. ``tiles`` are the pointwise Einsums over the ranks that depend on
    their running results, ``bases`` those without the ranks; Einsums are named by index, in order of execution."""

    structure: Structure
    ranks: tuple[RankClass, ...]
    members: tuple[Member, ...]
    tiles: tuple[int, ...]
    bases: tuple[int, ...]
    vocabulary: Vocabulary

    @property
    def is_worthwhile(self) -> bool:
        """Whether anything depends on a running result: else the reductions share a pass as they are."""
        return any(m.is_corrected for m in self.members)

    def target(self, member: Member) -> str:
        return self.structure.cascade.einsums[member.index].target


def chains(structure: Structure, ranks: Sequence[RankClass], *, worthwhile: bool = True) -> tuple[list[Chain], list[Refusal]]:
    """The chains over one rank (or over several that are always reduced together), and what was refused why.

    Without ``worthwhile`` also those in which no reduction depends on another.
    """
    found: list[Chain] = []
    refusals: dict[str, Refusal] = {}
    finished: set[int] = set()
    while True:
        collector = _Collector(structure, tuple(ranks), finished)
        chain = collector.collect()
        for refusal in collector.refusals:
            refusals.setdefault(refusal.target, refusal)
        if chain is None:
            return found, list(refusals.values())
        finished |= {m.index for m in chain.members}
        if chain.is_worthwhile or not worthwhile:
            found.append(chain)


class _Collector:
    """One chain, from the reductions that earlier chains have not taken."""

    def __init__(self, structure: Structure, ranks: tuple[RankClass, ...], finished: set[int]) -> None:
        self.structure, self.ranks, self.finished = structure, ranks, finished
        self.cascade = structure.cascade
        self.status: dict[str, str] = {}
        self.vocabulary = Vocabulary(structure, lambda tensor: tensor in self.status)
        self.members: list[Member] = []
        self.tiles: list[int] = []
        self.bases: list[int] = []
        self.refusals: list[Refusal] = []

    def collect(self) -> Chain | None:
        for step in self.structure.steps:
            for i in (step.einsum,) if hasattr(step, "einsum") else step.variables:
                self._visit(i)
        if not self.members:
            return None
        return Chain(
            structure=self.structure,
            ranks=self.ranks,
            members=tuple(self.members),
            tiles=tuple(self.tiles),
            bases=tuple(self.bases),
            vocabulary=self.vocabulary,
        )

    def variables(self, i: int) -> list[str | None]:
        return [rank.variables.get(i) for rank in self.ranks]

    def _visit(self, i: int) -> None:
        einsum = self.cascade.einsums[i]
        own = self.variables(i)
        statuses = {self.status.get(r.tensor) for r in einsum.reads()} - {None}
        if i not in self.finished and own and all(v is not None and v in einsum.reduced for v in own):
            refusal = self._member(i, einsum, statuses)
            if refusal is None:
                self.status[einsum.target] = "state"
                return
            if statuses:
                self.refusals.append(refusal)
        if not statuses:
            return
        carried = [v for v in own if v is not None]
        filters_depend = any(r.tensor in self.status for c in self._filters(einsum) for r in reads_of(c))
        if "after" in statuses or not self.structure.is_pointwise(i) or filters_depend:
            self.status[einsum.target] = "after"
        elif len(carried) == len(own) and self._is_aligned(i, einsum):
            self.status[einsum.target] = "tile"
            self.tiles.append(i)
        elif not carried and not self._filters(einsum) and "tile" not in statuses:
            self.status[einsum.target] = "base"
            self.bases.append(i)
        else:
            self.status[einsum.target] = "after"

    @staticmethod
    def _filters(einsum: Einsum) -> tuple[Expr, ...]:
        return (*einsum.point_filter, *einsum.output_filter)

    def _is_aligned(self, i: int, einsum: Einsum) -> bool:
        """Whether running results are read at no coordinate of the ranks, and tiles at this very point of them."""
        own = [v for v in self.variables(i) if v is not None]
        for read in einsum.reads():
            match self.status.get(read.tensor):
                case "tile":
                    if not self._is_same_point(read, own):
                        return False
                case "state" | "base":
                    if varies(read, own):
                        return False
        return True

    def _is_same_point(self, read: Read, own: Sequence[str]) -> bool:
        writer = self.structure.writer(read.tensor)
        assert writer is not None
        coords = self.cascade.einsums[writer].coords
        theirs = self.variables(writer)
        for coord, index in zip(coords, read.indices, strict=True):
            if isinstance(coord, Rank) and coord.name in theirs:
                if not (isinstance(index, Rank) and index.name == own[theirs.index(coord.name)]):
                    return False
            elif varies(index, own):
                return False
        return True

    def _member(self, i: int, einsum: Einsum, statuses: set[str | None]) -> Refusal | None:
        """Takes a reduction into the chain, or says why it can not be."""

        def refuse(condition: str, reason: str) -> Refusal:
            return Refusal(target=einsum.target, condition=condition, reason=reason)

        assert einsum.reduction is not None
        if i not in self.structure.straight or not self.structure.is_plain(i):
            return refuse("C1", "it is part of a recurrence, or scatters")
        if any(i in rank.outer or rank.is_tile for rank in self.ranks):
            return refuse("C1", "the rank is partitioned already")
        if REDUCTIONS[einsum.reduction].coordinate and (statuses or len(self.ranks) > 1):
            return refuse("C1", "the coordinate of an extreme is carried only where the values do not move")
        if einsum.output_filter:
            return refuse("C6", "some of its results are absent as a whole")
        own = self.variables(i)[-1]
        reads = [r for e in (einsum.value, *einsum.point_filter) for r in reads_of(e)]
        if not any(isinstance(index, Rank) and index.name == own for r in reads for index in r.indices):
            return refuse(
                "C1", "nothing that it reads is indexed by the rank itself, which a tile of it could take the place of"
            )
        if "after" in statuses:
            blocked = sorted({r.tensor for r in einsum.reads() if self.status.get(r.tensor) == "after"})
            return refuse("C2", f"it needs {_quoted(blocked)}, which is known only after the whole pass")
        if not statuses:
            self.members.append(Member(index=i, value=einsum.value, term=None, correction=None))
            return None
        if any(r.tensor in self.status for c in self._filters(einsum) for r in reads_of(c)):
            return refuse("C2", "which points it reduces depends on a result of the same pass")
        if not self._is_aligned(i, einsum):
            return refuse("C4", "it reduces a rank of the results that it depends on, or reads them at other points")
        value = self._inlined(einsum.value)
        crossing = [r for r in reads_of(value) if r.tensor in self.status and varies(r, einsum.reduced)]
        if crossing:
            return refuse("C4", f"it reduces a rank of {_quoted(sorted({r.tensor for r in crossing}))}, on which it depends")
        if any(self._is_rounding(node, einsum) for node in _nodes(value)) or any(map(self._is_rounded, einsum.reads())):
            return refuse("C7", "a rounding stands between the data and the result, and does not commute with a correction")
        term = self.vocabulary.term(value, einsum.reduced)
        shown = formula(einsum, value)
        found: Ratio | Closure | Refusal = correction(einsum, term, self.vocabulary)
        if isinstance(found, Refusal) and found.condition == "C2" and REDUCTIONS[einsum.reduction].combine == "add":
            closed = close(einsum, term, self.vocabulary)
            found = closed if isinstance(closed, Closure) else refuse("C2", f"{found.reason}, and {closed.reason}")
        if isinstance(found, Refusal):
            return refuse(found.condition, f"{shown}: {found.reason}")
        if may_overflow(self.structure, [einsum.value], lambda e: self._mixes(e, einsum)):
            return refuse("C6", f"{shown}: the exponential is not bounded on every prefix of the data, where the whole may be")
        if not is_writable(found.terms):
            return refuse("C2", f"{shown}: no operator of the language computes its correction")
        self.members.append(Member(index=i, value=value, term=term, correction=found))
        return None

    def _mixes(self, expr: Expr, einsum: Einsum) -> bool:
        value = self._inlined(expr)
        return any(r.tensor in self.status for r in reads_of(value))

    def _inlined(self, value: Expr) -> Expr:
        """A value with the pointwise Einsums of the chain in place of the reads of what they write."""

        def rule(node: Expr) -> Expr | None:
            if isinstance(node, Read) and self.status.get(node.tensor) == "tile":
                inner = self.structure.inlined(node)
                return None if inner is None else self._inlined(inner)
            return None

        return transform(value, rule)

    def _is_rounded(self, read: Read) -> bool:
        """Whether a result of the chain has an annotated type that its running value can not have."""
        tensor = self.cascade.by_name[read.tensor]
        i = self.structure.writer(read.tensor)
        if self.status.get(read.tensor) != "state" or i is None or not (tensor.annotated and is_small(tensor.value)):
            return False
        made = self.cascade.einsums[i]
        assert made.reduction is not None
        # Extremes round nothing: they are one of their operands.
        return not REDUCTIONS[made.reduction].idempotent or made.value.dtype != tensor.value

    def _is_rounding(self, node: Expr, einsum: Einsum) -> bool:
        """Whether a node converts a mixed value to a type that can not hold it."""
        match node:
            case Cast(value=value):
                mixed = any(r.tensor in self.status for r in reads_of(value)) and varies(value, einsum.reduced)
                return mixed and not (value.dtype.is_float and node.dtype.is_float and node.dtype.bits >= value.dtype.bits)
            case Read(tensor=tensor):
                return self.status.get(tensor) == "tile"  # an annotated type that is narrower than its value
            case _:
                return False


def _nodes(expr: Expr) -> Iterable[Expr]:
    from ...ir.expr import walk

    return walk(expr)


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(f"`{n}`" for n in names)

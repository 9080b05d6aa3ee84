"""Lowers the number of passes over the data: deferral, then online forms, rank by rank, kept where the count falls.

Requires a verified cascade; guarantees one that computes the same over the reals, finite wherever the program as written is,
with no more passes along any rank. What is refused is explained in the decisions, and leaves the cascade as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...ir.cascade import Cascade
from ...ir.tile import Decision
from ..analysis.passcount import PassAnalysis, analyse
from ..analysis.ranks import RankClass
from ..analysis.structure import Structure
from ..simplification.simplify import simplify
from ..tiling.contraction import product_of
from ..tiling.grouping import few
from .defer import defer_explained

if TYPE_CHECKING:
    from .chain import Chain
    from .partition import Partition
    from .ratio import Refusal

PRODUCT_TILE = 128
"""Positions of a tile that a matrix product makes or takes: a few vectors, and a tile of scores that fits in cache."""

ROW_TILE = 1024
"""Positions of a tile that is read: it stays in the nearest cache, and its state is corrected seldom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Passes along one rank of the source, before and after."""

    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """A derived cascade, why it is as it is, its passes by the rank variables of the source, and the chains of reductions
    that were put into their online forms, each with the cascade that it was found in."""

    cascade: Cascade
    decisions: tuple[Decision, ...]
    passes: Mapping[str, Passes] = field(hash=False)
    chains: tuple[Chain, ...] = field(default=(), compare=False, repr=False)


def derive(
    cascade: Cascade,
    *,
    tile: int | None = None,
    only: Collection[str] | None = None,
    product_tile: int = PRODUCT_TILE,
    row_tile: int = ROW_TILE,
) -> Derivation:
    """Derives the form with the fewest passes.

    ``tile`` is the number of positions of a tile along a rank that is cut, by default what suits it (``product_tile`` of one
    that a matrix product makes or takes, else ``row_tile``); ``only`` limits the ranks (by their variable in the source) along
    which online forms are tried.
    """
    return _Derivation(cascade, tile, only, product_tile, row_tile).run()


class _Derivation:
    """One derivation."""

    def __init__(
        self, source: Cascade, tile: int | None, only: Collection[str] | None, product_tile: int, row_tile: int
    ) -> None:
        self.source, self.tile, self.only = source, tile, only
        self.product_tile, self.row_tile = product_tile, row_tile
        self.structure = Structure(source)
        self.analysis = analyse(source, self.structure.steps)
        self.decisions: list[Decision] = []
        self.parts: dict[str, str] = {}
        self.attempted: set[str] = set()
        self.kept: list[Chain] = []

    def run(self) -> Derivation:
        before = _by_name(self.analysis)
        if any(n > 1 for n in before.values()):
            self._defer()
            while self._online():
                pass
            self._clean()
        after = _by_name(self.analysis)
        passes = {name: Passes(before=n, after=after.get(self.parts.get(name, name), n)) for name, n in before.items()}
        return Derivation(
            cascade=self.structure.cascade, decisions=tuple(self.decisions), passes=passes, chains=tuple(self.kept)
        )

    def _clean(self) -> None:
        """What several chains derived alike is kept once."""
        derived = self.structure.cascade
        if derived is self.source:
            return
        cleaned = simplify(derived)
        if cleaned.cascade is not derived:
            self.structure = Structure(cleaned.cascade)
            self.analysis = analyse(cleaned.cascade, self.structure.steps)
            self.decisions += cleaned.decisions

    def _defer(self) -> None:
        deferred, decisions = defer_explained(self.structure)
        analysis = analyse(deferred.cascade, deferred.steps)
        if deferred is self.structure:
            self.decisions += decisions
        elif _is_better(self.analysis, analysis):
            self.decisions += decisions
            self.structure, self.analysis = deferred, analysis
        else:
            self.decisions += (
                Decision(made_by=d.made_by, subject=d.subject, chosen="not deferred", because="no pass would be saved")
                for d in decisions
            )

    def _online(self) -> bool:
        """Tries the ranks in order until one attempt changes the cascade."""
        structure = self.structure
        for each in self.analysis.ranks:
            name = each.rank.name
            if each.passes < 2 or each.rank.is_tile or name in self.attempted:
                continue
            if (self.only is not None and name not in self.only) or self._is_few(each.rank):
                continue
            if self._attempt(structure, each.rank):
                return True
            self.attempted.add(name)
        return False

    def _is_few(self, rank: RankClass) -> bool:
        """Whether a rank is bounded by a constant, as the parts of a split form are: no tile of it is worth a pass less."""
        cascade = self.structure.cascade
        return all(cascade.einsums[i].extent(v) in few(cascade) for i, v in rank.variables.items())

    def _attempt(self, structure: Structure, rank: RankClass) -> bool:
        from .chain import chains

        kept = False
        refused: dict[str, Refusal] = {}
        for ranks in self._rank_sets(structure, rank):
            found, refusals = chains(structure, ranks)
            refused.update((r.target, r) for r in refusals)
            kept = any(self._keep(structure, chain) for chain in found)
            if kept:
                break
        for refusal in refused.values():
            subject = f"{refusal.target} over {rank.name}"
            self._decide(refusal.condition, subject, "takes another pass", refusal.reason)
        return kept

    def _rank_sets(self, structure: Structure, rank: RankClass) -> list[tuple[RankClass, ...]]:
        """The ranks to pass over together: those that are always reduced with this one first, then this one alone."""
        cascade = structure.cascade
        reducers = [i for i, v in rank.variables.items() if v in cascade.einsums[i].reduced]
        if not reducers:
            return [(rank,)]
        with_it = [
            other
            for other in structure.ranks
            if all(other.variables.get(i) in cascade.einsums[i].reduced for i in reducers)
            and self.analysis.of(other.name).passes > 1
        ]
        order = cascade.einsums[reducers[0]].reduced
        together = tuple(sorted(with_it, key=lambda c: order.index(c.variables[reducers[0]])))
        return [together, (rank,)] if len(together) > 1 else [(rank,)]

    def _keep(self, structure: Structure, chain: Chain) -> bool:
        """Writes a chain in its online form; keeps it where passes fall."""
        from .online import online_form

        derived, cut = online_form(chain, self._tile(chain) if self.tile is None else self.tile)
        after = Structure(derived)
        analysis = analyse(derived, after.steps)
        names = {rank.name: self._name_after(analysis, cut) for rank in chain.ranks}
        old, new = _by_name(self.analysis), _by_name(analysis)
        falls = any(new[names[r.name]] < old[r.name] for r in chain.ranks)
        rises = any(new.get(names.get(name, name), n) > n for name, n in old.items() if not self._is_tile(name))
        if not falls or rises:
            return False
        for member in chain.members:
            self._explain(chain, member.index, cut)
        for source, name in {**{r.name: r.name for r in chain.ranks}, **self.parts}.items():
            if name in names:
                self.parts[source] = names[name]
        self.structure, self.analysis = after, analysis
        self.kept.append(chain)
        return True

    def _tile(self, chain: Chain) -> int:
        """The positions of a tile along the ranks of a chain."""
        for i, einsum in enumerate(chain.structure.cascade.einsums):
            product = product_of(einsum)
            if product is not None and any(
                r.variables.get(i) in (product.rows, product.columns, product.inner) for r in chain.ranks if i in r.variables
            ):
                return self.product_tile
        return self.row_tile

    def _is_tile(self, name: str) -> bool:
        return any(r.rank.name == name and r.rank.is_tile for r in self.analysis.ranks)

    @staticmethod
    def _name_after(analysis: PassAnalysis, cut: Partition) -> str:
        return next(r.rank.name for r in analysis.ranks if cut.step.name in r.rank.variables.values())

    def _explain(self, chain: Chain, index: int, cut: Partition) -> None:
        from .explanation import explain_member

        member = next(m for m in chain.members if m.index == index)
        made_by, chosen, because = explain_member(chain, member, cut)
        self._decide(made_by, f"{chain.target(member)} over {', '.join(r.name for r in chain.ranks)}", chosen, because)

    def _decide(self, rule: str, subject: str, chosen: str, because: str) -> None:
        decision = Decision(made_by=f"online:{rule}", subject=subject, chosen=chosen, because=because)
        if decision not in self.decisions:
            self.decisions.append(decision)


def _by_name(analysis: PassAnalysis) -> dict[str, int]:
    result: dict[str, int] = {}
    for each in analysis.ranks:
        result[each.rank.name] = max(result.get(each.rank.name, 0), each.passes)
    return result


def _is_better(old: PassAnalysis, new: PassAnalysis) -> bool:
    before, after = _by_name(old), _by_name(new)
    return any(after.get(n, p) < p for n, p in before.items()) and all(after.get(n, p) <= p for n, p in before.items())

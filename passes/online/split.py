"""The split form: the tiles of a long rank dealt out to parts that run side by side, and their states merged at the end.

With r → (r2, r1, r0) every part r2 carries states of its own through its tiles, as in online.py. What the parts leave is
merged by the same corrections that take a running result from one base to the next (FlashDecoding, Dao et al. 2023; for
variances Chan, Golub and LeVeque 1979):

    D = ⊕ over r2 of d[r2]                  S = ⊕ over r2 of ρ(d[r2], D) ⊗ s[r2]

Requires: the chains of a derivation, whose reductions are associative and commutative (C1), or reductions that depend on no
other one. Guarantees: the same results over the reals; a part that saw nothing is an identity of the merge, whether it lies
beyond the end of the rank or a mask empties it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, Origin, RankExtent
from ...ir.expr import Cast, Const, Default, Expr, Rank, Read, children, integer, op, with_children
from ...ir.index import constant_value, simplify
from ...ir.operators import REDUCTIONS
from ...ir.tile import Decision
from ...ir.types import INDEX, DType
from ..analysis.ranks import RankClass
from ..analysis.structure import Structure
from ..construct import einsum
from ..rewriting import Rewriting
from ..tiling import contraction
from .chain import Chain, chains
from .derive import Derivation
from .online import Online
from .participants import Participants
from .partition import Parts, extents_with
from .step import MADE_BY

LONG_TILE, ROWS_TILE = 1024, 256
"""Positions of a tile, so that what is done once for each tile is little: of one row, and of the rows of a product."""

LEAST_PART = 16384
"""Positions of a part that are worth waking a thread for: some ten microseconds of work."""

ROWS = 16
"""Rows of a matrix product that one task does together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting(Rewriting):
    """A split form. ``ranks`` are those of the source that are dealt out, ``tasks`` is what runs side by side without it,
    ``length`` how many positions are dealt out; ``heavy`` tells that it holds products of matrices, whose code is large."""

    ranks: tuple[str, ...]
    tasks: Expr
    length: Expr
    heavy: bool


def split(
    derivation: Derivation,
    *,
    most: int,
    least: int = LEAST_PART,
    tile: int | None = None,
    beside: Cascade | None = None,
    blocks: Expr | None = None,
) -> Splitting | None:
    """The split form of a derived cascade, in at most ``most`` parts of ``least`` or more positions; None where nothing is.

    ``tile`` is the number of positions of a tile (None: what suits the chain). No name of ``beside`` is used, so that
    both forms can be part of one program. With ``blocks`` there are no more parts than make so many of all tasks together.
    """
    return _Splitting(derivation, most, least, tile, beside, blocks).run()


class _Splitting:
    def __init__(
        self,
        derivation: Derivation,
        most: int,
        least: int,
        tile: int | None,
        beside: Cascade | None,
        blocks: Expr | None,
    ) -> None:
        self.derivation, self.most, self.least, self.tile, self.beside = derivation, most, least, tile, beside
        self.blocks = blocks
        first = derivation.chains[0].structure if derivation.chains else Structure(derivation.cascade)
        self.structure = first
        self.recurs = len(first.straight) < len(first.cascade.einsums)
        self.decisions: list[Decision] = []
        self.tasks: list[Expr] = []
        self.lengths: list[Expr] = []
        self.ranks: list[str] = []
        self.ours: set[str] = set()

    def run(self) -> Splitting | None:
        for chain in self.derivation.chains:
            again = self._again(chain)
            if again is None:
                return None
            self._split(again)
        if not self.derivation.chains:
            while (plain := self._plain()) is not None:
                self._split(plain)
        if not self.tasks:
            return None
        return Splitting(
            cascade=self.structure.cascade,
            decisions=tuple(self.decisions),
            ranks=tuple(self.ranks),
            heavy=any(_is_heavy(e) for e in self.structure.cascade.einsums),
            tasks=_extreme("max", self.tasks),
            length=_extreme("max", self.lengths),
        )

    def _again(self, chain: Chain) -> Chain | None:
        """The chain of the same reductions in the cascade as it is now."""
        if chain.structure is self.structure:
            return chain
        names = [chain.target(m) for m in chain.members]
        wanted = [r.name for r in chain.ranks]
        ranks = [c for name in wanted for c in self.structure.ranks if c.name == name and not c.is_tile]
        found, _ = chains(self.structure, ranks)
        return next((c for c in found if [c.target(m) for m in c.members] == names), None)

    def _plain(self) -> Chain | None:
        """Reductions that depend on no other one: the first of the cascade and those over the same ranks.

        Recurrences are left alone, and reductions with several independent ranks: these are many enough.
        """
        structure, cascade = self.structure, self.structure.cascade
        if self.recurs:
            return None
        for i in structure.straight:
            einsum = cascade.einsums[i]
            if einsum.reduction is None or len(einsum.output_ranks) > 1 or not self.ours.isdisjoint(einsum.reduced):
                continue
            ranks = tuple(structure.class_of(i, r) for r in einsum.reduced)
            names = [r.name for r in ranks]
            if (self.ranks and names != self.ranks) or any(r.is_tile or r.outer for r in ranks) or not self._are_long(ranks):
                continue
            found, _ = chains(structure, ranks, worthwhile=False)
            for chain in found:
                if not chain.is_worthwhile and self._is_few(chain):
                    return chain
        return None

    def _are_long(self, ranks: Sequence[RankClass]) -> bool:
        total: Expr = integer(1)
        for rank in ranks:
            i, variable = next(iter(rank.variables.items()))
            total = op("mul", total, self.structure.cascade.einsums[i].extent(variable))
        known = constant_value(total, self.structure.lets)
        return known is None or known >= 2 * self.least

    def _is_few(self, chain: Chain) -> bool:
        """Whether splitting may pay: where matrices are multiplied, only with a known small number of results."""
        if not any(_is_heavy(e) for e in self.structure.cascade.einsums):
            return True
        return all(
            (known := constant_value(_points(self.structure.cascade.einsums[m.index]), self.structure.lets)) is not None
            and known <= self.most
            for m in chain.members
        )

    def _split(self, chain: Chain) -> None:
        tile = self.tile or (ROWS_TILE if _rows(chain) else LONG_TILE)
        tasks = _tasks(chain)
        share = None if self.blocks is None else _share(self.blocks, tasks)
        parts = Parts(most=self.most, least=self.least, share=share)
        form = Split(chain, tile, parts, self.beside)
        cascade, cut = form.build()
        assert cut.part is not None
        self.ours |= {cut.part.name, cut.step.name, cut.inner.name}
        length: Expr = integer(1)
        for extent in cut.extents:
            length = op("mul", length, extent)
        names = ", ".join(chain.target(m) for m in chain.members)
        self.ranks = self.ranks or [r.name for r in chain.ranks]
        self.tasks.append(tasks)
        self.lengths.append(simplify(length))
        over = ", ".join(r.name for r in chain.ranks)
        self.decisions.append(
            Decision(
                made_by="split",
                subject=f"{names} over {over}",
                chosen=f"up to {self.most} parts {cut.part.name}, each of {self.least} positions or more",
                because="reductions of parts merge in any order, with the corrections of the running values",
            )
        )
        self.structure = Structure(cascade)


class Split(Online):
    """The construction of the split form of one chain."""

    def __init__(self, chain: Chain, tile: int, parts: Parts, beside: Cascade | None = None) -> None:
        super().__init__(chain, tile, parts, beside)
        self.state_ranks: dict[str, tuple[Rank, ...]] = {}
        self.left_of: dict[str, str] = {}
        self.merged: dict[str, str] = {}
        self.merging = False

    def _finished(self) -> Cascade:
        """What the parts leave, the merge, and the cascade around them."""
        span = self.cascade.einsums[self.chain.members[0].index].origin.span
        for state, ranks in self.state_ranks.items():
            value = self._read(state, (self.cut.steps, *self.parts, *ranks))
            origin = Origin(span=span, made_by=f"{MADE_BY}:part")
            self._put(self.names.tensor(f"P{state[1:]}"), (*self.parts, *ranks), value, None, origin)
            self.left_of[state] = self.einsums[-1].target
        self.merging, self.now = True, self.parts
        for i in self.part.order:
            if i in self.members:
                self._merge(i)
        return super()._finished()

    def _merge(self, i: int) -> None:
        written = self.cascade.einsums[i]
        assert written.reduction is not None
        outputs = tuple(c for c in written.coords if isinstance(c, Rank))
        origin = replace(written.origin, made_by=f"{MADE_BY}:merge")
        left = self._held(self.running[written.target], outputs)
        name = self.names.tensor(written.target)
        if REDUCTIONS[written.reduction].coordinate:
            self._merge_coordinate(written, name, left, outputs, origin)
        else:
            value = self._corrected(self.members[i], left, origin)
            self._put(name, outputs, value, written.reduction, origin)
        self.merged[written.target] = name

    def _merge_coordinate(self, written: Einsum, name: str, left: Read, outputs: tuple[Rank, ...], origin: Origin) -> None:
        """The coordinate that the first of the parts with the best value left; parts that saw nothing have none."""
        assert written.reduction is not None
        best = self._held(self.extreme_of[written.target], outputs)
        none = Const(value=0, dtype=left.dtype)
        first = self.names.tensor(f"A{written.target}")
        self._put(first, outputs, best, written.reduction, origin, where=(op("ge", left, none),))
        where = Read(tensor=first, indices=outputs, dtype=self.tensors[first].value)
        there = Read(tensor=left.tensor, indices=(Cast(value=where, dtype=INDEX), *outputs), dtype=left.dtype)
        value = Default(value=there, default=Const(value=-1, dtype=left.dtype), dtype=left.dtype)
        self._put(name, outputs, value, None, origin)

    def _put(
        self,
        name: str,
        coords: tuple[Expr, ...],
        value: Expr,
        reduction: str | None,
        origin: Origin,
        where: tuple[Expr, ...] = (),
    ) -> None:
        ranks: dict[str, Expr] = {}
        for i in self.members:
            ranks |= {r.name: r.extent for r in self.cascade.einsums[i].ranks}
        made = einsum(
            target=name,
            coords=coords,
            value=value,
            extents=extents_with(self.cut, ranks),
            origin=origin,
            reduction=reduction,
            where=where,
        )
        self._add(made, value.dtype)

    # -- what the corrections of the merge go from and to ------------------------------------------------------------

    def _start(self, wish: str, written: Einsum, outputs: tuple[Rank, ...], dtype: DType, origin: Origin) -> str:
        name = super()._start(wish, written, outputs, dtype, origin)
        self.state_ranks[name] = outputs
        return name

    def _held(self, state: str, indices: tuple[Expr, ...]) -> Read:
        if not self.merging:
            return super()._held(state, indices)
        return self._read(self.left_of[state], (*self.parts, *indices))

    def _seen(self, dtype: DType) -> Expr:
        return self.cut.held(dtype) if self.merging else super()._seen(dtype)

    def _after(self, expr: Expr) -> Expr:
        if not self.merging:
            return super()._after(expr)
        match expr:
            case Read(tensor=tensor, indices=indices) if tensor in self.merged:
                return self._read(self.merged[tensor], indices)
            case Read(tensor=tensor) if tensor in self.base_of:
                inner = self.structure.inlined(expr)
                assert inner is not None
                return self._after(inner)
            case _:
                return with_children(expr, tuple(self._after(c) for c in children(expr)))

    def _last(self, target: str) -> tuple[str, tuple[Expr, ...], DType]:
        name = self.merged[target]
        return name, (), self.tensors[name].value


def _products(chain: Chain) -> list[int]:
    """The matrix products that a chain computes tile by tile."""
    cascade = chain.structure.cascade
    return [i for i in Participants(chain).order if contraction.product_of(cascade.einsums[i]) is not None]


def _rows(chain: Chain) -> list[RankClass]:
    """The ranks that are rows or columns of products of matrices by matrices, and none of the chain's own."""
    found: list[RankClass] = []
    for i in _products(chain):
        product = contraction.product_of(chain.structure.cascade.einsums[i])
        assert product is not None
        if product.rows is not None and product.columns is not None:
            found += (chain.structure.class_of(i, name) for name in (product.rows, product.columns))
    return [rank for rank in found if rank not in chain.ranks]


def _is_heavy(einsum: Einsum) -> bool:
    """Whether an Einsum is a product of a matrix by a matrix."""
    product = contraction.product_of(einsum)
    return product is not None and product.rows is not None and product.columns is not None


def _points(einsum: Einsum) -> Expr:
    total: Expr = integer(1)
    for r in einsum.ranks:
        if r.name not in einsum.reduced:
            total = op("mul", total, r.extent)
    return simplify(total)


def _tasks(chain: Chain) -> Expr:
    """What threads share without a split: the ranks that all reductions keep, the rows of a product by the tile."""
    cascade = chain.structure.cascade
    first, *others = chain.members
    shared: list[RankExtent] = []
    written = cascade.einsums[first.index]
    for r in written.ranks:
        if r.name in written.reduced:
            continue
        rank = chain.structure.class_of(first.index, r.name)
        if all(rank.variables.get(m.index) in cascade.einsums[m.index].output_ranks for m in others):
            shared.append(r)
    rows = {rank.variables.get(first.index) for rank in _rows(chain)}
    total: Expr = integer(1)
    for r in shared:
        total = op("mul", total, op("ceildiv", r.extent, integer(ROWS)) if r.name in rows else r.extent)
    return simplify(total)


def _share(blocks: Expr, tasks: Expr) -> Expr:
    """The parts of each task that make no more than ``blocks`` of all of them."""
    return op("max", op("floordiv", blocks, op("max", tasks, integer(1))), integer(1))


def _extreme(operator: str, values: list[Expr]) -> Expr:
    found = values[0]
    for each in dict.fromkeys(values[1:]):
        if each != found:
            found = op(operator, found, each)
    return found

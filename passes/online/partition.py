"""The partition of the ranks of a chain into steps and tiles: r → (r1, r0), several ranks into one sequence of steps.

One rank of extent R is read at ``r1*R0 + r0`` in ``R1 = ceildiv(R, R0)`` steps. Ranks I, J that are always reduced together
become I * J1 steps t, with ``i = t // J1`` and ``j = t % J1 * J0 + j0``: only the last is cut into tiles.

In the split form the steps are dealt out to R2 parts, R1 consecutive ones to each: the step is ``r2*R1 + r1``. The number of
parts follows from the sizes and from constants, never from the machine at hand, so that results do not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.cascade import Let, Origin
from ...ir.expr import Cast, Expr, Rank, Size, integer, op, rank, size
from ...ir.index import constant_value
from ...ir.types import DType
from ..analysis.ranks import RankClass
from ..analysis.structure import Structure
from ..names import Names


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Into how many parts a rank is dealt out: at most ``most`` (and the size ``share``), and no more than it has times
    ``least`` positions."""

    most: int
    least: int
    share: Expr | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """``ranks`` in order, the last one tiled; ``step`` and ``inner`` are the new rank variables, in the split form
    ``part`` besides.

    ``at`` gives for each rank the index that replaces its variable, ``bounds`` the conditions that a tile ends with its rank
    and a part with the last step (none where they always do), ``steps`` and ``tile`` the extents of the new variables.
    ``place`` is the step counted through all parts, ``all_steps`` how many there are (of several ranks).
    """

    ranks: tuple[RankClass, ...]
    step: Rank
    inner: Rank
    steps: Size
    tile: Size
    at: tuple[Expr, ...]
    bounds: tuple[Expr, ...]
    extents: tuple[Expr, ...]
    inner_steps: Size
    lets: tuple[Let, ...]
    place: Expr
    all_steps: Size
    part: Rank | None = None
    parts: Size | None = None

    def replacement(self, einsum: int) -> dict[str, Expr]:
        """Rank variable → index, for the variables of an Einsum."""
        pairs = zip(self.ranks, self.at, strict=True)
        return {r.variables[einsum]: index for r, index in pairs if einsum in r.variables}

    def seen(self, dtype: DType, *, after: bool) -> Expr:
        """How many positions the steps of a part before this one hold, this one included where ``after``."""
        end = op("add", self.place, integer(1)) if after else self.place
        if self.part is None:
            return Cast(value=self._before(end, clipped=after and bool(self.bounds)), dtype=dtype)
        seen = op("sub", self._before(end, clipped=True), self._before(self._first(), clipped=True))
        return Cast(value=seen, dtype=dtype)

    def held(self, dtype: DType) -> Expr:
        """How many positions a part holds."""
        end = op("add", self._first(), self.steps)
        return Cast(value=op("sub", self._before(end, clipped=True), self._before(self._first(), clipped=True)), dtype=dtype)

    def _first(self) -> Expr:
        """The first step of a part."""
        assert self.part is not None
        return op("mul", self.part, self.steps)

    def _before(self, step: Expr, *, clipped: bool) -> Expr:
        """How many positions come before a step; ``clipped`` where it may lie beyond the last one."""
        if len(self.ranks) == 1:
            here = op("mul", step, self.tile)
            return op("min", here, self.extents[-1]) if clipped else here
        if clipped:
            step = op("min", step, self.all_steps)
        # What the parts hold is asked for even where the ranks are empty.
        row = op("max", self.inner_steps, integer(1)) if clipped else self.inner_steps
        rows = op("mul", op("floordiv", step, row), self.extents[-1])
        return op("add", rows, op("mul", op("mod", step, row), self.tile))

    def total(self, dtype: DType) -> Expr:
        """All positions."""
        result = self.extents[0]
        for extent in self.extents[1:]:
            result = op("mul", result, extent)
        return Cast(value=result, dtype=dtype)


def partition(
    structure: Structure,
    ranks: tuple[RankClass, ...],
    einsum: int,
    tile: int,
    names: Names,
    origin: Origin,
    parts: Parts | None = None,
) -> Partition:
    """The partition of ``ranks`` as Einsum ``einsum`` iterates them, into tiles of ``tile`` positions."""
    cascade = structure.cascade
    extents = tuple(cascade.einsums[einsum].extent(r.variables[einsum]) for r in ranks)
    last, extent = ranks[-1].name.rstrip("'"), extents[-1]
    all_ranks = "".join(r.name.rstrip("'") for r in ranks)
    inner = rank(names.rank(f"{last}0"))
    tile_size = size(names.size(f"{last.upper()}0"))
    count = size(names.size(f"{last.upper()}1" if parts is None else f"{last.upper()}T"))
    step = rank(names.rank(f"{all_ranks}1"))
    lets = [Let(name=tile_size.name, value=integer(tile), origin=origin)]
    if parts is None or len(ranks) > 1:
        lets.append(Let(name=count.name, value=op("ceildiv", extent, tile_size), origin=origin))
    all_steps = count
    if len(ranks) > 1:
        all_steps = size(names.size(f"{all_ranks.upper()}1" if parts is None else f"{all_ranks.upper()}T"))
        total: Expr = extents[0]
        for each in (*extents[1:-1], count):
            total = op("mul", total, each)
        lets.append(Let(name=all_steps.name, value=total, origin=origin))
    place: Expr = step
    steps, part, number = all_steps, None, None
    if parts is not None:
        part, number = rank(names.rank(f"{all_ranks}2")), size(names.size(f"{all_ranks.upper()}2"))
        steps = size(names.size(f"{all_ranks.upper()}1"))
        if len(ranks) == 1:
            length, each_part = extent, op("ceildiv", extent, op("mul", op("max", number, integer(1)), tile_size))
        else:
            length, each_part = op("mul", all_steps, tile_size), op("ceildiv", all_steps, op("max", number, integer(1)))
        # Nothing has no parts: what they would be merged by may divide by the extent.
        enough = op("ceildiv", length, integer(parts.least))
        if parts.share is not None:
            enough = op("min", enough, parts.share)
        lets.append(Let(name=number.name, value=op("min", enough, integer(parts.most)), origin=origin))
        lets.append(Let(name=steps.name, value=each_part, origin=origin))
        place = op("add", op("mul", part, steps), step)
    known = constant_value(extent, structure.lets)
    exact = known is not None and known % tile == 0
    bounds: list[Expr] = []
    if len(ranks) == 1:
        at: tuple[Expr, ...] = (op("add", op("mul", place, tile_size), inner),)
    else:
        rest: Expr = op("floordiv", place, count)
        outer: list[Expr] = []
        for each in reversed(extents[1:-1]):
            outer.append(op("mod", rest, each))
            rest = op("floordiv", rest, each)
        outer.append(rest)
        at = (*reversed(outer), op("add", op("mul", op("mod", place, count), tile_size), inner))
        if part is not None:
            bounds.append(op("lt", place, all_steps))
    if not exact or (part is not None and len(ranks) == 1):
        bounds.append(op("lt", at[-1], extent))
    return Partition(
        ranks=ranks,
        step=step,
        inner=inner,
        steps=steps,
        tile=tile_size,
        at=at,
        bounds=tuple(bounds),
        extents=extents,
        inner_steps=count,
        lets=tuple(lets),
        place=place,
        all_steps=all_steps,
        part=part,
        parts=number,
    )


def extents_with(partition: Partition, extents: Mapping[str, Expr]) -> dict[str, Expr]:
    """The extents of an Einsum's ranks after the partition."""
    found = {**extents, partition.step.name: partition.steps, partition.inner.name: partition.tile}
    if partition.part is not None and partition.parts is not None:
        found[partition.part.name] = partition.parts
    return found

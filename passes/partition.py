"""The partition of the ranks of a chain into steps and tiles: r → (r1, r0), several ranks into one sequence of steps.

One rank of extent R is read at ``r1*R0 + r0`` in ``R1 = ceildiv(R, R0)`` steps. Ranks I, J that are always reduced together
become I * J1 steps t, with ``i = t // J1`` and ``j = t % J1 * J0 + j0``: only the last is cut into tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.cascade import Let, Origin
from ..ir.expr import Cast, Expr, Rank, Size, integer, op, rank, size
from ..ir.index import constant_value
from ..ir.types import DType
from .names import Names
from .ranks import RankClass
from .structure import Structure


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """``ranks`` in order, the last one tiled; ``step`` and ``inner`` are the new rank variables.

    ``at`` gives for each rank the index that replaces its variable, ``bound`` the condition that a tile ends with its rank
    (None where it always does), ``steps`` and ``tile`` the extents of the new variables.
    """

    ranks: tuple[RankClass, ...]
    step: Rank
    inner: Rank
    steps: Size
    tile: Size
    at: tuple[Expr, ...]
    bound: Expr | None
    extents: tuple[Expr, ...]
    inner_steps: Size
    lets: tuple[Let, ...]

    def replacement(self, einsum: int) -> dict[str, Expr]:
        """Rank variable → index, for the variables of an Einsum."""
        pairs = zip(self.ranks, self.at, strict=True)
        return {r.variables[einsum]: index for r, index in pairs if einsum in r.variables}

    def seen(self, dtype: DType, *, after: bool) -> Expr:
        """How many positions the steps before this one hold, this one included where ``after``."""
        extent = self.extents[-1]
        first = op("mod", self.step, self.inner_steps) if len(self.ranks) > 1 else self.step
        if after:
            end = op("mul", op("add", first, integer(1)), self.tile)
            here = end if self.bound is None else op("min", end, extent)
        else:
            here = op("mul", first, self.tile)
        if len(self.ranks) > 1:
            here = op("add", op("mul", op("floordiv", self.step, self.inner_steps), extent), here)
        return Cast(value=here, dtype=dtype)

    def total(self, dtype: DType) -> Expr:
        """All positions."""
        result = self.extents[0]
        for extent in self.extents[1:]:
            result = op("mul", result, extent)
        return Cast(value=result, dtype=dtype)


def partition(
    structure: Structure, ranks: tuple[RankClass, ...], einsum: int, tile: int, names: Names, origin: Origin
) -> Partition:
    """The partition of ``ranks`` as Einsum ``einsum`` iterates them, into tiles of ``tile`` positions."""
    cascade = structure.cascade
    extents = tuple(cascade.einsums[einsum].extent(r.variables[einsum]) for r in ranks)
    last, extent = ranks[-1].name.rstrip("'"), extents[-1]
    inner_name = names.rank(f"{last}0")
    tile_size = size(names.size(f"{last.upper()}0"))
    count = size(names.size(f"{last.upper()}1"))
    lets = [
        Let(name=tile_size.name, value=integer(tile), origin=origin),
        Let(name=count.name, value=op("ceildiv", extent, tile_size), origin=origin),
    ]
    known = constant_value(extent, structure.lets)
    exact = known is not None and known % tile == 0
    inner = rank(inner_name)
    if len(ranks) == 1:
        step = rank(names.rank(f"{last}1"))
        at: tuple[Expr, ...] = (op("add", op("mul", step, tile_size), inner),)
        steps = count
    else:
        step = rank(names.rank("".join(r.name.rstrip("'") for r in ranks) + "1"))
        steps = size(names.size(step.name.upper()))
        total: Expr = extents[0]
        for each in (*extents[1:-1], count):
            total = op("mul", total, each)
        lets.append(Let(name=steps.name, value=total, origin=origin))
        rest: Expr = op("floordiv", step, count)
        outer: list[Expr] = []
        for each in reversed(extents[1:-1]):
            outer.append(op("mod", rest, each))
            rest = op("floordiv", rest, each)
        outer.append(rest)
        at = (*reversed(outer), op("add", op("mul", op("mod", step, count), tile_size), inner))
    return Partition(
        ranks=ranks,
        step=step,
        inner=inner,
        steps=steps,
        tile=tile_size,
        at=at,
        bound=None if exact else op("lt", at[-1], extent),
        extents=extents,
        inner_steps=count,
        lets=tuple(lets),
    )


def extents_with(partition: Partition, extents: Mapping[str, Expr]) -> dict[str, Expr]:
    """The extents of an Einsum's ranks after the partition."""
    return {**extents, partition.step.name: partition.steps, partition.inner.name: partition.tile}

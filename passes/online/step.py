"""The Einsums of one step of a chain: tiles, running values, and expressions over them before and after the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ...ir.cascade import Cascade, Einsum, Origin, Role, Tensor
from ...ir.expr import (
    Cast,
    Const,
    Default,
    Expr,
    Op,
    Rank,
    Read,
    Select,
    children,
    integer,
    op,
    rank,
    ranks_of,
    reads_of,
    with_children,
)
from ...ir.operators import REDUCTIONS
from ...ir.types import F32, DType
from ..analysis.signs import non_negative
from ..analysis.structure import varies
from ..construct import both, einsum, is_small, local, result_type, widened
from ..names import Names
from .chain import Chain
from .participants import Participants
from .partition import Partition, Parts, extents_with, partition
from .ratio import Ratio

MADE_BY = "online"


class Step:
    """What is emitted for a chain, Einsum by Einsum, and where the tensors of the source are found within a step."""

    def __init__(self, chain: Chain, tile: int, parts: Parts | None = None, beside: Cascade | None = None) -> None:
        self.chain, self.structure, self.cascade = chain, chain.structure, chain.structure.cascade
        self.part = Participants(chain)
        self.members, self.states, self.scaled = self.part.members, self.part.states, self.part.scaled
        self.names = Names(self.cascade, beside)
        first = chain.members[0].index
        origin = Origin(span=self.cascade.einsums[first].origin.span, made_by="online:partition")
        self.cut: Partition = partition(self.structure, chain.ranks, first, tile, self.names, origin, parts)
        self.parts: tuple[Rank, ...] = () if self.cut.part is None else (self.cut.part,)
        self.now: tuple[Expr, ...] = (self.cut.step, *self.parts)
        self.following: tuple[Expr, ...] = (op("add", self.cut.step, integer(1)), *self.parts)
        self.einsums: list[Einsum] = []
        self.tensors: dict[str, Tensor] = {}
        self.tile_of: dict[str, str] = {}
        self.view_of: dict[Read, str] = {}
        self.running: dict[str, str] = {}
        self.base_of: dict[str, str] = {}
        self.mean_of: dict[str, str] = {}
        ratios = [m.correction for m in chain.members if isinstance(m.correction, Ratio)]
        self.poles = {self.part.meaning(s) for ratio in ratios for s in ratio.poles}

    # -- expressions within a step -----------------------------------------------------------------------------------

    def _in_step(self, expr: Expr, i: int) -> Expr:
        """An expression of Einsum ``i`` at the positions of a tile, with running results as of the end of the step."""
        match expr:
            case Read(tensor=tensor) if tensor in self.tile_of:
                return self._read(self.tile_of[tensor], self._tile_indices(expr, i))
            case Read(tensor=tensor) if tensor in self.states or tensor in self.base_of:
                return self._safe(expr, self._after(expr))
            case Read() if expr in self.view_of:
                return self._view_read(expr, i)
            case Rank(name=name):
                return self.cut.replacement(i).get(name, expr)
            case _ if expr in self.poles:
                return self._safe(expr, with_children(expr, tuple(self._in_step(c, i) for c in children(expr))))
            case _:
                return with_children(expr, tuple(self._in_step(c, i) for c in children(expr)))

    def _tile_indices(self, read: Read, i: int) -> tuple[Expr, ...]:
        writer = self.structure.writer(read.tensor)
        assert writer is not None
        return self._cut_dims(writer, self.cascade.einsums[writer].coords, read.indices, i)

    def _cut_dims(self, writer: int, coords: tuple[Expr, ...], indices: tuple[Expr, ...], i: int) -> tuple[Expr, ...]:
        """Indices of a tile: step and inner position in the place of the tiled rank, no index for the others of the chain."""
        own = [each.variables.get(writer) for each in self.chain.ranks]
        result: list[Expr] = []
        for coord, index in zip(coords, indices, strict=True):
            name = coord.name if isinstance(coord, Rank) else None
            if name is not None and name == own[-1]:
                result += [*self.parts, self.cut.step, self.cut.inner]
            elif name is None or name not in own:
                result.append(self._in_step(index, i))
        return tuple(result)

    def _after(self, expr: Expr) -> Expr:
        """An expression over results, with their running values at the end of the step."""
        match expr:
            case Read(tensor=tensor, indices=indices) if tensor in self.scaled and tensor in self.mean_of:
                return self._read(self.mean_of[tensor], (*self.now, *indices))
            case Read(tensor=tensor, indices=indices) if tensor in self.running:
                return self._read(self.running[tensor], (*self.following, *indices))
            case Read(tensor=tensor, indices=indices) if tensor in self.base_of:
                return self._read(self.base_of[tensor], (*self.now, *indices))
            case _:
                return with_children(expr, tuple(self._after(c) for c in children(expr)))

    def _before(self, expr: Expr) -> Expr:
        """An expression over results, with their running values before the step."""
        match expr:
            case Read(tensor=tensor, indices=indices) if tensor in self.running:
                value = self._held(self.running[tensor], indices)
                if tensor not in self.scaled:
                    return value
                # Nothing was seen before the first step: the sum is 0 there, whatever it is divided by.
                seen = self._seen(value.dtype)
                assert isinstance(seen, Cast)
                count = Cast(value=op("max", seen.value, integer(1)), dtype=value.dtype)
                return op("mul", value, op("div", self.cut.total(value.dtype), count))
            case Read(tensor=tensor) if tensor in self.base_of:
                inner = self.structure.inlined(expr)
                assert inner is not None
                return self._before(inner)
            case _:
                return with_children(expr, tuple(self._before(c) for c in children(expr)))

    def _held(self, state: str, indices: tuple[Expr, ...]) -> Read:
        """The running value of a state before the step."""
        return self._read(state, (*self.now, *indices))

    def _seen(self, dtype: DType) -> Expr:
        """How many positions were seen before the step."""
        return self.cut.seen(dtype, after=False)

    def _read(self, tensor: str, indices: tuple[Expr, ...]) -> Read:
        return Read(tensor=tensor, indices=indices, dtype=self.tensors[tensor].value)

    def _safe(self, meaning: Expr, value: Expr) -> Expr:
        """A base that data may be shifted or divided by also on a prefix that holds nothing finite: 1 for a divisor that is 0,
        infinite or NaN there."""
        zero, one = (Const(value=float(v), dtype=value.dtype) for v in (0, 1))
        if meaning in self.poles:
            infinity = Const(value=float("inf"), dtype=value.dtype)
            size = value if non_negative(meaning, self.cascade) else op("abs", value)
            usable = both(op("gt", size, zero), op("lt", size, infinity))
            return Select(condition=usable, then=value, otherwise=one, dtype=value.dtype)
        identity = self._infinite_identity(meaning)
        if identity is None:
            return value
        infinite = Const(value=identity, dtype=value.dtype)
        return Select(condition=op("eq", value, infinite), then=zero, otherwise=value, dtype=value.dtype)

    def _unseen(self, meaning: Expr) -> Expr | None:
        """The condition that a running extreme behind a base is, before the step, still the infinity that it starts from (sums
        are 0 then, and 0 times infinity would be NaN). None where the base is such an extreme itself, or rests on none."""
        if self._infinite_identity(meaning) is not None:
            return None
        condition: Expr | None = None
        for read, identity in dict(self._extremes(meaning)).items():
            unset = op("eq", self._before(read), Const(value=identity, dtype=read.dtype))
            condition = unset if condition is None else op("or", condition, unset)
        return condition

    def _extremes(self, expr: Expr) -> Iterator[tuple[Read, float]]:
        """The results behind an expression that start from an infinity, and which it is."""
        for read in reads_of(expr):
            if read.tensor in self.base_of:
                inner = self.structure.inlined(read)
                assert inner is not None
                yield from self._extremes(inner)
            elif (identity := self._infinite_identity(read)) is not None:
                yield read, identity

    def _infinite_identity(self, expr: Expr) -> float | None:
        """The infinity that a running extreme starts from, where an expression is one or extends one by the same operator."""
        match expr:
            case Read(tensor=tensor) if tensor in self.states:
                made = self.cascade.einsums[self.states[tensor]]
                assert made.reduction is not None
                identity = REDUCTIONS[made.reduction].identity(expr.dtype)
                return identity if expr.dtype.is_float and abs(identity) == float("inf") else None
            case Read(tensor=tensor) if tensor in self.base_of:
                inner = self.structure.inlined(expr)
                return None if inner is None else self._infinite_identity(inner)
            case Op(op=name, args=args) if name in {r.combine for r in REDUCTIONS.values()}:
                for each in args:
                    found = self._infinite_identity(each)
                    if found is not None and REDUCTIONS[name].identity(expr.dtype) == found:
                        return found
                return None
            case _:
                return None

    # -- tiles -------------------------------------------------------------------------------------------------------

    def _tile(self, i: int) -> None:
        """An Einsum over the ranks, one tile at a time."""
        written = self.cascade.einsums[i]
        tensor = self.cascade.by_name[written.target]
        name = self.names.tensor(f"B{written.target}")
        where = [self._in_step(c, i) for c in (*written.output_filter, *written.point_filter)]
        if written.reduction is not None or not self._is_strict(written.value, i):
            where += self.cut.bounds
        made = einsum(
            target=name,
            coords=self._cut_dims(i, written.coords, written.coords, i),
            value=widened(self._in_step(written.value, i)),
            extents=self._extents(i),
            origin=replace(written.origin, made_by=f"{MADE_BY}:tile"),
            reduction=written.reduction,
            where=where,
        )
        # An unannotated small float states a minimum precision only.
        wider = is_small(tensor.value) and not tensor.annotated
        self._add(made, F32 if wider else tensor.value, declared=True)
        if wider:
            self.tensors[name] = replace(self.tensors[name], minimum=tensor.value)
        self.tile_of[written.target] = name

    def _is_strict(self, value: Expr, i: int) -> bool:
        """Whether a value is absent beyond the end of the ranks because something that it always reads is."""
        if len(self.cut.bounds) > 1:
            return False
        match value:
            case Read(indices=indices):
                own = [v for v in (each.variables.get(i) for each in self.chain.ranks[-1:]) if v is not None]
                return any(isinstance(index, Rank) and index.name in own for index in indices)
            case Default():
                return False
            case Select(condition=condition):
                return self._is_strict(condition, i)
            case _:
                return any(self._is_strict(c, i) for c in children(value))

    def _base(self, i: int) -> None:
        """A pointwise Einsum over running results, as of the end of each step."""
        written = self.cascade.einsums[i]
        name = self.names.tensor(f"B{written.target}")
        made = einsum(
            target=name,
            coords=(*self.now, *written.coords),
            value=widened(self._after(written.value)),
            extents=self._extents(i),
            origin=replace(written.origin, made_by=f"{MADE_BY}:base"),
        )
        self._add(made, self.cascade.by_name[written.target].value)
        self.base_of[written.target] = name

    def _extents(self, i: int) -> dict[str, Expr]:
        return extents_with(self.cut, {r.name: r.extent for r in self.cascade.einsums[i].ranks})

    def _add(self, made: Einsum, dtype: DType, *, declared: bool = False) -> None:
        extents = {r.name: r.extent for r in made.ranks}
        shape = tuple(self._extent_of(c, extents) for c in made.coords)
        self.einsums.append(made)
        kind = dtype if declared else result_type(made.reduction, made.value.dtype)
        self.tensors[made.target] = local(made.target, kind, shape, made.origin, declared=declared)

    @staticmethod
    def _extent_of(coord: Expr, extents: Mapping[str, Expr]) -> Expr:
        assert isinstance(coord, Rank)
        return extents[coord.name]

    def _view_read(self, read: Read, i: int) -> Expr:
        """The point of a tile of a tensor that stays: the ranks of the read in order, step and position for the tiled one."""
        own = [each.variables.get(i) for each in self.chain.ranks]
        indices: list[Expr] = []
        for name in dict.fromkeys(n for index in read.indices for n in ranks_of(index)):
            if name == own[-1]:
                indices += [*self.parts, self.cut.step, self.cut.inner]
            elif name not in own:
                indices.append(rank(name))
        return Read(tensor=self.view_of[read], indices=tuple(indices), dtype=read.dtype)

    def _view(self, read: Read, i: int) -> None:
        """A tile of a tensor that stays as it is, so that something is indexed by the position in the tile itself."""
        if read in self.view_of:
            return
        value = with_children(read, tuple(self._in_step(index, i) for index in read.indices))
        name = self.names.tensor(f"B{read.tensor}")
        self.view_of[read] = name
        access = self._view_read(read, i)
        assert isinstance(access, Read)
        origin = Origin(span=self.cascade.einsums[i].origin.span, made_by=f"{MADE_BY}:tile")
        where = () if self._is_strict(read, i) else self.cut.bounds
        made = einsum(target=name, coords=access.indices, value=value, extents=self._extents(i), origin=origin, where=where)
        self._add(made, read.dtype, declared=True)

    def _ensure_tile(self, values: Iterable[Expr], i: int) -> None:
        """Gives the positions within a tile an extent: some read of a reduction must be indexed by them directly."""
        everything = tuple(values)
        if any(r.tensor in self.tile_of or r in self.view_of for value in everything for r in reads_of(value)):
            return
        names = [v for v in (each.variables.get(i) for each in self.chain.ranks[-1:]) if v is not None]
        candidates = [
            r
            for value in everything
            for r in reads_of(value)
            if varies(r, names) and r.tensor not in self.states and r.tensor not in self.base_of and not _nested(r, value)
        ]
        self._view(min(candidates, key=lambda r: len(r.indices)), i)

    # -- running values ----------------------------------------------------------------------------------------------

    def _local(self, wish: str, written: Einsum, value: Expr, i: int, outputs: tuple[Rank, ...], origin: Origin) -> Read:
        """The reduction of one tile."""
        where = [self._in_step(c, i) for c in written.point_filter]
        if not any(self._is_strict(e, i) for e in (value, *written.point_filter)):
            where += self.cut.bounds
        made = einsum(
            target=self.names.tensor(wish),
            coords=(*self.now, *outputs),
            value=widened(self._in_step(value, i)),
            extents=self._extents(i),
            origin=origin,
            reduction=written.reduction,
            where=where,
        )
        self._add(made, made.value.dtype)
        here = Read(tensor=made.target, indices=made.coords, dtype=self.tensors[made.target].value)
        return self._present(wish, here, made) if made.output_filter else here

    def _present(self, wish: str, here: Read, reduced: Einsum) -> Read:
        """A reduction of one tile, the identity where a condition on the outer ranks alone leaves the whole tile out.

        Within the step it decides the output: without this, what is absent once would be absent for ever.
        """
        assert reduced.reduction is not None
        identity = Const(value=REDUCTIONS[reduced.reduction].identity(here.dtype), dtype=here.dtype)
        made = einsum(
            target=self.names.tensor(wish),
            coords=reduced.coords,
            value=Default(value=here, default=identity, dtype=here.dtype),
            extents={r.name: r.extent for r in reduced.ranks},
            origin=reduced.origin,
        )
        self._add(made, here.dtype)
        return replace(here, tensor=made.target)

    def _start(self, wish: str, written: Einsum, outputs: tuple[Rank, ...], dtype: DType, origin: Origin) -> str:
        """An iterative tensor and its first generation, the identity."""
        assert written.reduction is not None
        name = self.names.tensor(wish)
        identity = REDUCTIONS[written.reduction].identity(dtype)
        extents = extents_with(self.cut, {r.name: r.extent for r in written.ranks})
        coords = (*self.parts, *outputs)
        first = einsum(
            target=name,
            coords=(integer(0), *coords),
            value=Const(value=identity, dtype=dtype),
            extents=extents,
            origin=origin,
            initialiser=True,
        )
        self.einsums.append(first)
        self.tensors[name] = Tensor(
            name=name,
            dtype=dtype,
            shape=(op("add", self.cut.steps, integer(1)), *(extents[o.name] for o in coords)),
            role=Role.LOCAL,
            steps=(self.cut.steps, *(None for _ in coords)),
            origin=origin,
        )
        return name

    def _advance(self, name: str, written: Einsum, outputs: tuple[Rank, ...], value: Expr, origin: Origin) -> None:
        extents = extents_with(self.cut, {r.name: r.extent for r in written.ranks})
        self.einsums.append(
            einsum(target=name, coords=(*self.following, *outputs), value=value, extents=extents, origin=origin)
        )


def _nested(read: Read, value: Expr) -> bool:
    """Whether a read occurs only inside the index of another."""
    return any(read in reads_of(index) for other in reads_of(value) for index in other.indices)

"""Online derivation: a chain of reductions computed in one pass over tiles, each running result corrected as it goes.

Requires a chain (chain.py): associative reductions over the same ranks, each with the correction that the ratio test or the
closure proved. Emits, with r → (r1, r0):

    D[0]     = identity                     L[r1] = ⊕ over r0 of F(x[r1, r0], D[r1+1])
    C[r1]    = ρ(D[r1], D[r1+1])            D[r1+1] = (C[r1] ⊗ D[r1]) ⊕ L[r1]

Readers of a result use D[R1]. Pointwise Einsums and contractions that only feed the chain become tiles of their own, as in
FuseMax's one-pass cascade; those with other readers stay, and the chain reads them tile by tile.

On a prefix on which all data is -inf the running maximum is -inf: data is shifted by 0 there, and a correction whose
base did not move is the neutral element, so that (-inf) - (-inf) never arises (condition C6). A sum that the data is shifted
by (a mean) is scaled to what was seen so far; its last value is the true one (C5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sympy

from ..ir.cascade import Cascade, Einsum, Origin, Role, Tensor
from ..ir.expr import (
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
from ..ir.operators import REDUCTIONS
from ..ir.types import BOOL, DType
from .chain import Chain, Member
from .closure import Closure
from .construct import both, einsum, local, redirect_einsum, result_type, rewritten, typed
from .names import Names
from .partition import Partition, extents_with, partition
from .ratio import Ratio, primed
from .signs import non_negative
from .structure import varies
from .symbolic import Term, to_expr

MADE_BY = "online"


def online_form(chain: Chain, tile: int) -> tuple[Cascade, Partition]:
    """The cascade with ``chain`` computed in one pass over tiles of ``tile`` positions."""
    return _Online(chain, tile).build()


class _Online:
    """The construction of one online form."""

    def __init__(self, chain: Chain, tile: int) -> None:
        self.chain, self.structure, self.cascade = chain, chain.structure, chain.structure.cascade
        self.names = Names(self.cascade)
        self.members = {m.index: m for m in chain.members}
        first = chain.members[0].index
        origin = Origin(span=self.cascade.einsums[first].origin.span, made_by="online:partition")
        self.cut: Partition = partition(self.structure, chain.ranks, first, tile, self.names, origin)
        self.following = op("add", self.cut.step, integer(1))
        self.states = {self.cascade.einsums[i].target: i for i in self.members}
        self.einsums: list[Einsum] = []
        self.tensors: dict[str, Tensor] = {}
        self.tile_of: dict[str, str] = {}
        self.view_of: dict[Read, str] = {}
        self.running: dict[str, str] = {}
        self.base_of: dict[str, str] = {}
        self.factors: dict[Expr, tuple[str, tuple[Expr, ...]]] = {}
        self.scaled = self._scaled()
        self.mean_of: dict[str, str] = {}
        self.further: dict[tuple[object, ...], Expr] = {}
        self.poles = {
            self._meaning(s) for m in chain.members if isinstance(m.correction, Ratio) for s in m.correction.poles
        }
        self.absorbed = self._absorbed()
        self.needed_bases = self._needed_bases()

    def build(self) -> tuple[Cascade, Partition]:
        for i in self._order():
            if i in self.members:
                self._reduction(self.members[i])
            elif i in self.needed_bases:
                self._base(i)
            else:
                self._tile(i)
        return self._finished(), self.cut

    # -- what takes part ---------------------------------------------------------------------------------------------

    def _meaning(self, symbol: sympy.Symbol) -> Expr:
        return self.chain.vocabulary.meaning[symbol]

    def _scaled(self) -> frozenset[str]:
        """The sums by which data is shifted: their running values are scaled to what was seen so far."""
        found: set[str] = set()
        for member in self.chain.members:
            if isinstance(member.correction, Closure):
                for symbol in member.correction.shifted:
                    found |= self._states_behind(self._meaning(symbol))
        return frozenset(t for t in found if self.cascade.einsums[self.states[t]].reduction == "+")

    def _states_behind(self, expr: Expr) -> set[str]:
        found: set[str] = set()
        for read in reads_of(expr):
            if read.tensor in self.states:
                found.add(read.tensor)
            else:
                writer = self.structure.writer(read.tensor)
                if writer in self.chain.bases:
                    assert writer is not None
                    found |= self._states_behind(self.cascade.einsums[writer].value)
        return found

    def _order(self) -> list[int]:
        """Members, tiles and needed bases in the order of execution."""
        part = set(self.members) | self.absorbed | self.needed_bases
        return [i for i in self.structure.straight if i in part]

    def _readers(self, tensor: str) -> list[int]:
        return [i for i, e in enumerate(self.cascade.einsums) if any(r.tensor == tensor for r in e.reads())]

    def _carries_all(self, i: int) -> bool:
        names = self.cascade.einsums[i].output_ranks
        return all(each.variables.get(i) in names for each in self.chain.ranks)

    def _absorbed(self) -> set[int]:
        """The Einsums that are computed tile by tile: what depends on running results and members need, and what nothing
        else reads."""
        dependent = {i for i in self.chain.tiles if self._feeds_members(i)}
        part = set(self.members) | dependent
        while True:
            more: set[int] = set()
            for reader in part:
                for read in self.cascade.einsums[reader].reads():
                    i = self.structure.writer(read.tensor)
                    if i is None or i in part or read.tensor in self.states or not self.structure.is_plain(i):
                        continue
                    if not self._carries_all(i) or self.cascade.by_name[read.tensor].role is not Role.LOCAL:
                        continue
                    if all(r in part and self._reads_in_step(r, read.tensor) for r in self._readers(read.tensor)):
                        more.add(i)
            if not more:
                return part - set(self.members)
            part |= more

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

    # -- expressions within a step -----------------------------------------------------------------------------------

    def _in_step(self, expr: Expr, i: int) -> Expr:
        """An expression of Einsum ``i`` at the positions of a tile, with running results as of the end of the step."""
        match expr:
            case Read(tensor=tensor) if tensor in self.tile_of:
                return replace(expr, tensor=self.tile_of[tensor], indices=self._tile_indices(expr, i))
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

    def _cut_dims(
        self, writer: int, coords: tuple[Expr, ...], indices: tuple[Expr, ...], i: int
    ) -> tuple[Expr, ...]:
        """Indices of a tile: step and inner position in the place of the tiled rank, no index for the others of the chain."""
        own = [each.variables.get(writer) for each in self.chain.ranks]
        result: list[Expr] = []
        for coord, index in zip(coords, indices, strict=True):
            name = coord.name if isinstance(coord, Rank) else None
            if name is not None and name == own[-1]:
                result += [self.cut.step, self.cut.inner]
            elif name is None or name not in own:
                result.append(self._in_step(index, i))
        return tuple(result)

    def _after(self, expr: Expr) -> Expr:
        """An expression over results, with their running values at the end of the step."""
        match expr:
            case Read(tensor=tensor, indices=indices) if tensor in self.scaled and tensor in self.mean_of:
                return replace(expr, tensor=self.mean_of[tensor], indices=(self.cut.step, *indices))
            case Read(tensor=tensor, indices=indices) if tensor in self.running:
                return replace(expr, tensor=self.running[tensor], indices=(self.following, *indices))
            case Read(tensor=tensor, indices=indices) if tensor in self.base_of:
                return replace(expr, tensor=self.base_of[tensor], indices=(self.cut.step, *indices))
            case _:
                return with_children(expr, tuple(self._after(c) for c in children(expr)))

    def _before(self, expr: Expr) -> Expr:
        """An expression over results, with their running values before the step."""
        match expr:
            case Read(tensor=tensor, indices=indices) if tensor in self.running:
                value = replace(expr, tensor=self.running[tensor], indices=(self.cut.step, *indices))
                if tensor not in self.scaled:
                    return value
                # Nothing was seen before the first step: the sum is 0 there, whatever it is divided by.
                seen = self.cut.seen(expr.dtype, after=False)
                assert isinstance(seen, Cast)
                count = Cast(value=op("max", seen.value, integer(1)), dtype=expr.dtype)
                return op("mul", value, op("div", self.cut.total(expr.dtype), count))
            case Read(tensor=tensor) if tensor in self.base_of:
                inner = self.structure.inlined(expr)
                assert inner is not None
                return self._before(inner)
            case _:
                return with_children(expr, tuple(self._before(c) for c in children(expr)))

    def _safe(self, meaning: Expr, value: Expr) -> Expr:
        """A base that data may be shifted or divided by also on a prefix that holds nothing finite."""
        zero, one = (Const(value=float(v), dtype=value.dtype) for v in (0, 1))
        if meaning in self.poles:
            if non_negative(meaning, self.cascade):
                return Select(condition=op("gt", value, zero), then=value, otherwise=one, dtype=value.dtype)
            return Select(condition=op("eq", value, zero), then=one, otherwise=value, dtype=value.dtype)
        identity = self._infinite_identity(meaning)
        if identity is None:
            return value
        infinite = Const(value=identity, dtype=value.dtype)
        return Select(condition=op("eq", value, infinite), then=zero, otherwise=value, dtype=value.dtype)

    def _infinite_identity(self, expr: Expr) -> float | None:
        """The infinity that a running extreme starts from, where an expression is one or is made of one by the same operator."""
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
        if self.cut.bound is not None and (written.reduction is not None or not self._is_strict(written.value, i)):
            where.append(self.cut.bound)
        made = einsum(
            target=name,
            coords=self._cut_dims(i, written.coords, written.coords, i),
            value=self._in_step(written.value, i),
            extents=self._extents(i),
            origin=replace(written.origin, made_by=f"{MADE_BY}:tile"),
            reduction=written.reduction,
            where=where,
        )
        self._add(made, tensor.value, declared=True)
        self.tile_of[written.target] = name

    def _is_strict(self, value: Expr, i: int) -> bool:
        """Whether a value is absent beyond the end of the ranks because something that it always reads is."""
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
            coords=(self.cut.step, *written.coords),
            value=self._after(written.value),
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
                indices += [self.cut.step, self.cut.inner]
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
        where = () if self.cut.bound is None or self._is_strict(read, i) else (self.cut.bound,)
        made = einsum(target=name, coords=access.indices, value=value, extents=self._extents(i), origin=origin, where=where)
        self._add(made, read.dtype, declared=True)

    def _ensure_tile(self, value: Expr, i: int) -> None:
        """Gives the positions within a tile an extent: some read must be indexed by them directly."""
        if any(r.tensor in self.tile_of or r in self.view_of for r in reads_of(value)):
            return
        names = [v for v in (each.variables.get(i) for each in self.chain.ranks) if v is not None]
        candidates = [
            r
            for r in reads_of(value)
            if varies(r, names) and r.tensor not in self.states and r.tensor not in self.base_of and not _nested(r, value)
        ]
        self._view(min(candidates, key=lambda r: len(r.indices)), i)

    # -- reductions --------------------------------------------------------------------------------------------------

    def _reduction(self, member: Member) -> None:
        i, written = member.index, self.cascade.einsums[member.index]
        assert written.reduction is not None
        origin = replace(written.origin, made_by=f"{MADE_BY}:{_rule(member)}")
        outputs = tuple(c for c in written.coords if isinstance(c, Rank))
        self._ensure_tile(written.value, i)
        here = self._local(f"L{written.target}", written, written.value, i, outputs, origin)
        correction = member.correction
        name = self._start(f"R{written.target}", written, outputs, here.dtype, origin)
        self.running[written.target] = name
        previous = Read(tensor=name, indices=(self.cut.step, *outputs), dtype=here.dtype)
        match correction:
            case None:
                corrected: Expr = previous
            case Ratio():
                corrected = self._rescaled(written, correction, previous, origin)
            case Closure():
                corrected = self._recentred(member, written, correction, previous, origin)
        combine = REDUCTIONS[written.reduction].combine
        self._advance(name, written, outputs, Op(op=combine, args=(corrected, here), dtype=here.dtype), origin)
        if written.target in self.scaled:
            self._mean(written, name, outputs, here.dtype, origin)

    def _local(
        self, wish: str, written: Einsum, value: Expr, i: int, outputs: tuple[Rank, ...], origin: Origin
    ) -> Read:
        """The reduction of one tile."""
        where = [self._in_step(c, i) for c in written.point_filter]
        if self.cut.bound is not None and not any(self._is_strict(e, i) for e in (value, *written.point_filter)):
            where.append(self.cut.bound)
        made = einsum(
            target=self.names.tensor(wish),
            coords=(self.cut.step, *outputs),
            value=self._in_step(value, i),
            extents=self._extents(i),
            origin=origin,
            reduction=written.reduction,
            where=where,
        )
        self._add(made, value.dtype)
        return Read(tensor=made.target, indices=made.coords, dtype=self.tensors[made.target].value)

    def _start(
        self, wish: str, written: Einsum, outputs: tuple[Rank, ...], dtype: DType, origin: Origin
    ) -> str:
        """An iterative tensor and its first generation, the identity."""
        assert written.reduction is not None
        name = self.names.tensor(wish)
        identity = REDUCTIONS[written.reduction].identity(dtype)
        extents = {r.name: r.extent for r in written.ranks}
        first = einsum(
            target=name,
            coords=(integer(0), *outputs),
            value=Const(value=identity, dtype=dtype),
            extents=extents,
            origin=origin,
            initialiser=True,
        )
        self.einsums.append(first)
        self.tensors[name] = Tensor(
            name=name,
            dtype=dtype,
            shape=(op("add", self.cut.steps, integer(1)), *(extents[o.name] for o in outputs)),
            role=Role.LOCAL,
            steps=(self.cut.steps, *(None for _ in outputs)),
            origin=origin,
        )
        return name

    def _advance(self, name: str, written: Einsum, outputs: tuple[Rank, ...], value: Expr, origin: Origin) -> None:
        extents = extents_with(self.cut, {r.name: r.extent for r in written.ranks})
        self.einsums.append(
            einsum(target=name, coords=(self.following, *outputs), value=value, extents=extents, origin=origin)
        )

    def _mean(self, written: Einsum, name: str, outputs: tuple[Rank, ...], dtype: DType, origin: Origin) -> None:
        """The running sum scaled to what was seen so far."""
        total = Read(tensor=name, indices=(self.following, *outputs), dtype=dtype)
        scale = op("div", self.cut.total(dtype), self.cut.seen(dtype, after=True))
        made = einsum(
            target=self.names.tensor(f"M{written.target}"),
            coords=(self.cut.step, *outputs),
            value=op("mul", total, scale),
            extents=extents_with(self.cut, {r.name: r.extent for r in written.ranks}),
            origin=replace(origin, made_by=f"{MADE_BY}:mean"),
        )
        self._add(made, dtype)
        self.mean_of[written.target] = made.target

    # -- corrections -------------------------------------------------------------------------------------------------

    def _bases(self, correction: Ratio | Closure, dtype: DType) -> tuple[dict[sympy.Symbol, Expr], dict[sympy.Symbol, Expr]]:
        """What the bases before and after a step mean."""
        before = {s: typed(self._before(self._meaning(s)), dtype) for s in correction.before}
        after = {primed(s): typed(self._after(self._meaning(s)), dtype) for s in correction.before}
        return before, after

    def _constants(self) -> dict[sympy.Symbol, Expr]:
        return {s: e for s, e in self.chain.vocabulary.meaning.items() if s.name[0] == "c"}

    def _rescaled(self, written: Einsum, correction: Ratio, previous: Read, origin: Origin) -> Expr:
        """The running result times (or plus) ρ; equal factors are computed once."""
        dtype = previous.dtype
        before, after = self._bases(correction, dtype)
        for symbol in correction.poles:
            before[symbol] = self._safe(self._meaning(symbol), before[symbol])
            after[primed(symbol)] = self._safe(self._meaning(symbol), after[primed(symbol)])
        value = to_expr(correction.term, {**before, **after, **self._constants()}, dtype)
        neutral = Const(value=1.0 if correction.operator == "mul" else 0.0, dtype=dtype)
        same: Expr | None = None
        if any(self._infinite_identity(self._meaning(s)) is not None and s not in correction.poles for s in correction.before):
            for s in correction.before:
                unmoved = op("eq", before[s], after[primed(s)])
                same = unmoved if same is None else both(same, unmoved)
        if same is not None:
            value = Select(condition=same, then=neutral, otherwise=value, dtype=dtype)
        factor = self._shared(value, written, self._named_after(correction), origin)
        return Op(op=correction.operator, args=(previous, factor), dtype=dtype)

    def _named_after(self, correction: Ratio | Closure) -> str:
        for symbol in correction.before:
            for read in reads_of(self._meaning(symbol)):
                return read.tensor
        return ""

    def _shared(self, value: Expr, written: Einsum, base: str, origin: Origin, prefix: str = "C") -> Read:
        """A tensor over the steps that holds ``value``; one for all equal values."""
        used = set(ranks_of(value)) - {self.cut.step.name}
        coords = (self.cut.step, *(c for c in written.coords if isinstance(c, Rank) and c.name in used))
        if value not in self.factors:
            made = einsum(
                target=self.names.tensor(f"{prefix}{base}"),
                coords=coords,
                value=value,
                extents=extents_with(self.cut, {r.name: r.extent for r in written.ranks}),
                origin=replace(origin, made_by=f"{MADE_BY}:correction"),
            )
            self._add(made, value.dtype)
            self.factors[value] = (made.target, made.coords)
        name, indices = self.factors[value]
        return Read(tensor=name, indices=indices, dtype=value.dtype)

    def _recentred(self, member: Member, written: Einsum, correction: Closure, previous: Read, origin: Origin) -> Expr:
        """The running result at the new base: a combination of itself and of further states."""
        dtype = previous.dtype
        before, after = self._bases(correction, dtype)
        meaning = {**before, **after, **self._constants()}
        for shift in correction.shifts:
            if shift.name not in meaning:
                meaning[shift.name] = self._shift(shift.delta, written, correction, meaning, dtype, origin)
        values: dict[int | None, Expr] = {None: previous}
        carried: dict[int, tuple[Read, Read]] = {}
        for number, state in enumerate(correction.states):
            known = self._known_state(state, member, dtype)
            if known is None:
                carried[number] = self._further_state(number, state, member, written, dtype, origin)
                known = carried[number][0]
            values[number] = known
        for number, (state, here) in carried.items():
            corrected = self._combination(correction.rows[number], values, meaning, dtype)
            outputs = tuple(c for c in state.indices[1:] if isinstance(c, Rank))
            self._advance(state.tensor, written, outputs, op("add", corrected, here), origin)
        return self._combination(correction.rows[None], values, meaning, dtype)

    def _shift(
        self,
        delta: Term,
        written: Einsum,
        correction: Closure,
        meaning: Mapping[sympy.Symbol, Expr],
        dtype: DType,
        origin: Origin,
    ) -> Expr:
        """δ, by how much shifted data moves; 0 before anything finite was seen."""
        value = to_expr(delta, meaning, dtype)
        unset: Expr | None = None
        for symbol in correction.before:
            identity = self._infinite_identity(self._meaning(symbol))
            if identity is not None and symbol in delta.free_symbols:
                empty = op("eq", meaning[symbol], Const(value=identity, dtype=dtype))
                unset = empty if unset is None else op("or", unset, empty)
        if unset is not None:
            zero = Const(value=0.0, dtype=dtype)
            value = Select(condition=unset, then=zero, otherwise=value, dtype=dtype)
        return self._shared(value, written, self._named_after(correction), origin, prefix="D")

    def _combination(
        self,
        row: Mapping[int | None, Term],
        values: Mapping[int | None, Expr],
        meaning: Mapping[sympy.Symbol, Expr],
        dtype: DType,
    ) -> Expr:
        total: Expr | None = None
        for state, coefficient in row.items():
            if coefficient == 0:
                continue
            value = values[state]
            if coefficient != 1:
                value = op("mul", value, to_expr(coefficient, meaning, dtype))
            total = value if total is None else op("add", total, value)
        return Const(value=0.0, dtype=dtype) if total is None else total

    # -- further states of a closure ---------------------------------------------------------------------------------

    def _known_state(self, state: Term, member: Member, dtype: DType) -> Expr | None:
        """The running value of a state before the step where something carries it already.

        What was seen so far needs no state where no point is absent; a multiple of another member's F is that member's.
        """
        i = member.index
        written = self.cascade.einsums[i]
        if state.is_number and not self._masked(written):
            count: Expr = self.cut.seen(dtype, after=False)
            for name in self._missing(written, ()):
                count = op("mul", count, Cast(value=written.extent(name), dtype=dtype))
            return op("mul", count, Const(value=float(state), dtype=dtype)) if state != 1 else count
        key = (state, written.reduced, self.structure.conditions(written))
        if key in self.further:
            return self.further[key]
        for other in self.chain.members:
            theirs = self.cascade.einsums[other.index]
            if other.term is None or theirs.target not in self.running or theirs.reduction != written.reduction:
                continue
            if (theirs.reduced, self.structure.conditions(theirs)) != key[1:]:
                continue
            share = sympy.cancel(sympy.powsimp(state / other.term, combine="exp"))
            if any(s.name[0] != "c" for s in share.free_symbols):
                continue
            outputs = tuple(c for c in theirs.coords if isinstance(c, Rank))
            held = self.tensors[self.running[theirs.target]].value
            value = typed(
                Read(tensor=self.running[theirs.target], indices=(self.cut.step, *outputs), dtype=held), dtype
            )
            return value if share == 1 else op("mul", value, to_expr(share, self._constants(), dtype))
        return None

    def _further_state(
        self, number: int, state: Term, member: Member, written: Einsum, dtype: DType, origin: Origin
    ) -> tuple[Read, Read]:
        """A state of its own: its running value before the step, and the sum of one tile."""
        i = member.index
        value = to_expr(state, self.chain.vocabulary.meaning, dtype)
        tiled = self.chain.ranks[-1].variables[i]
        flags = self._masked(written)
        if not varies(value, (tiled,)):
            flags = (*flags, *(r for r in reads_of(written.value) if varies(r, (tiled,)) and not self._is_result(r)))[:1]
        where = tuple(op("or", op("eq", r, r), Const(value=True, dtype=BOOL)) for r in flags)
        conditions = (*written.point_filter, *where)
        part = replace(written, point_filter=conditions)
        used = {n for e in (value, *conditions) for n in ranks_of(e)}
        outputs = tuple(c for c in written.coords if isinstance(c, Rank) and c.name in used)
        for name in self._missing(written, used):
            value = op("mul", value, Cast(value=written.extent(name), dtype=dtype))
        for each in (value, *where):
            if varies(each, (tiled,)):
                self._ensure_tile(each, i)
        suffix = f"{written.target}{number + 1}"
        here = self._local(f"L{suffix}", part, value, i, outputs, origin)
        name = self._start(f"R{suffix}", part, outputs, here.dtype, origin)
        previous = Read(tensor=name, indices=(self.cut.step, *outputs), dtype=here.dtype)
        self.further[state, written.reduced, self.structure.conditions(written)] = previous
        return previous, here

    def _is_result(self, read: Read) -> bool:
        return read.tensor in self.states or read.tensor in self.base_of

    def _masked(self, written: Einsum) -> tuple[Read, ...]:
        """The reads of a value that may be absent, so that a state without them must still be counted by them."""
        extents = {r.name: r.extent for r in written.ranks}
        reads = (r for r in dict.fromkeys(reads_of(written.value)) if not self._is_result(r))
        return tuple(r for r in reads if not self.structure.always_present(r, extents))

    def _missing(self, written: Einsum, used: Iterable[str]) -> tuple[str, ...]:
        """The reduced ranks beside the chain's that a state does not mention: it is summed over them all the same."""
        own = {each.variables.get(self.structure.cascade.einsums.index(written)) for each in self.chain.ranks}
        return tuple(n for n in written.reduced if n not in own and n not in set(used))

    # -- the whole cascade -------------------------------------------------------------------------------------------

    def _finished(self) -> Cascade:
        """The cascade with the chain in the place of its first member; readers see the last generation."""
        finals = {
            target: (name, (self.cut.steps,))
            for target, name in self.running.items()
            if self.cascade.by_name[target].value == self.tensors[name].value
        }
        first = min(self.members)
        result: list[Einsum] = []
        for i, written in enumerate(self.cascade.einsums):
            if i == first:
                result += self.einsums
            if i not in self.members:
                result.append(redirect_einsum(written, finals))
                continue
            if written.target not in finals or self.cascade.by_name[written.target].role is Role.RESULT:
                result.append(self._final(written))
        return rewritten(self.cascade, tuple(result), self.tensors, self.cut.lets)

    def _final(self, written: Einsum) -> Einsum:
        """A result of the chain that keeps its own tensor."""
        name = self.running[written.target]
        value = Read(tensor=name, indices=(self.cut.steps, *written.coords), dtype=self.tensors[name].value)
        return einsum(
            target=written.target,
            coords=written.coords,
            value=value,
            extents={r.name: r.extent for r in written.ranks},
            origin=replace(written.origin, made_by=f"{MADE_BY}:final"),
        )


def _rule(member: Member) -> str:
    match member.correction:
        case Ratio():
            return "ratio"
        case Closure():
            return "closure"
        case _:
            return "state"


def _nested(read: Read, value: Expr) -> bool:
    """Whether a read occurs only inside the index of another."""
    return any(read in reads_of(index) for other in reads_of(value) for index in other.indices)

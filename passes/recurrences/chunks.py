"""What the chunked forms of recurrences share: a rank cut into chunks, and the Einsums, tensors and sizes that they add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, Let, Origin, Role, Tensor
from ...ir.expr import (
    Default,
    Expr,
    Rank,
    Read,
    Select,
    Size,
    children,
    integer,
    op,
    rank,
    ranks_of,
    size,
    substitute,
    transform,
)
from ...ir.index import constant_value, equal
from ...ir.types import DType, accumulator
from ..construct import einsum, local, result_type, rewritten, typed
from ..names import Names
from .recurrence import MADE_BY, Recurrence, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One rank of ``extent`` steps cut into ``count`` chunks of ``size``: t = chunk*size + step.

    ``other`` and ``between`` are further variables for steps of a chunk; ``exact`` tells that the last chunk is whole.
    """

    extent: Expr
    chunk: Rank
    step: Rank
    other: Rank
    between: Rank
    size: Expr
    count: Expr
    exact: bool
    steps: int

    def at(self, step: Rank) -> Expr:
        """The step of the whole recurrence at a step of a chunk."""
        return op("add", op("mul", self.chunk, self.size), step)

    def bound(self, step: Rank) -> Expr:
        """The condition that a step of a chunk is one of the recurrence's."""
        return op("lt", self.at(step), self.extent)

    @property
    def last(self) -> Expr:
        """The last step of a chunk."""
        return integer(self.steps - 1)


class Chunks:
    """Collects the Einsums of chunked forms and what their states' readers see instead."""

    def __init__(self, cascade: Cascade, chunk: int | None, *, on_gpu: bool = False) -> None:
        self.cascade = cascade
        self.on_gpu = on_gpu
        self.given = chunk
        self.names = Names(cascade)
        self.lets: list[Let] = []
        self.cuts: list[Cut] = []
        self.tensors: dict[str, Tensor] = {}
        self.made: dict[int, list[Einsum]] = {}
        self.replaced: dict[int, Einsum | None] = {}
        self.known: dict[tuple[object, ...], Read] = {}
        self.finals: dict[str, tuple[int, str, Expr]] = {}
        self.place = 0

    def cut(self, found: Recurrence, steps: int) -> Cut:
        """The rank of a recurrence in chunks of ``steps``, or of the number that was asked for; cut once."""
        steps = self.given or steps
        lets = {let.name: let.value for let in self.cascade.lets}
        for each in self.cuts:
            if each.steps == steps and equal(each.extent, found.extent, lets):
                return each
        base = found.variable.rstrip("'")
        known = constant_value(found.extent, lets)
        count: Expr = integer(-(-known // steps)) if known is not None else size(self.names.size(f"{base.upper()}1"))
        if isinstance(count, Size):
            origin = self.cascade.einsums[found.members[0]].origin
            self.lets.append(Let(name=count.name, value=op("ceildiv", found.extent, integer(steps)), origin=origin))
        cut = Cut(
            extent=found.extent,
            chunk=rank(self.names.rank(f"{base}1")),
            step=rank(self.names.rank(f"{base}0")),
            other=rank(self.names.rank(f"{base}0")),
            between=rank(self.names.rank(f"{base}0")),
            size=integer(steps),
            count=count,
            exact=known is not None and known % steps == 0,
            steps=steps,
        )
        self.cuts.append(cut)
        return cut

    @staticmethod
    def extents(cut: Cut, source: Einsum) -> dict[str, Expr]:
        """The extents of an Einsum's ranks and of those of a cut."""
        own = {r.name: r.extent for r in source.ranks}
        inner = dict.fromkeys((cut.step.name, cut.other.name, cut.between.name), cut.size)
        return {**own, cut.chunk.name: cut.count, **inner}

    def add(
        self,
        wish: str,
        coords: tuple[Expr, ...],
        value: Expr,
        extents: Mapping[str, Expr],
        rule: str,
        *,
        reduction: str | None = None,
        where: tuple[Expr, ...] = (),
        source: Einsum,
        dtype: DType | None = None,
    ) -> Read:
        """An Einsum and its tensor, made once; gives the read of what it writes. It is of type ``dtype``, or that of the value
        (what is added up on a GPU is kept in f32)."""
        key = (coords, value, reduction, where, *(extents[n] for c in coords for n in ranks_of(c)))
        if key in self.known:
            return self.known[key]
        origin = Origin(span=source.origin.span, made_by=f"{MADE_BY}:{rule}")
        made = einsum(
            target=self.names.tensor(wish),
            coords=coords,
            value=value,
            extents=extents,
            origin=origin,
            reduction=reduction,
            where=where,
        )
        if dtype is None:
            dtype = result_type(made.reduction, value.dtype)
            dtype = self.wide(dtype) if made.reduction is not None else dtype
        shape = tuple(extents[c.name] for c in coords if isinstance(c, Rank))
        self.tensors[made.target] = local(made.target, dtype, shape, origin, declared=True)
        self.made.setdefault(self.place, []).append(made)
        self.known[key] = Read(tensor=made.target, indices=coords, dtype=dtype)
        return self.known[key]

    def wide(self, dtype: DType) -> DType:
        """The type in which sums of ``dtype`` are kept between chunks and their parts."""
        return accumulator(dtype) if self.on_gpu and dtype.is_float else dtype

    def iterative(
        self,
        wish: str,
        coords: tuple[Expr, ...],
        dim: int,
        start: Expr,
        extents: Mapping[str, Expr],
        rule: str,
        source: Einsum,
    ) -> Read:
        """An iterative tensor and its first generation; ``coords`` hold the step's variable at ``dim``."""
        name = self.names.tensor(wish)
        origin = Origin(span=source.origin.span, made_by=f"{MADE_BY}:{rule}")
        first = tuple(integer(0) if d == dim else c for d, c in enumerate(coords))
        self.made.setdefault(self.place, []).append(
            einsum(target=name, coords=first, value=start, extents=extents, origin=origin, initialiser=True)
        )
        shape = [extents[c.name] for c in coords if isinstance(c, Rank)]
        steps = shape[dim]
        shape[dim] = op("add", steps, integer(1))
        self.tensors[name] = Tensor(
            name=name,
            dtype=start.dtype,
            shape=tuple(shape),
            role=Role.LOCAL,
            steps=tuple(steps if d == dim else None for d in range(len(shape))),
            annotated=True,
            declared=True,
            origin=origin,
        )
        return Read(tensor=name, indices=coords, dtype=start.dtype)

    def advance(self, state: Read, dim: int, value: Expr, extents: Mapping[str, Expr]) -> None:
        """The update of an iterative tensor: ``value`` is its next generation."""
        after = tuple(op("add", c, integer(1)) if d == dim else c for d, c in enumerate(state.indices))
        origin = self.tensors[state.tensor].origin
        made = einsum(target=state.tensor, coords=after, value=value, extents=extents, origin=origin)
        self.made.setdefault(self.place, []).append(made)

    def drop(self, *einsums: int) -> None:
        """Leaves out Einsums of the cascade as it was."""
        self.replaced.update(dict.fromkeys(einsums))

    @staticmethod
    def in_chunk(expr: Expr, found: Recurrence, cut: Cut, step: Rank) -> Expr:
        """An expression of a recurrence's step at a step of a chunk."""
        return substitute(expr, ranks={found.variable: cut.at(step)})

    def piece(
        self,
        wish: str,
        expr: Expr,
        found: Recurrence,
        cut: Cut,
        extents: Mapping[str, Expr],
        outer: tuple[Expr, ...],
        inner: tuple[Expr, ...],
        source: Einsum,
    ) -> Read:
        """An expression over the steps as a tensor over ``outer`` ranks, chunks, their steps and ``inner`` ranks.

        It is absent beyond the last step.
        """
        where = () if cut.exact or _ends(expr, found.variable) else (cut.bound(cut.step),)
        value = self.in_chunk(expr, found, cut, cut.step)
        return self.add(wish, (*outer, cut.chunk, cut.step, *inner), value, extents, "piece", where=where, source=source)

    def _start_of(self, state: State) -> Expr:
        """The first generation of a state, in the rank variables of its update."""
        start, update = self.cascade.einsums[state.start], self.cascade.einsums[state.update]
        pairs = [
            (a, b) for a, b in zip(start.coords, update.coords, strict=True) if isinstance(a, Rank) and isinstance(b, Rank)
        ]
        return substitute(start.value, ranks={a.name: b for a, b in pairs})

    def finished(self) -> Cascade:
        """The cascade with the chunked forms in the places of the loops."""
        result: list[Einsum] = []
        for i, written in enumerate(self.cascade.einsums):
            result += self.made.get(i, [])
            kept = self.replaced.get(i, written)
            if kept is not None:
                result.append(self._finals(kept))
        # What bounded a reader's ranks was the state: its shape now has to be stated.
        readers = [self.cascade.by_name[e.target] for e in self.replaced.values() if e is not None]
        stated = {t.name: replace(t, annotated=True, declared=True) for t in readers if t.role is Role.LOCAL}
        return rewritten(self.cascade, tuple(result), {**stated, **self.tensors}, tuple(self.lets))

    def _finals(self, written: Einsum) -> Einsum:
        """An Einsum whose reads of last generations see those of the chunks."""

        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in self.finals:
                return None
            dim, name, count = self.finals[node.tensor]
            return replace(node, tensor=name, indices=tuple(count if d == dim else i for d, i in enumerate(node.indices)))

        return replace(
            written,
            value=transform(written.value, rule),
            point_filter=tuple(transform(c, rule) for c in written.point_filter),
            output_filter=tuple(transform(c, rule) for c in written.output_filter),
        )

    def between(self, found: Recurrence, cut: Cut, state: State, extents: Mapping[str, Expr], rule: str) -> Read:
        """The state at the starts of the chunks, with its first generation."""
        update = self.cascade.einsums[state.update]
        coords = tuple(cut.chunk if d == state.dim else c for d, c in enumerate(update.coords))
        start = typed(self._start_of(state), self.wide(self.cascade.by_name[state.tensor].value))
        made = self.iterative(f"C{state.tensor}", coords, state.dim, start, extents, rule, update)
        self.finals[state.tensor] = (state.dim, made.tensor, cut.count)
        return made


def coordinates(names: Sequence[str], *more: Rank, then: Sequence[str] = ()) -> tuple[Expr, ...]:
    """Rank variables by name, others, and further ones by name."""
    return (*(rank(n) for n in names), *more, *(rank(n) for n in then))


def with_rank(expr: Expr, old: Rank, new: Expr) -> Expr:
    """``expr`` at another place along one rank."""
    return substitute(expr, ranks={old.name: new})


def _ends(expr: Expr, variable: str) -> bool:
    """Whether an expression is absent beyond the last step because something that it always reads is."""
    match expr:
        case Read(indices=indices):
            return any(isinstance(i, Rank) and i.name == variable for i in indices)
        case Select(condition=condition):
            return _ends(condition, variable)
        case Default():
            return False
        case _:
            return any(_ends(c, variable) for c in children(expr))

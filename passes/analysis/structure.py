"""Facts about a cascade that the rewrites of reductions share: who writes what, what is pointwise, what depends on what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from ...ir.cascade import Cascade, Einsum
from ...ir.dependence import Straight, schedule
from ...ir.expr import Cast, Expr, Rank, Read, conjuncts, ranks_of, reads_of, substitute
from ...ir.types import DType
from .presence import TRUE, Always, PresenceAnalysis, conjunction
from .ranks import RankClass, rank_classes


class Structure:
    """One cascade and the questions that rewrites ask of it. Einsums are named by their index."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.lets = {let.name: let.value for let in cascade.lets}
        self.steps = schedule(cascade)
        self.straight = tuple(step.einsum for step in self.steps if isinstance(step, Straight))
        self.writers: dict[str, list[int]] = {}
        for i, einsum in enumerate(cascade.einsums):
            self.writers.setdefault(einsum.target, []).append(i)

    @cached_property
    def ranks(self) -> tuple[RankClass, ...]:
        return rank_classes(self.cascade)

    @cached_property
    def presence(self) -> PresenceAnalysis:
        analysis = PresenceAnalysis(self.cascade)
        analysis.run(self.steps)
        return analysis

    def class_of(self, einsum: int, variable: str) -> RankClass:
        """The rank of a rank variable. Raises KeyError."""
        for each in self.ranks:
            if each.variables.get(einsum) == variable:
                return each
        raise KeyError(variable)

    def writer(self, tensor: str) -> int | None:
        """The one Einsum that writes a tensor, outside any loop; None for parameters and iterative tensors."""
        writers = self.writers.get(tensor, [])
        return writers[0] if len(writers) == 1 and writers[0] in self.straight else None

    def is_plain(self, i: int) -> bool:
        """Whether an Einsum writes its tensor alone, outside any loop, at coordinates that are distinct rank variables."""
        einsum = self.cascade.einsums[i]
        names = [c.name for c in einsum.coords if isinstance(c, Rank)]
        distinct = len(names) == len(einsum.coords) and len(set(names)) == len(names)
        return distinct and self.writer(einsum.target) == i and not einsum.scatter

    def is_pointwise(self, i: int) -> bool:
        """Whether an Einsum is plain and reduces nothing."""
        return self.cascade.einsums[i].reduction is None and self.is_plain(i)

    def inlined(self, read: Read) -> Expr | None:
        """The value that a pointwise Einsum stores at the point that ``read`` names; None where the read is no such.

        An annotated type narrower than the value forces a rounding, which no rewrite looks through (condition C7).
        """
        i = self.writer(read.tensor)
        if i is None or not self.is_pointwise(i):
            return None
        einsum, tensor = self.cascade.einsums[i], self.cascade.by_name[read.tensor]
        if tensor.annotated and tensor.value != einsum.value.dtype:
            return None
        names = [c.name for c in einsum.coords if isinstance(c, Rank)]
        value = substitute(einsum.value, ranks=dict(zip(names, read.indices, strict=True)))
        return value if value.dtype == read.dtype else Cast(value=value, dtype=read.dtype)

    def filters_at(self, read: Read) -> tuple[Expr, ...]:
        """The conditions of the pointwise Einsum that writes the point that ``read`` names."""
        i = self.writer(read.tensor)
        assert i is not None
        einsum = self.cascade.einsums[i]
        names = [c.name for c in einsum.coords if isinstance(c, Rank)]
        point = dict(zip(names, read.indices, strict=True))
        return tuple(substitute(c, ranks=point) for c in (*einsum.output_filter, *einsum.point_filter))

    def depends_on_reduction(self, expr: Expr, over: Iterable[RankClass]) -> bool:
        """Whether a value depends on the finished result of a reduction over one of some ranks."""
        reducers = {i for c in over for i, v in c.variables.items() if v in self.cascade.einsums[i].reduced}
        seen: set[str] = set()
        stack = [r.tensor for r in reads_of(expr)]
        while stack:
            tensor = stack.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            for i in self.writers.get(tensor, ()):
                if i in reducers:
                    return True
                stack.extend(r.tensor for r in self.cascade.einsums[i].reads())
        return False

    def needs(self, einsum: int, tensor: str) -> bool:
        """Whether an Einsum reads a tensor, or what is computed from it."""
        seen: set[str] = set()
        stack = [r.tensor for r in self.cascade.einsums[einsum].reads()]
        while stack:
            name = stack.pop()
            if name == tensor:
                return True
            if name not in seen:
                seen.add(name)
                stack.extend(r.tensor for i in self.writers.get(name, ()) for r in self.cascade.einsums[i].reads())
        return False

    def conditions(self, einsum: Einsum, value: Expr | None = None) -> frozenset[Expr]:
        """The conditions under which a point of an Einsum counts: its filters and the presence of what it reads."""
        extents = {r.name: r.extent for r in einsum.ranks}
        parts = [self.presence.present(einsum.value if value is None else value, extents)]
        for condition in (*einsum.point_filter, *einsum.output_filter):
            parts += [self.presence.present(condition, extents), self.presence.guarded(condition, extents)]
        return frozenset(uncertain(conjunction(parts)))

    def always_present(self, expr: Expr, extents: Mapping[str, Expr]) -> bool:
        return self.presence.present(expr, extents) == TRUE

    def masked_reads(self, einsum: Einsum, value: Expr) -> tuple[Read, ...]:
        """The reads of a value that may be absent."""
        extents = {r.name: r.extent for r in einsum.ranks}
        return tuple(r for r in dict.fromkeys(reads_of(value)) if self.presence.present(r, extents) != TRUE)

    def is_always(self, tensor: str) -> bool:
        return isinstance(self.presence.presence.get(tensor, Always()), Always)


def uncertain(condition: Expr) -> Iterator[Expr]:
    """The conjuncts of a condition that are not literally true."""
    return (part for part in conjuncts(condition) if part != TRUE)


def varies(expr: Expr, ranks: Iterable[str]) -> bool:
    """Whether an expression mentions one of some rank variables."""
    return not set(ranks).isdisjoint(ranks_of(expr))


def is_widening(expr: Cast) -> bool:
    """Whether a conversion between floats loses nothing, so that it commutes with every rewrite over the reals (C7)."""
    source: DType = expr.value.dtype
    return source.is_float and expr.dtype.is_float and expr.dtype.bits >= source.bits

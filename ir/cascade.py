"""The cascade: a graph of extended Einsums in canonical form, the IR on which every pass works.

Sources: FuseMax (Nayak et al., MICRO 2024) and EDGE (Odemuyiwa et al., 2024) for the form *map, reduce, populate*.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from .expr import Expr, Read, reads_of
from .span import Span
from .types import DType, StorageType, value_type


class Role(Enum):
    """What a tensor is to the caller."""

    INPUT = "input"
    CONST = "const"  # an input that may be bound once and packed ahead of time
    SCALAR = "scalar"  # an input with no dimensions, given as a number
    LOCAL = "local"
    RESULT = "result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a node comes from: its place in the source, and the pass and rule that made it, if any."""

    span: Span | None = None
    made_by: str | None = None  # "pass:rule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of the cascade.

    ``shape`` holds one extent (an expression over sizes) for each dimension. ``steps`` holds, for an iterative
    dimension, its number of steps T (the extent is T + 1), else None. ``annotated`` tells that the program states the
    type, which forces rounding to it; ``declared`` that it states the shape. ``minimum`` is a narrower type that would do:
    that of the unannotated intermediate from which a pass made a wider one. ``parts`` tells of an argument or a result how
    many dimensions a pass has made of each of the caller's, () where the caller's are as here.
    """

    name: str
    dtype: StorageType
    shape: tuple[Expr, ...]
    role: Role
    steps: tuple[Expr | None, ...] = ()
    annotated: bool = False
    declared: bool = False
    minimum: DType | None = field(default=None, compare=False)
    parts: tuple[int, ...] = ()
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)

    @property
    def value(self) -> DType:
        """The element type that a read gives."""
        return value_type(self.dtype)

    @property
    def is_parameter(self) -> bool:
        return self.role in (Role.INPUT, Role.CONST, Role.SCALAR)

    @property
    def iterative_dims(self) -> tuple[int, ...]:
        return tuple(i for i, steps in enumerate(self.steps) if steps is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankExtent:
    """A rank variable of one Einsum and the number of values that it takes, 0 … extent - 1."""

    name: str
    extent: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Einsum:
    """``target[coords] = value :: reduction(reduced) where …`` in canonical form.

    ``value`` is mapped over all of ``ranks`` (output ranks first, in the order of the coordinates, then the reduced
    ones), present points that satisfy every condition of ``point_filter`` are reduced over ``reduced``, and the result is
    converted to the target's type and stored at ``coords``. Where a condition of ``output_filter`` (they mention no
    reduced rank) is false or absent, the output point is absent. ``scatter`` tells that a coordinate of the target is
    data-dependent or otherwise not one-to-one: ``coords`` may then mention reduced ranks, targets out of the shape are
    dropped, and coordinates that nothing reaches hold the identity. ``accumulator`` is the type in which the reduction is
    done. ``initialiser`` marks the Einsums that give the first generations of an iterative tensor; where two write the
    same point, the later one of the cascade wins.
    """

    target: str
    coords: tuple[Expr, ...]
    value: Expr
    ranks: tuple[RankExtent, ...]
    reduction: str | None = None
    reduced: tuple[str, ...] = ()
    point_filter: tuple[Expr, ...] = ()
    output_filter: tuple[Expr, ...] = ()
    accumulator: DType
    scatter: bool = False
    initialiser: bool = False
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)

    @property
    def output_ranks(self) -> tuple[str, ...]:
        """The rank variables that are not reduced."""
        gone = set(self.reduced)
        return tuple(r.name for r in self.ranks if r.name not in gone)

    def extent(self, rank: str) -> Expr:
        """The extent of one of the Einsum's rank variables. Raises KeyError for a foreign one."""
        for r in self.ranks:
            if r.name == rank:
                return r.extent
        raise KeyError(rank)

    def expressions(self) -> tuple[Expr, ...]:
        """Everything that is evaluated: the value, the conditions, the coordinates."""
        return (self.value, *self.point_filter, *self.output_filter, *self.coords)

    def reads(self) -> tuple[Read, ...]:
        """All tensor reads, conditions and coordinates included."""
        return tuple(r for e in self.expressions() for r in reads_of(e))


@dataclass(frozen=True, slots=True, kw_only=True)
class Let:
    """A size defined from other sizes: ``let M1 = ceildiv(M, M0)``."""

    name: str
    value: Expr
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Require:
    """A precondition on the sizes, checked when they are known."""

    condition: Expr
    text: str
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A test that travels with the kernel: the sizes (and scalar parameters) to run it with."""

    values: tuple[tuple[str, int | float], ...]
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """One kernel. ``tensors`` are in order: parameters as declared, results as declared, then locals as first written.

    ``sizes`` are the free size symbols (not those that a ``let`` defines), in order of appearance. ``einsums`` keep
    the source order; the execution order is ``dependence.schedule``'s.
    """

    name: str
    tensors: tuple[Tensor, ...]
    einsums: tuple[Einsum, ...]
    sizes: tuple[str, ...]
    lets: tuple[Let, ...] = ()
    requires: tuple[Require, ...] = ()
    checks: tuple[Check, ...] = ()
    tolerance: float | None = None
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)

    @cached_property
    def by_name(self) -> dict[str, Tensor]:
        return {t.name: t for t in self.tensors}

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(t for t in self.tensors if t.is_parameter)

    @property
    def results(self) -> tuple[Tensor, ...]:
        return tuple(t for t in self.tensors if t.role is Role.RESULT)

    @property
    def locals(self) -> tuple[Tensor, ...]:
        return tuple(t for t in self.tensors if t.role is Role.LOCAL)

    def writers(self, tensor: str) -> tuple[Einsum, ...]:
        """The Einsums that write ``tensor``, in source order."""
        return tuple(e for e in self.einsums if e.target == tensor)

    def readers(self, tensor: str) -> tuple[Einsum, ...]:
        """The Einsums that read ``tensor`` anywhere."""
        return tuple(e for e in self.einsums if any(r.tensor == tensor for r in e.reads()))

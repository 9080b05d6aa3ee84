"""Scalar and index expressions: one small language for values, conditions, coordinates, extents and sizes.

Every node carries its type. Rank variables and sizes are of type i64 (``INDEX``); where they meet values, the
front end inserts a :class:`Cast`. Equality is structural and ignores source spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

from .operators import FUNCTIONS
from .span import Span
from .types import BOOL, INDEX, DType


class _Remembering:
    """A place for the hash of an expression: trees are looked up far more often than they are built."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expr(_Remembering):
    """Base of all expressions; ``dtype`` is the type of the value."""

    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Const(Expr):
    """A literal. ``value`` is an int for integers, a float for floats, a bool for bool."""

    value: int | float | bool

    def __eq__(self, other: object) -> bool:
        # NaN equals NaN and 0.0 differs from -0.0: constants are compared by what they denote.
        if not isinstance(other, Const):
            return NotImplemented
        return self.dtype == other.dtype and repr(self.value) == repr(other.value)

    def __hash__(self) -> int:
        return hash((Const, self.dtype, repr(self.value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank(Expr):
    """The value of a rank (index) variable, i64."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Size(Expr):
    """The value of a size symbol (a dimension, or an integer ``let``), i64."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Expr):
    """A read of ``tensor`` at ``indices``; absent outside the shape. Scalars are read with no indices."""

    tensor: str
    indices: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Op(Expr):
    """An operator or function of the table in ``operators.py`` applied to ``args``.

    Arguments of arithmetic already have the type in which the operation is done (the front end inserts casts);
    comparisons have arguments of one type and give bool; ``div`` on integers is written on f32 casts.
    """

    op: str
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Select(Expr):
    """``if condition then then else otherwise``; only the chosen branch decides absence."""

    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Default(Expr):
    """``value ?? default``: the default where the value is absent."""

    value: Expr
    default: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast(Expr):
    """Conversion of ``value`` to ``dtype`` (floats to integers truncate towards zero and saturate; NaN gives 0)."""

    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Bitcast(Expr):
    """Reinterpretation of the bits of ``value`` as ``dtype``, of the same width."""

    value: Expr


def _remember_hash(node: type[Expr]) -> None:
    """Lets nodes of a class compute their hash once."""
    structural = node.__hash__

    def remembered(self: Any) -> int:
        try:
            return int(self._hash)
        except AttributeError:
            value: int = structural(self)
            object.__setattr__(self, "_hash", value)
            return value

    node.__hash__ = remembered  # type: ignore[method-assign]


for _node in (Const, Rank, Size, Read, Op, Select, Default, Cast, Bitcast):
    _remember_hash(_node)


_CHILDREN: Mapping[type[Expr], Callable[[Any], tuple[Expr, ...]]] = {
    Read: attrgetter("indices"),
    Op: attrgetter("args"),
    Select: attrgetter("condition", "then", "otherwise"),
    Default: attrgetter("value", "default"),
    Cast: lambda node: (node.value,),
    Bitcast: lambda node: (node.value,),
}


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions, in source order."""
    of = _CHILDREN.get(type(expr))
    return () if of is None else of(expr)


def with_children(expr: Expr, new: tuple[Expr, ...]) -> Expr:
    """``expr`` with its direct subexpressions replaced, in the order of :func:`children`."""
    match expr:
        case Read():
            return replace(expr, indices=new)
        case Op():
            return replace(expr, args=new)
        case Select():
            return replace(expr, condition=new[0], then=new[1], otherwise=new[2])
        case Default():
            return replace(expr, value=new[0], default=new[1])
        case Cast() | Bitcast():
            return replace(expr, value=new[0])
        case _:
            return expr


def walk(expr: Expr) -> Iterator[Expr]:
    """All nodes, parents first."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def conjuncts(condition: Expr | None) -> Iterator[Expr]:
    """The parts of a condition that its top-level ``and``s join; none of None."""
    match condition:
        case None:
            return
        case Op(op="and", args=args):
            for part in args:
                yield from conjuncts(part)
        case _:
            yield condition


def transform(expr: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild bottom-up; ``rule`` gives the replacement of a node, or None to keep it."""
    old = children(expr)
    new = tuple(transform(child, rule) for child in old)
    rebuilt = expr if all(a is b for a, b in zip(old, new, strict=True)) else with_children(expr, new)
    result = rule(rebuilt)
    return rebuilt if result is None else result


def substitute(expr: Expr, *, ranks: Mapping[str, Expr] | None = None, sizes: Mapping[str, Expr] | None = None) -> Expr:
    """Replace rank variables and sizes by expressions, simultaneously."""
    ranks, sizes = ranks or {}, sizes or {}

    def rule(node: Expr) -> Expr | None:
        match node:
            case Rank(name=name):
                return ranks.get(name)
            case Size(name=name):
                return sizes.get(name)
            case _:
                return None

    return transform(expr, rule)


@lru_cache(maxsize=1 << 14)
def ranks_of(expr: Expr) -> tuple[str, ...]:
    """The rank variables that occur, each once, in order of first occurrence."""
    return tuple(dict.fromkeys(node.name for node in walk(expr) if isinstance(node, Rank)))


@lru_cache(maxsize=1 << 14)
def sizes_of(expr: Expr) -> tuple[str, ...]:
    """The size symbols that occur, each once, in order of first occurrence."""
    return tuple(dict.fromkeys(node.name for node in walk(expr) if isinstance(node, Size)))


@lru_cache(maxsize=1 << 14)
def reads_of(expr: Expr) -> tuple[Read, ...]:
    """All tensor reads, those inside indices of other reads included."""
    return tuple(node for node in walk(expr) if isinstance(node, Read))


def rank(name: str) -> Rank:
    return Rank(name=name, dtype=INDEX)


def size(name: str) -> Size:
    return Size(name=name, dtype=INDEX)


def integer(value: int, dtype: DType = INDEX) -> Const:
    return Const(value=value, dtype=dtype)


def real(value: float, dtype: DType) -> Const:
    return Const(value=float(value), dtype=dtype)


def op(name: str, *args: Expr) -> Op:
    """An operator node whose type follows from its arguments: bool for predicates, else the first argument's."""
    info = FUNCTIONS[name]
    return Op(op=name, args=args, dtype=BOOL if info.gives_bool else args[0].dtype)


def read(tensor: str, indices: tuple[Expr, ...], dtype: DType) -> Read:
    return Read(tensor=tensor, indices=indices, dtype=dtype)

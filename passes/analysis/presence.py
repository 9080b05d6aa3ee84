"""Makes absence explicit: guarded reads, filtered reductions, and presence masks where nothing cheaper tells.

Requires: a verified cascade and its schedule. Guarantees: in the result no read can leave its buffer, every
expression has a value, and each Einsum carries the conditions under which its points exist (design page 1, section 3).

A tensor's presence is *always* (no point is ever absent), a *predicate* over its coordinates that every reader
evaluates again (``m <= p`` of a causal mask), or *stored*: a mask of one byte for each point, written beside the tensor.
Tensors of one iterative loop are first assumed to be always present; where that does not confirm itself they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from ...ir.cascade import Cascade, Einsum
from ...ir.dependence import Loop, Step, einsums_of
from ...ir.expr import (
    Bitcast,
    Cast,
    Const,
    Default,
    Expr,
    Op,
    Rank,
    Read,
    Select,
    Size,
    children,
    integer,
    op,
    ranks_of,
    reads_of,
    substitute,
    walk,
    with_children,
)
from ...ir.index import at_most, equal
from ...ir.types import BOOL, INDEX, DType
from .bounds import guard
from .ranks import split_index

TRUE = Const(value=True, dtype=BOOL)
FALSE = Const(value=False, dtype=BOOL)

_LARGEST_PREDICATE = 100
"""Nodes of a presence predicate beyond which a stored mask is cheaper than evaluating it at every read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Always:
    """No point is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicate:
    """The points at which ``condition``, over ``ranks`` as the coordinates, holds."""

    ranks: tuple[str, ...]
    condition: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A mask buffer holds 1 where the point is present."""

    mask: str


Presence = Always | Predicate | Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Explicit:
    """An Einsum without absence: ``value`` is defined everywhere; ``filter`` tells which points are reduced (or, without
    a reduction, present) and ``condition`` which output points are. ``within`` tells which of them lie inside the target:
    nothing is written for the others. ``mask`` names the mask to write, if any."""

    einsum: Einsum
    value: Expr
    filter: Expr
    condition: Expr
    within: Expr
    mask: str | None


def conjunction(conditions: list[Expr]) -> Expr:
    """The ``and`` of conditions, without those that are literally true or repeated."""
    kept = [c for c in dict.fromkeys(conditions) if c != TRUE]
    if FALSE in kept:
        return FALSE
    result: Expr = TRUE
    for condition in kept:
        result = condition if result == TRUE else op("and", result, condition)
    return result


def zero_of(dtype: DType) -> Const:
    """What absent points hold: 0, or false."""
    return Const(value=False if dtype.is_bool else 0.0 if dtype.is_float else 0, dtype=dtype)


def _parts(condition: Expr) -> list[Expr]:
    """The conditions that all hold where ``condition`` does."""
    match condition:
        case Op(op="and", args=args):
            return [part for arg in args for part in _parts(arg)]
        case _:
            return [condition]


def disjunction(a: Expr, b: Expr) -> Expr:
    """``a or b``, folded where one side is a constant."""
    if TRUE in (a, b):
        return TRUE
    if FALSE in (a, b):
        return b if a == FALSE else a
    return op("or", a, b)


def own_dimensions(einsum: Einsum) -> tuple[int, ...]:
    """The dimensions of a scatter's target whose coordinates depend on no reduced rank."""
    return tuple(d for d, c in enumerate(einsum.coords) if not set(ranks_of(c)) & set(einsum.reduced))


def mask_name(tensor: str) -> str:
    """The name of the buffer that holds the presence of ``tensor``; no tensor of a program can be called so."""
    return f"{tensor}.present"


@dataclass
class PresenceAnalysis:
    """Presence of every tensor of a cascade, and its Einsums made explicit."""

    cascade: Cascade
    presence: dict[str, Presence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lets = {let.name: let.value for let in self.cascade.lets}
        for parameter in self.cascade.parameters:
            self.presence[parameter.name] = Always()

    def run(self, steps: tuple[Step, ...]) -> dict[int, Explicit]:
        """All Einsums by index, made explicit; fills :attr:`presence`."""
        waiting: set[str] = set()
        remaining = {name: len(self.cascade.writers(name)) for name in self.cascade.by_name}
        for step in steps:
            members = einsums_of(step)
            targets = list(dict.fromkeys(self.cascade.einsums[i].target for i in members))
            if isinstance(step, Loop):
                self._loop(targets)
                continue
            (target,) = targets
            remaining[target] -= 1
            if len(self.cascade.writers(target)) > 1:
                # Several writers: an initialiser; decided with the loop that continues it, assumed present until then.
                self.presence.setdefault(target, Always())
                waiting.add(target)
                if remaining[target] == 0:
                    self._loop([target])
            else:
                self.presence[target] = self._single(self.cascade.writers(target)[0])
        return {i: self.explicit(e) for i, e in enumerate(self.cascade.einsums)}

    # -- presence of tensors -------------------------------------------------------------------------------------

    def _single(self, einsum: Einsum) -> Presence:
        if einsum.scatter:
            return self._scattered(einsum)
        if not self._covers([einsum]):
            return Stored(mask=mask_name(einsum.target))
        condition = self._output_presence(einsum)
        if condition == TRUE:
            return Always()
        ranks = tuple(c.name for c in einsum.coords if isinstance(c, Rank))
        nodes = list(walk(condition))
        foreign = {n.tensor for n in nodes if isinstance(n, Read)} - {p.name for p in self.cascade.parameters}
        if len(ranks) == len(einsum.coords) and len(nodes) <= _LARGEST_PREDICATE and not foreign:
            return Predicate(ranks=ranks, condition=condition)
        return Stored(mask=mask_name(einsum.target))

    def _scattered(self, einsum: Einsum) -> Presence:
        """A scatter defines what its own coordinates name, wherever its points go; the output conditions decide over it."""
        own = own_dimensions(einsum)
        coords = [einsum.coords[d] for d in own]
        shape = self.cascade.by_name[einsum.target].shape
        condition = self.explicit(einsum).condition
        foreign = {r.tensor for r in reads_of(condition)} - {p.name for p in self.cascade.parameters}
        names = [c.name for c in coords if isinstance(c, Rank)]
        covers = all(self._coverage(einsum, einsum.coords[d], shape[d]) == "all" for d in own)
        if not covers or foreign or len(set(names)) < len(coords):
            return Stored(mask=mask_name(einsum.target))
        if condition == TRUE:
            return Always()
        at = dict(zip(own, names, strict=True))
        return Predicate(ranks=tuple(at.get(d, f"{d}") for d in range(len(shape))), condition=condition)

    def _loop(self, targets: list[str]) -> None:
        for target in targets:
            self.presence[target] = Always()
        for target in targets:
            writers = list(self.cascade.writers(target))
            if not self._covers(writers) or any(self._output_presence(e) != TRUE for e in writers):
                for each in targets:
                    self.presence[each] = Stored(mask=mask_name(each))
                return

    def _output_presence(self, einsum: Einsum) -> Expr:
        made = self.explicit(einsum)
        present = made.condition if einsum.reduction is not None else conjunction([made.condition, made.filter])
        if einsum.scatter:
            return present
        inside = _parts(made.within)
        return conjunction([c for c in _parts(present) if c not in inside])

    def _covers(self, writers: list[Einsum]) -> bool:
        """Whether the writers' coordinates provably cover the whole shape of their tensor.

        Each dimension is cut into its first coordinate and the rest; every cell of the product must be written.
        """
        shape = self.cascade.by_name[writers[0].target].shape
        boxes: list[list[str]] = []
        for einsum in writers:
            rows = [self._coverage(einsum, c, extent) for c, extent in zip(einsum.coords, shape, strict=True)]
            names = [n for c in einsum.coords for n in ranks_of(c)]
            if len(set(names)) == len(names):
                boxes.append([row for row in rows if row is not None] if None not in rows else [])
        boxes = [box for box in boxes if len(box) == len(shape)]
        cut = [i for i in range(len(shape)) if any(box[i] != "all" for box in boxes)]
        return bool(boxes) and all(
            any(all(box[i] in ("all", part) for i, part in zip(cut, cell, strict=True)) for box in boxes)
            for cell in product(("first", "rest"), repeat=len(cut))
        )

    def _coverage(self, einsum: Einsum, coord: Expr, extent: Expr) -> str | None:
        """``all``, ``first`` (coordinate 0), ``rest`` (1 … extent - 1) of a dimension, or None."""
        match coord:
            case Const(value=0):
                return "all" if equal(extent, integer(1), self.lets) else "first"
            case Rank(name=name) if equal(einsum.extent(name), extent, self.lets):
                return "all"
            case Op(op="add", args=(Rank(name=name), Const(value=1))) if equal(
                op("add", einsum.extent(name), integer(1)), extent, self.lets
            ):
                return "rest"
            case _:
                pair = split_index(coord, einsum, self.lets)
                return (
                    "all"
                    if pair is not None and self._reaches(einsum.extent(pair[0]), einsum.extent(pair[1]), extent)
                    else None
                )

    def _reaches(self, count: Expr, steps: Expr, extent: Expr) -> bool:
        """Whether so many chunks of so many steps are ``extent`` steps or more."""
        rounded = self.lets.get(count.name) if isinstance(count, Size) else None
        if rounded is not None and rounded == op("ceildiv", extent, steps):
            return True
        return at_most(extent, op("mul", count, steps), self.lets)

    # -- Einsums -------------------------------------------------------------------------------------------------

    def explicit(self, einsum: Einsum) -> Explicit:
        """``einsum`` with guarded reads and its presence conditions, under the presence known so far."""
        extents = {r.name: r.extent for r in einsum.ranks}
        points: list[Expr] = []
        outputs: list[Expr] = []
        for condition in einsum.point_filter:
            points += [self.present(condition, extents), self.guarded(condition, extents)]
        for condition in einsum.output_filter:
            outputs += [self.present(condition, extents), self.guarded(condition, extents)]
        points.append(self.present(einsum.value, extents))
        coords = conjunction([self.present(c, extents) for c in einsum.coords])
        presence = self.presence.get(einsum.target)
        shape = self.cascade.by_name[einsum.target].shape
        bounds = [c for x, n in zip(einsum.coords, shape, strict=True) for c in guard(x, n, extents, self.lets)]
        within = [coords, *(self.guarded(c, extents) for c in bounds)]
        if einsum.scatter:
            points = [*outputs, *points, *within]
            bounds = [
                c
                for d in own_dimensions(einsum)
                for c in (self.present(einsum.coords[d], extents), *guard(einsum.coords[d], shape[d], extents, self.lets))
            ]
            within = [self.guarded(c, extents) for c in bounds]
        return Explicit(
            einsum=einsum,
            value=self.guarded(einsum.value, extents),
            filter=conjunction(points),
            condition=conjunction(outputs),
            within=conjunction(within),
            mask=presence.mask if isinstance(presence, Stored) else None,
        )

    def guarded(self, expr: Expr, extents: Mapping[str, Expr]) -> Expr:
        """``expr`` with every read that may leave its tensor guarded, and every ``??`` decided by presence."""
        match expr:
            case Read():
                inside = self._inside(expr, extents)
                plain = with_children(expr, tuple(self.guarded(i, extents) for i in expr.indices))
                if inside == TRUE:
                    return plain
                zero: int | float | bool = False if expr.dtype.is_bool else 0.0 if expr.dtype.is_float else 0
                return Select(
                    condition=inside,
                    then=plain,
                    otherwise=Const(value=zero, dtype=expr.dtype),
                    dtype=expr.dtype,
                )
            case Default(value=value, default=default):
                present = self.present(value, extents)
                if present == TRUE:
                    return self.guarded(value, extents)
                return Select(
                    condition=present,
                    then=self.guarded(value, extents),
                    otherwise=self.guarded(default, extents),
                    dtype=expr.dtype,
                )
            case _:
                old = children(expr)
                new = tuple(self.guarded(c, extents) for c in old)
                return expr if all(a is b for a, b in zip(old, new, strict=True)) else with_children(expr, new)

    def present(self, expr: Expr, extents: Mapping[str, Expr]) -> Expr:
        """The condition under which ``expr`` is not absent."""
        match expr:
            case Read(tensor=tensor, indices=indices):
                return conjunction([self._inside(expr, extents), self._stored(tensor, indices, extents)])
            case Select(condition=condition, then=then, otherwise=otherwise):
                first, second = self.present(then, extents), self.present(otherwise, extents)
                chosen = first
                if first != second:
                    decided = self.guarded(condition, extents)
                    known = _parts(decided)
                    first = conjunction([c for c in _parts(first) if c not in known])
                    chosen = first
                    if first != second:
                        chosen = disjunction(conjunction([decided, first]), conjunction([op("not", decided), second]))
                return conjunction([self.present(condition, extents), chosen])
            case Default(value=value, default=default):
                return disjunction(self.present(value, extents), self.present(default, extents))
            case Op(op=name, args=args):
                conditions = [self.present(a, extents) for a in args]
                divides = name in ("floordiv", "mod", "ceildiv") and expr.dtype.is_integer
                if divides and not _nonzero(args[1]) and not self._counts(args[1], extents):
                    divisor = self.guarded(args[1], extents)
                    conditions.append(op("ne", divisor, integer(0, divisor.dtype)))
                return conjunction(conditions)
            case Cast(value=value) | Bitcast(value=value):
                return self.present(value, extents)
            case _:
                return TRUE

    def _counts(self, divisor: Expr, extents: Mapping[str, Expr]) -> bool:
        """Whether a size is a factor of the extent of a rank: wherever a point of it exists, the size is not 0."""
        return isinstance(divisor, Size) and any(divisor in self._factors(n) for n in extents.values())

    def _factors(self, extent: Expr) -> Iterator[Expr]:
        yield extent
        match extent:
            case Op(op="mul", args=args):
                for factor in args:
                    yield from self._factors(factor)
            case Size(name=name) if name in self.lets:
                yield from self._factors(self.lets[name])

    def _inside(self, expr: Read, extents: Mapping[str, Expr]) -> Expr:
        """The condition under which a read stays in its tensor, that of its indices included."""
        shape = self.cascade.by_name[expr.tensor].shape
        conditions: list[Expr] = []
        for index, extent in zip(expr.indices, shape, strict=True):
            conditions.append(self.present(index, extents))
            conditions += [self.guarded(c, extents) for c in guard(index, extent, extents, self.lets)]
        return conjunction(conditions)

    def _stored(self, tensor: str, indices: tuple[Expr, ...], extents: Mapping[str, Expr]) -> Expr:
        match self.presence.get(tensor, Always()):
            case Predicate(ranks=ranks, condition=condition):
                coordinates = {r: self.guarded(i, extents) for r, i in zip(ranks, indices, strict=True)}
                # The predicate's own reads are safe inside the tensor; outside it the bounds condition is false, but
                # they would still be evaluated: guard them for the coordinates given.
                return self.guarded(substitute(condition, ranks=coordinates), extents)
            case Stored(mask=mask):
                read = Read(tensor=mask, indices=tuple(self.guarded(i, extents) for i in indices), dtype=BOOL)
                inside = self._inside(Read(tensor=tensor, indices=indices, dtype=BOOL), extents)
                if inside == TRUE:
                    return read
                return Select(condition=inside, then=read, otherwise=FALSE, dtype=BOOL)
            case _:
                return TRUE


def _nonzero(expr: Expr) -> bool:
    match expr:
        case Const(value=value):
            return value != 0
        case Cast(value=value):
            return _nonzero(value) and expr.dtype == INDEX
        case Op(op="max", args=args):
            return any(isinstance(a, Const) and a.value > 0 for a in args)
        case _:
            return False

"""Dependences between Einsums: who reads what whom wrote, and how many generations later.

A writer stores at coordinates ``v + a``, a reader uses an index ``u + b`` of the same dimension: they meet where
u - v = a - b, the *distance* of the dependence along a loop that holds v and u (Allen and Kennedy, ACM TOPLAS
9(4), 1987). Dependences between points that provably never meet do not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from .cascade import Cascade, Einsum
from .expr import Cast, Const, Expr, Op, Rank, Read, integer, op, rank, walk
from .index import affine, at_most, constant_difference, non_negative, simplify
from .types import INDEX

_MOST_LIMITS = 64
"""Bounds of one index that are tried: those of a sum are the products of its terms' bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependence:
    """``reader`` uses what ``writer`` stores (indices of the cascade's Einsums).

    ``read`` is None where both write overlapping points of one tensor and the later of the two must win.
    """

    writer: int
    reader: int
    tensor: str
    read: Read | None


def dependences(cascade: Cascade) -> tuple[Dependence, ...]:
    """The dependences between Einsums, without those whose points provably never meet."""
    return Flows(cascade).dependences


def generation_distance(cascade: Cascade, dependence: Dependence, dim: int) -> int | None:
    """Generations between write and read along one dimension; None where that is not one number."""
    if dependence.read is None:
        return None
    ours, theirs = cascade.einsums[dependence.writer].coords[dim], dependence.read.indices[dim]
    v, u = shifted_rank(ours), shifted_rank(theirs)
    if v is None or u is None:
        return None
    lets = {let.name: let.value for let in cascade.lets}
    return constant_difference(op("sub", ours, rank(v)), op("sub", theirs, rank(u)), lets)


class Flows:
    """The dependences between the Einsums of one cascade, and their distances along loops."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.lets = {let.name: let.value for let in cascade.lets}
        self.writers: dict[str, list[int]] = {}
        for i, einsum in enumerate(cascade.einsums):
            self.writers.setdefault(einsum.target, []).append(i)

    @cached_property
    def dependences(self) -> tuple[Dependence, ...]:
        """All dependences between the Einsums."""
        return tuple(self._find())

    def is_read(self, writer: int) -> bool:
        """Whether an Einsum reads a point that ``writer`` may store."""
        target = self.cascade.einsums[writer].target
        return any(
            self._meet(self.cascade.einsums[writer], e, r.indices)
            for e in self.cascade.readers(target)
            for r in dict.fromkeys(e.reads())
            if r.tensor == target
        )

    def _find(self) -> Iterable[Dependence]:
        einsums = self.cascade.einsums
        for reader, einsum in enumerate(einsums):
            for read in dict.fromkeys(einsum.reads()):
                for writer in self.writers.get(read.tensor, ()):
                    if self._meet(einsums[writer], einsum, read.indices):
                        yield Dependence(writer=writer, reader=reader, tensor=read.tensor, read=read)
        for tensor, writers in self.writers.items():
            for k, first in enumerate(writers):
                for second in writers[k + 1 :]:
                    if self._meet(einsums[first], einsums[second], einsums[second].coords):
                        yield Dependence(writer=first, reader=second, tensor=tensor, read=None)

    def _meet(self, writer: Einsum, reader: Einsum, indices: tuple[Expr, ...]) -> bool:
        """Whether the writer may store a point that the indices of the reader name."""
        shifts: dict[tuple[str, str], int | None] = {}
        for ours, theirs in zip(writer.coords, indices, strict=True):
            if self._apart(ours, writer, theirs, reader) or self._apart(theirs, reader, ours, writer):
                return False
            if (v := shifted_rank(ours)) is not None and (u := shifted_rank(theirs)) is not None:
                # Diagonal accesses such as S[t+1, t+1] against S[t, t+1] ask for two distances at once.
                shift = self.offset_difference(ours, v, theirs, u)
                if shift is not None and shifts.setdefault((v, u), shift) != shift:
                    return False
        return True

    def _apart(self, low: Expr, low_of: Einsum, high: Expr, high_of: Einsum) -> bool:
        """Whether one index is provably always less than the other, each over its own rank variables."""
        if isinstance(low, Rank) and isinstance(high, Rank):
            return False  # both start at 0: the most frequent pair, without the way through polynomials
        above, below = self._bound(low, low_of, above=True), self._bound(high, high_of, above=False)
        if above is None or below is None:
            return False
        return at_most(op("add", above, integer(1)), below, self.lets)

    def _bound(self, index: Expr, einsum: Einsum, *, above: bool) -> Expr | None:
        """The greatest (least) value of an affine index over the ranges of its rank variables, over sizes."""
        form = affine(index)
        if form is None:
            return None
        total = form.constant
        for name, coefficient in form.terms:
            if non_negative(coefficient, self.lets):
                at_end = above
            elif non_negative(op("neg", coefficient), self.lets):
                at_end = not above
            else:
                return None
            if at_end:
                last = op("sub", einsum.extent(name), integer(1))
                total = op("add", total, op("mul", coefficient, last))
        return total

    def offset_difference(self, ours: Expr, v: str, theirs: Expr, u: str) -> int | None:
        """The difference of the offsets of two indices ``v + a`` and ``u + b``."""
        if isinstance(ours, Rank) and isinstance(theirs, Rank):
            return 0
        return constant_difference(op("sub", ours, rank(v)), op("sub", theirs, rank(u)), self.lets)

    def distance(self, flow: Dependence, variables: Mapping[int, str]) -> tuple[int | None, int | None]:
        """Least and greatest number of generations from write to read along one loop; None where unbounded.

        A point that the writer stores at generation v is read at generation v + distance.
        """
        if flow.writer not in variables or flow.reader not in variables:
            return None, None
        v, u = variables[flow.writer], variables[flow.reader]
        reader = self.cascade.einsums[flow.reader]
        low: int | None = None
        high: int | None = None
        coords = self.cascade.einsums[flow.writer].coords
        for ours, theirs in zip(coords, indices_of(flow, reader), strict=True):
            if shifted_rank(ours) != v:
                continue
            if shifted_rank(theirs) == u:
                exact = self.offset_difference(ours, v, theirs, u)
                return exact, exact
            # v + c = index, so the distance u - v is u + c - index.
            start = op("add", rank(u), op("sub", ours, rank(v)))
            for limit in islice(self._limits(theirs, reader, above=True), _MOST_LIMITS):
                gap = constant_difference(start, limit, self.lets)
                low = gap if low is None else low if gap is None else max(low, gap)
            for limit in islice(self._limits(theirs, reader, above=False), _MOST_LIMITS):
                gap = constant_difference(start, limit, self.lets)
                high = gap if high is None else high if gap is None else min(high, gap)
        return low, high

    def _limits(self, index: Expr, einsum: Einsum, *, above: bool) -> Iterable[Expr]:
        """Expressions that an index never exceeds (or falls below) at the points that its Einsum uses.

        They come from the conditions (``where j <= i``, ``where parent[i] < i``), from a // c ≤ a for a ≥ 0, and
        from ``min`` and ``max``.
        """
        yield index
        match index:
            case Op(op="add" | "sub" as name, args=(a, b)):
                for left in self._limits(a, einsum, above=above):
                    for right in self._limits(b, einsum, above=above == (name == "add")):
                        yield op(name, left, right)
            case Op(op="floordiv", args=(a, Const(value=int(divisor)))) if above and divisor > 0:
                low = self._bound(a, einsum, above=False)
                if low is not None and non_negative(low, self.lets):
                    yield a
            case Op(op=name, args=args) if name == ("min" if above else "max"):
                for argument in args:
                    yield from self._limits(argument, einsum, above=above)
            case Rank() | Read():
                for condition in (*einsum.point_filter, *einsum.output_filter):
                    yield from _limits_from(condition, index, above=above)
            case Cast() if above and (whole := _unwrapped(index)) is not None:
                yield whole
            case Cast(value=value) if index.dtype.is_integer and value.dtype.is_integer:
                if index.dtype.bits >= value.dtype.bits and index.dtype.is_signed:
                    yield from self._limits(value, einsum, above=above)
            case _:
                return

    def aligned(self, flow: Dependence) -> Iterable[tuple[str, str]]:
        """The pairs of a writer's and a reader's rank variable that index one dimension."""
        coords = self.cascade.einsums[flow.writer].coords
        for ours, theirs in zip(coords, indices_of(flow, self.cascade.einsums[flow.reader]), strict=True):
            if (v := shifted_rank(ours)) is not None and (u := shifted_rank(theirs)) is not None:
                yield v, u


_FLIPPED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq"}


def _limits_from(condition: Expr, atom: Expr, *, above: bool) -> Iterable[Expr]:
    """The bounds of ``atom`` that one condition states."""
    match condition:
        case Op(op="and", args=args):
            for part in args:
                yield from _limits_from(part, atom, above=above)
        case Op(op=name, args=(a, b)) if name in _FLIPPED:
            for left, right, relation in ((a, b, name), (b, a, _FLIPPED[name])):
                if not left.dtype.is_integer:
                    continue
                # left - right = atom + rest, so that atom is bounded by -rest.
                if above and (whole := _unwrapped(right)) is not None:
                    right = whole
                left, right, own = _as_index(left), _as_index(right), _as_index(atom)
                rest = simplify(op("sub", op("sub", left, right), own))
                if own in walk(rest):
                    continue
                if above and relation in ("lt", "le", "eq"):
                    yield op("sub", integer(-1 if relation == "lt" else 0), rest)
                elif not above and relation in ("gt", "ge", "eq"):
                    yield op("sub", integer(1 if relation == "gt" else 0), rest)
        case _:
            return


def _unwrapped(expr: Expr) -> Rank | None:
    """The rank variable that a cast to a signed type brings to the type of ``parent[i]`` in ``parent[i] < i``.

    It bounds the cast from above: wrapping makes an i ≥ 0 less, never more.
    """
    match expr:
        case Cast(value=Rank() as variable) if expr.dtype.is_integer and expr.dtype.is_signed:
            return variable
        case _:
            return None


def _as_index(expr: Expr) -> Expr:
    return expr if expr.dtype == INDEX else Cast(value=expr, dtype=INDEX)


def indices_of(flow: Dependence, reader: Einsum) -> tuple[Expr, ...]:
    return reader.coords if flow.read is None else flow.read.indices


def shifted_rank(index: Expr) -> str | None:
    """``v`` where an index is ``v + c`` for a rank variable v and a c over sizes."""
    form = affine(index)
    shifted = None if form is None else form.shifted_rank
    return None if shifted is None else shifted[0]

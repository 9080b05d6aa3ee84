"""Expressions evaluated over a grid of points with NumPy: an array of values and a mask of presence.

Each rank variable of an Einsum is one axis of the grid; an expression has extent 1 along the axes that it does not
depend on, so that broadcasting forms the grid only where it must.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from .arithmetic import Arithmetic, Array, Mask
from .expr import Bitcast, Cast, Const, Default, Expr, Op, Rank, Read, Select, Size
from .types import INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Values, and which of them are present (None: all). Both broadcast to the grid."""

    values: Array
    present: Mask

    def true(self) -> Array:
        """Where a condition holds: it is present and true."""
        return self.values if self.present is None else np.logical_and(self.values, self.present)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The elements of one tensor in their carrier, and which of them are present."""

    values: Array
    present: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The points of one block of an Einsum's iteration space: a range of values for each rank variable, in order."""

    ranges: Mapping[str, range]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(r) for r in self.ranges.values())

    def axes(self, ranks: Iterable[str]) -> tuple[int, ...]:
        """The axes of some rank variables."""
        order = list(self.ranges)
        return tuple(order.index(name) for name in ranks)

    def coordinate(self, rank: str) -> Array:
        """The values of a rank variable along its own axis."""
        shape = [1] * len(self.ranges)
        (axis,) = self.axes((rank,))
        shape[axis] = len(self.ranges[rank])
        return np.arange(self.ranges[rank].start, self.ranges[rank].stop, dtype=np.int64).reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Evaluates expressions over one grid. ``tensors`` are read as they are when an expression is evaluated."""

    grid: Grid
    tensors: Mapping[str, Storage]
    sizes: Mapping[str, int]
    arithmetic: Arithmetic

    def evaluate(self, expr: Expr) -> Points:
        """The value of an expression at every point of the grid."""
        match expr:
            case Const(value=value):
                return self._scalar(value, expr)
            case Size(name=name):
                return self._scalar(self.sizes[name], expr)
            case Rank(name=name):
                return Points(values=self.grid.coordinate(name), present=None)
            case Read(tensor=tensor, indices=indices):
                return self._read(self.tensors[tensor], [self.index(i) for i in indices])
            case Op(op=name, args=args):
                return self._operate(name, args, expr)
            case Select(condition=condition, then=then, otherwise=otherwise):
                return self._select(*(self.evaluate(e) for e in (condition, then, otherwise)))
            case Default(value=value, default=default):
                return self._default(self.evaluate(value), self.evaluate(default))
            case Cast(value=value):
                points = self.evaluate(value)
                converted = self.arithmetic.convert(points.values, value.dtype, expr.dtype)
                return Points(values=converted, present=points.present)
            case Bitcast(value=value):
                points = self.evaluate(value)
                bits = self.arithmetic.bitcast(points.values, value.dtype, expr.dtype)
                return Points(values=bits, present=points.present)
            case _:
                raise TypeError(f"no expression: {expr!r}")

    def index(self, expr: Expr) -> Points:
        """The value of an index expression as int64 (a u64 beyond its range is outside every shape)."""
        points = self.evaluate(expr)
        if expr.dtype == INDEX:
            return points
        values = self.arithmetic.convert(points.values, expr.dtype, INDEX)
        if expr.dtype.name == "u64":
            values = np.where(values < 0, np.iinfo(np.int64).max, values)
        return Points(values=values, present=points.present)

    def _scalar(self, value: int | float | bool, expr: Expr) -> Points:
        shape = (1,) * len(self.grid.ranges)
        return Points(values=np.full(shape, value, self.arithmetic.carrier(expr.dtype)), present=None)

    def _operate(self, name: str, args: tuple[Expr, ...], expr: Expr) -> Points:
        points = [self.evaluate(a) for a in args]
        values, defined = self.arithmetic.apply(name, args[0].dtype, [p.values for p in points])
        present = all_present(*(p.present for p in points), defined)
        return Points(values=self.arithmetic.settle(values, expr.dtype), present=present)

    @staticmethod
    def _select(condition: Points, then: Points, otherwise: Points) -> Points:
        values = np.where(condition.values, then.values, otherwise.values)
        if then.present is None and otherwise.present is None:
            return Points(values=values, present=condition.present)
        chosen = np.where(condition.values, _mask(then), _mask(otherwise))
        return Points(values=values, present=all_present(condition.present, chosen))

    @staticmethod
    def _default(value: Points, default: Points) -> Points:
        if value.present is None:
            return value
        values = np.where(value.present, value.values, default.values)
        present = None if default.present is None else np.logical_or(value.present, default.present)
        return Points(values=values, present=present)

    def _read(self, tensor: Storage, indices: list[Points]) -> Points:
        """The elements at the indices; absent where an index is absent or outside the shape, negative ones included."""
        inside = within(indices, tensor.values.shape)
        if tensor.values.size == 0:
            shape = np.broadcast_shapes((1,) * len(self.grid.ranges), *(i.values.shape for i in indices))
            return Points(values=np.zeros(shape, tensor.values.dtype), present=np.zeros(shape, np.bool_))
        if not indices:
            shape = (1,) * len(self.grid.ranges)
            return Points(values=tensor.values.reshape(shape), present=tensor.present.reshape(shape))
        at = tuple(np.clip(i.values, 0, extent - 1) for i, extent in zip(indices, tensor.values.shape, strict=True))
        return Points(values=tensor.values[at], present=all_present(inside, tensor.present[at]))


def within(indices: list[Points], shape: tuple[int, ...]) -> Mask:
    """Where all indices are present and inside the shape."""
    masks = [np.logical_and(i.values >= 0, i.values < n) for i, n in zip(indices, shape, strict=True)]
    return all_present(*masks, *(i.present for i in indices))


def all_present(*masks: Mask) -> Mask:
    """The conjunction of masks; None (all present) where nothing is absent."""
    absent = [m for m in masks if m is not None and not m.all()]
    return reduce(np.logical_and, absent) if absent else None


def _mask(points: Points) -> Array:
    return np.True_ if points.present is None else points.present  # type: ignore[return-value]

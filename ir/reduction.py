"""The reductions of the language over masked arrays: over axes of a grid, and into the elements of a target."""

from __future__ import annotations

import numpy as np

from .arithmetic import Arithmetic, Array, Mask
from .cascade import Einsum
from .evaluation import Grid
from .operators import REDUCTIONS
from .types import DType

_UFUNCS: dict[str, np.ufunc] = {
    "+": np.add,
    "*": np.multiply,
    "max": np.maximum,  # propagates NaN, as np.minimum does
    "min": np.minimum,
    "and": np.logical_and,
    "or": np.logical_or,
    "argmax": np.maximum,
    "argmin": np.minimum,
}

_NOWHERE = np.iinfo(np.int64).max


class Reducer:
    """The reduction of one Einsum in its accumulator type (argmax, argmin: in the type of the operands)."""

    def __init__(self, einsum: Einsum, arithmetic: Arithmetic) -> None:
        assert einsum.reduction is not None
        self.reduction = REDUCTIONS[einsum.reduction]
        self.ufunc = _UFUNCS[einsum.reduction]
        self.reduced = einsum.reduced
        self.arithmetic = arithmetic
        self.source = einsum.value.dtype
        self.accumulator = self.source if self.reduction.coordinate else einsum.accumulator
        self.dtype: DType = self.reduction.result_type(self.accumulator)
        """The type of the result, before it is stored."""

    def identity(self, dtype: DType) -> Array:
        """The value over no present point, in the carrier of ``dtype``."""
        return np.array(self.reduction.identity(dtype), self.arithmetic.carrier(dtype))

    def _operands(self, values: Array) -> Array:
        return self.arithmetic.convert(values, self.source, self.accumulator)

    def _neutral(self) -> Array:
        """What absent operands are replaced with: the identity of the operator that combines."""
        combine = REDUCTIONS["max" if self.ufunc is np.maximum else "min"] if self.reduction.coordinate else None
        value = (combine or self.reduction).identity(self.accumulator)
        return np.array(value, self.arithmetic.carrier(self.accumulator))

    def over_axes(self, grid: Grid, values: Array, present: Mask) -> Array:
        """Reduce a grid of values over the axes of the reduced ranks, which keep extent 1."""
        axes = grid.axes(self.reduced)
        neutral = self._neutral()
        operands = self._operands(values)
        if present is not None:
            operands = np.where(present, operands, neutral)
        # Along a reduced axis that the value does not depend on, every point counts all the same.
        shape = tuple(n if i in axes else m for i, (n, m) in enumerate(zip(grid.shape, operands.shape, strict=True)))
        operands = np.broadcast_to(operands, shape)
        best: Array = self.ufunc.reduce(operands, axis=axes, keepdims=True, initial=neutral[()], dtype=operands.dtype)
        if not self.reduction.coordinate:
            return self.arithmetic.settle(best, self.accumulator)
        winners = _same(operands, best)
        if present is not None:
            winners = np.logical_and(winners, present)
        places = np.where(winners, self.places(grid), _NOWHERE)
        first = np.minimum.reduce(np.broadcast_to(places, shape), axis=axes, keepdims=True, initial=_NOWHERE)
        return np.where(first == _NOWHERE, -1, first)

    def places(self, grid: Grid) -> Array:
        """The coordinate of each point among the reduced ranks, the last of them running fastest."""
        place = np.zeros((1,) * len(grid.ranges), np.int64)
        for name in self.reduced:
            place = place * len(grid.ranges[name]) + grid.coordinate(name)
        return place

    def into(self, target: Array, positions: Array, values: Array) -> None:
        """Combine values, in order, into the elements of the flat array ``target`` at ``positions``."""
        self.ufunc.at(target, positions, self._operands(values))

    def coordinates_into(self, target: Array, positions: Array, values: Array, places: Array) -> None:
        """Set each element of the flat int64 array ``target`` to the first place of its extreme value, or -1."""
        best = np.full(target.shape, self._neutral(), values.dtype)
        self.ufunc.at(best, positions, values)
        winners = _same(values, best[positions])
        target[:] = _NOWHERE
        np.minimum.at(target, positions[winners], places[winners])
        target[target == _NOWHERE] = -1


def _same(a: Array, b: Array) -> Array:
    """Equality under which NaN equals NaN."""
    result: Array = np.logical_or(a == b, np.logical_and(a != a, b != b))
    return result

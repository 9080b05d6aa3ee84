"""The oracle: a cascade executed as it is written, Einsum by Einsum, with NumPy.

It shares no code with the passes or the code generator and favours being evidently right over speed: every Einsum is
evaluated over its whole iteration grid (in blocks of bounded size), reduced under the mask of the points that are
present, and stored. Iterative ranks run step by step in the order of :mod:`.dependence`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Literal

import numpy as np

from .arithmetic import Arithmetic, Array, Mask
from .binding import bind_sizes, evaluate_size
from .cascade import Cascade, Einsum, Tensor
from .dependence import Loop, Step, Straight, schedule
from .diagnostics import did_you_mean, error
from .evaluation import Evaluator, Grid, Storage, all_present, within
from .expr import Expr, ranks_of
from .reduction import Reducer
from .types import DType, Kind

Number = int | float | bool

_BLOCK = 1 << 22
"""Points of an iteration grid that are evaluated at once: some 32 MB for each float64 intermediate."""


def interpret(
    cascade: Cascade,
    arguments: Mapping[str, Array | Number],
    *,
    sizes: Mapping[str, int] | None = None,
    mode: Literal["exact", "typed"] = "exact",
) -> dict[str, Array]:
    """The results of a kernel, by name; absent points are 0.

    ``arguments`` holds an array of the declared shape for each tensor parameter (the dequantised values for a
    quantised one) and a number for each scalar; they are converted to the parameters' types. ``sizes`` gives the sizes
    that no argument determines. In mode ``exact`` floats are evaluated in float64 and never rounded in between, and
    float results are float64. In mode ``typed`` operations on f64 are done in float64 and on smaller floats in float32,
    reductions in the Einsum's accumulator type, and what is stored or cast is rounded to its type; results have the
    NumPy type of the tensor's. Integers are exact and wrap at their type in both modes. ``argmax`` and ``argmin`` give
    the first NaN where there is one, as NumPy does.

    Raises EinfallError for arguments that do not fit (E10xx) and violated requirements (E0701).
    """
    return _Run(cascade, arguments, sizes, Arithmetic(typed=mode == "typed")).results()


class _Run:
    """One execution: the sizes and the storage of every tensor."""

    def __init__(
        self,
        cascade: Cascade,
        arguments: Mapping[str, Array | Number],
        sizes: Mapping[str, int] | None,
        arithmetic: Arithmetic,
    ) -> None:
        self.cascade = cascade
        self.arithmetic = arithmetic
        arrays = _arrays(cascade, arguments)
        self.sizes = bind_sizes(cascade, {name: a.shape for name, a in arrays.items()}, sizes)
        self.tensors = {t.name: self._allocate(t, arrays.get(t.name)) for t in cascade.tensors}

    def results(self) -> dict[str, Array]:
        """Run the cascade and collect its results."""
        with np.errstate(all="ignore"):
            for step in schedule(self.cascade):
                self._step(step, {})
            return {t.name: self._result(t) for t in self.cascade.results}

    def _allocate(self, tensor: Tensor, argument: Array | None) -> Storage:
        dtype = tensor.value
        if argument is not None:
            values = argument.astype(dtype.storage) if isinstance(tensor.dtype, DType) else argument
            carried = self.arithmetic.load(values, dtype)
            return Storage(values=carried, present=np.broadcast_to(np.True_, carried.shape))
        shape = tuple(
            max(0, evaluate_size(extent, self.sizes, f"dimension {d} of {tensor.name}"))
            for d, extent in enumerate(tensor.shape)
        )
        return Storage(values=np.zeros(shape, self.arithmetic.carrier(dtype)), present=np.zeros(shape, np.bool_))

    def _result(self, tensor: Tensor) -> Array:
        storage = self.tensors[tensor.name]
        values = np.where(storage.present, storage.values, np.zeros_like(storage.values))
        if tensor.value.is_float and not self.arithmetic.typed:
            return values
        return values.astype(tensor.value.storage)

    def _step(self, step: Step, fixed: Mapping[int, Mapping[str, int]]) -> None:
        match step:
            case Straight(einsum=index):
                self._einsum(self.cascade.einsums[index], fixed.get(index, {}))
            case Loop(variables=variables, reverse=reverse, body=body):
                count = evaluate_size(step.extent, self.sizes, "a loop")
                for generation in reversed(range(count)) if reverse else range(count):
                    inner = {i: {**fixed.get(i, {}), v: generation} for i, v in variables.items()}
                    for part in body:
                        self._step(part, inner)

    def _einsum(self, einsum: Einsum, fixed: Mapping[str, int]) -> None:
        ranges: dict[str, range] = {}
        for r in einsum.ranks:
            extent = evaluate_size(r.extent, self.sizes, f"the range of {r.name}")
            if r.name not in fixed:
                ranges[r.name] = range(max(0, extent))
            elif fixed[r.name] < extent:
                ranges[r.name] = range(fixed[r.name], fixed[r.name] + 1)
            else:
                return
        if einsum.scatter:
            self._scatter(einsum, Grid(ranges=ranges))
            return
        for block in _blocks(ranges, [n for n in ranges if n not in einsum.reduced]):
            self._direct(einsum, block)

    def _evaluator(self, grid: Grid) -> Evaluator:
        return Evaluator(grid=grid, tensors=self.tensors, sizes=self.sizes, arithmetic=self.arithmetic)

    def _direct(self, einsum: Einsum, grid: Grid) -> None:
        """Map, reduce, populate: every output point has a coordinate of its own."""
        evaluator = self._evaluator(grid)
        values, present = self._map(einsum, evaluator)
        dtype = einsum.value.dtype
        if einsum.reduced:
            reducer = Reducer(einsum, self.arithmetic)
            values, dtype, present = reducer.over_axes(grid, values, present), reducer.dtype, None
        present = all_present(present, *(evaluator.evaluate(c).true() for c in einsum.output_filter))
        shape = tuple(1 if name in einsum.reduced else len(r) for name, r in grid.ranges.items())
        target = self.tensors[einsum.target]
        positions, inside = _positions(evaluator, einsum.coords, target.values.shape, shape)
        stored = self._stored(values, dtype, self.cascade.by_name[einsum.target].value)
        target.values.reshape(-1)[positions[inside]] = np.broadcast_to(stored, shape)[inside]
        mask = np.True_ if present is None else present
        target.present.reshape(-1)[positions[inside]] = np.broadcast_to(mask, shape)[inside]

    def _scatter(self, einsum: Einsum, grid: Grid) -> None:
        """Map, then reduce each point into the element of the target that its coordinates name."""
        reducer = Reducer(einsum, self.arithmetic)
        tensor, target = self.cascade.by_name[einsum.target], self.tensors[einsum.target]
        total: Array = np.full((target.values.size,), reducer.identity(reducer.dtype))
        # The coordinate of argmax counts from the start of the grid, so its grid stays in one block.
        blocks = [grid] if reducer.reduction.coordinate else _blocks(grid.ranges, list(grid.ranges))
        for block in blocks:
            evaluator = self._evaluator(block)
            values, present = self._map(einsum, evaluator)
            positions, inside = _positions(evaluator, einsum.coords, target.values.shape, block.shape)
            if present is not None:
                inside = inside & present
            points = np.broadcast_to(values, block.shape)[inside]
            if reducer.reduction.coordinate:
                places = np.broadcast_to(reducer.places(block), block.shape)[inside]
                reducer.coordinates_into(total, positions[inside], points, places)
            else:
                reducer.into(total, positions[inside], points)
        total = self.arithmetic.settle(total, reducer.dtype).reshape(target.values.shape)
        written, present = self._region(einsum, grid)
        target.values[written] = self._stored(total, reducer.dtype, tensor.value)[written]
        target.present[written] = present[written]

    def _region(self, einsum: Einsum, grid: Grid) -> tuple[Array, Array]:
        """Which elements of the target a scatter defines, and which of them its output conditions leave present.

        A coordinate without reduced ranks names the elements itself; along the others all are meant.
        """
        flat = Grid(ranges={n: range(1) if n in einsum.reduced else r for n, r in grid.ranges.items()})
        evaluator = self._evaluator(flat)
        kept = all_present(*(evaluator.evaluate(c).true() for c in einsum.output_filter))
        shape = self.tensors[einsum.target].values.shape
        own = [d for d, c in enumerate(einsum.coords) if not set(ranks_of(c)) & set(einsum.reduced)]
        coords = [einsum.coords[d] for d in own]
        positions, inside = _positions(evaluator, coords, tuple(shape[d] for d in own), flat.shape)
        regions = []
        for mask in (np.True_, np.True_ if kept is None else kept):
            chosen = np.zeros(prod(shape[d] for d in own), np.bool_)
            chosen[positions[inside & mask]] = True
            extents = tuple(shape[d] if d in own else 1 for d in range(len(shape)))
            regions.append(np.broadcast_to(chosen.reshape(extents), shape))
        return regions[0], regions[1]

    def _map(self, einsum: Einsum, evaluator: Evaluator) -> tuple[Array, Mask]:
        points = evaluator.evaluate(einsum.value)
        conditions = (evaluator.evaluate(c).true() for c in einsum.point_filter)
        return points.values, all_present(points.present, *conditions)

    def _stored(self, values: Array, source: DType, target: DType) -> Array:
        return self.arithmetic.round(self.arithmetic.convert(values, source, target), target)


def _positions(
    evaluator: Evaluator, coords: Sequence[Expr], target: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Flat positions in a target of the points of a grid, and which of them exist."""
    indices = [evaluator.index(c) for c in coords]
    position = np.zeros((1,) * len(shape), np.int64)
    for index, extent in zip(indices, target, strict=True):
        position = position * extent + index.values
    inside = within(indices, target)
    mask = np.True_ if inside is None else inside
    return np.broadcast_to(position, shape), np.broadcast_to(mask, shape)


def _blocks(ranges: Mapping[str, range], splittable: Sequence[str]) -> Iterator[Grid]:
    """The grid in blocks of at most ``_BLOCK`` points where splitting the given ranks, the first first, allows it."""
    points = prod(len(r) for r in ranges.values())
    if points <= _BLOCK or not splittable:
        yield Grid(ranges=ranges)
        return
    name, rest = splittable[0], splittable[1:]
    whole = ranges[name]
    step = max(1, _BLOCK * len(whole) // points)
    for start in range(whole.start, whole.stop, step):
        part = range(start, min(start + step, whole.stop))
        yield from _blocks({**ranges, name: part}, rest)


def _arrays(cascade: Cascade, arguments: Mapping[str, Array | Number]) -> dict[str, Array]:
    """The arguments as arrays of values that their parameters' types hold."""
    parameters = {t.name: t for t in cascade.parameters}
    for name in arguments:
        if name not in parameters:
            raise error("E1001", f"`{cascade.name}` has no parameter `{name}`", help=did_you_mean(name, parameters))
    missing = [name for name in parameters if name not in arguments]
    if missing:
        raise error("E1002", f"arguments are missing: {', '.join(missing)}")
    return {name: _array(tensor, np.asarray(arguments[name])) for name, tensor in parameters.items()}


def _array(tensor: Tensor, array: Array) -> Array:
    """The argument as float64, bool, or integers within the range of the parameter's type; else E1014."""
    dtype = tensor.value
    if dtype.is_float:
        return array.astype(np.float64, copy=False)
    if dtype.is_bool:
        return array.astype(np.bool_)
    whole = array.astype(object) if array.dtype.kind == "O" else array
    if array.dtype.kind not in "biu":
        as_float = array.astype(np.float64)
        if not np.array_equal(as_float, np.trunc(as_float)):
            raise error("E1014", f"`{tensor.name}` takes integers ({dtype}), the argument has fractions")
        whole = as_float.astype(np.int64)
    if whole.size:
        least, most = int(whole.min()), int(whole.max())
        if least < dtype.minimum or most > dtype.maximum or (dtype.kind is Kind.BIPOLAR and (whole == 0).any()):
            raise error("E1014", f"`{tensor.name}` holds {dtype}, the argument has values {least} … {most}")
    return whole

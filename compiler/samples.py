"""Seeded random arguments for a kernel: what `check` items and `einfall run --random` run it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..ir.cascade import Cascade, Role, Tensor
from ..ir.expr import Expr, Read, reads_of
from ..ir.index import expand_lets
from ..ir.sizes import evaluate
from ..ir.types import DType, Kind

_SMALL = 8
"""Integers are drawn from -8 … 7 (unsigned ones from 0 … 15): sums of products stay far from overflow."""


def sample_arguments(
    cascade: Cascade, sizes: Mapping[str, int], seed: int = 0, *, scalars: Mapping[str, int | float] | None = None
) -> dict[str, np.ndarray | int | float | bool]:
    """An array for each tensor parameter and a number for each scalar, the same for the same seed.

    Floats are normal, integers small. An integer tensor that the kernel indexes with holds valid coordinates of the
    dimension that it indexes. ``scalars`` gives some scalar parameters. Raises KeyError for a size that lacks.
    """
    lets = {let.name: let.value for let in cascade.lets}
    bounds: dict[str, int] = {}
    for name, extent in _indexing(cascade):
        value = max(0, evaluate(expand_lets(extent, lets), sizes))
        bounds[name] = min(bounds.get(name, value), value)
    random = np.random.default_rng(seed)
    found: dict[str, np.ndarray | int | float | bool] = {}
    for tensor in cascade.parameters:
        if tensor.role is Role.SCALAR:
            drawn = _scalar(tensor.value, random)
            found[tensor.name] = (scalars or {}).get(tensor.name, drawn)
            continue
        shape = tuple(max(0, evaluate(expand_lets(e, lets), sizes)) for e in tensor.shape)
        found[tensor.name] = _array(tensor, shape, bounds.get(tensor.name), random)
    return found


def _indexing(cascade: Cascade) -> Iterator[tuple[str, Expr]]:
    """(tensor whose values are coordinates, extent of the dimension that they index)."""
    for einsum in cascade.einsums:
        target = cascade.by_name[einsum.target]
        for coord, extent in zip(einsum.coords, target.shape, strict=True):
            yield from ((inner.tensor, extent) for inner in reads_of(coord))
        for read in einsum.reads():
            yield from _inside(read, cascade.by_name[read.tensor])


def _inside(read: Read, tensor: Tensor) -> Iterator[tuple[str, Expr]]:
    for index, extent in zip(read.indices, tensor.shape, strict=True):
        yield from ((inner.tensor, extent) for inner in reads_of(index))


def _array(tensor: Tensor, shape: tuple[int, ...], bound: int | None, random: np.random.Generator) -> np.ndarray:
    dtype = tensor.value
    if bound is not None and dtype.is_integer:
        return random.integers(0, max(1, min(bound, int(dtype.maximum) + 1)), size=shape).astype(dtype.storage)
    match dtype.kind:
        case Kind.FLOAT:
            return random.standard_normal(shape, np.float32 if dtype.bits <= 32 else np.float64).astype(dtype.storage)
        case Kind.BOOL:
            return random.random(shape) < 0.5
        case Kind.BIPOLAR:
            return (2 * random.integers(0, 2, size=shape) - 1).astype(dtype.storage)
        case _:
            low, high = _range(dtype)
            return random.integers(low, high + 1, size=shape).astype(dtype.storage)


def _scalar(dtype: DType, random: np.random.Generator) -> int | float | bool:
    """Positive, as scales, temperatures and epsilons are."""
    match dtype.kind:
        case Kind.FLOAT:
            return float(dtype.storage.type(random.uniform(0.25, 1.5)))
        case Kind.BOOL:
            return bool(random.random() < 0.5)
        case _:
            return int(random.integers(1, _range(dtype)[1] + 1))


def _range(dtype: DType) -> tuple[int, int]:
    if dtype.is_signed:
        return max(int(dtype.minimum), -_SMALL), min(int(dtype.maximum), _SMALL - 1)
    return 0, min(int(dtype.maximum), 2 * _SMALL - 1)

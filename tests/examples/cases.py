"""The `check` items of the examples as test cases, with seeded random inputs.

Integers that index a tensor are drawn from the valid range of the dimension that they index, so that gathers and
scatters reach something; other inputs follow their reference's `draws`, or are random values of their type.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np

from einfall.frontend.parser import parse
from einfall.frontend.syntax import (
    Access,
    Check,
    Declaration,
    Expression,
    Integer,
    Kernel,
    Name,
    Node,
    Program,
    TensorType,
    TypeName,
)

from .references import REFERENCES
from .references.registry import Array

EXAMPLES = Path(__file__).parents[2] / "examples"

_DTYPES = {
    "f64": np.float64,
    "f32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "i32": np.int32,
    "i8": np.int8,
    "bool": np.bool_,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One check item of one example."""

    path: Path
    kernel: str
    sizes: dict[str, int]

    @property
    def name(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.sizes.items())
        return f"{self.path.parent.name}/{self.kernel}[{values}]"


def example_files() -> list[Path]:
    return sorted(EXAMPLES.glob("*/*.ecs"))


def cases() -> Iterator[Case]:
    """Every check item of every example."""
    for path in example_files():
        for item in program_of(path).items:
            if isinstance(item, Check):
                values = {value.name.name: int(value.value) for value in item.values}
                yield Case(path=path, kernel=item.kernel.name, sizes=values)


@cache
def program_of(path: Path) -> Program:
    return parse(path.read_text(), str(path))


def kernel_of(path: Path) -> Kernel:
    """The kernel that an example file defines."""
    (kernel,) = (item for item in program_of(path).items if isinstance(item, Kernel))
    return kernel


def inputs(case: Case) -> dict[str, Array]:
    """The kernel's arguments at the case's sizes; the seed is the case's name."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    kernel = kernel_of(case.path)
    bounds = index_bounds(kernel)
    draws = REFERENCES[case.kernel].draws
    drawn = {}
    for parameter in kernel.parameters:
        name = parameter.name.name
        shape = tuple(extent(d, case.sizes) for d in parameter.type.dimensions)
        dtype = dtype_of(parameter.type)
        if name in draws:
            values = draws[name](rng, case.sizes, shape)
        elif name in bounds:
            values = rng.integers(0, max(extent(bounds[name], case.sizes), 1), shape)
        elif dtype is np.bool_:
            values = rng.random(shape) < 0.5
        elif dtype is np.int8:
            values = rng.integers(-128, 128, shape)
        else:
            assert dtype is not np.int32, f"{case.kernel}: say in its reference how to draw {name}"
            values = rng.standard_normal(shape)
        drawn[name] = np.asarray(values).astype(dtype)
    return drawn


def sizes_no_array_determines(case: Case) -> dict[str, int]:
    """The sizes of a case that are no dimension of an argument, such as those of a convolution's result."""
    known = {
        dimension.name
        for parameter in kernel_of(case.path).parameters
        for dimension in parameter.type.dimensions
        if isinstance(dimension, Name)
    }
    return {name: value for name, value in case.sizes.items() if name not in known}


def result_types(case: Case) -> list[tuple[str, tuple[int, ...], type]]:
    """Name, shape and dtype of each result."""
    return [
        (result.name.name, tuple(extent(d, case.sizes) for d in result.type.dimensions), dtype_of(result.type))
        for result in kernel_of(case.path).results
    ]


def dtype_of(tensor_type: TensorType) -> type:
    assert isinstance(tensor_type.element, TypeName)
    return _DTYPES[tensor_type.element.name]


def extent(dimension: Expression, sizes: dict[str, int]) -> int:
    match dimension:
        case Integer():
            return dimension.value
        case Name():
            return sizes[dimension.name]
        case _:
            raise AssertionError(f"the examples have plain dimensions only, not {dimension}")


def index_bounds(kernel: Kernel) -> dict[str, Expression]:
    """For each parameter that is read as an index, the dimension that it indexes (the first one found)."""
    typed = (*kernel.parameters, *kernel.results, *(s for s in kernel.statements if isinstance(s, Declaration)))
    dimensions = {item.name.name: item.type.dimensions for item in typed}
    parameters = {parameter.name.name for parameter in kernel.parameters}
    bounds: dict[str, Expression] = {}
    for statement in kernel.statements:
        for access in accesses(statement):
            for index, dimension in zip(access.indices, dimensions.get(access.tensor.name, ()), strict=False):
                if isinstance(index, Access) and index.tensor.name in parameters:
                    bounds.setdefault(index.tensor.name, dimension)
    return bounds


def accesses(node: Node) -> Iterator[Access]:
    """Every tensor access below a node, on both sides of an Einsum."""
    if isinstance(node, Access):
        yield node
    for attribute in fields(node):
        value = getattr(node, attribute.name)
        for child in value if isinstance(value, tuple) else (value,):
            if isinstance(child, Node):
                yield from accesses(child)

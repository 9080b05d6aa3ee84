"""From the shapes of the arguments to the values of all sizes and the shapes of the results.

This is the slow, careful half of a call; its outcome is kept per combination of shapes (see ``calling.py``).
"""

from __future__ import annotations

import operator
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..ir.diagnostics import Diagnostic, EinfallError, did_you_mean, error
from ..ir.expr import Expr, Size, sizes_of
from ..ir.index import expand_lets
from ..ir.microkernels import FEW_ROWS
from ..ir.printer import expr_to_source
from ..ir.sizes import evaluate
from ..ir.solving import solve_for
from ..ir.types import StorageType, value_type
from .signature import LARGEST, Parameter, Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the shapes of a call determine: every size by name, those that the function takes, the results' shapes."""

    sizes: Mapping[str, int]
    arguments: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    workspace: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where the value of a size was first seen."""

    parameter: str | None = None
    axis: int = 0

    def __str__(self) -> str:
        return "given by name" if self.parameter is None else f"in `{self.parameter}` (axis {self.axis})"


def determined_sizes(signature: Signature) -> frozenset[str]:
    """The free sizes that the shapes of the arguments determine; every other one must be given by name."""
    known: set[str] = set()
    lets = dict(signature.lets)
    extents = [expand_lets(e, lets) for p in signature.tensors for e in p.shape]
    while True:
        more = {
            unknown[0]
            for extent in extents
            if len(unknown := [n for n in sizes_of(extent) if n not in known]) == 1
            and solve_for(unknown[0], extent) is not None
        }
        if not more:
            return frozenset(known)
        known |= more


def resolve(
    signature: Signature,
    shapes: Mapping[str, tuple[int, ...]],
    given: Mapping[str, object] | None = None,
    *,
    kept: Container[int] = (),
    memory: tuple[int, str] | None = None,
) -> Plan:
    """The plan of a call with arguments of these shapes and these sizes given by name.

    ``memory`` is what intermediates have to fit in: bytes, and whose they are (default: the machine's).
    ``kept`` are the places of the constants among ``signature.packed`` that have been packed already.
    Raises EinfallError E1001, E1003, E1004, E1005, E1006, E1012, E1013, and E0701 for a violated ``require``.
    """
    values = known_sizes(signature, shapes, given)
    missing = [name for name in signature.sizes if name not in values]
    if missing:
        raise _undetermined(signature, missing)
    values, results = check_sizes(signature, values)
    workspace = value_of(signature.workspace, values, "workspace")
    packing = [
        form.size(shapes[form.parameter])
        for place, form in enumerate(signature.packed)
        if place not in kept and value_of(form.rows, values, "rows") > FEW_ROWS
    ]
    needed = workspace + sum(packing)
    most, whose = memory or (physical_memory(), "the machine's")
    if needed > most:
        raise error(
            "E1013",
            f"the intermediates of `{signature.name}` would need {needed} bytes for these sizes, more than "
            f"{whose} memory of {most} bytes",
            notes=[f"{sum(packing)} of them are for constants that are packed in the call"] if packing else [],
        )
    return Plan(
        sizes=values,
        arguments=tuple(values[name] for name in signature.sizes),
        shapes=results,
        workspace=workspace,
    )


def check_sizes(signature: Signature, values: Mapping[str, int]) -> tuple[dict[str, int], tuple[tuple[int, ...], ...]]:
    """(all sizes with those that ``let`` defines, the shapes of the results) for values of all free sizes.

    Raises EinfallError E0701 for a violated ``require``, E1006, E1012 and E1013 for tensors that cannot exist.
    """
    sizes = dict(values)
    for name, expr in signature.lets:
        sizes[name] = value_of(expr, sizes, name)
    _check_requires(signature, sizes)
    for parameter in signature.tensors:
        _shape(parameter.name, parameter.dtype, parameter.shape, sizes)
    return sizes, tuple(_shape(r.name, r.dtype, r.shape, sizes) for r in signature.results)


def known_sizes(
    signature: Signature, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, object] | None = None
) -> dict[str, int]:
    """The free sizes that some arguments (those of ``shapes``) and the given values determine.

    Raises EinfallError E1001, E1003, E1004, E1006 and E1012.
    """
    for parameter in signature.tensors:
        if parameter.name in shapes:
            _check_rank(parameter, shapes[parameter.name])
    sizes = _Sizes(signature, shapes)
    for name, value in (given or {}).items():
        sizes.give(name, value)
    sizes.read_shapes()
    return sizes.values


@lru_cache(maxsize=1)
def physical_memory() -> int:
    """Bytes of main memory; the largest addressable size where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return LARGEST


def checked_size(name: str, value: object) -> int:
    """A size that the user gives by name. Raises EinfallError E1012 for anything but an integer from 0 to 2**63 - 1."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise error("E1012", f"the size `{name}` is a whole number, not {_shown(value)}") from None
    if not 0 <= number <= LARGEST:
        raise error("E1012", f"the size `{name}` is {number}; sizes go from 0 to 2**63 - 1")
    return number


def value_of(expr: Expr, sizes: Mapping[str, int], what: str) -> int:
    """A size expression's value. Raises EinfallError E1006 where it has none (a division by zero)."""
    try:
        return evaluate(expr, sizes)
    except (ZeroDivisionError, OverflowError, ValueError) as failure:
        values = ", ".join(f"{name} = {sizes[name]}" for name in sizes_of(expr))
        raise error("E1006", f"`{what}` = {expr_to_source(expr)} has no value for {values} ({failure})") from None


class _Sizes:
    """Values of sizes, found one after the other, with the place that each came from."""

    def __init__(self, signature: Signature, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.signature = signature
        self.shapes = shapes
        self.lets = dict(signature.lets)
        self.values: dict[str, int] = {}
        self.origins: dict[str, _Origin] = {}

    def give(self, name: str, value: object) -> None:
        number = checked_size(name, value)
        if name in self.signature.fixed:
            if self.signature.fixed[name] != number:
                raise error(
                    "E1004",
                    f"the size {name} is {number} here, but the kernel was compiled for {name} = {self.signature.fixed[name]}",
                    help=f"compile without {name}=… to keep it free",
                )
            return
        if name not in self.signature.sizes:
            known = [*self.signature.sizes, *self.signature.names]
            raise error("E1001", f"`{self.signature.name}` has no size `{name}`", help=did_you_mean(name, known))
        self.values[name] = number
        self.origins[name] = _Origin()

    def read_shapes(self) -> None:
        """Plain dimensions first, since they make the clearest messages; then whatever can be solved."""
        dims = [
            (parameter, axis, expand_lets(extent, self.lets), self.shapes[parameter.name][axis])
            for parameter in self.signature.tensors
            if parameter.name in self.shapes
            for axis, extent in enumerate(parameter.shape)
        ]
        for parameter, axis, extent, actual in dims:
            if isinstance(extent, Size):
                self.bind(extent.name, actual, parameter, axis)
        pending = [d for d in dims if not isinstance(d[2], Size)]
        while True:
            rest = [d for d in pending if not self.use(*d)]
            if not rest or len(rest) == len(pending):
                return
            pending = rest

    def bind(self, name: str, actual: int, parameter: Parameter, axis: int) -> None:
        known = self.values.setdefault(name, actual)
        origin = self.origins.setdefault(name, _Origin(parameter=parameter.name, axis=axis))
        if known != actual:
            here = _Origin(parameter=parameter.name, axis=axis)
            raise error(
                "E1004",
                f"the size {name} is {known} {'as ' if origin.parameter is None else ''}{origin}, but {actual} {here}",
                notes=self.notes(origin.parameter, parameter.name),
            )

    def use(self, parameter: Parameter, axis: int, extent: Expr, actual: int) -> bool:
        """Learn from a dimension, or check it; False where it has too many unknowns to do either."""
        unknown = [name for name in sizes_of(extent) if name not in self.values]
        written = expr_to_source(parameter.shape[axis])
        if not unknown:
            expected = value_of(extent, self.values, written)
            if expected == actual:
                return True
            names = sizes_of(extent)
            known = " and ".join(f"{name} = {self.values[name]} ({self.origins[name]})" for name in names)
            reason = f"{written} is {expected} with {known}" if known else f"it must be {expected}"
            raise error(
                "E1004",
                f"`{parameter.name}` has {actual} in axis {axis}, but {reason}",
                notes=self.notes(parameter.name, *(self.origins[name].parameter for name in names)),
            )
        form = solve_for(unknown[0], extent) if len(unknown) == 1 else None
        if form is None:
            return False
        value = form.solve(actual, self.values)
        if value is None:
            raise error(
                "E1004",
                f"`{parameter.name}` has {actual} in axis {axis}, but no {unknown[0]} makes {written} that",
                notes=self.notes(parameter.name),
            )
        self.bind(unknown[0], value, parameter, axis)
        return True

    def notes(self, *names: str | None) -> list[str]:
        wanted = dict.fromkeys(n for n in names if n is not None)
        return [
            f"`{p.name}` is declared {p.dtype}[{', '.join(map(expr_to_source, p.shape))}], its shape is {self.shapes[p.name]}"
            for p in self.signature.tensors
            if p.name in wanted and p.name in self.shapes
        ]


def _check_rank(parameter: Parameter, shape: tuple[int, ...]) -> None:
    if len(shape) != len(parameter.shape):
        wanted = f"{parameter.dtype}[{', '.join(map(expr_to_source, parameter.shape))}]"
        raise error(
            "E1003",
            f"`{parameter.name}` has {_count(len(parameter.shape), 'dimension')}, the argument has {len(shape)}",
            notes=[f"`{parameter.name}` is declared {wanted}, its shape is {shape}"],
        )


def _check_requires(signature: Signature, values: Mapping[str, int]) -> None:
    broken = []
    for condition, text in signature.requires:
        if not value_of(condition, values, text):
            found = ", ".join(f"{name} = {values[name]}" for name in sizes_of(condition))
            message = f"`{signature.name}` requires {text}" + (f", but {found}" if found else "")
            broken.append(Diagnostic(code="E0701", message=message))
    if broken:
        raise EinfallError(broken)


def _shape(name: str, dtype: StorageType, shape: tuple[Expr, ...], values: Mapping[str, int]) -> tuple[int, ...]:
    """The extents of a tensor, none negative and together addressable."""
    extents = tuple(value_of(e, values, f"axis {axis} of {name}") for axis, e in enumerate(shape))
    total = max(1, value_type(dtype).storage.itemsize)
    for axis, extent in enumerate(extents):
        if extent < 0:
            names = ", ".join(f"{n} = {values[n]}" for n in sizes_of(shape[axis]))
            raise error(
                "E1012",
                f"axis {axis} of `{name}` would have the extent {expr_to_source(shape[axis])} = {extent}"
                + (f" for {names}" if names else ""),
            )
        total *= max(1, extent)
    if total > LARGEST:
        raise error("E1013", f"`{name}` would need {total} bytes for the shape {extents}; the limit is 2**63 - 1")
    return extents


def _undetermined(signature: Signature, missing: list[str]) -> EinfallError:
    names = ", ".join(missing)
    example = ", ".join(f"{name}=…" for name in missing)
    return error(
        "E1005",
        f"no argument of `{signature.name}` determines the size{'s' if len(missing) > 1 else ''} {names}",
        help=f"give {'them' if len(missing) > 1 else 'it'} by name in the call, {example}, or to compile",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"

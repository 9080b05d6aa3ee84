"""What a compiled kernel takes and gives, as data: names, element types and extents as expressions over sizes.

A signature is all that the runtime knows of a program. It is stored in artifacts as JSON.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from ..ir.cascade import Cascade, Role
from ..ir.expr import Cast, Const, Expr, Op, Select, Size, integer, size, sizes_of, substitute
from ..ir.layouts import PanelLayout
from ..ir.operators import FUNCTIONS
from ..ir.plans import is_panels
from ..ir.printer import expr_to_source
from ..ir.types import DTYPES, INDEX, QuantType, StorageType, value_type

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

LARGEST = 2**63 - 1
"""The largest extent, size and byte count: what an i64 offset can reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """An argument of the kernel: a tensor (INPUT, CONST) or a number (SCALAR, whose shape is empty)."""

    name: str
    dtype: StorageType
    shape: tuple[Expr, ...]
    role: Role

    @property
    def is_scalar(self) -> bool:
        return self.role is Role.SCALAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A tensor that the kernel gives back."""

    name: str
    dtype: StorageType
    shape: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedForm:
    """A constant in the order in which the kernel reads it: an argument of bytes, after the results.

    ``parameter`` is the constant [k, n], or [n, k] where ``transposed``, or a stack of these; its last ``joined`` dimensions
    count as one, in words with the first of them filled up to whole steps. ``rows`` are the most rows of the products that pack
    it in the call, over the sizes.
    """

    parameter: str
    transposed: bool
    layout: PanelLayout
    rows: Expr
    joined: int = 1

    def size(self, shape: tuple[int, ...]) -> int:
        """Bytes for a constant of this shape."""
        channels, *taps = shape[-self.joined :]
        if self.layout.words and taps:
            channels = -(-channels // self.layout.steps) * self.layout.steps
        *lead, first, second = (*shape[: -self.joined], channels * math.prod(taps))
        k, n = (second, first) if self.transposed else (first, second)
        return self.layout.size(k, self.layout.stacked(math.prod(lead), n))

    def check(self, parameters: Sequence[Parameter]) -> None:
        """Raises ValueError unless this is a form in which some kernel takes one of these parameters."""
        constant = next((p for p in parameters if p.name == self.parameter and p.role is Role.CONST), None)
        dimensions = 0 if constant is None else len(constant.shape) - self.joined + 1
        if constant is None or dimensions < 2 or (dimensions > 2 and not self.layout.words):
            raise ValueError(f"`{self.parameter}` is packed, but is no constant of two dimensions, or of more in words")
        if not is_panels(self.layout, value_type(constant.dtype)):
            raise ValueError(f"no kernel takes `{self.parameter}` in panels of {self.layout.columns} by {self.layout.steps}")


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The parameters, results and sizes of one kernel.

    ``sizes`` are the free sizes in the order in which the compiled function takes them; ``fixed`` those that were bound
    at compile time. ``lets`` define further sizes, in an order in which they can be computed. ``requires`` are
    (condition, text) pairs. ``workspace`` is the number of bytes of scratch memory that one call allocates. ``packed`` are
    constants in a further form, for which one byte is passed where they are not bound.
    """

    name: str
    parameters: tuple[Parameter, ...]
    results: tuple[Result, ...]
    sizes: tuple[str, ...]
    fixed: Mapping[str, int] = field(default_factory=dict)
    lets: tuple[tuple[str, Expr], ...] = ()
    requires: tuple[tuple[Expr, str], ...] = ()
    workspace: Expr = field(default_factory=lambda: integer(0))
    packed: tuple[PackedForm, ...] = ()

    @cached_property
    def tensors(self) -> tuple[Parameter, ...]:
        """The parameters that are arrays, in declaration order."""
        return tuple(p for p in self.parameters if not p.is_scalar)

    @cached_property
    def scalars(self) -> tuple[Parameter, ...]:
        """The parameters that are numbers, in declaration order."""
        return tuple(p for p in self.parameters if p.is_scalar)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    @staticmethod
    def of(
        cascade: Cascade,
        *,
        workspace: Expr | None = None,
        fixed: Mapping[str, int] | None = None,
        packed: tuple[PackedForm, ...] = (),
    ) -> Signature:
        """The signature of a cascade. ``fixed`` names the sizes that were substituted in it."""
        return Signature(
            name=cascade.name,
            parameters=tuple(Parameter(name=t.name, dtype=t.dtype, shape=t.shape, role=t.role) for t in cascade.parameters),
            results=tuple(Result(name=t.name, dtype=t.dtype, shape=t.shape) for t in cascade.results),
            sizes=cascade.sizes,
            fixed=dict(fixed or {}),
            lets=_in_order({each.name: each.value for each in cascade.lets}),
            requires=tuple((each.condition, each.text) for each in cascade.requires),
            workspace=integer(0) if workspace is None else workspace,
            packed=packed,
        )

    def with_sizes(self, values: Mapping[str, int]) -> Signature:
        """The signature with some free sizes replaced by numbers in every extent. They stay in ``sizes``."""
        known: dict[str, Expr] = {name: integer(value) for name, value in values.items()}

        def put(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
            return tuple(substitute(e, sizes=known) for e in exprs)

        return replace(
            self,
            parameters=tuple(replace(p, shape=put(p.shape)) for p in self.parameters),
            results=tuple(replace(r, shape=put(r.shape)) for r in self.results),
        )

    def without(self, names: Sequence[str]) -> Signature:
        """The signature less some parameters."""
        return replace(self, parameters=tuple(p for p in self.parameters if p.name not in names))

    def to_json(self) -> dict[str, Json]:
        """Plain data from which :meth:`from_json` makes the same signature."""
        return {
            "name": self.name,
            "parameters": [
                {"name": p.name, "dtype": _type_json(p.dtype), "shape": _shape_json(p.shape), "role": p.role.value}
                for p in self.parameters
            ],
            "results": [{"name": r.name, "dtype": _type_json(r.dtype), "shape": _shape_json(r.shape)} for r in self.results],
            "sizes": list(self.sizes),
            "fixed": dict(self.fixed),
            "lets": [[name, expr_json(value)] for name, value in self.lets],
            "requires": [[expr_json(condition), text] for condition, text in self.requires],
            "workspace": expr_json(self.workspace),
            "packed": [_packed_json(form) for form in self.packed],
        }

    @staticmethod
    def from_json(data: Json) -> Signature:
        """Raises ValueError for anything that :meth:`to_json` does not write."""
        try:
            match data:
                case {
                    "name": str(name),
                    "parameters": list(parameters),
                    "results": list(results),
                    "sizes": list(sizes),
                    "fixed": dict(fixed),
                    "lets": list(lets),
                    "requires": list(requires),
                    "workspace": workspace,
                    "packed": list(packed),
                }:
                    made = Signature(
                        name=name,
                        parameters=tuple(_parameter(p) for p in parameters),
                        results=tuple(_result(r) for r in results),
                        sizes=tuple(_text(s) for s in sizes),
                        fixed={key: _whole(value) for key, value in fixed.items()},
                        lets=tuple((_text(n), expr_from_json(e)) for n, e in map(_pair, lets)),
                        requires=tuple((expr_from_json(e), _text(t)) for e, t in map(_pair, requires)),
                        workspace=expr_from_json(workspace),
                        packed=tuple(_packed(form) for form in packed),
                    )
                    for form in made.packed:
                        form.check(made.parameters)
                    return made
        except (KeyError, TypeError, RecursionError) as failure:
            raise ValueError(f"not a signature: {failure!r}") from None
        raise ValueError("not a signature")

    def __str__(self) -> str:
        """As the kernel's head in the language: ``attention(Q: f32[H, P, E]) -> (AV: f32[H, P, F])``."""
        takes = ", ".join(_declaration(p.name, p.dtype, p.shape) for p in self.parameters)
        gives = ", ".join(_declaration(r.name, r.dtype, r.shape) for r in self.results)
        return f"{self.name}({takes}) -> ({gives})"


def usable_keyword(name: str) -> bool:
    """Whether a name of the language (which may end in primes) can be written as a Python keyword argument."""
    return name.isidentifier() and not keyword.iskeyword(name)


def expr_json(expr: Expr) -> Json:
    """A size expression as nested lists: numbers, names of sizes, and ``[operator, argument, …]``."""
    match expr:
        case Const(value=value, dtype=dtype):
            return value if dtype == INDEX else ["const", dtype.name, value]
        case Size(name=name):
            return name
        case Op(op=name, args=args, dtype=dtype):
            return ["op", name, dtype.name, *(expr_json(a) for a in args)]
        case Select(condition=condition, then=then, otherwise=otherwise):
            return ["if", expr_json(condition), expr_json(then), expr_json(otherwise)]
        case Cast(value=value, dtype=dtype):
            return ["cast", dtype.name, expr_json(value)]
        case _:
            raise ValueError(f"not a size expression: {expr}")


def expr_from_json(data: Json) -> Expr:
    """The inverse of :func:`expr_json`. Raises ValueError or KeyError for anything else."""
    match data:
        case bool():
            raise ValueError(f"not a size expression: {data!r}")
        case int():
            return integer(data)
        case str():
            return size(data)
        case ["const", str(dtype), (bool() | int() | float()) as value]:
            return Const(value=value, dtype=DTYPES[dtype])
        case ["op", str(name), str(dtype), *args] if name in FUNCTIONS and len(args) == FUNCTIONS[name].arity:
            return Op(op=name, args=tuple(expr_from_json(a) for a in args), dtype=DTYPES[dtype])
        case ["if", condition, then, otherwise]:
            first, second, third = (expr_from_json(e) for e in (condition, then, otherwise))
            return Select(condition=first, then=second, otherwise=third, dtype=second.dtype)
        case ["cast", str(dtype), value]:
            return Cast(value=expr_from_json(value), dtype=DTYPES[dtype])
        case _:
            raise ValueError(f"not a size expression: {data!r}")


def _in_order(lets: Mapping[str, Expr]) -> tuple[tuple[str, Expr], ...]:
    """Each definition after those that it uses."""
    order: dict[str, Expr] = {}
    while len(order) < len(lets):
        ready = [n for n, e in lets.items() if n not in order and not (set(sizes_of(e)) & set(lets)) - set(order)]
        if not ready:
            raise ValueError(f"circular definitions of {', '.join(lets)}")
        order.update((name, lets[name]) for name in ready)
    return tuple(order.items())


def _declaration(name: str, dtype: StorageType, shape: tuple[Expr, ...]) -> str:
    extents = f"[{', '.join(map(expr_to_source, shape))}]" if shape else ""
    return f"{name}: {dtype}{extents}"


def _shape_json(shape: tuple[Expr, ...]) -> list[Json]:
    return [expr_json(e) for e in shape]


def _type_json(dtype: StorageType) -> Json:
    if not isinstance(dtype, QuantType):
        return dtype.name
    return {
        "name": dtype.name,
        "element": dtype.element.name,
        "dimension": dtype.dimension,
        "group": dtype.group,
        "scale": dtype.scale.name if dtype.scale else None,
        "zero": dtype.zero.name if dtype.zero else None,
    }


def _type(data: Json) -> StorageType:
    match data:
        case str():
            return DTYPES[data]
        case {
            "name": (str() | None) as name,
            "element": str(element),
            "dimension": (str() | None) as dimension,
            "group": int(group),
            "scale": (str() | None) as scale,
            "zero": (str() | None) as zero,
        }:
            return QuantType(
                name=name,
                element=DTYPES[element],
                dimension=dimension,
                group=group,
                scale=None if scale is None else DTYPES[scale],
                zero=None if zero is None else DTYPES[zero],
            )
        case _:
            raise ValueError(f"not a type: {data!r}")


def _parameter(data: Json) -> Parameter:
    match data:
        case {"name": str(name), "dtype": dtype, "shape": list(shape), "role": str(role)}:
            extents = tuple(expr_from_json(e) for e in shape)
            return Parameter(name=name, dtype=_type(dtype), shape=extents, role=Role(role))
        case _:
            raise ValueError(f"not a parameter: {data!r}")


def _result(data: Json) -> Result:
    match data:
        case {"name": str(name), "dtype": dtype, "shape": list(shape)}:
            return Result(name=name, dtype=_type(dtype), shape=tuple(expr_from_json(e) for e in shape))
        case _:
            raise ValueError(f"not a result: {data!r}")


def _packed_json(form: PackedForm) -> Json:
    layout = form.layout
    return {
        "parameter": form.parameter,
        "transposed": form.transposed,
        "columns": layout.columns,
        "steps": layout.steps,
        "bits": layout.bits,
        "notes": layout.notes,
        "rows": expr_json(form.rows),
        "joined": form.joined,
    }


def _packed(data: Json) -> PackedForm:
    match data:
        case {
            "parameter": str(parameter),
            "transposed": bool(transposed),
            "columns": int(columns),
            "steps": int(steps),
            "bits": int(bits),
            "notes": bool(notes),
            "rows": rows,
            "joined": int(joined),
        } if min(columns, steps, bits, joined) > 0:
            layout = PanelLayout(columns=columns, steps=steps, bits=bits, notes=notes)
            return PackedForm(
                parameter=parameter, transposed=transposed, layout=layout, rows=expr_from_json(rows), joined=joined
            )
        case _:
            raise ValueError(f"not a packed constant: {data!r}")


def _pair(data: Json) -> tuple[Json, Json]:
    match data:
        case [first, second]:
            return first, second
        case _:
            raise ValueError(f"not a pair: {data!r}")


def _text(data: Json) -> str:
    if not isinstance(data, str):
        raise ValueError(f"not a name: {data!r}")
    return data


def _whole(data: Json) -> int:
    if not isinstance(data, int) or isinstance(data, bool):
        raise ValueError(f"not an integer: {data!r}")
    return data

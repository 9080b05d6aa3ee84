"""Sizes that are known when a kernel is compiled, put in their places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..ir.cascade import Cascade, Check, Einsum, Let, RankExtent, Require, Tensor
from ..ir.diagnostics import Diagnostic, EinfallError, did_you_mean, error
from ..ir.expr import Const, Expr, integer, sizes_of, substitute
from ..ir.index import simplify
from ..ir.types import INDEX
from ..runtime.extents import checked_size, value_of


def specialise(cascade: Cascade, sizes: Mapping[str, object], *, options: tuple[str, ...] = ()) -> Cascade:
    """The cascade for fixed values of some of its free sizes, which it no longer has.

    ``options`` are further names that the user may have meant. Raises EinfallError E1001 for a name that is no free
    size, E1012 for what is no size, E1006 for a ``let`` without a value, E0701 for a violated ``require``.
    """
    values = {name: checked_size(name, _known(cascade, name, value, options)) for name, value in sizes.items()}
    if not values:
        return cascade
    known: dict[str, Expr] = {name: integer(value) for name, value in values.items()}
    lets: list[Let] = []
    waiting = list(cascade.lets)
    while waiting:  # a let may use one that is defined further down
        rest = []
        for let in waiting:
            value = substitute(let.value, sizes=known)
            if sizes_of(value):
                rest.append(replace(let, value=value))
            else:
                known[let.name] = integer(value_of(value, {}, let.name))
        if len(rest) == len(waiting):
            lets = rest
            break
        waiting = rest
    bind = _Binding(known)
    return Cascade(
        name=cascade.name,
        tensors=tuple(bind.tensor(t) for t in cascade.tensors),
        einsums=tuple(bind.einsum(e) for e in cascade.einsums),
        sizes=tuple(name for name in cascade.sizes if name not in values),
        lets=tuple(lets),
        requires=_requires(cascade.requires, known),
        checks=tuple(c for check in cascade.checks if (c := _check(check, values)) is not None),
        tolerance=cascade.tolerance,
        origin=cascade.origin,
    )


class _Binding:
    def __init__(self, known: Mapping[str, Expr]) -> None:
        self.known = known

    def value(self, expr: Expr) -> Expr:
        return substitute(expr, sizes=self.known)

    def extent(self, expr: Expr) -> Expr:
        new = self.value(expr)
        return simplify(new) if new is not expr and new.dtype == INDEX else new

    def tensor(self, tensor: Tensor) -> Tensor:
        return replace(
            tensor,
            shape=tuple(map(self.extent, tensor.shape)),
            steps=tuple(None if s is None else self.extent(s) for s in tensor.steps),
        )

    def einsum(self, einsum: Einsum) -> Einsum:
        return replace(
            einsum,
            coords=tuple(map(self.value, einsum.coords)),
            value=self.value(einsum.value),
            ranks=tuple(RankExtent(name=r.name, extent=self.extent(r.extent)) for r in einsum.ranks),
            point_filter=tuple(map(self.value, einsum.point_filter)),
            output_filter=tuple(map(self.value, einsum.output_filter)),
        )


def _known(cascade: Cascade, name: str, value: object, options: tuple[str, ...]) -> object:
    if name in cascade.sizes:
        return value
    if name in {let.name for let in cascade.lets}:
        raise error("E1001", f"the size `{name}` of `{cascade.name}` follows from others (let) and cannot be given")
    if name in {p.name for p in cascade.parameters}:
        raise error(
            "E1001",
            f"`{name}` is a parameter of `{cascade.name}`; only sizes are given to compile",
            help=f"kernel.bind({name}=…) fixes it after compilation",
        )
    raise error(
        "E1001",
        f"`{cascade.name}` has no size `{name}`",
        help=did_you_mean(name, [*cascade.sizes, *options]) or f"its sizes are {', '.join(cascade.sizes) or 'none'}",
    )


def _requires(requires: tuple[Require, ...], known: Mapping[str, Expr]) -> tuple[Require, ...]:
    """The preconditions that are still open. Raises EinfallError E0701 for those that the sizes violate."""
    broken: list[Diagnostic] = []
    rest: list[Require] = []
    for require in requires:
        condition = substitute(require.condition, sizes=known)
        if sizes_of(condition):
            rest.append(replace(require, condition=condition))
        elif not value_of(condition, {}, require.text):
            names = sizes_of(require.condition)
            found = ", ".join(f"{n} = {value.value}" for n in names if isinstance(value := known[n], Const))
            message = f"the kernel requires {require.text}" + (f", but {found}" if found else "")
            broken.append(Diagnostic(code="E0701", message=message, span=require.origin.span))
    if broken:
        raise EinfallError(broken)
    return tuple(rest)


def _check(check: Check, values: Mapping[str, int]) -> Check | None:
    """What is left of a check for these sizes; None if it is about others."""
    if any(values.get(name, value) != value for name, value in check.values):
        return None
    return replace(check, values=tuple(pair for pair in check.values if pair[0] not in values))

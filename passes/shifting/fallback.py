"""A shift that is not the maximum, where it serves; the maximum where it does not, row by row and at run time.

With a shift from elsewhere (``unified.py``, ``pairs.py``) exponentials can leave the range of their type. A flag for each
maximum tells whether they stayed: where it is false the maximum and its sums are computed as the program has them. A sum that
the flag empties is ``if flag then 0 else ...``: code generation skips it whole, so that a good row costs no second pass.
Readers see one pair of shift and sum, from either side, and work on as written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, Let, Origin, Tensor
from ...ir.expr import Const, Expr, Rank, Read, Select, op, real
from ...ir.operators import REDUCTIONS
from ...ir.types import BOOL, DType
from ..construct import both, einsum, local, redirect, result_type, rewritten
from ..names import Names
from .shifts import Shift, ShiftedSum

At = Callable[[str], Read]
"""The element of a tensor with the maximum's dimensions, in the order of these, at the maximum's own point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """What a form computes instead: ``sums`` names, for each sum of the shift, a tensor of the same dimensions.

    ``fits`` tells at a maximum's point whether the form holds there, finite sums apart. ``shift`` is the shift there and
    ``scale`` what every sum is multiplied with to belong to it, which may read the shift (None: it does).
    """

    sums: tuple[str, ...]
    fits: Callable[[At], Expr]
    shift: Callable[[At], Expr]
    scale: Callable[[At, Expr], Expr] | None
    lets: tuple[Let, ...] = ()


class Builder:
    """Collects the Einsums that take the place of a shift's."""

    def __init__(self, shift: Shift, names: Names, made_by: str) -> None:
        self.shift, self.names, self.made_by = shift, names, made_by
        self.cascade = shift.structure.cascade
        self.einsums: list[Einsum] = []
        self.tensors: dict[str, Tensor] = {}

    def origin(self, index: int, rule: str) -> Origin:
        return replace(self.cascade.einsums[index].origin, made_by=f"{self.made_by}:{rule}")

    def add(self, made: Einsum, dtype: DType | None = None) -> str:
        """Adds an Einsum that writes a tensor of its own, as its coordinates say."""
        extents = {r.name: r.extent for r in made.ranks}
        shape = tuple(extents[c.name] for c in made.coords if isinstance(c, Rank))
        kind = dtype or result_type(made.reduction, made.value.dtype)
        self.einsums.append(made)
        self.tensors[made.target] = local(made.target, kind, shape, made.origin)
        return made.target

    def place(self, tensor: str, index: int) -> Read:
        """``tensor``, which has the maximum's dimensions, at the point of Einsum ``index``."""
        return Read(tensor=tensor, indices=self.shift.at(index), dtype=self.tensors[tensor].value)

    def like(self, index: int, name: str, value: Expr, rule: str) -> str:
        """An Einsum like Einsum ``index``, with another value and target."""
        written = self.cascade.einsums[index]
        return self.add(
            einsum(
                target=self.names.tensor(name),
                coords=written.coords,
                value=value,
                extents={r.name: r.extent for r in written.ranks},
                origin=self.origin(index, rule),
                reduction=written.reduction,
                where=written.point_filter,
            )
        )

    def over_outputs(self, index: int, name: str, value: Expr, rule: str, dtype: DType | None = None) -> str:
        """An Einsum over the output ranks of Einsum ``index`` alone."""
        written = self.cascade.einsums[index]
        return self.add(
            einsum(
                target=name,
                coords=written.coords,
                value=value,
                extents={r.name: r.extent for r in written.ranks},
                origin=self.origin(index, rule),
            ),
            dtype,
        )


def with_fallback(builder: Builder, made: Replacement) -> Cascade:
    """The cascade with ``made`` for the shift where it fits, and what the program says where it does not."""
    shift, cascade, names = builder.shift, builder.cascade, builder.names
    top = cascade.einsums[shift.maximum]

    def at(tensor: str) -> Read:
        return builder.place(tensor, shift.maximum)

    fits = made.fits(at)
    for name, each in zip(made.sums[1:], shift.sums[1:], strict=True):
        fits = both(fits, _is_finite(builder, name, each))
    flag = builder.over_outputs(shift.maximum, names.tensor("OK"), fits, "flag", BOOL)
    slow = {shift.target: _slow(builder, shift.maximum, top.value, flag)}
    for each in shift.sums:
        target = cascade.einsums[each.index].target
        value = redirect(each.value, {shift.target: (slow[shift.target], (), top.value.dtype)})
        slow[target] = _slow(builder, each.index, value, flag)
    fast = builder.over_outputs(shift.maximum, names.tensor(f"U{shift.target}"), made.shift(at), "shift")
    scale: str | None = None
    if made.scale is not None:
        scale = builder.over_outputs(shift.maximum, names.tensor("C"), made.scale(at, at(fast)), "scale")
    finals: list[Einsum] = [_final(builder, shift.maximum, at(fast), slow[shift.target], flag)]
    for name, each in zip(made.sums, shift.sums, strict=True):
        written = cascade.einsums[each.index]
        here = Read(tensor=name, indices=written.coords, dtype=builder.tensors[name].value)
        value = here if scale is None else op("mul", here, builder.place(scale, each.index))
        finals.append(_final(builder, each.index, value, slow[written.target], flag))
    replaced = {e.target for e in finals}
    kept = [e for e in cascade.einsums if e.target not in replaced]
    first = shift.maximum
    before = [e for e in cascade.einsums[:first] if e.target not in replaced]
    after = kept[len(before) :]
    return rewritten(cascade, (*before, *builder.einsums, *finals, *after), builder.tensors, made.lets)


def _slow(builder: Builder, index: int, value: Expr, flag: str) -> str:
    """Einsum ``index`` as written, over nothing where the flag holds."""
    written = builder.cascade.einsums[index]
    assert written.reduction is not None
    identity = Const(value=REDUCTIONS[written.reduction].identity(value.dtype), dtype=value.dtype)
    guarded = Select(condition=builder.place(flag, index), then=identity, otherwise=value, dtype=value.dtype)
    return builder.like(index, f"W{written.target}", guarded, "as-written")


def _final(builder: Builder, index: int, value: Expr, slow: str, flag: str) -> Einsum:
    """What readers see under the name that the program gives it."""
    written = builder.cascade.einsums[index]
    other = Read(tensor=slow, indices=written.coords, dtype=builder.tensors[slow].value)
    return einsum(
        target=written.target,
        coords=written.coords,
        value=Select(condition=builder.place(flag, index), then=value, otherwise=other, dtype=value.dtype),
        extents={r.name: r.extent for r in written.ranks},
        origin=builder.origin(index, "final"),
    )


def _is_finite(builder: Builder, name: str, each: ShiftedSum) -> Expr:
    """Whether a sum is finite at all points that share one maximum."""
    shift, written = builder.shift, builder.cascade.einsums[each.index]
    size = op("abs", Read(tensor=name, indices=written.coords, dtype=builder.tensors[name].value))
    places = shift.at(each.index)
    largest = builder.add(
        einsum(
            target=builder.names.tensor(f"A{written.target}"),
            coords=places,
            value=size,
            extents={r.name: r.extent for r in written.ranks},
            origin=builder.origin(each.index, "largest"),
            reduction="max",
        )
    )
    read = builder.place(largest, shift.maximum)
    return op("lt", read, real(float("inf"), read.dtype))

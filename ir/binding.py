"""From the shapes of the arguments to the sizes of a cascade."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .cascade import Cascade, Require
from .diagnostics import Diagnostic, EinfallError, did_you_mean, error
from .expr import Expr, sizes_of
from .index import expand_lets
from .sizes import evaluate
from .solving import solve_for


def bind_sizes(
    cascade: Cascade, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Every size of a cascade, ``let`` sizes included, from parameter shapes and sizes given by name.

    Raises E1001 for a size that is not one of the cascade's, E1003 for a wrong number of dimensions, E1004 for extents
    that contradict one another, E1005 for a size that nothing determines and E0701 for a violated ``require``.
    """
    sizes = dict(given or {})
    for name in sizes:
        if name not in cascade.sizes:
            raise error(
                "E1001",
                f"`{cascade.name}` has no size `{name}`",
                help=did_you_mean(name, cascade.sizes),
            )
    source = dict.fromkeys(sizes, "given")
    lets = {let.name: let.value for let in cascade.lets}
    pending = list(_dimensions(cascade, shapes, lets))
    while pending:
        rest = [entry for entry in pending if not _use(entry, sizes, source)]
        if len(rest) == len(pending):
            break
        pending = rest
    missing = [name for name in cascade.sizes if name not in sizes]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        raise error(
            "E1005",
            f"the arguments do not determine {names}",
            help=f"give {'it' if len(missing) == 1 else 'them'} by name: {missing[0]} = …",
        )
    for let in cascade.lets:
        sizes[let.name] = evaluate_size(let.value, sizes, let.name)
    check_requires(cascade.requires, sizes)
    return sizes


def evaluate_size(expr: Expr, sizes: Mapping[str, int], what: str) -> int:
    """A size expression's value; E1006 where it has none (a division by zero)."""
    try:
        return int(evaluate(expr, sizes))
    except (ZeroDivisionError, ValueError, OverflowError) as problem:
        raise error("E1006", f"`{what}` has no value for these sizes: {problem}") from None


def check_requires(requires: Iterable[Require], sizes: Mapping[str, int]) -> None:
    """Raise E0701 with every precondition that the sizes violate."""
    broken: list[Diagnostic] = []
    for require in requires:
        if not evaluate_size(require.condition, sizes, require.text):
            values = ", ".join(f"{name} = {sizes[name]}" for name in sizes_of(require.condition))
            broken.append(
                Diagnostic(
                    code="E0701",
                    message=f"the kernel requires {require.text}" + (f", but {values}" if values else ""),
                    span=require.origin.span,
                )
            )
    if broken:
        raise EinfallError(broken)


_Entry = tuple[str, int, Expr, int]  # parameter, dimension, its extent over free sizes, the argument's extent


def _dimensions(cascade: Cascade, shapes: Mapping[str, tuple[int, ...]], lets: Mapping[str, Expr]) -> Iterable[_Entry]:
    for tensor in cascade.parameters:
        if tensor.name not in shapes:
            continue
        shape = shapes[tensor.name]
        if len(shape) != len(tensor.shape):
            raise error(
                "E1003",
                f"`{tensor.name}` has {len(tensor.shape)} dimensions, the argument has {len(shape)}",
                span=tensor.origin.span,
            )
        for dim, (extent, actual) in enumerate(zip(tensor.shape, shape, strict=True)):
            yield tensor.name, dim, expand_lets(extent, lets), actual


def _use(entry: _Entry, sizes: dict[str, int], source: dict[str, str]) -> bool:
    """Learn from one dimension, or check it; False where it has more than one unknown."""
    tensor, dim, extent, actual = entry
    unknown = [name for name in sizes_of(extent) if name not in sizes]
    place = f"dimension {dim} of `{tensor}`"
    if not unknown:
        expected = evaluate_size(extent, sizes, place)
        if expected == actual:
            return True
        known = ", ".join(f"`{name}` = {sizes[name]} ({source[name]})" for name in sizes_of(extent))
        raise error(
            "E1004",
            f"{place} is {actual}, but must be {expected}" + (f" for {known}" if known else ""),
        )
    if len(unknown) > 1:
        return False
    form = solve_for(unknown[0], extent)
    if form is None:
        return False
    value = form.solve(actual, sizes)
    if value is None:
        raise error("E1004", f"{place} is {actual}, which no `{unknown[0]}` makes possible")
    sizes[unknown[0]] = value
    source[unknown[0]] = place
    return True

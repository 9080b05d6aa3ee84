"""What a kernel promises and asks for: ``require``, ``check`` and ``@tolerance``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ..ir.cascade import Check, Let, Origin, Require
from ..ir.diagnostics import Diagnostics, EinfallError, did_you_mean, error
from ..ir.expr import Expr, Op, Size, sizes_of
from ..ir.index import expand_lets
from ..ir.sizes import evaluate
from . import syntax as ast
from .expressions import Elaborator
from .names import FileScope
from .scope import KernelScope, SizeNames


def requirements(scope: KernelScope, source: str, diagnostics: Diagnostics) -> list[Require]:
    """The preconditions of a kernel. E0704 for conditions on more than sizes, E0701 for what is never true."""
    found: list[Require] = []
    for statement in scope.kernel.statements:
        if not isinstance(statement, ast.Require):
            continue
        try:
            names = SizeNames(scope, "a precondition", "E0704")
            condition = Elaborator(names, scope.file).condition(statement.condition, "what follows `require`")
            span = statement.condition.span
            text = " ".join(source[span.start : span.end].split())
            if not sizes_of(expand_lets(condition, scope.let_definitions())):
                _check_constant(condition, text, scope, statement)
        except EinfallError as problem:
            diagnostics.extend(problem.diagnostics)
            continue
        found.append(Require(condition=condition, text=text, origin=Origin(span=statement.span)))
    return found


def _check_constant(condition: Expr, text: str, scope: KernelScope, statement: ast.Require) -> None:
    try:
        holds = evaluate(expand_lets(condition, scope.let_definitions()), {})
    except (ZeroDivisionError, ValueError, OverflowError):
        holds = False
    if not holds:
        raise error("E0701", f"`require {text}` is never true", span=statement.span)


def equated(requires: Iterable[Require], lets: Mapping[str, Expr]) -> dict[str, Expr]:
    """``lets`` and the sizes that a ``require A == B`` makes equal, for proofs about extents."""
    facts = dict(lets)
    for require in requires:
        match require.condition:
            case Op(op="eq", args=(Size(name=name), other)) if _may_replace(name, other, facts):
                facts[name] = other
            case Op(op="eq", args=(other, Size(name=name))) if _may_replace(name, other, facts):
                facts[name] = other
    return facts


def _may_replace(name: str, value: Expr, facts: Mapping[str, Expr]) -> bool:
    return name not in facts and name not in sizes_of(expand_lets(value, facts))


def tolerance(kernel: ast.Kernel, diagnostics: Diagnostics) -> float | None:
    """The stated tolerance; E0705 unless it is positive and finite."""
    if kernel.tolerance is None:
        return None
    value = kernel.tolerance.value
    if not (value > 0 and math.isfinite(value)):
        diagnostics.add(
            "E0705",
            f"a tolerance is a positive relative error, not {value}",
            span=kernel.tolerance.span,
            help="for example `@tolerance(1e-2)`",
        )
    return value


def checks(
    file: FileScope,
    scopes: Mapping[str, KernelScope],
    requires: Mapping[str, list[Require]],
    diagnostics: Diagnostics,
) -> dict[str, list[Check]]:
    """The ``check`` items of each kernel.

    E0702 for what they give wrongly or leave out, E0703 where they break a ``require``.
    """
    found: dict[str, list[Check]] = {name: [] for name in file.kernels}
    for item in file.program.items:
        if not isinstance(item, ast.Check):
            continue
        name = item.kernel.name
        if name not in file.kernels:
            diagnostics.add(
                "E0702",
                f"there is no kernel `{name}` to check",
                span=item.kernel.span,
                help=did_you_mean(name, file.kernels),
            )
        elif name in scopes:
            try:
                found[name].append(_check(item, scopes[name], requires[name]))
            except EinfallError as problem:
                diagnostics.extend(problem.diagnostics)
    return found


def _check(item: ast.Check, scope: KernelScope, requires: list[Require]) -> Check:
    scalars = {info.name: info for info in scope.tensors.values() if info.role.value == "scalar"}
    values: dict[str, int | float] = {}
    for given in item.values:
        name, value = given.name.name, given.value
        if name in values:
            raise error("E0702", f"`{name}` is given twice", span=given.span)
        if name in scope.sizes:
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise error("E0702", f"the size `{name}` is a whole number, 0 or more", span=given.span)
        elif name not in scalars:
            known = [*scope.sizes, *scalars]
            hint = did_you_mean(name, known)
            if scope.is_constant(name):
                hint = "a constant that `let` defines is not given"
            raise error(
                "E0702",
                f"`{name}` is neither a size nor a scalar parameter of `{scope.kernel.name.name}`",
                span=given.span,
                help=hint or (f"it has {', '.join(known)}" if known else None),
            )
        values[name] = value
    missing = [name for name in scope.sizes if name not in values]
    if missing:
        given_text = ", ".join(f"{name} = 8" for name in missing)
        raise error(
            "E0702",
            f"this check does not give {', '.join(f'`{name}`' for name in missing)}",
            span=item.span,
            help=f"add {given_text}",
        )
    sizes = {name: int(values[name]) for name in scope.sizes}
    _check_requires(item, sizes, scope.let_definitions(), requires)
    return Check(values=tuple(values.items()), origin=Origin(span=item.span))


def _check_requires(item: ast.Check, sizes: Mapping[str, int], lets: Mapping[str, Expr], requires: list[Require]) -> None:
    for require in requires:
        try:
            holds = evaluate(expand_lets(require.condition, lets), sizes)
        except (ZeroDivisionError, ValueError, OverflowError):
            holds = False
        if not holds:
            raise error(
                "E0703",
                f"these sizes break `require {require.text}`",
                span=item.span,
                notes=[f"it stands in line {require.origin.span.line}"] if require.origin.span else [],
            )


def used_lets(lets: Mapping[str, Let], roots: Iterable[Expr], own: Iterable[str]) -> tuple[Let, ...]:
    """The derived sizes that a kernel names, itself or through others; all of its ``own``.

    They are in the order of the text, except that what defines another comes before it.
    """
    wanted = {name for root in roots for name in sizes_of(root)} | set(own)
    for name in reversed(list(lets)):
        if name in wanted:
            wanted |= set(sizes_of(lets[name].value))
    waiting = sorted((lets[name] for name in lets if name in wanted), key=_position)
    ordered: list[Let] = []
    while waiting:
        missing = {let.name for let in waiting}
        ready = next(let for let in waiting if missing.isdisjoint(sizes_of(let.value)))
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def _position(let: Let) -> int:
    return let.origin.span.start if let.origin.span is not None else 0

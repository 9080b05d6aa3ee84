"""From the syntax tree of a file to its checked cascades.

For each kernel: names (scope.py), what every Einsum reads and writes (analysis.py), types (inference.py), iterative
dimensions (iteration.py), extents and shapes (extents.py), the canonical form (reductions.py), generations
(generations.py), order (ir/dependence.py). An Einsum with a mistake is left out of what follows, and nothing is
reported about the tensor that it writes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.cascade import Cascade, Check, Einsum, Origin, Require, Role, Tensor
from ..ir.dependence import schedule
from ..ir.diagnostics import Diagnostics, EinfallError
from ..ir.expr import Expr
from . import syntax as ast
from .analysis import EinsumInfo, EinsumNames, analyse
from .contracts import checks, equated, requirements, tolerance, used_lets
from .expressions import Elaborator, ReportedError
from .extents import Extents
from .generations import check_generations
from .inference import infer_types
from .iteration import find_iteration
from .names import FileScope, TensorInfo
from .reductions import populate
from .scope import KernelScope


def lower(program: ast.Program) -> dict[str, Cascade]:
    """The cascades of all kernels of a file, by name, in the order of the text.

    Raises EinfallError with every independent mistake of the file (codes E02 to E07).
    """
    diagnostics = Diagnostics(program.file, program.source)
    file = FileScope(program, diagnostics)
    scopes: dict[str, KernelScope] = {}
    requires: dict[str, list[Require]] = {}
    parts: dict[str, list[tuple[EinsumInfo, Einsum]]] = {}
    for name, kernel in file.kernels.items():
        scope = KernelScope(file, kernel, diagnostics)
        scopes[name] = scope
        requires[name] = requirements(scope, program.source, diagnostics)
        parts[name] = _einsums(scope, requires[name], diagnostics)
        tolerance(kernel, diagnostics)
    of_kernel = checks(file, scopes, requires, diagnostics)
    diagnostics.raise_if_any()
    cascades = {name: _cascade(scope, parts[name], requires[name], of_kernel[name]) for name, scope in scopes.items()}
    for cascade in cascades.values():
        try:
            schedule(cascade)
        except EinfallError as problem:
            diagnostics.extend(problem.diagnostics)
    diagnostics.raise_if_any()
    return cascades


def _einsums(scope: KernelScope, requires: list[Require], diagnostics: Diagnostics) -> list[tuple[EinsumInfo, Einsum]]:
    """The Einsums of a kernel in canonical form, those without a mistake."""
    infos = analyse(scope, diagnostics)
    _check_written(scope, diagnostics)
    infer_types(scope, infos, diagnostics)
    _conditions(scope, infos, diagnostics)
    iteration = find_iteration(infos, diagnostics)
    facts = equated(requires, scope.let_definitions())
    Extents(infos, iteration, facts, diagnostics, {*scope.tensors, *scope.sizes, *scope.lets}).solve()
    found: list[tuple[EinsumInfo, Einsum]] = []
    for info in infos:
        if info.broken or info.value is None or info.value.is_unknown or info.target.dtype is None:
            continue
        try:
            found.append((info, populate(info, facts, scope.file.program.source)))
        except EinfallError as problem:
            diagnostics.extend(problem.diagnostics)
            info.broken = True
    check_generations(infos, iteration, diagnostics)
    assert diagnostics or len(found) == len(infos), f"Einsums of {scope.kernel.name.name} were left out without a word"
    return found


def _check_written(scope: KernelScope, diagnostics: Diagnostics) -> None:
    for info in scope.tensors.values():
        if info.written or info.role not in (Role.RESULT, Role.LOCAL):
            continue
        what = "result" if info.role is Role.RESULT else "tensor"
        info.broken = True
        diagnostics.add(
            "E0204",
            f"the {what} `{info.name}` is never written",
            span=info.span,
            help=f"add an Einsum `{_access(info)} = …`" + ("" if what == "result" else ", or remove the declaration"),
        )


def _access(info: TensorInfo) -> str:
    count = len(info.dims or ())
    return f"{info.name}[{', '.join('ijklmn'[i] if i < 6 else f'i{i}' for i in range(count))}]" if count else info.name


def _conditions(scope: KernelScope, infos: list[EinsumInfo], diagnostics: Diagnostics) -> None:
    """Conditions and coordinates, now that the types of all tensors are known."""
    for info in infos:
        if info.broken:
            continue
        elaborator = Elaborator(EinsumNames(scope, info.variables), scope.file)
        try:
            info.coordinates = tuple(elaborator.index(node) for node in info.syntax.target.indices)
            if info.syntax.condition is not None:
                info.filters = (elaborator.condition(info.syntax.condition, "what follows `where`"),)
        except (EinfallError, ReportedError) as problem:
            if isinstance(problem, EinfallError):
                diagnostics.extend(problem.diagnostics)
            info.broken = info.target.broken = True


def _cascade(
    scope: KernelScope,
    parts: list[tuple[EinsumInfo, Einsum]],
    requires: list[Require],
    own_checks: list[Check],
) -> Cascade:
    einsums = tuple(einsum for _, einsum in parts)
    tensors = tuple(_tensor(info) for info in _in_order(scope, [info for info, _ in parts]))
    own_lets = [s.name.name for s in scope.kernel.statements if isinstance(s, ast.Let)]
    return Cascade(
        name=scope.kernel.name.name,
        tensors=tensors,
        einsums=einsums,
        sizes=tuple(scope.sizes),
        lets=used_lets(scope.lets, _roots(tensors, einsums, requires), own_lets),
        requires=tuple(requires),
        checks=tuple(own_checks),
        tolerance=None if scope.kernel.tolerance is None else scope.kernel.tolerance.value,
        origin=Origin(span=scope.kernel.span),
    )


def _in_order(scope: KernelScope, infos: list[EinsumInfo]) -> list[TensorInfo]:
    """Parameters and results as declared, then locals as first written."""
    local = dict.fromkeys(info.target.name for info in infos if info.target.role is Role.LOCAL)
    declared = [info for info in scope.tensors.values() if info.role is not Role.LOCAL]
    return declared + [scope.tensors[name] for name in local]


def _tensor(info: TensorInfo) -> Tensor:
    assert info.dtype is not None and info.dims is not None
    shape = tuple(extent for extent in info.dims if extent is not None)
    assert len(shape) == len(info.dims)
    return Tensor(
        name=info.name,
        dtype=info.dtype,
        shape=shape,
        role=info.role,
        steps=tuple(info.steps) if any(s is not None for s in info.steps) else (),
        annotated=info.annotated,
        declared=info.declared,
        origin=Origin(span=info.span),
    )


def _roots(tensors: tuple[Tensor, ...], einsums: tuple[Einsum, ...], requires: list[Require]) -> Iterator[Expr]:
    """Every expression in which a derived size may occur."""
    for tensor in tensors:
        yield from tensor.shape
        yield from (steps for steps in tensor.steps if steps is not None)
    for einsum in einsums:
        yield from einsum.expressions()
        yield from (rank.extent for rank in einsum.ranks)
    for require in requires:
        yield require.condition

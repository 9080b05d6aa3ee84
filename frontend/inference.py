"""The types of a kernel's tensors: declared, annotated, or joined from the Einsums that write them.

Tensors that depend on one another (iterative ones) are solved together, from the types that the others give.
"""

from __future__ import annotations

import networkx as nx

from ..ir.diagnostics import Diagnostics, EinfallError
from ..ir.types import BOOL, F32, I32, DType, accumulator
from .analysis import EinsumInfo, EinsumNames
from .expressions import Elaborator, ReportedError
from .names import TensorInfo
from .scope import KernelScope
from .typing import POISON, REAL, Value, join

_ROUNDS = 12
"""Joins only widen, and no chain of types is longer."""


def infer_types(scope: KernelScope, infos: list[EinsumInfo], diagnostics: Diagnostics) -> None:
    """Give every written tensor its type and every Einsum its value; those with an error are broken."""
    writers: dict[str, list[EinsumInfo]] = {}
    for info in infos:
        writers.setdefault(info.target.name, []).append(info)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, of_tensor in writers.items():
        graph.add_node(name)
        for info in of_tensor:
            graph.add_edges_from((read.name, name) for read in info.tensors_read if read.name in writers)
    components: nx.DiGraph[int] = nx.condensation(graph)
    for component in nx.topological_sort(components):
        members = sorted(components.nodes[component]["members"], key=list(writers).index)
        _solve(scope, [info for name in members for info in writers[name]], diagnostics)


def _solve(scope: KernelScope, infos: list[EinsumInfo], diagnostics: Diagnostics) -> None:
    open_tensors = {info.target.name: info.target for info in infos if info.target.dtype is None}
    problems: dict[int, EinfallError] = {}
    _join_rounds(scope, infos, open_tensors, problems)
    undecided = [target for target in open_tensors.values() if target.dtype is None]
    for target in undecided:
        target.dtype = _default(target, infos)
    if undecided:
        _join_rounds(scope, infos, open_tensors, problems)  # a cycle that starts with whole numbers may go on with reals
    for info in infos:
        if info.broken:
            continue
        try:
            info.value = _elaborate(scope, info)
        except EinfallError as problem:
            diagnostics.extend(problem.diagnostics)
            info.broken = info.target.broken = True
        except ReportedError:
            info.broken = info.target.broken = True
    if not diagnostics:
        # A mistake that left a tensor of the cycle without a type hides behind the tensors that have none because of it.
        for hidden in problems.values():
            diagnostics.extend(hidden.diagnostics)


def _join_rounds(
    scope: KernelScope, infos: list[EinsumInfo], open_tensors: dict[str, TensorInfo], problems: dict[int, EinfallError]
) -> None:
    for _ in range(_ROUNDS if open_tensors else 0):
        if not _round(scope, infos, open_tensors, problems):
            return


def _round(
    scope: KernelScope, infos: list[EinsumInfo], open_tensors: dict[str, TensorInfo], problems: dict[int, EinfallError]
) -> bool:
    """Join what the writers give once; whether any type changed. ``problems`` has the mistakes of the Einsums, by number, that
    had one when they were last looked at."""
    changed = False
    for number, info in enumerate(infos):
        target = open_tensors.get(info.target.name)
        if target is None or info.broken:
            continue
        try:
            info.value = _elaborate(scope, info)
        except EinfallError as problem:
            problems[number] = problem  # met again when the types are final, where a type is found for all
            continue
        except ReportedError:
            continue
        problems.pop(number, None)
        found = written_type(info, info.value)
        if found is None:
            continue
        wider = found if target.dtype is None else join(_element(target), found)
        if wider != target.dtype:
            target.dtype = wider
            changed = True
    return changed


def _element(target: TensorInfo) -> DType:
    assert isinstance(target.dtype, DType)
    return target.dtype


def _elaborate(scope: KernelScope, info: EinsumInfo) -> Value:
    return Elaborator(EinsumNames(scope, info.variables), scope.file).value(info.syntax.value)


def written_type(info: EinsumInfo, value: Value) -> DType | None:
    """The type that an Einsum gives its target; None where it is weak or unknown.

    Integer sums and products are of their accumulator's type.
    """
    operator = reduction_name(info)
    if operator in ("argmax", "argmin"):
        return I32
    if operator in ("and", "or"):
        return BOOL
    if value.weak or value.is_unknown:
        return None
    if operator in ("+", "*") and not value.dtype.is_float:
        return accumulator(value.dtype)
    return value.dtype


def reduction_name(info: EinsumInfo) -> str | None:
    """The reduction that an Einsum states, or the ``+`` that it implies."""
    if info.syntax.reduction is not None:
        return info.syntax.reduction.operator
    return "+" if info.right - info.left else None


def _default(target: TensorInfo, infos: list[EinsumInfo]) -> DType | None:
    """The type of a tensor that only weak values, or only itself, are written to: i32 for integers, else f32."""
    values = [info.value for info in infos if info.target is target and info.value is not None]
    if not values or any(value.dtype is POISON for value in values):
        target.broken = True
        return None
    weak = [v for v in values if v.weak]
    return I32 if weak and all(v.dtype != REAL for v in weak) else F32

"""Every generation that an iterative tensor reads of itself is given: by an initialiser, ``??`` or a condition."""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.diagnostics import Diagnostics
from ..ir.expr import Const, Default, Expr, Read, Select, children, ranks_of
from ..ir.printer import expr_to_source
from .analysis import EinsumInfo, index_of
from .iteration import Iteration
from .names import TensorInfo


def check_generations(infos: list[EinsumInfo], iteration: Iteration, diagnostics: Diagnostics) -> None:
    """E0611 for reads before the first generation, E0612 for initialisers of generations that the steps write."""
    for info in infos:
        if info.broken or info.target.broken or info.value is None:
            continue
        if info.initialiser:
            _check_initialiser(info, iteration, diagnostics)
        if iteration.main.get(info.target.name) is not info:
            continue
        cycle = iteration.cycles.get(info.target.name, frozenset())
        for read in _unguarded(info.value.expr):
            if read.tensor in cycle and (problem := _missing(read, info, infos, iteration)) is not None:
                tensor, dim, generation = problem
                _report(info, read, tensor, dim, generation, diagnostics)
                break


def _check_initialiser(info: EinsumInfo, iteration: Iteration, diagnostics: Diagnostics) -> None:
    for d, coord in enumerate(info.coords):
        first = iteration.offset(info.target, d)
        match coord.constant:
            case Const(value=int(generation)) if (
                first is not None and (info.target.name, d) in iteration.forward and generation >= first
            ):
                main = iteration.main.get(info.target.name)
                where = f"line {main.syntax.span.line} writes" if main is not None else "the steps write"
                diagnostics.add(
                    "E0612",
                    f"generation {generation} of `{info.target.name}` is not a first one: {where} it",
                    span=info.syntax.target.indices[d].span,
                    help=f"an initialiser gives the generations before {first}",
                )
            case _:
                continue


def _unguarded(expr: Expr) -> Iterator[Read]:
    """Reads whose absence makes the whole expression absent: not below ``??``, not in a branch of ``if``."""
    match expr:
        case Default(default=default):
            yield from _unguarded(default)
        case Select(condition=condition):
            yield from _unguarded(condition)
        case _:
            if isinstance(expr, Read):
                yield expr
            for child in children(expr):
                yield from _unguarded(child)


def _missing(read: Read, info: EinsumInfo, infos: list[EinsumInfo], iteration: Iteration) -> tuple[TensorInfo, int, int] | None:
    """(tensor, dimension, generation) that a read asks for and nothing gives."""
    tensor = next(other.target for other in infos if other.target.name == read.tensor)
    main = iteration.main.get(read.tensor)
    if main is None:
        return None
    for d, expr in enumerate(read.indices):
        index, written = index_of(expr), main.coords[d]
        if index.variable is None or index.offset is None or written.offset is None:
            continue
        if index.offset >= written.offset or _conditioned(info, index.variable):
            continue
        own = any(coord.variable == index.variable for coord in info.coords)
        if not own or (not _is_recurrence(read.tensor, d, info, iteration)):
            continue
        starts = [other.coords[d].constant for other in infos if other.initialiser and other.target is tensor]
        given = {start.value for start in starts if isinstance(start, Const)}
        whole = None in starts
        for generation in range(index.offset, written.offset):
            if generation not in given and not (whole and generation >= 0):
                return tensor, d, generation
    return None


def _is_recurrence(name: str, dim: int, info: EinsumInfo, iteration: Iteration) -> bool:
    """Whether a read at a lower offset is an earlier generation, and not a neighbour such as ``U[t, i-1]``."""
    if (name, dim) in iteration.forward:
        return True
    return name == info.target.name and not any(tensor == name for tensor, _ in iteration.offsets)


def _conditioned(info: EinsumInfo, variable: str) -> bool:
    """Whether a condition of the Einsum may keep the variable away from its first values."""
    return any(variable in ranks_of(condition) for condition in info.filters)


def _report(info: EinsumInfo, read: Read, tensor: TensorInfo, dim: int, generation: int, diagnostics: Diagnostics) -> None:
    indices = [expr_to_source(index) for index in read.indices]
    asked = f"{tensor.name}[{', '.join(indices)}]"
    indices[dim] = str(generation)
    first = f"{tensor.name}[{', '.join(indices)}]"
    default = f"`({asked} ?? 0)`"
    diagnostics.add(
        "E0611",
        f"nothing gives `{first}`, which the first step of `{info.target.name}` reads",
        span=read.span or info.syntax.span,
        help=f"add an initialiser, `{first} = …`, or a default, {default}" if generation >= 0 else f"give a default: {default}",
    )

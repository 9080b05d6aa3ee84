"""The invariants of a cascade, checked after every pass in the tests and under ``--verify-each``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from .cascade import Cascade, Einsum, Role
from .diagnostics import Diagnostic, EinfallError
from .expr import (
    Bitcast,
    Cast,
    Const,
    Default,
    Expr,
    Op,
    Rank,
    Read,
    Select,
    Size,
    ranks_of,
    reads_of,
    sizes_of,
    walk,
)
from .injective import is_injective
from .operators import FUNCTIONS, REDUCTIONS
from .printer import verbatim
from .types import BOOL, INDEX


def verify(cascade: Cascade) -> None:
    """Raise EinfallError E9001 with one diagnostic for each invariant that a cascade violates."""
    found = [
        Diagnostic(code="E9001", message=f"invalid cascade `{cascade.name}`: {message}") for message in violations(cascade)
    ]
    if found:
        raise EinfallError(found)


def violations(cascade: Cascade) -> Iterator[str]:
    """What is wrong with a cascade, one sentence each."""
    yield from _declarations(cascade)
    for index, einsum in enumerate(cascade.einsums):
        where = f"Einsum {index}, which writes `{einsum.target}`"
        for message in _einsum(cascade, einsum):
            yield f"{where}: {message}"


def _declarations(cascade: Cascade) -> Iterator[str]:
    names = [t.name for t in cascade.tensors] + list(cascade.sizes) + [let.name for let in cascade.lets]
    for name, count in Counter(names).items():
        if count > 1:
            yield f"`{name}` is defined {count} times"
    known = set(cascade.sizes)
    for let in cascade.lets:
        yield from _sizes_known(let.value, known, f"let {let.name}")
        known.add(let.name)
    for require in cascade.requires:
        yield from _sizes_known(require.condition, known, f"require {require.text}")
    for tensor in cascade.tensors:
        for extent in tensor.shape:
            yield from _extent(extent, known, f"the shape of `{tensor.name}`")
        if len(tensor.steps) not in (0, len(tensor.shape)):
            yield f"`{tensor.name}` has {len(tensor.shape)} dimensions and {len(tensor.steps)} steps"
        for steps in tensor.steps:
            if steps is not None:
                yield from _extent(steps, known, f"the steps of `{tensor.name}`")
        written = bool(cascade.writers(tensor.name))
        if written == tensor.is_parameter:
            yield f"the {tensor.role.value} `{tensor.name}` is {'' if written else 'not '}written"
        if tensor.role is Role.SCALAR and tensor.shape:
            yield f"the scalar `{tensor.name}` has dimensions"
    for name in {e.target for e in cascade.einsums}:
        final = [e for e in cascade.writers(name) if not e.initialiser]
        if len(final) > 1:
            yield f"`{name}` is written by {len(final)} Einsums that are no initialisers"


def _einsum(cascade: Cascade, einsum: Einsum) -> Iterator[str]:
    known = {*cascade.sizes, *(let.name for let in cascade.lets)}
    ranks = [r.name for r in einsum.ranks]
    for name, count in Counter(ranks).items():
        if count > 1:
            yield f"rank `{name}` occurs {count} times"
    for r in einsum.ranks:
        yield from _extent(r.extent, known, f"the extent of rank `{r.name}`")
    for name in einsum.reduced:
        if name not in ranks:
            yield f"the reduced rank `{name}` is not a rank"
    output = [name for name in ranks if name not in einsum.reduced]
    if ranks[: len(output)] != output:
        yield "output ranks do not come before the reduced ones"
    for expr in einsum.expressions():
        yield from _expression(cascade, expr, set(ranks), known)
    yield from _reduction(einsum)
    for condition in (*einsum.point_filter, *einsum.output_filter):
        if condition.dtype != BOOL:
            yield f"the condition {verbatim(condition)} is of type {condition.dtype}"
    for condition in einsum.output_filter:
        if set(ranks_of(condition)) & set(einsum.reduced):
            yield f"the output condition {verbatim(condition)} mentions a reduced rank"
    for condition in einsum.point_filter:
        if not set(ranks_of(condition)) & set(einsum.reduced):
            yield f"the point condition {verbatim(condition)} mentions no reduced rank"
    yield from _coordinates(cascade, einsum, output)


def _reduction(einsum: Einsum) -> Iterator[str]:
    if einsum.reduction is None:
        if einsum.reduced:
            yield f"ranks {', '.join(einsum.reduced)} are reduced by nothing"
        if einsum.scatter:
            yield "a scatter has no reduction"
    elif einsum.reduction not in REDUCTIONS:
        yield f"unknown reduction `{einsum.reduction}`"
    elif not einsum.reduced and not einsum.scatter:
        yield f"the reduction `{einsum.reduction}` has no ranks"


def _coordinates(cascade: Cascade, einsum: Einsum, output: list[str]) -> Iterator[str]:
    tensor = cascade.by_name.get(einsum.target)
    if tensor is None:
        yield f"there is no tensor `{einsum.target}`"
        return
    if len(einsum.coords) != len(tensor.shape):
        yield f"{len(einsum.coords)} coordinates for {len(tensor.shape)} dimensions"
    for coord in einsum.coords:
        if not coord.dtype.is_integer:
            yield f"the coordinate {verbatim(coord)} is of type {coord.dtype}"
    if einsum.scatter:
        return
    for coord in einsum.coords:
        if set(ranks_of(coord)) & set(einsum.reduced):
            yield f"the coordinate {verbatim(coord)} mentions a reduced rank, but this is no scatter"
        if reads_of(coord):
            yield f"the coordinate {verbatim(coord)} depends on data, but this is no scatter"
    used = {name for coord in einsum.coords for name in ranks_of(coord)}
    for name in output:
        if name not in used:
            yield f"rank `{name}` is neither reduced nor in the coordinates"
    lets = {let.name: let.value for let in cascade.lets}
    known = {r.name: r.extent for r in einsum.ranks}
    if used <= known.keys() and not is_injective(einsum.coords, known, lets):
        yield "two points may have the same coordinates, but this is no scatter"


def _expression(cascade: Cascade, expr: Expr, ranks: set[str], sizes: set[str]) -> Iterator[str]:
    yield from _sizes_known(expr, sizes, verbatim(expr))
    for name in ranks_of(expr):
        if name not in ranks:
            yield f"rank `{name}` in {verbatim(expr)} is not bound"
    for node in walk(expr):
        for message in _node(cascade, node):
            yield f"in {verbatim(node)}: {message}"


def _node(cascade: Cascade, node: Expr) -> Iterator[str]:
    match node:
        case Rank() | Size():
            if node.dtype != INDEX:
                yield f"is of type {node.dtype} instead of {INDEX}"
        case Const(value=value):
            kind = bool if node.dtype.is_bool else float if node.dtype.is_float else int
            if type(value) is not kind:
                yield f"a {type(value).__name__} as {node.dtype}"
            elif kind is int and not node.dtype.minimum <= value <= node.dtype.maximum:
                yield f"does not fit {node.dtype}"
        case Read(tensor=name, indices=indices):
            yield from _read(cascade, name, indices, node)
        case Op(op=name, args=args):
            yield from _operator(name, args, node)
        case Select(condition=condition, then=then, otherwise=otherwise):
            if condition.dtype != BOOL:
                yield f"the condition is of type {condition.dtype}"
            if not then.dtype == otherwise.dtype == node.dtype:
                yield f"branches of types {then.dtype} and {otherwise.dtype} give {node.dtype}"
        case Default(value=value, default=default):
            if not value.dtype == default.dtype == node.dtype:
                yield f"types {value.dtype} and {default.dtype} give {node.dtype}"
        case Bitcast(value=value):
            if value.dtype.bits != node.dtype.bits:
                yield f"{value.dtype} and {node.dtype} have different widths"
        case Cast():
            return
        case _:
            yield "is no expression"


def _read(cascade: Cascade, name: str, indices: tuple[Expr, ...], node: Expr) -> Iterator[str]:
    tensor = cascade.by_name.get(name)
    if tensor is None:
        yield f"there is no tensor `{name}`"
        return
    if len(indices) != len(tensor.shape):
        yield f"{len(indices)} indices for {len(tensor.shape)} dimensions"
    if node.dtype != tensor.value:
        yield f"is of type {node.dtype}, the tensor of {tensor.value}"
    for index in indices:
        if not index.dtype.is_integer:
            yield f"the index {verbatim(index)} is of type {index.dtype}"


def _operator(name: str, args: tuple[Expr, ...], node: Expr) -> Iterator[str]:
    info = FUNCTIONS.get(name)
    if info is None:
        yield f"unknown operator `{name}`"
        return
    if len(args) != info.arity:
        yield f"{len(args)} operands for `{name}`, which takes {info.arity}"
        return
    first = args[0].dtype
    match args:
        case (_, Const(dtype=exponent)) if name == "pow" and exponent == INDEX:
            same = True  # x ** n with a constant integer n: repeated multiplication
        case _:
            same = all(a.dtype == first for a in args)
    if not same:
        yield f"operands of types {', '.join(str(a.dtype) for a in args)}"
    expected = BOOL if info.gives_bool else first
    if node.dtype != expected:
        yield f"is of type {node.dtype} instead of {expected}"
    if name in ("and", "or", "not") and first != BOOL:
        yield f"`{name}` on {first}"
    if info.real_valued and not first.is_float:
        yield f"`{name}` on {first}"
    if info.integers_only and not first.is_integer:
        yield f"`{name}` on {first}"


def _extent(extent: Expr, known: set[str], what: str) -> Iterator[str]:
    yield from _sizes_known(extent, known, what)
    if any(isinstance(node, Rank | Read) for node in walk(extent)):
        yield f"{what} depends on more than sizes"


def _sizes_known(expr: Expr, known: Iterable[str], what: str) -> Iterator[str]:
    for name in sizes_of(expr):
        if name not in known:
            yield f"unknown size `{name}` in {what}"

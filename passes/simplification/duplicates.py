"""Common subexpressions: tensors that are computed twice, and costly values that several Einsums of one pass compute.

Two tensors are the same where their Einsums are, up to the names of rank variables, the order of commutative operands, and the
tensor's own name in a recurrence. A value is shared through a tensor of its own only between Einsums of the same pass along
every rank: the Einsums still fuse, and nothing new lives from one pass to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, Origin, Role, Tensor
from ...ir.expr import (
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
    children,
    rank,
    ranks_of,
    transform,
    walk,
)
from ...ir.implicit import surface
from ...ir.operators import FUNCTIONS
from ...ir.printer import expr_to_source
from ...ir.types import F32, F64
from ..analysis.passcount import analyse
from ..analysis.structure import Structure
from ..construct import Targets, einsum, local, redirect_einsum, rewritten
from ..names import Names
from .restate import restate

_COSTLY = 10
"""Operations that make a value worth a tensor of its own: an exponential, a logarithm, a tanh."""


def spelling(expr: Expr, ranks: Mapping[str, str], own: str = "") -> str:
    """A text that two expressions share where they are the same up to rank names and the order of commutative operands.

    ``own`` is the tensor that the Einsum writes, so that recurrences compare.
    """
    match expr:
        case Const():
            return f"{expr.value!r}:{expr.dtype}"
        case Rank(name=name):
            return f"${ranks.get(name, name)}"
        case Size(name=name):
            return name
        case Read(tensor=tensor, indices=indices):
            inner = ",".join(spelling(i, ranks, own) for i in indices)
            return f"{'' if tensor == own else tensor}[{inner}]"
        case Op(op=name, args=args):
            parts = [spelling(a, ranks, own) for a in args]
            if FUNCTIONS[name].commutative:
                parts.sort()
            return f"{name}:{expr.dtype}({','.join(parts)})"
        case Select(condition=c, then=a, otherwise=b):
            return f"if({','.join(spelling(e, ranks, own) for e in (c, a, b))})"
        case Default(value=a, default=b):
            return f"({spelling(a, ranks, own)}??{spelling(b, ranks, own)})"
        case Cast(value=a) | Bitcast(value=a):
            return f"{type(expr).__name__}:{expr.dtype}({spelling(a, ranks, own)})"
        case _:
            raise TypeError(f"no expression: {expr!r}")


def _whole_spelling(of: Einsum) -> str:
    names = {r.name: str(i) for i, r in enumerate(of.ranks)}

    def spelled(exprs: tuple[Expr, ...]) -> str:
        return ";".join(spelling(e, names, of.target) for e in exprs)

    conditions = "&".join(sorted(spelling(c, names, of.target) for c in (*of.point_filter, *of.output_filter)))
    extents = ";".join(spelling(r.extent, {}) for r in of.ranks)
    kind = f"{of.reduction} {len(of.reduced)} {of.accumulator} {of.scatter} {of.initialiser}"
    return f"{spelled(of.coords)} = {spelled((of.value,))} where {conditions} over {extents} by {kind}"


def equal_tensors(cascade: Cascade) -> Iterator[tuple[str, str]]:
    """Pairs of a tensor and a later one that always holds the same."""
    first: dict[tuple[str, ...], str] = {}
    texts: dict[str, list[str]] = {}
    for each in cascade.einsums:
        texts.setdefault(each.target, []).append(_whole_spelling(each))
    for name, lines in texts.items():
        tensor = cascade.by_name[name]
        forced = tensor.annotated and tensor.value.is_float and tensor.value.bits < 32
        shape = ";".join(spelling(n, {}) for n in tensor.shape)
        key = (str(tensor.dtype), shape, str(forced), *lines)
        if key in first:
            yield first[key], name
        else:
            first[key] = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A cascade with one tensor less, or with one that is copied instead of computed; which stands for which."""

    cascade: Cascade
    kept: str
    gone: str


def merge_equal(cascade: Cascade) -> Merged | None:
    """T and U computed alike: what reads one reads the other. Of two results, a reduction is copied."""
    for a, b in equal_tensors(cascade):
        kept, gone = (b, a) if cascade.by_name[b].role is Role.RESULT else (a, b)
        if cascade.by_name[gone].role is not Role.RESULT:
            return Merged(cascade=_redirected(cascade, gone, kept), kept=kept, gone=gone)
        copied = _copied(cascade, a, b)
        if copied is not None:
            return Merged(cascade=copied, kept=a, gone=b)
    return None


def _redirected(cascade: Cascade, gone: str, kept: str) -> Cascade:
    targets: Targets = {gone: (kept, (), cascade.by_name[kept].value)}
    einsums = tuple(redirect_einsum(e, targets) for e in cascade.einsums if e.target != gone)
    return rewritten(cascade, einsums, {})


def _copied(cascade: Cascade, a: str, b: str) -> Cascade | None:
    """Two results that hold one reduction: the second is read from the first."""
    writers = cascade.writers(b)
    if len(writers) != 1 or writers[0].reduction is None or writers[0].scatter:
        return None
    (old,) = writers
    tensor = cascade.by_name[a]
    if not all(isinstance(c, Rank) for c in old.coords):
        return None
    copy = replace(
        old,
        value=Read(tensor=a, indices=old.coords, dtype=tensor.value),
        ranks=tuple(r for r in old.ranks if r.name not in old.reduced),
        reduction=None,
        reduced=(),
        point_filter=(),
        output_filter=(),
        accumulator=tensor.value,
    )
    return rewritten(cascade, tuple(copy if e is old else e for e in cascade.einsums), {})


def share_value(cascade: Cascade) -> Merged | None:
    """f(x) in several Einsums of one pass: computed once, into a tensor that all of them read."""
    writers = Counter(e.target for e in cascade.einsums)
    candidates = {i for i, e in enumerate(cascade.einsums) if writers[e.target] == 1 and _is_costly(e.value)}
    if len(candidates) < 2:
        return None
    structure: Structure | None = None
    places: dict[str, list[tuple[int, Expr]]] = {}
    for i, each in enumerate(cascade.einsums):
        for node in _costly(each.value) if i in candidates else ():
            names = {n: str(k) for k, n in enumerate(ranks_of(node))}
            extents = ";".join(spelling(each.extent(n), {}) for n in names)
            places.setdefault(f"{spelling(node, names)} over {extents}", []).append((i, node))
    for found in sorted(places.values(), key=lambda f: -len(list(walk(f[0][1])))):
        if len({i for i, _ in found}) < 2:
            continue
        structure = structure or Structure(cascade)
        shared = _shared(structure, found)
        if shared is not None:
            return shared
    return None


def _costly(expr: Expr) -> Iterator[Expr]:
    """The subexpressions that are worth sharing, larger ones first. A branch of ``if`` alone is not: it may never be chosen."""
    if not isinstance(expr, Op | Select | Cast) or not _is_costly(expr):
        return
    if expr.dtype in (F32, F64) and _is_shareable(expr):
        yield expr
    for part in (expr.condition,) if isinstance(expr, Select) else children(expr):
        yield from _costly(part)


def _is_costly(expr: Expr) -> bool:
    return any(isinstance(node, Op) and FUNCTIONS[node.op].flops >= _COSTLY for node in walk(expr))


def _is_shareable(expr: Expr) -> bool:
    """A value that varies, of ranks that its own reads bound, whose type a tensor takes without being told."""
    direct = {i.name for r in walk(expr) if isinstance(r, Read) for i in r.indices if isinstance(i, Rank)}
    names = ranks_of(expr)
    return bool(names) and direct.issuperset(names) and surface(expr).dtype == expr.dtype


def _shared(structure: Structure, found: list[tuple[int, Expr]]) -> Merged | None:
    """The Einsums of the first one's pass that compute a value, with reads of it instead."""
    cascade = structure.cascade
    nodes: dict[int, list[Expr]] = {}
    for i, node in found:
        if i in structure.straight:
            nodes.setdefault(i, []).append(node)
    if len(nodes) < 2:
        return None
    existing = next((i for i, own in nodes.items() if _states(structure, i, own)), None)
    first = next(iter(nodes)) if existing is None else existing
    levels = [each.levels for each in analyse(cascade, structure.steps).ranks]
    others = [i for i in nodes if i != first and all(t.get(i, n) == n for t in levels if (n := t.get(first, 0)))]
    if not others:
        return None
    writer = cascade.einsums[first]
    if existing is not None:
        return _reading(cascade, writer, cascade.by_name[writer.target], {i: nodes[i] for i in others})
    writer = _stating(cascade, writer, nodes[first][0])
    tensor = local(writer.target, writer.value.dtype, tuple(r.extent for r in writer.ranks), writer.origin)
    return _reading(cascade, writer, tensor, {i: nodes[i] for i in (first, *others)})


def _states(structure: Structure, i: int, values: list[Expr]) -> bool:
    """Whether an Einsum stores one of some values, and nothing but it, at every point."""
    each = structure.cascade.einsums[i]
    if not structure.is_pointwise(i) or each.output_filter or each.value not in values:
        return False
    tensor = structure.cascade.by_name[each.target]
    return tensor.value == each.value.dtype and {r.name for r in each.ranks} == set(ranks_of(each.value))


def _stating(cascade: Cascade, template: Einsum, value: Expr) -> Einsum:
    """A pointwise Einsum for a value that another one computes."""
    target = Names(cascade).tensor(_name(value))
    names = ranks_of(value)
    return einsum(
        target=target,
        coords=tuple(rank(n) for n in names),
        value=value,
        extents={n: template.extent(n) for n in names},
        origin=Origin(made_by="simplify:share_value"),
    )


def _name(value: Expr) -> str:
    """What a shared value is called: by its costly function."""
    functions = (node.op for node in walk(value) if isinstance(node, Op) and FUNCTIONS[node.op].flops >= _COSTLY)
    return next(functions).upper()


def _reading(cascade: Cascade, writer: Einsum, tensor: Tensor, nodes: Mapping[int, list[Expr]]) -> Merged | None:
    """``nodes`` of some Einsums read from ``tensor``, which ``writer`` writes; it is new where the cascade lacks it."""
    order = ranks_of(writer.value)
    axes = [order.index(c.name) for c in writer.coords if isinstance(c, Rank)]
    extended = cascade
    if tensor.name not in cascade.by_name:
        extended = replace(cascade, tensors=(*cascade.tensors, tensor))
    einsums: list[Einsum] = []
    for i, old in enumerate(cascade.einsums):
        if i == min(nodes) and extended is not cascade:
            einsums.append(writer)
        if i not in nodes:
            einsums.append(old)
            continue
        reads = {n: _read_at(tensor, [ranks_of(n)[a] for a in axes]) for n in nodes[i]}
        value = transform(old.value, reads.get)
        new = restate(extended, old, value=value, point_filter=old.point_filter, output_filter=old.output_filter)
        if new is None:
            return None
        einsums.append(new.einsum)
    return Merged(cascade=rewritten(extended, tuple(einsums), {}), kept=tensor.name, gone=expr_to_source(writer.value))


def _read_at(tensor: Tensor, names: list[str]) -> Read:
    return Read(tensor=tensor.name, indices=tuple(rank(n) for n in names), dtype=tensor.value)

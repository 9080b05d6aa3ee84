"""One explicit Einsum as Computes: scatters, masks, and matrix products where they are worth a micro-kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from ...ir.cascade import Einsum, RankExtent
from ...ir.expr import Cast, Const, Expr, Op, Rank, Read, Select, conjuncts, integer, op, rank, ranks_of, real, transform
from ...ir.microkernels import FMA
from ...ir.operators import REDUCTIONS
from ...ir.target import Target
from ...ir.tile import SUM, Buffer, Compute, MatrixProduct, Method, Node, Scope, When
from ...ir.types import BOOL, F32, I32, DType
from ..analysis.presence import TRUE, Explicit, conjunction, disjunction, zero_of
from . import contraction
from .implicit import implicit
from .methods import choose
from .placement import Local, local_shape
from .tighten import at_least_one, is_bound
from .window import as_window


def compute_of(explicit: Explicit) -> Compute:
    """The Compute that does an Einsum as it stands."""
    einsum = explicit.einsum
    condition, filtered, value = explicit.condition, explicit.filter, explicit.value
    if einsum.reduction is None:
        condition, filtered = conjunction([condition, filtered]), TRUE
    else:
        value, where = _without_identity(einsum, value)
        filtered = conjunction([filtered, where])
    return Compute(
        target=einsum.target,
        indices=einsum.coords,
        value=value,
        ranks=einsum.ranks,
        reduction=einsum.reduction,
        reduced=einsum.reduced if einsum.reduction is not None else (),
        filter=None if filtered == TRUE else filtered,
        condition=None if condition == TRUE else condition,
        within=None if explicit.within == TRUE else explicit.within,
        scatter=einsum.scatter,
        accumulator=einsum.accumulator,
        origin=einsum.origin,
    )


def _without_identity(einsum: Einsum, value: Expr) -> tuple[Expr, Expr]:
    """A reduced value without the branch that contributes nothing, and the condition under which the other counts.

    ``if c then 0 else x`` in a sum is x where not c: a condition that no reduced rank decides then skips the reduction.
    """
    assert einsum.reduction is not None
    reduction = REDUCTIONS[einsum.reduction]
    match value:
        case Select(condition=c, then=Const(value=v), otherwise=rest) if (
            not reduction.coordinate and v == reduction.identity(value.dtype) and not set(ranks_of(c)) & set(einsum.reduced)
        ):
            return rest, op("not", c)
        case _:
            return value, TRUE


def mask_of(explicit: Explicit, mask: Buffer) -> Compute:
    """The Compute that stores which points of the target are present."""
    einsum = explicit.einsum
    if einsum.scatter:
        region = _region(compute_of(explicit), mask)
        return replace(region, target=mask.name, value=explicit.condition)
    present = [explicit.condition] if einsum.reduction is not None else [explicit.condition, explicit.filter]
    return Compute(
        target=mask.name,
        indices=einsum.coords,
        value=conjunction(present),
        ranks=tuple(r for r in einsum.ranks if r.name not in einsum.reduced),
        within=None if explicit.within == TRUE else explicit.within,
        accumulator=BOOL,
        origin=einsum.origin,
    )


def copy_of(target: Buffer, source: str) -> Compute:
    """Copies all of a buffer of the same shape and type to ``target``."""
    names = [f"d{d}" for d in range(len(target.shape))]
    coords = tuple(rank(n) for n in names)
    return choose(
        Compute(
            target=target.name,
            indices=coords,
            value=Read(tensor=source, indices=coords, dtype=target.dtype),
            ranks=tuple(RankExtent(name=n, extent=e) for n, e in zip(names, target.shape, strict=True)),
            accumulator=target.dtype,
        )
    )


class Workspace:
    """The buffers of a program; passes add their own."""

    def __init__(self) -> None:
        self.buffers: dict[str, Buffer] = {}

    def add(
        self,
        name: str,
        dtype: DType,
        shape: tuple[Expr, ...],
        scope: Scope = Scope.WORKSPACE,
        parts: tuple[int, ...] = (),
    ) -> str:
        """Adds a buffer under a name of its own and gives the name."""
        free, n = name, 1
        while free in self.buffers:
            n += 1
            free = f"{name}{n}"
        self.buffers[free] = Buffer(name=free, dtype=dtype, shape=shape, scope=scope, parts=parts)
        return free

    def tiles(self, local: Mapping[str, Local], points: Expr | None) -> list[Buffer]:
        """Makes tiles of the buffers that a task keeps for itself, with one for the next generation where it needs one."""
        made = []
        for name, held in local.items():
            buffer = self.buffers[name]
            tile = Buffer(name=name, dtype=buffer.dtype, shape=local_shape(buffer.shape, held, points), scope=Scope.TILE)
            self.buffers[name] = tile
            made.append(tile)
            if held.following is not None:
                made.append(replace(tile, name=held.following))
                self.buffers[held.following] = made[-1]
        return made


def scatter(workspace: Workspace, compute: Compute, target: Target) -> list[Node]:
    """What fills the part of the target that a scatter defines with the identity, combines, and clears absent points.

    What is not combined in the target's own type goes through a buffer of the other one.
    """
    assert compute.reduction is not None
    held = workspace.buffers[compute.target]
    if REDUCTIONS[compute.reduction].coordinate:
        return _scatter_coordinates(workspace, compute, held, target)
    identity = REDUCTIONS[compute.reduction].identity(compute.accumulator)
    combine = replace(compute, condition=None, within=None)
    region = _region(compute, held)
    dtype, total = _combined_in(compute, held.dtype, target), compute.target
    if dtype != held.dtype:
        total = workspace.add(f"{compute.target}.{_KINDS[compute.reduction]}", dtype, held.shape)
    start = Const(value=_representable(identity, dtype), dtype=dtype)
    nodes: list[Node] = [replace(region, target=total, value=start), replace(combine, target=total)]
    if total != compute.target or compute.condition is not None:
        value = Read(tensor=total, indices=region.indices, dtype=dtype)
        nodes.append(replace(region, value=value, condition=compute.condition))
    return [choose(node) for node in nodes if isinstance(node, Compute)]


_KINDS = {"+": "sum", "*": "product", "max": "most", "min": "least", "and": "all", "or": "any"}


def _combined_in(compute: Compute, held: DType, target: Target) -> DType:
    """The type in which memory holds what a scatter has combined so far.

    GPUs combine words of 32 and 64 bits: extremes of narrower numbers are exact in those. Truth values they only store.
    """
    dtype = compute.accumulator
    if dtype.is_integer and held.is_integer and compute.reduction in ("max", "min"):
        dtype = held
    if target.gpu is None or dtype.bits >= 32 or dtype.is_bool:
        return dtype
    return F32 if dtype.is_float else I32


def _scatter_coordinates(workspace: Workspace, compute: Compute, held: Buffer, target: Target) -> list[Node]:
    """argmax and argmin: the best values first, then the least of the coordinates whose value is the best one."""
    assert compute.reduction is not None
    (reduced,) = compute.reduced
    dtype = compute.value.dtype
    best = workspace.add(f"{compute.target}.best", dtype, held.shape)
    places = held.name if held.dtype == I32 else workspace.add(f"{compute.target}.places", I32, held.shape)
    combine = "max" if compute.reduction == "argmax" else "min"
    unconditional = replace(compute, condition=None)
    found = scatter(workspace, replace(unconditional, target=best, reduction=combine, accumulator=dtype), target)
    filtered = TRUE if compute.filter is None else compute.filter
    there: Expr = Read(tensor=best, indices=compute.indices, dtype=dtype)
    if filtered != TRUE:
        there = Select(condition=filtered, then=there, otherwise=zero_of(dtype), dtype=dtype)
    same: Expr = op("eq", compute.value, there)
    if dtype.is_float:
        same = disjunction(same, op("and", op("ne", compute.value, compute.value), op("ne", there, there)))
    place, filtered = Cast(value=rank(reduced), dtype=I32), conjunction([filtered, same])
    first = replace(unconditional, target=places, value=place, reduction="min", filter=filtered, accumulator=I32)
    nodes = scatter(workspace, first, target)
    region = _region(compute, held)
    value = Read(tensor=places, indices=region.indices, dtype=I32)
    none = op("eq", value, integer(int(I32.maximum), I32))
    value_or_none = Select(condition=none, then=integer(-1, I32), otherwise=value, dtype=I32)
    return [*found, *nodes, choose(replace(region, value=value_or_none, condition=compute.condition))]


def _region(compute: Compute, held: Buffer) -> Compute:
    """A Compute over all elements that a scatter defines: those that its own coordinates name, and all along the others."""
    indices: list[Expr] = []
    ranks = [r for r in compute.ranks if r.name not in compute.reduced]
    for d, (index, extent) in enumerate(zip(compute.indices, held.shape, strict=True)):
        if set(ranks_of(index)) & set(compute.reduced):
            index = rank(f"{d}")  # no variable of a program begins with a digit
            ranks.append(RankExtent(name=f"{d}", extent=extent))
        indices.append(index)
    return Compute(
        target=compute.target,
        indices=tuple(indices),
        value=Const(value=0, dtype=held.dtype),
        ranks=tuple(ranks),
        within=compute.within,
        accumulator=held.dtype,
        origin=compute.origin,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a Compute may rely on: the ``target``; the relative error that is tolerated; ``buffers`` by name; ``zeros``, the
    conditions under whose negation a tensor holds 0; ``few``, the sizes too small for the depth of a product; ``finite``, which
    names the flag that tells whether all elements of a tensor are finite (None: it has none); ``launched``: no parallel loop is
    around it."""

    target: Target
    tolerance: float | None
    buffers: Mapping[str, Buffer]
    zeros: Mapping[str, frozenset[Expr]]
    few: frozenset[Expr]
    finite: Callable[[str], str | None]
    launched: bool


def nodes_of(compute: Compute, around: Surroundings, *, own_tile: bool) -> tuple[list[Node], list[Buffer]]:
    """``compute`` on the matrix-product micro-kernel where it is one, else with the method that suits it.

    ``own_tile`` tells that the target is a tile whose absent points nobody reads. A filter that only masks the left operand,
    which holds zeros there, is left to the zeros when all of the right operand is finite. Also gives the buffers that are
    needed at this place.
    """
    buffers = around.buffers
    generic = choose(compute)
    window = as_window(generic, buffers, around.target) if around.target.gpu is None else None
    if around.launched and around.target.gpu is not None:
        window = implicit(generic, buffers, around.target, around.tolerance)
    if window is not None:
        return [window], []
    product = _product(compute, around)
    if product is None or compute.extent(product.inner) in around.few:
        return [generic], []
    flag = None
    if compute.filter is not None:
        flag = around.finite(_tensor(product.right)) if _masked_left(compute, product, around.zeros) else None
        if flag is None:
            return [generic], []
    target = buffers[compute.target]
    condition = None if own_tile else compute.condition
    finishing = condition is not None or bool(product.scale)
    value: Expr = Read(tensor=SUM, indices=(), dtype=compute.accumulator)
    some, counting, counted = _has_points(compute, target) if product.scale else (TRUE, [], [])
    for kind, factor in product.scale:
        typed = factor if factor.dtype == compute.accumulator else Cast(value=factor, dtype=compute.accumulator)
        if some != TRUE and not (isinstance(factor, Const) and factor.value and isfinite(factor.value)):
            typed = Select(condition=some, then=typed, otherwise=real(1.0, compute.accumulator), dtype=compute.accumulator)
        value = Op(op=kind, args=(value, typed), dtype=compute.accumulator)
    if condition is not None:
        value = Select(condition=condition, then=value, otherwise=zero_of(compute.accumulator), dtype=compute.accumulator)
    outputs = compute.output_ranks
    main = replace(
        generic,
        filter=None,
        condition=None,
        method=Method.CONTRACTION,
        vector=None,
        parallel=tuple(r for r in outputs if r not in (product.rows, product.columns)),
        product=replace(product, scale=(), epilogue=value if finishing else None),
    )
    extra = counted
    after: list[Node] = []
    slow = replace(compute, condition=condition)
    if len(compute.reduced) > 1 and (finishing or target.dtype != compute.accumulator):
        # Sums over several ranks are added up in their place: what becomes of them is a step of its own.
        if not all(isinstance(i, Rank) for i in compute.indices):
            return [generic], []
        name = f"{target.name}.sum"
        extra.append(Buffer(name=name, dtype=compute.accumulator, shape=target.shape, scope=Scope.TILE))
        main = replace(main, target=name, product=replace(product, scale=(), epilogue=None))
        slow = replace(compute, target=name, condition=None, value=_unscaled(product, compute.accumulator))
        held = Read(tensor=name, indices=compute.indices, dtype=compute.accumulator)
        finish = Compute(
            target=compute.target,
            indices=compute.indices,
            value=transform(value, lambda node: held if _is_sum(node) else None),
            ranks=tuple(r for r in compute.ranks if r.name in outputs),
            accumulator=compute.accumulator,
            origin=compute.origin,
        )
        after.append(choose(finish))
    if flag is None:
        return [*counting, main, *after], extra
    finite = Read(tensor=flag, indices=(), dtype=BOOL)
    either: list[Node] = [
        When(condition=finite, body=(main,)),
        When(condition=op("not", finite), body=(choose(slow),)),
    ]
    return [*counting, *either, *after], extra


def _has_points(compute: Compute, target: Buffer) -> tuple[Expr, list[Node], list[Buffer]]:
    """(the condition that a sum has a point, what computes it, the buffers for that).

    A factor that is applied to the finished sum must not be applied to one of no points: that is 0, and 0 / 0 is not.
    """
    named = set(ranks_of(compute.filter)) if compute.filter is not None else set()
    conditions = [at_least_one(compute.extent(r)) for r in compute.reduced if r not in named]
    if compute.filter is None:
        return conjunction(conditions), [], []
    outputs = [r for r in compute.output_ranks if r in named]
    whole = {i.name: extent for i, extent in zip(compute.indices, target.shape, strict=True) if isinstance(i, Rank)}
    shape = tuple(whole.get(r) or compute.extent(r) for r in outputs)
    buffer = Buffer(name=f"{compute.target}.some", dtype=BOOL, shape=shape, scope=Scope.TILE)
    indices = tuple(rank(r) for r in outputs)
    counting = Compute(
        target=buffer.name,
        indices=indices,
        value=compute.filter,
        ranks=tuple(r for r in compute.ranks if r.name in named),
        reduction="or",
        reduced=tuple(r for r in compute.reduced if r in named),
        accumulator=BOOL,
        origin=compute.origin,
    )
    some = Read(tensor=buffer.name, indices=indices, dtype=BOOL)
    return conjunction([*conditions, some]), [choose(counting)], [buffer]


def _is_sum(node: Expr) -> bool:
    return isinstance(node, Read) and node.tensor == SUM


def _product(compute: Compute, around: Surroundings) -> MatrixProduct | None:
    """The matrix product that ``compute`` is, with operands to be read or computed, large enough for a micro-kernel."""
    if compute.reduction != "+" or compute.scatter or compute.within:
        return None
    extents = {r.name: r.extent for r in compute.ranks}
    product = contraction.recognise(
        compute.value, compute.indices, compute.output_ranks, compute.reduced, compute.accumulator, extents
    )
    if product is None:
        return None
    left, right = (contraction.as_held(e, around.buffers) for e in (product.left, product.right))
    product = replace(product, left=left, right=right)
    product = replace(product, kernel=contraction.kernel_of(product, compute.accumulator, around.target, around.tolerance))
    if product.kernel == FMA and compute.accumulator.name not in ("f32", "f64"):
        return None
    operands, ranks = (product.left, product.right), (product.rows, product.columns, product.inner)
    if not all(contraction.is_packable(o, ranks) for o in operands):
        return None
    if compute.filter is not None and not all(contraction.is_plain(o, ranks) for o in operands):
        return None
    return None if _tiny(compute, product) else product


def _unscaled(product: MatrixProduct, dtype: DType) -> Expr:
    return Op(op="mul", args=(product.left, product.right), dtype=dtype)


def _tensor(expr: Expr) -> str:
    assert isinstance(expr, Read)
    return expr.tensor


def _masked_left(compute: Compute, product: MatrixProduct, zeros: Mapping[str, frozenset[Expr]]) -> bool:
    """Whether the filter only repeats conditions outside which the left operand is zero."""
    if product.rows is None or product.columns is None:
        return False
    ranks = {r.name for r in compute.ranks}
    return all(c in zeros.get(_tensor(product.left), frozenset()) and not is_bound(c, ranks) for c in conjuncts(compute.filter))


def _tiny(compute: Compute, product: MatrixProduct) -> bool:
    """Whether fixed extents are too small for packing and register tiles to pay."""
    points = 1
    for name in (product.rows, product.columns, product.inner):
        extent = integer(1) if name is None else compute.extent(name)
        if not isinstance(extent, Const):
            return False
        points *= int(extent.value)
    return points < 512


def finite_flag(
    workspace: Workspace, tensor: str, shape: tuple[Expr, ...], dtype: DType, *, on_gpu: bool
) -> tuple[str, list[Node]]:
    """(a flag that tells whether all elements of a float tensor are finite, what sets it). A GPU's blocks share the lines:
    what has one result is one block's work."""
    names = [f"d{d}" for d in range(len(shape))]
    element = Read(tensor=tensor, indices=tuple(rank(n) for n in names), dtype=dtype)
    bounded = op("lt", Op(op="abs", args=(element,), dtype=dtype), real(float("inf"), dtype))
    extents = tuple(RankExtent(name=n, extent=e) for n, e in zip(names, shape, strict=True))
    flag = workspace.add(f"{tensor}.finite", BOOL, ())
    if not on_gpu or len(shape) < 2:
        return flag, [_all_hold(flag, (), bounded, extents, names)]
    line: Expr = rank(names[0])
    lines = shape[0]
    for name, extent in zip(names[1:-1], shape[1:-1], strict=True):
        line, lines = op("add", op("mul", line, extent), rank(name)), op("mul", lines, extent)
    held = workspace.add(f"{flag}.lines", BOOL, (lines,))
    of_line = _all_hold(held, (line,), bounded, extents, names[-1:])
    every = Read(tensor=held, indices=(rank("line"),), dtype=BOOL)
    return flag, [of_line, _all_hold(flag, (), every, (RankExtent(name="line", extent=lines),), ["line"])]


def _all_hold(
    target: str, indices: tuple[Expr, ...], value: Expr, ranks: tuple[RankExtent, ...], reduced: Sequence[str]
) -> Compute:
    """Whether a condition holds at all points of the ``reduced`` ranks."""
    return choose(
        Compute(
            target=target, indices=indices, value=value, ranks=ranks, reduction="and", reduced=tuple(reduced), accumulator=BOOL
        )
    )


def _representable(value: int | float | bool, dtype: DType) -> int | float | bool:
    if dtype.is_float or dtype.is_bool:
        return value
    return int(max(dtype.minimum, min(dtype.maximum, value)))

"""Cascade to tile program: buffers for all tensors, one Compute (or a few) for each Einsum, loops for iterative ranks.

Requires: a verified cascade. Guarantees: the program computes what the cascade says, with absence explicit; loops carry only
ranks that the dependences force to be sequential, and independent ranks of a recurrence are spread over threads around it.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.cascade import Cascade, Einsum, Origin, RankExtent, Role, Tensor
from ..ir.dependence import Loop as Sequential
from ..ir.dependence import Step, Straight, einsums_of, schedule
from ..ir.diagnostics import error
from ..ir.expr import Const, Expr, Op, Rank, Read, Select, integer, op, rank, ranks_of, real, substitute
from ..ir.index import equal
from ..ir.operators import REDUCTIONS
from ..ir.tile import Buffer, Compute, Decision, Fill, Loop, MatrixProduct, Method, Node, Scope, TileProgram, When
from ..ir.types import BOOL, F32, DType, QuantType
from . import contraction
from .independent import independent_ranks
from .methods import choose
from .presence import FALSE, TRUE, Explicit, PresenceAnalysis, Stored, conjunction

CHUNK = 64
"""Points of an independent rank that one task of a recurrence carries through all steps: a few vectors."""


def assemble(cascade: Cascade) -> TileProgram:
    """The tile program of a cascade, every Einsum on its own.

    Raises EinfallError E1204 for quantised storage, which no code generator reads yet.
    """
    return _Assembly(cascade).program()


class _Assembly:
    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.presence = PresenceAnalysis(cascade)
        self.steps = schedule(cascade)
        self.explicit = self.presence.run(self.steps)
        self.buffers: dict[str, Buffer] = {}
        self.first: list[Node] = []
        self.decisions: list[Decision] = []

    def program(self) -> TileProgram:
        for tensor in self.cascade.tensors:
            if tensor.role is not Role.SCALAR:
                self._tensor(tensor)
        body = [node for step in self.steps for node in self._step(step, {})]
        return TileProgram(
            cascade=self.cascade,
            buffers=tuple(self.buffers.values()),
            body=(*self.first, *body),
            decisions=tuple(self.decisions),
        )

    # -- buffers -----------------------------------------------------------------------------------------------------

    def _tensor(self, tensor: Tensor) -> None:
        if isinstance(tensor.dtype, QuantType):
            raise error(
                "E1204",
                f"`{tensor.name}` has the quantised type `{tensor.dtype}`, which cannot be compiled yet",
                span=tensor.origin.span,
                help="dequantise it before the call and declare it as f32; `einfall.interpret` is bound by the same limit",
            )
        scope = {Role.RESULT: Scope.OUTPUT, Role.LOCAL: Scope.WORKSPACE}.get(tensor.role, Scope.INPUT)
        # An unannotated 16-bit intermediate states a minimum precision only: f32 saves its rounding.
        small = tensor.role is Role.LOCAL and not tensor.annotated and tensor.value.is_float and tensor.value.bits < 32
        self._buffer(tensor.name, F32 if small else tensor.value, tensor.shape, scope)
        presence = self.presence.presence.get(tensor.name)
        if isinstance(presence, Stored):
            self._buffer(presence.mask, BOOL, tensor.shape, Scope.WORKSPACE)
        writers = self.cascade.writers(tensor.name)
        if isinstance(presence, Stored) and writers:
            self.first.append(Fill(target=presence.mask, value=False))
            self.first.append(Fill(target=tensor.name, value=_zero(tensor.value)))

    def _buffer(self, name: str, dtype: DType, shape: tuple[Expr, ...], scope: Scope) -> str:
        self.buffers[name] = Buffer(name=name, dtype=dtype, shape=shape, scope=scope)
        return name

    def _decide(self, subject: str, chosen: str, because: str) -> None:
        self.decisions.append(Decision(made_by="assemble", subject=subject, chosen=chosen, because=because))

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step(self, step: Step, fixed: dict[int, dict[str, Expr]]) -> list[Node]:
        match step:
            case Straight(einsum=i):
                return self._einsum(i, fixed.get(i, {}), in_loop=bool(fixed))
            case Sequential():
                return self._sequential(step, fixed)

    def _sequential(self, step: Sequential, fixed: dict[int, dict[str, Expr]]) -> list[Node]:
        """A loop over an iterative rank; ranks that no dependence crosses go around it, over threads."""
        members = einsums_of(step)
        variable = self._fresh(step.variables[members[0]])
        inside = {i: dict(fixed.get(i, {})) for i in members}
        for i, name in step.variables.items():
            inside[i][name] = rank(variable)
        independent = [] if fixed else independent_ranks(self.cascade, step)
        chunked = {}
        around: list[tuple[str, Expr]] = []
        if independent:
            *whole, last = independent
            for ranks in whole:
                name = self._fresh(next(iter(ranks.values())))
                around.append((name, self.cascade.einsums[members[0]].extent(ranks[members[0]])))
                for i in members:
                    inside[i][ranks[i]] = rank(name)
            name = self._fresh(next(iter(last.values())))
            extent = self.cascade.einsums[members[0]].extent(last[members[0]])
            around.append((name, op("ceildiv", extent, integer(CHUNK))))
            chunked = {i: (last[i], name, extent) for i in members}
            names = ", ".join(next(iter(r.values())) for r in independent)
            self._decide(
                variable, f"steps of `{step.variables[members[0]]}` inside, `{names}` outside over threads",
                "no dependence of the loop crosses these ranks",
            )
        body: list[Node] = []
        self._chunked, outer_chunks = chunked, getattr(self, "_chunked", {})
        for inner in step.body:
            nodes = self._step(inner, inside)
            for i in einsums_of(inner):
                own = self.cascade.einsums[i].extent(step.variables[i])
                if not equal(own, step.extent, self.presence.lets):
                    nodes = [When(condition=op("lt", rank(variable), own), body=tuple(nodes))]
                    break
            body += nodes
        self._chunked = outer_chunks
        node: Node = Loop(variable=variable, extent=step.extent, reverse=step.reverse, body=tuple(body))
        for position, (name, extent) in reversed(list(enumerate(around))):
            node = Loop(variable=name, extent=extent, body=(node,), parallel=position == 0)
        return [node]

    def _fresh(self, name: str) -> str:
        self._loops = getattr(self, "_loops", 0) + 1
        return f"{name}.{self._loops}"

    # -- Einsums -----------------------------------------------------------------------------------------------------

    def _einsum(self, index: int, fixed: dict[str, Expr], *, in_loop: bool) -> list[Node]:
        explicit = self.explicit[index]
        compute = self._fixed(index, self._compute(explicit), fixed)
        nodes: list[Node] = []
        if explicit.mask is not None:
            nodes.append(choose(self._fixed(index, self._mask(explicit, explicit.mask), fixed)))
        if explicit.einsum.scatter:
            return [*nodes, *self._scatter(explicit.einsum, compute, in_loop=in_loop)]
        return [*nodes, *self._contraction(index, compute)]

    def _compute(self, explicit: Explicit) -> Compute:
        einsum = explicit.einsum
        reduction = einsum.reduction
        condition, filtered = explicit.condition, explicit.filter
        if reduction is None:
            condition, filtered = conjunction([condition, filtered]), TRUE
        return Compute(
            target=einsum.target,
            indices=einsum.coords,
            value=explicit.value,
            ranks=einsum.ranks,
            reduction=reduction,
            reduced=einsum.reduced if reduction is not None else (),
            filter=None if filtered == TRUE else filtered,
            condition=None if condition == TRUE else condition,
            scatter=einsum.scatter,
            accumulator=einsum.accumulator,
            origin=einsum.origin,
        )

    def _mask(self, explicit: Explicit, mask: str) -> Compute:
        einsum = explicit.einsum
        present = [explicit.condition] if einsum.reduction is not None else [explicit.condition, explicit.filter]
        return Compute(
            target=mask,
            indices=einsum.coords,
            value=conjunction(present),
            ranks=tuple(r for r in einsum.ranks if r.name not in einsum.reduced),
            accumulator=BOOL,
            origin=einsum.origin,
        )

    def _fixed(self, index: int, compute: Compute, fixed: dict[str, Expr]) -> Compute:
        """``compute`` with the ranks that surrounding loops hold replaced by the loops' variables."""
        ranks = dict(fixed)
        extents = {r.name: r.extent for r in compute.ranks}
        chunk = getattr(self, "_chunked", {}).get(index)
        if chunk is not None:
            name, outer, extent = chunk
            start = op("mul", rank(outer), integer(CHUNK))
            ranks[name] = op("add", start, rank(name))
            extents[name] = op("min", integer(CHUNK), op("sub", extent, start))

        def put(expr: Expr) -> Expr:
            return substitute(expr, ranks=ranks)

        return replace(
            compute,
            indices=tuple(put(i) for i in compute.indices),
            value=put(compute.value),
            filter=None if compute.filter is None else put(compute.filter),
            condition=None if compute.condition is None else put(compute.condition),
            ranks=tuple(
                RankExtent(name=r.name, extent=extents[r.name]) for r in compute.ranks if r.name not in fixed
            ),
        )

    # -- scatter -----------------------------------------------------------------------------------------------------

    def _scatter(self, einsum: Einsum, compute: Compute, *, in_loop: bool) -> list[Node]:
        """Fill with the identity, then combine; sums of small floats go through a buffer of the accumulator's type."""
        assert einsum.reduction is not None
        held = self.buffers[einsum.target]
        identity = REDUCTIONS[einsum.reduction].identity(einsum.accumulator)
        if held.dtype == einsum.accumulator or in_loop:
            fill = Fill(target=einsum.target, value=_representable(identity, held.dtype))
            if in_loop:
                self.first.append(fill)
                return [choose(compute)]
            return [fill, choose(compute)]
        total = self._buffer(f"{einsum.target}.sum", einsum.accumulator, held.shape, Scope.WORKSPACE)
        names = [f"d{d}" for d in range(len(held.shape))]
        coords = tuple(rank(n) for n in names)
        copy = Compute(
            target=einsum.target,
            indices=coords,
            value=Read(tensor=total, indices=coords, dtype=einsum.accumulator),
            ranks=tuple(RankExtent(name=n, extent=e) for n, e in zip(names, held.shape, strict=True)),
            accumulator=einsum.accumulator,
        )
        return [Fill(target=total, value=identity), choose(replace(compute, target=total)), choose(copy)]

    # -- contractions ------------------------------------------------------------------------------------------------

    def _contraction(self, index: int, compute: Compute) -> list[Node]:
        """``compute`` on the matrix-product micro-kernel where it is one, else with the method that suits it."""
        generic = choose(compute)
        target = self.buffers[compute.target]
        if compute.reduction != "+" or compute.accumulator.name not in ("f32", "f64") or compute.scatter:
            return [generic]
        roles = contraction.split(compute.value, compute.reduced, compute.output_ranks, compute.accumulator)
        if roles is None:
            return [generic]
        product = contraction.assign(roles, compute.indices, compute.output_ranks, compute.reduced)
        if product is None or _tiny(compute, product):
            return [generic]
        if compute.filter is not None or not (contraction.is_plain(product.left) and contraction.is_plain(product.right)):
            return [generic]
        used = [r for r in compute.output_ranks if r in (product.rows, product.columns)]
        others = len(compute.reduced) > 1
        epilogue = [("mul" if k == "mul" else "div", f) for k, f in product.scale]
        finishing = compute.condition is not None or (
            bool(epilogue) and (others or not all(contraction.fits_epilogue(f) for _, f in epilogue))
        )
        needs_buffer = target.dtype != compute.accumulator
        name = compute.target
        ranks = tuple(r for r in compute.ranks if r.name in compute.output_ranks)
        coords = compute.indices
        if needs_buffer and not self._whole(compute):
            return [generic]
        if needs_buffer:
            name = self._buffer(f"{compute.target}.sum{index}", compute.accumulator, target.shape, Scope.WORKSPACE)
        scale = () if finishing else product.scale
        main = replace(
            generic,
            target=name,
            condition=None,
            method=Method.CONTRACTION,
            vector=None,
            parallel=tuple(r for r in compute.output_ranks if r not in used),
            product=replace(product, scale=scale),
        )
        if not finishing and not needs_buffer:
            return [main]
        value: Expr = Read(tensor=name, indices=coords, dtype=compute.accumulator)
        for kind, factor in product.scale if finishing else ():
            value = Op(op=kind, args=(value, _as_type(factor, compute.accumulator)), dtype=compute.accumulator)
        finish = Compute(
            target=compute.target,
            indices=coords,
            value=value,
            ranks=ranks,
            condition=compute.condition,
            accumulator=compute.accumulator,
            origin=compute.origin,
        )
        return [main, choose(finish)]

    def _whole(self, compute: Compute) -> bool:
        """Whether the coordinates are plain ranks, so that a buffer of the target's shape holds the sums."""
        return all(isinstance(i, Rank) for i in compute.indices)


def _as_type(expr: Expr, dtype: DType) -> Expr:
    from ..ir.expr import Cast

    return expr if expr.dtype == dtype else Cast(value=expr, dtype=dtype)


def _tiny(compute: Compute, product: MatrixProduct) -> bool:
    """Whether fixed extents are too small for packing and register tiles to pay."""
    points = 1
    for name in (product.rows, product.columns, product.inner):
        extent = integer(1) if name is None else compute.extent(name)
        if not isinstance(extent, Const):
            return False
        points *= int(extent.value)
    return points < 512


def _zero(dtype: DType) -> int | float | bool:
    return False if dtype.is_bool else 0.0 if dtype.is_float else 0


def _representable(value: int | float | bool, dtype: DType) -> int | float | bool:
    if dtype.is_float or dtype.is_bool:
        return value
    return int(max(dtype.minimum, min(dtype.maximum, value)))


__all__ = ["CHUNK", "FALSE", "Origin", "Select", "assemble", "ranks_of", "real"]

"""Cascade to tile program: buffers for all tensors, groups of Einsums in shared loops, loops for iterative ranks.

Requires: a verified cascade. Guarantees: the program computes what the cascade says, with absence explicit; loops carry only
ranks that the dependences force to be sequential; what one group passes along internally is no larger than its tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.cascade import Cascade, RankExtent, Role, Tensor
from ...ir.dependence import Loop as Sequential
from ...ir.dependence import Step, Straight, einsums_of, schedule
from ...ir.diagnostics import error
from ...ir.expr import Const, Expr, conjuncts, integer, op, rank, substitute
from ...ir.index import at_most, equal
from ...ir.target import Target
from ...ir.tile import Buffer, Compute, Decision, Fill, Loop, Method, Node, Scope, TileProgram, When
from ...ir.tile import walk as walk_nodes
from ...ir.types import BOOL, DType, QuantType
from ..analysis.presence import PresenceAnalysis, Stored
from . import contraction
from .along import along
from .blocking import Along, blocked
from .epilogue import absorb, unused
from .grouping import Group, MergedLoop, few, form_groups, numbers_chunks
from .hoist import hoisted
from .inchunks import in_chunks
from .independent import Independent
from .inline import inline
from .methods import choose
from .placement import Local, Placement, local_tensors, tile_extent
from .realise import Surroundings, Workspace, compute_of, copy_of, finite_flag, mask_of, nodes_of, scatter
from .skipping import emptied, visited
from .stepwise import Columns, columns_of
from .tighten import tighten
from .tiles import Tiling
from .transpose import transposed


def assemble(cascade: Cascade, target: Target, *, prefix: str = "") -> TileProgram:
    """The tile program of a cascade for ``target``.

    ``prefix`` starts the names of its derived sizes, where two programs are joined.

    Raises EinfallError E1204 for quantised storage, which no code generator reads yet.
    """
    return _Assembly(transposed(hoisted(cascade)), target, prefix).program()


class _Assembly:
    def __init__(self, cascade: Cascade, target: Target, prefix: str) -> None:
        self.source = cascade
        inlined = inline(cascade, on_gpu=target.gpu is not None)
        cascade = self.cascade = inlined.cascade if target.gpu is None else in_chunks(inlined.cascade)
        self.presence = PresenceAnalysis(cascade)
        self.steps = schedule(cascade)
        self.explicit = self.presence.run(self.steps)
        self.tiling = Tiling(cascade=cascade, explicit=self.explicit, target=target, prefix=prefix)
        self.workspace = Workspace()
        self.few = few(cascade)
        self.first: list[Node] = []
        self.decisions: list[Decision] = list(inlined.decisions)
        self.flags: dict[str, str] = {}
        self.names = 0

    def program(self) -> TileProgram:
        for tensor in self.cascade.tensors:
            if tensor.role is not Role.SCALAR:
                self._tensor(tensor)
        masks = {t for t, p in self.presence.presence.items() if isinstance(p, Stored)}
        alone = frozenset(i for i, e in enumerate(self.cascade.einsums) if e.scatter or e.target in masks)
        body: list[Node] = []
        for group in form_groups(self.cascade, self.steps, alone, on_gpu=self.tiling.target.gpu is not None):
            body += self._group(group, frozenset(masks))
        inside = {b.name for node in walk_nodes(tuple(body)) if isinstance(node, Loop) for b in node.buffers}
        kept = tuple(b for b in self.workspace.buffers.values() if b.name not in inside)
        return TileProgram(
            cascade=self.source,
            buffers=kept,
            body=(*self.first, *body),
            derived=tuple(self.tiling.derived),
            decisions=tuple(self.decisions),
        )

    # -- buffers -----------------------------------------------------------------------------------------------------

    def _tensor(self, tensor: Tensor) -> None:
        if isinstance(tensor.dtype, QuantType):
            raise error(
                "E1204",
                f"`{tensor.name}` has the quantised type `{tensor.dtype}`, which cannot be compiled yet",
                span=tensor.origin.span,
                help="dequantise it before the call and declare it as f32",
            )
        scope = {Role.RESULT: Scope.OUTPUT, Role.LOCAL: Scope.WORKSPACE}.get(tensor.role, Scope.INPUT)
        held = contraction.held_as(self.cascade, tensor, self.tiling.target)
        self.workspace.add(tensor.name, held, tensor.shape, scope, tensor.parts)
        presence = self.presence.presence.get(tensor.name)
        if isinstance(presence, Stored) and self.cascade.writers(tensor.name):
            self.workspace.add(presence.mask, BOOL, tensor.shape)
            self.first.append(Fill(target=presence.mask, value=False))
            self.first.append(Fill(target=tensor.name, value=_zero(tensor.value)))

    def _finite(self, tensor: str) -> str | None:
        """The flag that tells whether a float argument has only finite elements; made on first demand."""
        declared = self.cascade.by_name.get(tensor)
        if declared is None or declared.role not in (Role.INPUT, Role.CONST) or not declared.value.is_float:
            return None
        if tensor not in self.flags:
            on_gpu = self.tiling.target.gpu is not None
            self.flags[tensor], nodes = finite_flag(self.workspace, tensor, declared.shape, declared.value, on_gpu=on_gpu)
            self.first += nodes
        return self.flags[tensor]

    def _decide(self, subject: str, chosen: str, because: str) -> None:
        self.decisions.append(Decision(made_by="group", subject=subject, chosen=chosen, because=because))

    def _fresh(self, name: str) -> str:
        self.names += 1
        return f"{name}.{self.names}"

    # -- groups ------------------------------------------------------------------------------------------------------

    def _group(self, group: Group, masks: frozenset[str]) -> list[Node]:
        members = group.members
        if not group.classes or (len(members) == 1 and isinstance(group.steps[0], Straight) and not self._of_chunks(group)):
            return [node for step in group.steps for node in self._step(step, Placement(), serial=False)]
        alone = self._alone(group)
        if alone is not None:
            return alone
        whole, cut = self.tiling.around(group)
        fixed: dict[int, dict[str, Expr]] = {i: {} for i in members}
        loops: list[RankExtent] = []
        for found in whole:
            name = self._fresh(found.variables[members[0]])
            loops.append(RankExtent(name=name, extent=found.extent))
            for i in members:
                fixed[i][found.variables[i]] = rank(name)
        local = local_tensors(self.cascade, members, whole, cut, group.sequence, masks)
        placement, most = Placement(fixed=fixed, locals=local), None
        masked: list[list[Compute]] | None = None
        if cut is not None:
            points, most = self.tiling.points(group, whole, cut, local)
            if isinstance(cut.extent, Const) and isinstance(most, Const):
                # Rows of a tile that are longer than the rank would only spread its elements over the cache.
                most = integer(max(1, min(int(most.value), int(cut.extent.value))))
            tile = self._fresh(cut.variables[members[0]])
            loops.append(RankExtent(name=tile, extent=op("ceildiv", cut.extent, points)))
            start = op("mul", rank(tile), points)
            placement = replace(placement, cut={i: (cut.variables[i], start, points, cut.extent) for i in members})
        self._remember(group, whole, cut, local)
        buffers = self.workspace.tiles(local, most)
        body: list[Node] = []
        if group.sequence is None:
            for step in group.steps:
                body = self._then(body, step, placement, buffers, by=(Method.FOLD,))
        else:
            body, masked = self._sequence(group.sequence, placement, buffers)
        body = self._absorbed(body, [b.name for b in buffers])
        if cut is not None and most is not None and (rows := self.tiling.rows_of_block(group, cut)) is not None:
            body = self._blocked(body, buffers, Along.of(local, rows, most), masked)
        for name in unused(tuple(body), [b.name for b in buffers]):
            del self.workspace.buffers[name]
        buffers = [b for b in buffers if b.name in self.workspace.buffers]
        first, *inner = loops
        return [
            Loop(
                variable=first.name,
                extent=first.extent,
                inner=tuple(inner),
                body=tuple(body),
                parallel=True,
                buffers=tuple(buffers),
            )
        ]

    def _of_chunks(self, group: Group) -> bool:
        """Whether it is for thread blocks that each do a chunk of a recurrence, whose last one ends early."""
        return self.tiling.target.gpu is not None and any(numbers_chunks(self.cascade, c) for c in group.classes)

    def _alone(self, group: Group) -> list[Node] | None:
        """A group that is one matrix product and what is done to its elements: no loop around it, nothing inside is stored."""
        if group.sequence is not None or not all(isinstance(step, Straight) for step in group.steps):
            return None
        members = [self.cascade.einsums[i] for i in group.members]
        if sum(contraction.product_of(e) is not None for e in members) != 1:
            return None
        inside = [e.target for e in members if self.cascade.by_name[e.target].role is Role.LOCAL]
        private = [t for t in inside if all(any(r is e for e in members) for r in self.cascade.readers(t))]
        kept = dict(self.workspace.buffers)
        nodes = [node for step in group.steps for node in self._step(step, Placement(), serial=False)]
        fused = absorb(tuple(nodes), self.workspace.buffers, private)
        if len(fused) == 1 and isinstance(fused[0], Compute) and fused[0].product is not None:
            for name in unused(fused, private):
                del self.workspace.buffers[name]
            self._say_absorbed(tuple(nodes), fused)
            return list(fused)
        flags = {node.target: self.workspace.buffers[node.target] for node in self.first if isinstance(node, Compute)}
        self.workspace.buffers = {**kept, **flags}
        return None

    def _absorbed(self, body: list[Node], private: list[str]) -> list[Node]:
        """``body`` with the element-wise readers of its products in their epilogues."""
        fused = absorb(tuple(body), self.workspace.buffers, private)
        self._say_absorbed(tuple(body), fused)
        return list(fused)

    def _say_absorbed(self, before: tuple[Node, ...], after: tuple[Node, ...]) -> None:
        targets = [dict.fromkeys(n.target for n in walk_nodes(nodes) if isinstance(n, Compute)) for nodes in (before, after)]
        for gone in targets[0]:
            if gone not in targets[1]:
                self._decide(
                    gone,
                    "never stored: what reads its elements is done where its product has them in registers",
                    "it has one reader, which takes each element at its own point",
                )

    def _remember(self, group: Group, whole: list[Independent], cut: Independent | None, local: dict[str, Local]) -> None:
        first = group.members[0]
        names = dict.fromkeys(self.cascade.einsums[i].target for i in group.members)
        around = [c.variables[first] for c in whole]
        ranks = list(around)
        if cut is not None:
            around.append(cut.variables[first])
            ranks.append(f"tiles of {cut.variables[first]}")
        inside = f"; {', '.join(local)} never leave their thread's tile" if local else ""
        merged = group.sequence
        if merged is not None:
            inside = f", then one loop over {merged.variables[merged.body[0]]}{inside}"
        self._decide(
            ", ".join(names),
            f"one loop over {', '.join(ranks)}{inside}",
            f"no dependence among them crosses {', '.join(around)}",
        )

    def _blocked(self, body: list[Node], buffers: list[Buffer], along: Along, masked: list[list[Compute]] | None) -> list[Node]:
        """``body`` with the rows of its merged loop in blocks, where that is of the form; ``buffers`` are changed with it."""
        made = blocked(body, self.workspace.buffers, along, self._fresh, masked)
        if made is not None:
            body, added = made
            buffers[:] = [self.workspace.buffers[name] for name in (*(b.name for b in buffers), *added)]
        return body

    def _sequence(
        self, merged: MergedLoop, placement: Placement, buffers: list[Buffer]
    ) -> tuple[list[Node], list[list[Compute]] | None]:
        """The merged loop of a group, what comes before and after it, and the hand-over of its states; besides, the loop's
        reductions where a mask leaves out tiles."""
        before = [n for i in merged.before for n in self._einsum(i, placement, serial=True, buffers=buffers)]
        variable = self._fresh(merged.variables[merged.body[0]])
        fixed = {i: dict(v) for i, v in placement.fixed.items()}
        for i in merged.body:
            fixed[i][merged.variables[i]] = rank(variable)
        inner = replace(placement, fixed=fixed)
        body: list[Node] = []
        for i in merged.body:
            body = self._then(body, Straight(einsum=i), inner, buffers, by=tuple(Method))
        for name, held in placement.locals.items():
            if held.following is not None:
                body.append(copy_of(self.workspace.buffers[name], held.following))
        extent, masked = self._visited(merged, inner, variable)
        loop = Loop(variable=variable, extent=extent, reverse=merged.reverse, body=tuple(body))
        after = [n for i in merged.after for n in self._einsum(i, placement, serial=True, buffers=buffers)]
        return [*before, loop, *after], masked

    def _then(
        self, body: list[Node], step: Step, placement: Placement, buffers: list[Buffer], *, by: tuple[Method, ...]
    ) -> list[Node]:
        """``body`` and then ``step``, in one walk ``by`` these methods where a reduction reads what was made right before."""
        read = self._reader(step.einsum, placement) if isinstance(step, Straight) else None
        joined = None if read is None else along(body, read, self.workspace.buffers)
        if joined is None or not any(isinstance(n, Compute) and n.along and n.method in by for n in joined[len(body) - 1 :]):
            return [*body, *self._step(step, placement, serial=True, buffers=buffers)]
        return joined

    def _reader(self, index: int, placement: Placement) -> Compute | None:
        """A reduction of a loop's body that nothing but its own Compute carries out; None for others."""
        explicit = self.explicit[index]
        if explicit.mask is not None or explicit.einsum.reduction is None or explicit.einsum.scatter:
            return None
        return tighten(self._placed(index, compute_of(explicit), placement), outputs=explicit.einsum.target in placement.locals)

    def _visited(self, merged: MergedLoop, placement: Placement, variable: str) -> tuple[Expr, list[list[Compute]] | None]:
        """The generations that a tile of the merged loop goes through, without those that a mask empties; and the reductions
        that say so, None where all are visited."""
        reductions = [i for i in merged.body if self.explicit[i].einsum.reduction is not None]
        held = [placement.locals.get(self.cascade.einsums[i].target) for i in merged.body]
        if merged.reverse or any(local is None or local.generation is None for local in held):
            return merged.extent, None  # what is read by its generation must be written in all of them
        # The rank of a contraction inside a masked tile is not the mask's: its own condition speaks for it.
        placed = {i: self._placed(i, compute_of(self.explicit[i]), placement) for i in reductions}
        limit = visited(computes := emptied(self.cascade, merged, placed, variable), variable)
        if limit is None or at_most(merged.extent, limit, self.presence.lets):
            return merged.extent, None
        self._decide(
            ", ".join(dict.fromkeys(self.cascade.einsums[i].target for i in merged.body)),
            f"tiles of {merged.variables[merged.body[0]]} beyond the mask are skipped",
            "no reduction has a point there, and with their identities every state stays as it is",
        )
        return op("min", merged.extent, limit), computes

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step(self, step: Step, placement: Placement, *, serial: bool, buffers: list[Buffer] | None = None) -> list[Node]:
        match step:
            case Straight(einsum=i):
                return self._einsum(i, placement, serial=serial, buffers=buffers)
            case Sequential():
                return self._sequential(step, placement, serial=serial, buffers=buffers)

    def _sequential(self, step: Sequential, placement: Placement, *, serial: bool, buffers: list[Buffer] | None) -> list[Node]:
        """A loop over an iterative rank as the schedule has it."""
        members = einsums_of(step)
        variable = self._fresh(step.variables[members[0]])
        fixed = {i: dict(placement.fixed.get(i, {})) for i in members}
        for i, name in step.variables.items():
            fixed[i][name] = rank(variable)
        inner = replace(placement, fixed={**placement.fixed, **fixed})
        columns = None if serial or any(self.explicit[i].mask is not None for i in members) else columns_of(self.cascade, step)
        if columns is not None:
            body = self._in_columns(columns, members, inner)
        else:
            body = self._in_order(step, variable, inner, serial=serial, buffers=buffers)
        return [Loop(variable=variable, extent=step.extent, reverse=step.reverse, body=tuple(body))]

    def _in_order(
        self, step: Sequential, variable: str, inner: Placement, *, serial: bool, buffers: list[Buffer] | None
    ) -> list[Node]:
        """One generation of a loop, Einsum by Einsum."""
        body: list[Node] = []
        for part in step.body:
            nodes = self._step(part, inner, serial=serial, buffers=buffers)
            shorter = [
                own
                for i in einsums_of(part)
                if not equal(own := self.cascade.einsums[i].extent(step.variables[i]), step.extent, self.presence.lets)
            ]
            if shorter:
                nodes = [When(condition=op("lt", rank(variable), shorter[0]), body=tuple(nodes))]
            body += nodes
        private = self._within(einsums_of(step))
        body = self._absorbed(body, private)
        if buffers is None:
            for name in unused(tuple(body), private):
                self.workspace.buffers.pop(name, None)
        return body

    def _in_columns(self, columns: Columns, members: Sequence[int], inner: Placement) -> list[Node]:
        """One generation of a loop, its columns dealt out to threads."""
        cut, width, local = columns.cut, columns.width(self.presence.lets), columns.locals(self.cascade, members)
        tile = self._fresh(cut.variables[members[0]])
        start = op("mul", rank(tile), width)
        around = {i: (cut.variables[i], start, width, cut.extent) for i in members}
        placement = replace(inner, cut=around, locals=local)
        buffers = self.workspace.tiles(local, width)
        body: list[Node] = []
        for i in members:
            body += self._einsum(i, placement, serial=True, buffers=buffers)
        body = self._absorbed(body, [b.name for b in buffers])
        for name in unused(tuple(body), [b.name for b in buffers]):
            del self.workspace.buffers[name]
        kept = tuple(b for b in buffers if b.name in self.workspace.buffers)
        self._decide(
            ", ".join(self.cascade.einsums[i].target for i in members),
            f"every step deals tiles of {cut.variables[members[0]]} out to threads",
            "each reads its own part of the weights in every step, and no dependence within a step crosses it",
        )
        return [Loop(variable=tile, extent=op("ceildiv", cut.extent, width), body=tuple(body), parallel=True, buffers=kept)]

    def _within(self, members: Sequence[int]) -> list[str]:
        """The tensors that only these Einsums touch."""
        outside = [e for i, e in enumerate(self.cascade.einsums) if i not in members]
        others = {t for e in outside for t in (e.target, *(r.tensor for r in e.reads()))}
        targets = dict.fromkeys(self.cascade.einsums[i].target for i in members)
        return [t for t in targets if t not in others and self.cascade.by_name[t].role is Role.LOCAL]

    # -- Einsums -----------------------------------------------------------------------------------------------------

    def _einsum(self, index: int, placement: Placement, *, serial: bool, buffers: list[Buffer] | None) -> list[Node]:
        explicit = self.explicit[index]
        einsum = explicit.einsum
        own_tile = einsum.target in placement.locals
        compute = tighten(self._placed(index, compute_of(explicit), placement), outputs=own_tile)
        nodes: list[Node] = []
        if explicit.mask is not None:
            nodes.append(choose(self._placed(index, mask_of(explicit, self.workspace.buffers[explicit.mask]), placement)))
        if einsum.scatter:
            return [*nodes, *scatter(self.workspace, compute, self.tiling.target)]
        around = Surroundings(
            target=self.tiling.target,
            tolerance=self.cascade.tolerance,
            buffers=self.workspace.buffers,
            zeros=self._zeros(index, placement),
            few=self.few,
            finite=self._finite,
            launched=not serial,
        )
        made, extra = nodes_of(compute, around, own_tile=own_tile)
        for buffer in extra:
            if buffers is not None and serial:
                buffers.append(placement.tile_sum(buffer, index))
                self.workspace.buffers[buffers[-1].name] = buffers[-1]
            else:
                self.workspace.buffers[buffer.name] = replace(buffer, scope=Scope.WORKSPACE)
        return [*nodes, *made]

    def _zeros(self, index: int, placement: Placement) -> dict[str, frozenset[Expr]]:
        """By tensor that an Einsum reads: the conditions outside which it holds zeros."""
        einsum = self.cascade.einsums[index]
        extents = {r.name: r.extent for r in einsum.ranks}
        found: dict[str, frozenset[Expr]] = {}
        for read in einsum.reads():
            writers = self.cascade.writers(read.tensor)
            if writers and all(w.reduction is None and not w.scatter for w in writers):
                present = self._put(self.presence.present(read, extents), index, placement)
                found[read.tensor] = frozenset(conjuncts(present))
        return found

    def _put(self, expr: Expr, index: int, placement: Placement) -> Expr:
        return substitute(placement.localise(expr, index), ranks=placement.ranks(index))

    def _placed(self, index: int, compute: Compute, placement: Placement) -> Compute:
        """``compute`` as it looks inside the loops and tiles of ``placement``."""
        fixed = placement.fixed.get(index, {})
        target, indices = compute.target, compute.indices
        if target in placement.locals:
            target, indices = placement.place(target, indices, index)
        extents = {r.name: r.extent for r in compute.ranks}
        if index in placement.cut:
            variable, start, points, extent = placement.cut[index]
            extents[variable] = tile_extent(points, start, extent)
        return replace(
            compute,
            target=target,
            indices=tuple(self._put(i, index, placement) for i in indices),
            value=self._put(compute.value, index, placement),
            filter=None if compute.filter is None else self._put(compute.filter, index, placement),
            condition=None if compute.condition is None else self._put(compute.condition, index, placement),
            within=None if compute.within is None else self._put(compute.within, index, placement),
            ranks=tuple(RankExtent(name=r.name, extent=extents[r.name]) for r in compute.ranks if r.name not in fixed),
        )


def _zero(dtype: DType) -> int | float | bool:
    return False if dtype.is_bool else 0.0 if dtype.is_float else 0

"""What the threads of one block do together: tiles in shared memory or in registers, barriers, loops whose products are staged
ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

import tvm_ffi
from tvm import tirx

from ...ir.blocks import ALIGNED, RESERVED, tile_bytes
from ...ir.expr import Expr
from ...ir.fragments import staged_bytes
from ...ir.index import upper_bound
from ...ir.tile import Buffer, Compute, Fill, Loop, MatrixProduct, Node, When, accesses, walk
from ..arithmetic import literal
from ..context import Context, Variables
from ..element import computed, stored
from ..microkernels.statements import Statements, as_index, constant, identifier, index
from ..views import View, encode
from .compute import DeviceComputeEmitter
from .fragment_product import FragmentProduct
from .fragments import FragmentEmitter, Registers
from .order import Order
from .product import BlockProduct, Shape, on_blocks, scratch_of
from .staging import commit
from .statements import DeviceStatements, Team


class Kernel(Protocol):
    """The lowering of the program that a block belongs to."""

    context: Context
    views: dict[str, View]
    lets: dict[str, Expr]

    def emitter(self, compute: Compute, variables: Variables, team: Team) -> DeviceComputeEmitter: ...
    def shape(self, compute: Compute, threads: int | None = None) -> Shape: ...
    def block_product(self, compute: Compute, team: Team, shape: Shape, scratch: tirx.Buffer) -> BlockProduct: ...


STATIC = 16 << 10
"""Bytes of tiles up to which they need not be asked for at the launch: of 48 KB in all (CUDA C++ Programming Guide, section
Shared Memory of each architecture), the rest is for what products stage."""


class Block:
    """What the threads of one block do together."""

    def __init__(self, kernel: Kernel, statements: DeviceStatements, team: Team, registers: Registers | None) -> None:
        self.kernel, self.statements, self.team, self.registers = kernel, statements, team, registers
        self.order = Order()
        self.places: dict[tuple[str, MatrixProduct | None], int] = {}
        self.scratch: tirx.Buffer | None = None

    def turn(self, loop: Loop, variables: Variables, shared: list[Buffer]) -> None:
        """One turn of a parallel loop, whose other tiles have their places."""
        if self.registers is not None:
            self.registers.place(self.statements)
            self.registers.begin(self.statements, loop.buffers)
        self._allocate(shared, self._staged(loop.body))
        self.nodes(loop.body, variables)

    def nodes(self, nodes: tuple[Node, ...], variables: Variables) -> None:
        """The nodes in order, with barriers where they need them."""
        for node in nodes:
            self._node(node, variables)

    def _meet(self, node: Node) -> None:
        """A barrier, if what the node touches needs one."""
        reads, writes = (names - self._held for names in accesses(node))
        if self.order.conflicts(reads, writes):
            self.statements.barrier()
            self.order.met()
        self.order.take(reads, writes)

    def _node(self, node: Node, variables: Variables) -> None:
        s, context = self.statements, self.kernel.context
        self._meet(node)
        match node:
            case Fill() if node.target in self._held and self.registers is not None:
                self.registers.fill(s, node)
            case Compute() if self.registers is not None and self._held & {*node.targets, *(r.tensor for r in node.reads())}:
                if node.product is None:
                    FragmentEmitter.of(self.registers, node, variables).emit(s)
                else:
                    self._fragment_product(node).emit(s, variables)
            case Compute() if on_blocks(node) and self.scratch is not None:
                self._product(node, variables)
            case Compute():
                self.kernel.emitter(node, variables, self.team).emit(s)
            case Fill(target=target, value=value):
                view = self.kernel.views[target]
                fill(s, self.team, view, total_of(view.extents), value)
            case When(condition=condition, body=body):
                chosen = s.share(tirx.Cast("int32", context.evaluator(s, variables).value(condition)))
                with s.when(tirx.NE(chosen, tirx.IntImm("int32", 0))), self.order.perhaps(body):
                    self.nodes(body, variables)
            case Loop():
                if self.registers is not None:
                    self.registers.begin(s, node.buffers)
                self._allocate([b for b in node.buffers if b.name not in self._held], 0)
                with self.order.perhaps(node.body):
                    self.order.around(node.body)
                    self._loop(node, variables)

    @property
    def _held(self) -> set[str]:
        """The tiles in registers."""
        return set() if self.registers is None else set(self.registers.held.tiles)

    def _staged(self, nodes: tuple[Node, ...]) -> int:
        """Bytes of shared memory in which the products among the nodes stage their operands: those whose sums are in registers
        each at a place of its own, before them the others one after the other."""
        most = 0
        for node in walk(nodes):
            if isinstance(node, Compute) and not self._is_fragment(node) and on_blocks(node):
                most = max(most, scratch_of(node, self.kernel.shape(node, self.team.threads)))
        start = -(-most // ALIGNED) * ALIGNED
        for node in walk(nodes):
            if isinstance(node, Compute) and self._is_fragment(node):
                assert self.registers is not None
                self.places[node.target, node.product] = start
                start += staged_bytes(node, self.registers.held, self.kernel.lets)
        return start

    def _is_fragment(self, node: Compute) -> bool:
        """Whether it is a product whose sums are in registers."""
        return node.product is not None and node.target in self._held

    def _fragment_product(self, compute: Compute) -> FragmentProduct:
        assert self.registers is not None and self.scratch is not None
        start = self.places[compute.target, compute.product]
        return FragmentProduct(registers=self.registers, compute=compute, scratch=self.scratch, start=start)

    def _loop(self, loop: Loop, variables: Variables) -> None:
        """A serial loop. The operands of its products in registers are staged a turn ahead."""
        s = self.statements
        at = self.kernel.context.evaluator(s, variables)
        extents = [s.bind("extent", as_index(at.value(e))) for e in loop.extents]
        total = s.bind("turns", total_of(extents))
        products = self._ahead(loop)
        moving = {id(p.compute): p.varied_by(loop.variables) for p in products}

        def stage(product: FragmentProduct, step: tirx.Expr, names: set[str]) -> None:
            with s.when(step < total):
                product.stage(s, names, {**variables, **coordinates(s, loop, step, extents)})

        if products:
            s.barrier()
        for product in products:
            stage(product, index(0), {"left", "right"})
            commit(s)
        with s.loop(loop.variable, total) as step:
            inside = {**variables, **coordinates(s, loop, step, extents)}
            for node in loop.body:
                mine = next((p for p in products if p.compute is node), None)
                if mine is None:
                    self._node(node, inside)
                    continue
                self._meet(node)
                mine.emit(s, inside)
                s.barrier()
                stage(mine, s.bind("next", step + 1), moving[id(node)])
                commit(s)

    def _ahead(self, loop: Loop) -> list[FragmentProduct]:
        """The products in a loop's body that are staged ahead: those of which nothing that is staged is written in the loop."""
        if self.registers is None or self.scratch is None:
            return []
        written = {name for node in walk(loop.body) for name in accesses(node)[1]}
        fragments = [self._fragment_product(n) for n in loop.body if isinstance(n, Compute) and self._is_fragment(n)]
        chosen = [p for p in fragments if not p.reads() & written]
        return [replace(p, ahead=len(chosen)) for p in chosen]

    def _product(self, compute: Compute, variables: Variables) -> None:
        s, product = self.statements, compute.product
        assert product is not None and self.scratch is not None
        shape = self.kernel.shape(compute, self.team.threads)
        emitter = self.kernel.block_product(compute, self.team, shape, self.scratch)
        batch = [r for r in compute.output_ranks if r not in (product.rows, product.columns)]
        with ExitStack() as stack:
            inside = dict(variables)
            for r in batch:
                extent = as_index(self.kernel.context.evaluator(s, inside).value(compute.extent(r)))
                inside[r] = stack.enter_context(s.loop(r, extent))
            emitter.everywhere(s, inside)

    def _allocate(self, buffers: Sequence[Buffer], staged: int) -> None:
        """Tiles in shared memory, each of the greatest extents that it can have, and so many bytes for operands."""
        # Beyond what is static a kernel has one allocation, whose size the launch tells.
        s, together = self.statements, staged > RESERVED
        placed, held = [], -(-staged // ALIGNED) * ALIGNED if together else 0
        for buffer in buffers:
            size = tile_bytes(buffer, self.kernel.lets)
            if size is None:
                raise NotImplementedError(f"a tile of unlimited size inside a loop of a block: {buffer.name}")
            placed.append((buffer, held))
            held += size
        if staged and not together:
            self.scratch = s.allocate("scratch", (staged,), "uint8", scope="shared")
        if not held:
            return
        pool = s.allocate("tiles", (held,), "uint8", scope="shared" if held <= STATIC else "shared.dyn")
        if together:
            self.scratch = pool
        for buffer, start in placed:
            dtype = stored(buffer.dtype)
            flat = tirx.decl_buffer((index(held),), dtype, name=identifier(buffer.name), data=pool.data)
            s.add(tirx.DeclBuffer(flat, data=pool.data))
            shape = [max(1, upper_bound(e, self.kernel.lets) or 1) for e in buffer.shape]
            strides = [index(math.prod(shape[d + 1 :])) for d in range(len(shape))]
            base = index(start // tvm_ffi.dtype(dtype).itemsize)
            self.kernel.views[buffer.name] = View(
                flat=flat, strides=tuple(strides), extents=tuple(map(index, shape)), dtype=buffer.dtype, base=base
            )


def fill(s: Statements, team: Team, view: View, total: tirx.Expr, value: int | float | bool) -> None:
    """Stores a constant in all ``total`` elements of a tensor."""
    with team.each(s, total, index(team.threads), team.thread) as at:
        places = s.coordinates(at, [f"i{d}" for d in range(len(view.extents))], view.extents)
        indices = [places[f"i{d}"] for d in range(len(view.extents))]
        s.store(view.flat, view.offset(indices), encode(literal(value, computed(view.dtype)), view.dtype, 1))


def coordinates(s: Statements, loop: Loop, step: tirx.Expr, extents: Sequence[tirx.Expr]) -> Variables:
    """The variables of a loop in its turn number ``step``."""
    found = s.coordinates(step, loop.variables, extents)
    if loop.reverse:
        found[loop.variable] = s.bind(loop.variable, extents[0] - 1 - found[loop.variable])
    return found


def total_of(extents: Sequence[tirx.Expr]) -> tirx.Expr:
    """The product of the extents of a loop, or of a tensor."""
    total: tirx.Expr = index(1)
    for extent in extents:
        total = extent if constant(total) == 1 else total * extent
    return total


__all__ = ["Block", "coordinates", "fill", "total_of"]

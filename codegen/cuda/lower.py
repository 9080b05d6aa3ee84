"""Tile program to TensorIR for a GPU: one function on the host that launches kernels one after the other.

A Compute outside of parallel loops is a launch in which every thread has a point. A parallel loop is a launch with a block for
each turn: its tiles are the block's shared memory (or a part of the workspace, where they are too large), its Computes
are done by all threads of the block, which meet where one needs what another wrote. Serial loops around them run on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import tvm
from tvm import tirx

from ...ir.blocks import held_by_block, registers_of_block
from ...ir.expr import Expr, reads_of
from ...ir.fragments import Held, resident_blocks
from ...ir.index import upper_bound
from ...ir.target import Target
from ...ir.tile import Buffer, Compute, Fill, Joined, Loop, MatrixProduct, Node, Scope, TileProgram, When, walk
from ..context import Context, Variables
from ..element import stored
from ..frame import Frame
from ..functions.lanes import using
from ..microkernels.statements import (
    Statements,
    as_index,
    both,
    ceil_div,
    condition,
    constant,
    divisor,
    identifier,
    index,
    maximum,
    minimum,
    negation,
    positive,
)
from ..views import View
from . import bulk, channels, histograms, row_threads, stepwise, tensor_maps
from .block import Block, coordinates, fill, total_of
from .channel_ranks import MOST, Channels, channels_of
from .channels import ChannelThread
from .compute import DeviceComputeEmitter, blocks_for, is_ragged
from .fragments import Registers
from .implicit import ImplicitProduct
from .operands import matrix_of
from .product import BlockProduct, Shape, on_blocks, scratch_of, shape_of, tile_of
from .rows import rows_of
from .statements import WARP, DeviceStatements, Team, launched
from .stepwise import points_of_steps, take_steps

THREADS = 256
"""Threads of a block."""

_MULTIPROCESSORS = 16
"""CUDA's number of the attribute of a device."""

WAVES = 4
"""Blocks for each multiprocessor, of a loop whose tiles are in the workspace: each block has its part of it."""


def lower(program: TileProgram, target: Target) -> tvm.IRModule:
    """The primitive function of a tile program, for one GPU: ``main``, which launches its kernels."""
    with using(target.features, device=True):
        return tvm.IRModule({"main": _Lowering(program, target).function()})


class _Lowering(Frame):
    def __init__(self, program: TileProgram, target: Target) -> None:
        super().__init__(program)
        assert target.gpu is not None
        self.target, self.gpu = target, target.gpu
        self.context = Context(
            views=self.views, sizes=self.sizes, scalars=self.scalars, lets=self.lets, vector_bits=32, fused=True, threads=1
        )
        self.conditions: list[Expr] = []  # that the device must evaluate, of the nodes around

    def function(self) -> tirx.PrimFunc:
        arguments, numbers = self.parameters()
        for buffer in self.program.buffers:
            if buffer.scope is Scope.WORKSPACE:
                self._workspace(buffer)
        self._nodes(self.program.body, {})
        function = tirx.PrimFunc([*arguments, *numbers], self.statements.finish())
        return function.with_attr({"global_symbol": "main", "tirx.noalias": True, "s_tir": True, "tirx.is_entry_func": True})

    # -- on the host -----------------------------------------------------------------------------------------------------

    def _number(self, expr: Expr, variables: Variables) -> tirx.Expr:
        """A number of the host's, in a variable that kernels can be given."""
        return self.statements.bind("extent", as_index(self.size(expr, variables)))

    def _nodes(self, nodes: tuple[Node, ...], variables: Variables) -> None:
        for node in nodes:
            self._node(node, variables)

    def _node(self, node: Node, variables: Variables) -> None:
        s = self.statements
        match node:
            case Compute(product=MatrixProduct(joined=Joined())):
                self._product(node, variables)
            case Compute() if on_blocks(node) and not any(is_ragged(node, r) for r in node.output_ranks):
                self._product(node, variables)
            case Compute():
                self._points(node, variables)
            case Fill(target=target, value=value):
                self._fill(self.views[target], value)
            case When(condition=condition, body=body) if any(True for _ in reads_of(condition)):
                self.conditions.append(condition)
                self._nodes(body, variables)
                self.conditions.pop()
            case When(condition=condition, body=body):
                with s.when(self.size(condition, variables)):
                    self._nodes(body, variables)
            case Loop() if _is_data(node):
                # Only the device knows how often: one block goes through all of it.
                with self._kernel(index(1), variables) as (d, team):
                    self._block(d, team).nodes((node,), variables)
            case Loop(parallel=True):
                self._blocks(node, variables)
            case Loop() if (ranks := points_of_steps(node)) is not None:
                self._steps(node, ranks, variables)
            case Loop():
                for buffer in node.buffers:
                    self._workspace(buffer)
                extents = [self._number(e, variables) for e in node.extents]
                with s.loop(node.variable, total_of(extents)) as step:
                    self._nodes(node.body, {**variables, **coordinates(s, node, step, extents)})

    def _workspace(self, buffer: Buffer, copies: tirx.Expr | None = None, block: tirx.Expr | None = None) -> None:
        """Memory of the device for the length of the call; with ``copies`` so many, of which each block has one."""
        s = self.statements
        shape = [self._number(e, {}) for e in buffer.shape]
        strides, total = _strides(s, shape)
        held = total if copies is None else s.bind("held", total * copies)
        flat = tirx.decl_buffer((maximum(held, 1),), stored(buffer.dtype), name=identifier(buffer.name))
        s.add(tirx.AllocBuffer(flat))
        base = None if block is None else block * total
        self.views[buffer.name] = View(
            flat=flat, strides=tuple(strides), extents=tuple(shape), dtype=buffer.dtype, base=base, dense=block is None
        )

    @contextmanager
    def _kernel(
        self,
        blocks: tirx.Expr,
        variables: Variables,
        threads: int = THREADS,
        *,
        spread: bool = False,
        resident: int | None = None,
    ) -> Iterator[tuple[DeviceStatements, Team]]:
        """The body of a launch of so many blocks; ``spread``: their threads share the points of one Compute; ``resident`` as in
        :func:`launched`."""
        d = DeviceStatements()
        team = Team(thread=tirx.Var("thread", "int64"), block=tirx.Var("block", "int64"), threads=threads, launch=spread)
        with ExitStack() as stack:
            for condition in self.conditions:
                stack.enter_context(d.when(self.context.evaluator(d, variables).value(condition)))
            yield d, team
        s = self.statements
        blocks = s.bind("blocks", blocks)
        with s.when(positive(blocks)):
            s.add(launched(d.finish(), team, blocks, resident))

    def emitter(self, compute: Compute, variables: Variables, team: Team) -> DeviceComputeEmitter:
        return DeviceComputeEmitter(context=self.context, compute=compute, variables=variables, serial=True, team=team)

    def shape(self, compute: Compute, threads: int | None = None, *, bulk: bool = False) -> Shape:
        """The tile in which a block computes a product; ``bulk``: its operands can be copied in bulk."""
        product = compute.product
        assert product is not None
        rows, columns = (self._most(compute, ranks) for ranks in (product.row_ranks, product.column_ranks))
        sides = ((product.left, product.rows), (product.right, product.columns))
        along = (
            threads is None
            and product.joined is None
            and all(matrix_of(self.context, e, r or "", product.inner)[1] for e, r in sides)
        )
        bits = compute.accumulator.bits
        return shape_of(product.kernel, bits, rows, columns, self.target, threads, along=along, bulk=bulk)

    def _most(self, compute: Compute, ranks: tuple[str, ...]) -> int | None:
        """A number that the points of some ranks together never exceed; None where there is none."""
        total = 1
        for name in ranks:
            bound = upper_bound(compute.extent(name), self.lets)
            if bound is None:
                return None
            total *= bound
        return total

    def block_product(self, compute: Compute, team: Team, shape: Shape, scratch: tirx.Buffer) -> BlockProduct:
        emitter = self.emitter(compute, {}, team)
        product = BlockProduct(
            context=self.context,
            compute=compute,
            team=team,
            shape=shape,
            value=emitter.finished,
            finish=emitter.finish,
            scratch=scratch,
        )
        joined = compute.product is not None and compute.product.joined is not None
        return ImplicitProduct.of(product, emitter.at_point) if joined else product

    def _product(self, compute: Compute, variables: Variables) -> None:
        """A launch with a block for each tile of the results of a product."""
        s, product = self.statements, compute.product
        assert product is not None
        sides = (*product.row_ranks, *product.column_ranks)
        ranks = [r for r in compute.ranks if r.name in compute.output_ranks and r.name not in sides]
        batch = {r.name: self._number(r.extent, variables) for r in ranks}
        maps = self._maps(compute, batch, variables)
        if maps is None:
            self._tiles(compute, batch, variables)
            return
        # What cannot be copied in bulk is misaligned, or nothing.
        unfit = s.share(maps[0].unfit | maps[1].unfit)
        with s.when(tirx.EQ(unfit, index(0))):
            for each in maps:
                each.encode(s)
            self._tiles(compute, batch, variables, maps)
        with s.when(tirx.NE(unfit, index(0))):
            self._tiles(compute, batch, variables, chunks=False)

    def _maps(self, compute: Compute, batch: Mapping[str, tirx.Expr], variables: Variables) -> tensor_maps.Pair | None:
        """The operands of a product as tensors that a copy engine reads; None where it cannot."""
        shape, product = self.shape(compute, bulk=True), compute.product
        if not bulk.suits(compute, shape):
            return None
        assert product is not None
        m, n, k = (self._number(compute.extent(r or ""), variables) for r in (product.rows, product.columns, product.inner))
        nobody = Team(thread=index(0), block=index(0), threads=shape.threads)
        plan = self.block_product(compute, nobody, shape, tirx.decl_buffer((1,), "uint8"))  # its memory is the kernel's
        left, right = plan.operands((index(0), index(0)), (m, n))
        ranks = [tensor_maps.moving(operand, tuple(batch)) for operand in (left, right)]
        if ranks[0] is None or ranks[1] is None:
            return None
        s = self.statements
        return (
            tensor_maps.Mapped.of(s, left, k, ranks[0], batch, variables),
            tensor_maps.Mapped.of(s, right, k, ranks[1], batch, variables),
        )

    def _tiles(
        self, compute: Compute, batch: Mapping[str, tirx.Expr], variables: Variables, maps: tensor_maps.Pair | None = None,
        *, chunks: bool = True,
    ) -> None:  # fmt: skip
        """A launch with a block for each tile: with ``maps`` operands are copied in bulk, else, with ``chunks``, 16 bytes at a
        time where they may be."""
        s, product, shape = self.statements, compute.product, self.shape(compute, bulk=maps is not None)
        assert product is not None
        sides = ((product.row_ranks, shape.rows), (product.column_ranks, shape.columns))
        points = (total_of([self._number(compute.extent(r), variables) for r in ranks]) for ranks, _ in sides)
        down, across = (s.bind("tiles", ceil_div(n, side)) for n, (_, side) in zip(points, sides, strict=True))
        total = s.bind("total", total_of([*batch.values(), down, across]))
        blocks = total if maps is None else s.bind("blocks", minimum(total, self._multiprocessors()))
        with self._kernel(blocks, variables, shape.threads if maps is None else bulk.threads_of(shape)) as (d, everyone):
            # Beyond what is static a kernel has only one allocation, whose size the launch tells.
            scope = "shared" if shape.stages == 1 else "shared.dyn"
            size = scratch_of(compute, shape) if maps is None else bulk.shared_of(compute, shape)
            scratch = d.allocate("scratch", (size,), "uint8", scope=scope)
            work = self.block_product(compute, replace(everyone, threads=shape.threads), shape, scratch)

            def place(d: DeviceStatements, number: tirx.Expr) -> tuple[Variables, tirx.Expr, tirx.Expr]:
                tiles = d.bind("tiles", down * across)
                at = d.coordinates(number, [*batch, "tile"], [*batch.values(), tiles])
                i, j = tile_of(d, at.pop("tile"), down, across)
                return {**variables, **at}, d.bind("top", i * shape.rows), d.bind("left", j * shape.columns)

            if maps is None:
                replace(work, chunks=chunks).tile(d, *place(d, everyone.block))
            else:
                bulk.BulkProduct.of(work, maps).tiles(d, variables, total, blocks, place)

    def _multiprocessors(self) -> tirx.Expr:
        """Of the device of this call, which CUDA's runtime library tells: those of an architecture have different numbers."""
        s = self.statements
        told = s.allocate("told", (2,), "int32", scope="local")
        device, count = (tirx.address_of(tirx.BufferLoad(told, [index(i)])) for i in range(2))
        s.store(told, 0, tirx.IntImm("int32", 0))
        s.store(told, 1, tirx.IntImm("int32", self.gpu.multiprocessors))
        s.evaluate(tirx.call_extern("int32", "cudaGetDevice", device))
        attribute, of = tirx.IntImm("int32", _MULTIPROCESSORS), tirx.BufferLoad(told, [index(0)])
        s.evaluate(tirx.call_extern("int32", "cudaDeviceGetAttribute", count, attribute, of))
        return maximum(as_index(tirx.BufferLoad(told, [index(1)])), 1)

    def _points(self, compute: Compute, variables: Variables) -> None:
        anyone = Team(thread=index(0), block=index(0), threads=THREADS, launch=True)
        asking = self.emitter(compute, variables, anyone)
        points = asking.points(self.statements)
        few = condition(histograms.suits(self.views[compute.target], points) if compute.scatter else False)
        s = self.statements
        if constant(few) != 0:
            with s.when(few):
                blocks = s.bind("blocks", histograms.blocks_of(points, THREADS, self.gpu.multiprocessors))
                with self._kernel(blocks, variables) as (d, team):
                    histograms.Histogram(emitter=self.emitter(compute, variables, team), blocks=blocks).emit(d)
        if constant(few) != 1:
            with (
                s.when(negation(few)),
                self._kernel(blocks_for(points, asking.workers), variables, spread=True) as (d, team),
            ):
                self.emitter(compute, variables, team).emit(d)

    def _fill(self, view: View, value: int | float | bool) -> None:
        total = total_of(view.extents)
        with self._kernel(blocks_for(total, THREADS), {}, spread=True) as (d, team):
            fill(d, team, view, total, value)

    def _steps(self, loop: Loop, ranks: tuple[str, ...], variables: Variables) -> None:
        """A launch with a thread for each point of ``ranks``, which takes all steps of a loop with it."""
        computes = [node for node in loop.body if isinstance(node, Compute)]
        extents = [self._number(computes[0].extent(r), variables) for r in ranks]
        steps = [self._number(e, variables) for e in loop.extents]
        total = self.statements.bind("total", total_of(extents))
        blocks = blocks_for(total, stepwise.THREADS)
        with (
            self._kernel(blocks, variables, stepwise.THREADS, spread=True) as (d, team),
            team.each(d, total, index(team.threads), team.thread) as at,
        ):
            placed = {**variables, **d.coordinates(at, ranks, extents)}
            emitters = [self.emitter(compute, placed, team) for compute in computes]
            take_steps(loop, emitters, d, placed, total_of(steps), lambda step: coordinates(d, loop, step, steps))

    def _blocks(self, loop: Loop, variables: Variables) -> None:
        """A launch with a block for each turn of a parallel loop, or with lanes for each of its channels."""
        s = self.statements
        found = channels_of(loop, self.lets)
        if found is None:
            self._passes(loop, variables)
            return
        fits = [self._number(e, variables) <= MOST for e in found.short]
        short = functools.reduce(both, fits, tirx.IntImm("bool", 1))
        with s.when(short):
            self._channels(loop, found, variables)
        if fits:
            with s.when(negation(short)):
                self._turns(loop, variables)

    def _passes(self, loop: Loop, variables: Variables) -> None:
        """A launch with some threads for each row of a parallel loop that goes through it several times, else with blocks."""
        s, found = self.statements, rows_of(loop, self.views, self.lets)
        if found is None:
            self._turns(loop, variables)
            return
        left: tirx.Expr = tirx.IntImm("bool", 1)
        for form in found.forms:
            fits = [row_threads.fits(self._number(extent, variables), form, (r, extent)) for r, extent in form.short]
            short = functools.reduce(both, fits, tirx.IntImm("bool", 1))
            with s.when(both(left, short)):
                extents = [self._number(e, variables) for e in loop.extents]
                total = s.bind("rows", total_of(extents) * found.most)
                with self._kernel(ceil_div(total, form.beside), variables, form.beside * form.threads) as (d, team):
                    row_threads.take_row(self.context, d, team, loop, found, form, total, extents, variables)
            left = both(left, negation(short))
        with s.when(left):
            self._turns(loop, variables)

    def _channels(self, loop: Loop, found: Channels, variables: Variables) -> None:
        """A launch with some lanes for each channel of a parallel loop."""
        s = self.statements
        extents = [self._number(e, variables) for e in loop.extents]
        turns = s.bind("turns", total_of(extents))
        points = index(1) if found.points is None else self._number(found.points, variables)
        blocks = ceil_div(turns * points * found.lanes, index(channels.THREADS))
        with self._kernel(blocks, variables, channels.THREADS, spread=True) as (d, team):
            at = channels.place_of(d, team, found, turns, points)
            inside = {**variables, **coordinates(d, loop, at.turn, extents)}
            computes = [node for node in walk(loop.body) if isinstance(node, Compute)]
            numbered = next((i for i in found.ranks), None)
            place, active = at.place, at.active
            if numbered is not None:
                extent = self.context.evaluator(d, inside).value(computes[numbered].extent(found.ranks[numbered]))
                extent = d.bind("extent", as_index(extent))
                active = both(active, place < extent)
                place = d.bind("place", minimum(place, extent - 1))
            thread = ChannelThread(
                channels=found,
                loop=loop,
                emitters=[self.emitter(compute, inside, team) for compute in computes],
                s=d,
                views=self.views,
                lets=self.lets,
                lane=at.lane,
                place=place,
                active=tirx.NE(d.share(tirx.Cast("int32", active)), tirx.IntImm("int32", 0)),
            )
            thread.nodes(loop.body, inside)

    def _turns(self, loop: Loop, variables: Variables) -> None:
        """A launch with a block for each turn of a parallel loop."""
        s = self.statements
        extents = [self._number(e, variables) for e in loop.extents]
        total = s.bind("turns", total_of(extents))
        shared, large = held_by_block(loop, self.target, self.lets)
        held = registers_of_block(loop, self.target, self.lets)
        most = self.gpu.multiprocessors * WAVES
        blocks = s.bind("blocks", minimum(total, most)) if large else total
        mine = tirx.Var("block", "int64")
        for buffer in large:
            self._workspace(buffer, blocks, mine)
        threads = THREADS if held is None else held.warps * WARP
        # Of tiles in shared memory too, that may be what leaves no room for so many.
        resident = None if held is None or shared or large else resident_blocks(held, self.gpu)
        with self._kernel(blocks, variables, threads, resident=resident) as (d, team):
            d.add(tirx.Bind(mine, team.block))
            body = self._block(d, team, held)
            if not large:
                body.turn(loop, {**variables, **coordinates(d, loop, team.block, extents)}, shared)
                return
            with d.loop("round", ceil_div(total, divisor(blocks))) as turn:
                task = d.bind("task", turn * blocks + team.block)
                with d.when(task < total):
                    d.barrier()
                    body.turn(loop, {**variables, **coordinates(d, loop, task, extents)}, shared)

    def _block(self, d: DeviceStatements, team: Team, held: Held | None = None) -> Block:
        if held is None:
            return Block(self, d, team, None)
        return Block(self, d, team, Registers(held=held, team=team, context=self.context, views=self.views))


def _strides(s: Statements, shape: list[tirx.Expr]) -> tuple[list[tirx.Expr], tirx.Expr]:
    """(the strides of a dense tensor, its elements)."""
    strides: list[tirx.Expr] = []
    total: tirx.Expr = index(1)
    for extent in reversed(shape):
        strides.insert(0, total)
        total = s.bind("stride", total * extent)
    return strides, total


def _is_data(loop: Loop) -> bool:
    """Whether only the device knows the extents of a loop."""
    return any(True for e in loop.extents for _ in reads_of(e))

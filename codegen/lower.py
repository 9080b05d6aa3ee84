"""Tile program to TensorIR: one primitive function for each kernel.

Its parameters are the input tensors, the results, the packed forms of constants, the scalar parameters and the free sizes, in
this order. Rows of tensor arguments may be strided; their last dimension is dense.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import tvm
from tvm import tirx
from tvm.tirx.stmt import ForKind

from ..ir.expr import Read
from ..ir.layouts import packers
from ..ir.machine import Machine
from ..ir.microkernels import FMA
from ..ir.tile import (
    Buffer,
    Compute,
    Fill,
    Loop,
    MatrixProduct,
    Method,
    Node,
    Scope,
    TileProgram,
    When,
    Window,
    packed_before,
    walk,
)
from . import streaming
from .arithmetic import literal
from .compute import ComputeEmitter
from .context import Context, Variables
from .contraction import ContractionEmitter
from .element import computed, stored
from .expressions import Evaluator
from .frame import Frame
from .functions.lanes import using
from .microkernels.dot_inside import PackedPanels
from .microkernels.packing import PackedMatrix
from .microkernels.panels import PackedWords
from .microkernels.statements import Statements, as_index, constant, either, identifier, index
from .microkernels.tasks import spread
from .overlap import Overlap, OverlapEmitter
from .prepacked import Form, Packer
from .views import View, encode
from .window import WindowEmitter

SLACK = 32
"""Rows that may be read beyond a tile's last: more than any register tile has."""


def lower(program: TileProgram, machine: Machine) -> tvm.IRModule:
    """The primitive functions of a tile program, for one machine: ``main``, and for each constant one that packs it."""
    with using(machine.target.features):
        made = [
            Packer(
                form=form, machine=machine, dtype=program.by_name[form.parameter].dtype, symbol=tvm.ir.GlobalVar(f"fill_{i}")
            )
            for i, form in enumerate(program.prepacked)
        ]  # fmt: skip
        functions: dict[str | tvm.ir.GlobalVar, tirx.PrimFunc] = {"main": _Lowering(program, machine, made).function()}
        for name, packer in zip(packers(len(made)), made, strict=True):
            functions |= {name: packer.function(name), packer.symbol: packer.filler()}
    return tvm.IRModule(functions)


class _Lowering(Frame):
    def __init__(self, program: TileProgram, machine: Machine, made: list[Packer]) -> None:
        super().__init__(program)
        self.made = made
        self.machine = machine
        self.packed: dict[int, PackedMatrix | PackedPanels] = {}
        self.forms: dict[str, PackedMatrix | PackedWords] = {}
        self.left = {name for node in walk(program.body) if isinstance(node, Compute) for name in _in_whole_blocks(node)}
        self.context = Context(
            views=self.views,
            sizes=self.sizes,
            scalars=self.scalars,
            lets=self.lets,
            vector_bits=machine.vector_bits,
            fused=machine.has_fma,
            threads=machine.threads,
        )

    def function(self) -> tirx.PrimFunc:
        arguments, numbers = self.parameters()
        arguments += [self._form(packer) for packer in self.made]
        s = self.statements
        for buffer in self.program.buffers:
            if buffer.scope is Scope.WORKSPACE:
                self._allocate(s, buffer, {})
        self._nodes(s, self.program.body, {}, serial=False)
        streams = _streams(self.program.body)
        if streams:
            s.evaluate(streaming.fence())
        body = streaming.linked(s.finish()) if streams else s.finish()
        function = tirx.PrimFunc([*arguments, *numbers], body)
        return function.with_attr({"global_symbol": "main", "tirx.noalias": True, "s_tir": True, "tirx.is_entry_func": True})

    # -- buffers -----------------------------------------------------------------------------------------------------

    def _form(self, packer: Packer) -> tirx.Buffer:
        """The argument of a constant's packed form, of which there is one when this has run, if products need it."""
        s, form = self.statements, packer.form
        needed: tirx.Expr | bool = False
        for node, serial in _reading(self.program.body, form.name, serial=False):
            if node.window is not None:
                needed = either(needed, node.window.kernel == FMA)  # bytes that are not bound are multiplied another way
                continue
            needed = either(needed, self._contraction(node, {}, serial=serial).many_rows(s))
        found = Form.declare(s, packer, self.views[form.parameter], needed)
        self.forms[form.name] = found.packed
        return found.declared

    def _allocate(self, s: Statements, buffer: Buffer, variables: Variables) -> None:
        at = Evaluator(s, self.views, self.sizes, variables, None, self.scalars)
        shape = [s.bind("extent", as_index(at.value(e))) for e in buffer.shape]
        strides: list[tirx.Expr] = []
        total: tirx.Expr = index(1)
        for extent in reversed(shape):
            strides.insert(0, total)
            total = s.bind("stride", total * extent)
        padded = buffer.scope is Scope.TILE and buffer.name in self.left and constant(strides[-2]) is not None
        slack = SLACK if padded else 0
        held = total + slack * strides[-2] if padded else tirx.Max(total, index(1))
        flat = tirx.decl_buffer((held,), stored(buffer.dtype), name=identifier(buffer.name))
        s.add(tirx.AllocBuffer(flat))
        if padded:
            # What lay in the memory before may be subnormal, which stalls a product that reads beyond the rows.
            with s.loop("i", held) as i:
                s.store(flat, i, encode(literal(0, computed(buffer.dtype)), buffer.dtype, 1))
        typed = None
        if buffer.dtype.name == "bf16":
            typed = tirx.decl_buffer((index(1 << 40),), "bfloat16", name=f"{flat.name}_bf16", data_alignment=2)
            s.add(tirx.DeclBuffer(typed, data=flat.data))
        self.views[buffer.name] = View(
            flat=flat, strides=tuple(strides), extents=tuple(shape), dtype=buffer.dtype, slack=slack, typed=typed
        )

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _nodes(self, s: Statements, nodes: tuple[Node, ...], variables: Variables, *, serial: bool) -> None:
        for node in nodes:
            self._node(s, node, variables, serial=serial)

    def _node(self, s: Statements, node: Node, variables: Variables, *, serial: bool) -> None:
        match node:
            case Compute(method=Method.CONTRACTION):
                self._contraction(node, variables, serial=serial).emit(s)
            case Compute(method=Method.WINDOW):
                WindowEmitter(
                    context=self.context, compute=node, variables=variables, serial=serial, machine=self.machine,
                    packed=self.forms.get(node.window.packed or "") if node.window else None,
                ).emit(s)  # fmt: skip
            case Compute():
                ComputeEmitter(context=self.context, compute=node, variables=variables, serial=serial).emit(s)
            case Fill(target=target, value=value):
                self._fill(s, self.views[target], value)
            case When(condition=condition, body=body):
                chosen = self.context.evaluator(s, variables).value(condition)
                with s.when(chosen):
                    self._nodes(s, body, variables, serial=serial)
            case Loop():
                self._loop(s, node, variables, serial=serial)

    def _contraction(self, node: Compute, variables: Variables, *, serial: bool) -> ContractionEmitter:
        assert node.product is not None
        ahead, around = self.forms.get(node.product.packed or ""), self.packed.get(id(node))
        return ContractionEmitter(
            context=self.context,
            compute=node,
            variables=variables,
            serial=serial,
            machine=self.machine,
            packed=around if ahead is None else ahead,
        )

    def _loop(self, s: Statements, node: Loop, variables: Variables, *, serial: bool) -> None:
        at = self.context.evaluator(s, variables)
        total = extent = s.bind("extent", as_index(at.value(node.extent)))
        inner = [s.bind("extent", as_index(at.value(r.extent))) for r in node.inner]
        for further in inner:
            total = s.bind("total", total * further)
        for product in packed_before(node) if serial else ():
            columns = self._contraction(product, variables, serial=True).pack(s)
            if columns is not None:
                self.packed[id(product)] = columns
        plan = Overlap.of(node, self.packed) if serial else None
        if plan is not None and self._side_by_side(plan).emit(s, variables, extent):
            return
        with self._steps(s, node, total, again=bool(variables), serial=serial) as step:
            inside = {**variables, **s.coordinates(step, node.variables, [extent, *inner])}
            if node.reverse:
                inside[node.variable] = s.bind(node.variable, extent - 1 - inside[node.variable])
            for buffer in node.buffers:
                self._allocate(s, buffer, inside)
            self._nodes(s, node.body, inside, serial=serial or node.parallel)

    def _steps(
        self, s: Statements, node: Loop, total: tirx.Expr, *, again: bool, serial: bool
    ) -> AbstractContextManager[tirx.Expr]:
        """The loop itself; a parallel one inside another runs ``again`` and again."""
        if serial or not node.parallel:
            return s.loop(node.variable, total)
        after = streaming.fence() if _streams(node.body) else None
        if again:
            return spread(s, node.variable, total, after)
        return s.loop(node.variable, total, kind=ForKind.PARALLEL, after=after)

    def _side_by_side(self, plan: Overlap) -> OverlapEmitter:
        return OverlapEmitter(
            plan=plan,
            context=self.context,
            views=self.views,
            contraction=lambda product, variables: self._contraction(product, variables, serial=True),
            nodes=lambda s, nodes, variables: self._nodes(s, nodes, variables, serial=True),
        )

    def _fill(self, s: Statements, view: View, value: int | float | bool) -> None:
        total: tirx.Expr = index(1)
        for extent in view.extents:
            total = total * extent
        raw = encode(literal(value, computed(view.dtype)), view.dtype, 1)
        if view.dense:
            with s.loop("i", total) as i:
                s.store(view.flat, i, raw)
            return
        self._fill_rows(s, view, raw, [])

    def _fill_rows(self, s: Statements, view: View, raw: tirx.Expr, at: list[tirx.Expr]) -> None:
        if len(at) == len(view.extents):
            s.store(view.flat, view.offset(at), raw)
            return
        with s.loop("i", view.extents[len(at)]) as i:
            self._fill_rows(s, view, raw, [*at, i])


def _reading(nodes: tuple[Node, ...], form: str, *, serial: bool) -> Iterator[tuple[Compute, bool]]:
    """The products that read a packed form, and whether a thread does each of them alone."""
    for node in nodes:
        match node:
            case Compute(product=MatrixProduct(packed=name)) | Compute(window=Window(packed=name)) if name == form:
                yield node, serial
            case When(body=body):
                yield from _reading(body, form, serial=serial)
            case Loop(body=body, parallel=parallel):
                yield from _reading(body, form, serial=serial or parallel)


def _streams(nodes: tuple[Node, ...]) -> bool:
    return any(isinstance(node, Compute) and node.streams is not None for node in walk(nodes))


def _in_whole_blocks(compute: Compute) -> list[str]:
    """The tensors whose rows a product may read or write beyond the last: its left operand, and the sums of matrix tiles."""
    product = compute.product
    if product is None:
        return []
    left = product.left
    found = [left.tensor] if isinstance(left, Read) and len(left.indices) > 1 else []
    direct = product.kernel != FMA and product.epilogue is None and len(compute.indices) > 1
    return [*found, compute.target] if direct else found

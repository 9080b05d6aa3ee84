"""Puts the sizes of blocks and register tiles into the products of a tile program (``ir/plans.py`` has the model).

Requires: a finished program; changing an extent afterwards would make the plan one for another product. Guarantees: every
contraction and every window has a plan for the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ...ir.expr import Const, Expr, ranks_of
from ...ir.index import upper_bound
from ...ir.machine import Machine
from ...ir.microkernels import FMA
from ...ir.plans import plan_dot, plan_dot_window, plan_gemm, plan_points, plan_window, summed
from ...ir.target import Target
from ...ir.tile import Compute, Loop, MatrixProduct, Method, Node, TileProgram, When, Window


def planned(program: TileProgram, target: Target) -> TileProgram:
    """``program`` with plans."""
    plans = _Plans(Machine(target=target), program.lets)
    return replace(program, body=plans.nodes(program.body, serial=False, around=()))


class _Plans:
    def __init__(self, machine: Machine, lets: Mapping[str, Expr]) -> None:
        self.machine, self.lets = machine, lets

    def nodes(self, nodes: tuple[Node, ...], *, serial: bool, around: tuple[str, ...]) -> tuple[Node, ...]:
        """``serial`` tells whether a parallel loop is around, ``around`` which loops of threads of their own are."""
        return tuple(self._node(node, serial=serial, around=around) for node in nodes)

    def _node(self, node: Node, *, serial: bool, around: tuple[str, ...]) -> Node:
        match node:
            case Loop(body=body, parallel=parallel):
                within = around if parallel else (*around, node.variable)
                return replace(node, body=self.nodes(body, serial=serial or parallel, around=within))
            case When(body=body):
                return replace(node, body=self.nodes(body, serial=serial, around=around))
            case Compute(method=Method.CONTRACTION, product=MatrixProduct() as product):
                again = _repeated(product, around)
                made = self._product(node, product, serial=serial and not again)
                return replace(node, product=_marked(made) if again else made)
            case Compute(method=Method.WINDOW, window=Window() as window):
                return replace(node, window=self._window(node, window))
            case _:
                return node

    def _product(self, compute: Compute, product: MatrixProduct, *, serial: bool) -> MatrixProduct:
        rows, columns, inner = (self._most(compute, r) for r in (product.rows, product.columns, product.inner))
        plan = dots = None
        if compute.accumulator.is_float:
            plan = plan_gemm(self.machine, summed(compute.accumulator), rows, columns, inner)
            if serial and (rows is None or rows > plan.skinny):
                plan = replace(plan, skinny=0)  # a tile has its rows: the ways for a few would only cost compile time
        if product.kernel != FMA:
            machine = self.machine
            dots = plan_dot(
                bits=product.left.dtype.bits, l2_bytes=machine.l2_bytes, threads=machine.threads, n=columns, k=inner
            )
        return replace(product, plan=plan, dot_plan=dots)

    def _window(self, compute: Compute, window: Window) -> Window:
        width = self._points(compute, window.columns)
        sides = [compute.extent(t) for t in window.taps]
        taps = math.prod(int(side.value) for side in sides if isinstance(side, Const))
        if window.kernel == FMA:
            packed = plan_points(self.machine, "float32", taps)
            return replace(window, plan=packed if window.packed else plan_window(self.machine, "float32", taps, width))
        channels = self._most(compute, window.channel)
        depth = None if channels is None else channels * taps
        bits, machine = window.image.dtype.bits, self.machine
        plan = plan_dot_window(bits=bits, l2_bytes=machine.l2_bytes, threads=machine.threads, n=width, k=depth)
        return replace(window, dot_plan=plan)

    def _points(self, compute: Compute, ranks: tuple[str, ...]) -> int | None:
        widths = [upper_bound(compute.extent(r), self.lets) for r in ranks]
        known = [w for w in widths if w is not None]
        return math.prod(known) if len(known) == len(widths) else None

    def _most(self, compute: Compute, rank: str | None) -> int | None:
        return 1 if rank is None else upper_bound(compute.extent(rank), self.lets)


def _repeated(product: MatrixProduct, around: tuple[str, ...]) -> bool:
    """Whether the loop around a product repeats it with the same operand on its right or left."""
    return any(name not in ranks_of(operand) for operand in (product.left, product.right) for name in around[-1:])


def _marked(product: MatrixProduct) -> MatrixProduct:
    """``product`` with a plan that knows that it is repeated."""
    return product if product.plan is None else replace(product, plan=replace(product.plan, again=True))

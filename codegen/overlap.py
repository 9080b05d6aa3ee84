"""Matrix tiles and vectors side by side: a loop over blocks whose products are done in pieces between rows of vector work.

The tile unit and the vector units of a core work at the same time, as far as the processor's window of instructions reaches:
a few rows. In a loop over blocks such as that of attention,

    for block:  QK;  max;  exp;  A·V

the scores of the next block are computed piece by piece between the rows of this block's exponentials, and the product of the
last block's exponentials with the values between the rows of this block's maxima. Scores then need two places, which blocks
take in turn. Products with subnormal numbers, and those of a block whose neighbour a mask leaves out, are done at once.

Guarantees: every element is computed by the same operations, in the same order, as without.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm import tirx

from ..ir.expr import Expr, op, reads_of
from ..ir.microkernels import PANEL
from ..ir.tile import Compute, Loop, Method, Node, When, walk
from .compute import ComputeEmitter
from .context import Context, Variables
from .contraction import ContractionEmitter
from .microkernels.dot_inside import PackedPanels, Pieces
from .microkernels.statements import Statements, both, constant, index, maximum, minimum
from .views import View

Body = Callable[[Statements, Variables], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How the body of a loop over blocks is taken apart.

    ``condition`` tells which blocks are visited (None: all). ``first`` is the product at the beginning, ``last`` the other,
    done where ``guard`` holds. ``hosts`` are the places in ``body`` of the Computes between whose rows pieces go: of the last
    block's ``last`` and of the next block's ``first``.
    """

    loop: Loop
    condition: Expr | None
    body: tuple[Node, ...]
    first: Compute
    last: Compute
    guard: Expr | None
    hosts: tuple[int, int]

    @staticmethod
    def of(loop: Loop, packed: Mapping[int, object]) -> Overlap | None:
        """None where the loop is not of this form, or where the order would matter."""
        outer = loop.body[0] if len(loop.body) == 1 else None
        condition, body = (outer.condition, outer.body) if isinstance(outer, When) else (None, loop.body)
        if loop.parallel or loop.reverse or loop.inner or loop.buffers or (condition is not None and any(reads_of(condition))):
            return None
        products = [n for n in walk(body) if isinstance(n, Compute) and n.method in (Method.CONTRACTION, Method.WINDOW)]
        if (
            len(products) != 2
            or body[0] is not products[0]
            or any(not isinstance(packed.get(id(p)), PackedPanels) for p in products)
        ):
            return None
        first, last = products
        at = next(i for i, n in enumerate(body) if n is last or (isinstance(n, When) and last in n.body))
        holder = body[at]
        guard = holder.condition if isinstance(holder, When) else None
        if isinstance(holder, When) and len(holder.body) != 1:
            return None
        rows = None if first.product is None else first.product.rows
        height = None if rows is None else first.extent(rows)
        hosts = [i for i, n in enumerate(body[:at]) if isinstance(n, Compute) and _is_host(n, height)][:2]
        if len(hosts) != 2:
            return None
        made = Overlap(
            loop=loop, condition=condition, body=body, first=first, last=last, guard=guard, hosts=(hosts[0], hosts[1])
        )  # fmt: skip
        return made if made._is_free(at) else None

    def _is_free(self, at: int) -> bool:
        """Whether nothing that the products pass by on their new way touches what they touch."""
        otherwise = None if self.guard is None else op("not", self.guard)
        passed = [n for n in self.body[at + 1 :] if not (isinstance(n, When) and n.condition == otherwise)]
        passed += self.body[1 : self.hosts[0] + 1]
        reads, written = _touched((self.last,)), {self.last.target}
        if self.guard is not None:
            reads |= {r.tensor for r in reads_of(self.guard)}
        if any(_written((n,)) & (reads | written) or _touched((n,)) & written for n in passed):
            return False
        others = self.body[1:]
        return not _written(others) & (_touched((self.first,)) | {self.first.target})


def _is_host(compute: Compute, height: Expr | None) -> bool:
    """Whether a Compute does vector work for one row of a block after the other."""
    rows = compute.output_ranks
    many = len(compute.ranks) > 1 and compute.method in (Method.FOLD, Method.LANES) and not compute.scatter
    return many and rows[0] != compute.vector and compute.extent(rows[0]) == height


def _written(nodes: Collection[Node]) -> set[str]:
    return {name for n in walk(tuple(nodes)) if isinstance(n, Compute) for name in n.targets}


def _touched(nodes: Collection[Node]) -> set[str]:
    """What is read."""
    return {r.tensor for n in walk(tuple(nodes)) if isinstance(n, Compute) for r in n.reads()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host(ComputeEmitter):
    """A Compute with pieces of other work between its rows."""

    pieces: int
    beside: Callable[[Statements, tirx.Expr], None]

    def _loops(self, s: Statements, ranks: Sequence[str], variables: Variables, parallel: tuple[str, ...], body: Body) -> None:
        if not ranks or ranks[0] != self.compute.output_ranks[0] or ranks[0] in variables:
            ComputeEmitter._loops(self, s, ranks, variables, parallel, body)
            return
        extent = s.bind("extent", self._extent(s, ranks[0], variables))
        together = -(-PANEL // self.pieces)
        with s.loop("piece", self.pieces) as piece:
            self.beside(s, piece)
            first = s.bind("first", piece * together)
            with s.loop(ranks[0], maximum(minimum(extent - first, together), 0)) as row:
                inside = {**variables, ranks[0]: s.bind(ranks[0], first + row)}
                ComputeEmitter._loops(self, s, ranks[1:], inside, (), body)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapEmitter:
    """Emits a loop over blocks. ``contraction`` and ``nodes`` emit parts of its body as they are anywhere."""

    plan: Overlap
    context: Context
    views: dict[str, View]
    contraction: Callable[[Compute, Variables], ContractionEmitter]
    nodes: Callable[[Statements, tuple[Node, ...], Variables], None]

    def emit(self, s: Statements, variables: Variables, extent: tirx.Expr) -> bool:
        """Adds the loop to ``s``; False, and nothing is added, where it must be done as it stands."""
        plan, block = self.plan, self.plan.loop.variable
        view = self.views[plan.first.target]
        probes = [self.contraction(c, {**variables, block: index(0)}).pieces(Statements()) for c in (plan.first, plan.last)]
        pitch = constant(view.strides[0])
        if len(view.strides) != 2 or constant(view.extents[0]) != PANEL or view.slack < PANEL or pitch is None:
            return False
        if any(p is None or p.count > PANEL for p in probes) or probes[0] is None:
            return False
        kernel, places = probes[0].kernel, PANEL * pitch
        kernel.configure(s)
        with s.loop(block, extent + 2) as turn:
            here = s.bind("here", turn - 1)
            visited = [self._visited(s, variables, s.bind("block", turn - 1 + step), extent) for step in (-1, 0, 1)]
            self._turn(s, {**variables, block: here}, visited, view, places)
        self.views[plan.first.target] = view
        kernel.release(s)
        return True

    def _visited(self, s: Statements, variables: Variables, at: tirx.Expr, extent: tirx.Expr) -> tirx.Expr:
        found = both(at >= 0, at < extent)
        if self.plan.condition is not None:
            found = both(
                found, self.context.evaluator(s, {**variables, self.plan.loop.variable: at}).value(self.plan.condition)
            )
        return s.bind("visited", tirx.Cast("int32", found)) > 0

    def _turn(self, s: Statements, variables: Variables, visited: list[tirx.Expr], view: View, places: int) -> None:
        """The vector work of a block, the last product of the one before, and the first product of the one after."""
        plan, block = self.plan, self.plan.loop.variable
        before, now, after = visited
        start, end = plan.hosts
        parity = [s.bind("place", tirx.truncmod(variables[block] + step, index(2)) * places) for step in (2, 3)]
        wanted = before
        if plan.guard is not None:
            wanted = both(before, self.context.evaluator(s, variables).value(plan.guard))
        last = self._ready(s, plan.last, {**variables, block: s.bind("block", variables[block] - 1)}, wanted, now)
        self.views[plan.first.target] = replace(view, base=parity[0])
        with s.when(now):
            self.nodes(s, plan.body[1:start], variables)
            self._host(s, plan.body[start], variables, *last)
            self.nodes(s, plan.body[start + 1 : end], variables)
        self.views[plan.first.target] = replace(view, base=parity[1])
        first = self._ready(s, plan.first, {**variables, block: s.bind("block", variables[block] + 1)}, after, now)
        self.views[plan.first.target] = replace(view, base=parity[0])
        with s.when(now):
            self._host(s, plan.body[end], variables, *first)
            self.nodes(s, tuple(n for n in plan.body[end + 1 :] if not _holds(n, plan.last)), variables)

    def _ready(
        self, s: Statements, product: Compute, variables: Variables, wanted: tirx.Expr, now: tirx.Expr
    ) -> tuple[Pieces, tirx.Expr]:
        """The pieces of a product, and whether they are to be done between rows; where they are wanted but not so, they have
        been done."""
        pieces = self.contraction(product, variables).pieces(s)
        assert pieces is not None
        special = s.allocate("special", (1,), "int32", scope="local")
        s.store(special, 0, tirx.IntImm("int32", 0))
        found = tirx.BufferLoad(special, [index(0)]) > tirx.IntImm("int32", 0)
        wanted = s.bind("wanted", tirx.Cast("int32", wanted)) > 0
        with s.when(wanted):
            pieces.look(s, special)
            with s.when(found):
                pieces.emit_all(s)
            with s.when(both(tirx.Not(found), tirx.Not(now))), s.loop("piece", pieces.count) as piece:
                pieces.emit(s, piece)
        between = s.bind("between", tirx.Cast("int32", both(wanted, tirx.Not(found)))) > 0
        return pieces, between

    def _host(self, s: Statements, node: Node, variables: Variables, pieces: Pieces, wanted: tirx.Expr) -> None:
        assert isinstance(node, Compute)

        def beside(s: Statements, piece: tirx.Expr) -> None:
            with s.when(wanted):
                pieces.emit(s, piece)

        _Host(
            context=self.context, compute=node, variables=variables, serial=True, pieces=pieces.count, beside=beside
        ).emit(s)  # fmt: skip


def _holds(node: Node, product: Compute) -> bool:
    return node is product or (isinstance(node, When) and product in node.body)

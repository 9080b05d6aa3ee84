"""Blocks of rows inside the merged loop of a group: scores that stay in the nearest cache, keys packed once for many rows.

The body of a loop over tiles of keys goes through its query rows a few register tiles at a time,

    for m1:  for rows of a block:  QK, max, exp, sum, A·V        instead of        for m1:  QK;  max;  exp;  sum;  A·V

so that what one step of a block leaves for the next stays in L1, and the right operands of its products, which no block
changes, are packed once for all of them (code generation hoists what a loop does not vary). The left operand that no tile of
keys changes (the queries) becomes a tile of its own before the loop, with the constant factor of the product in it:
(c·q)·k = c·(q·k). A block that a mask empties is left out.

Requires: the placed body of one merged loop whose Computes all go along the cut rank point by point. Guarantees: every
element is computed as before; sums are scaled before, not after, where the factor is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir.cascade import RankExtent
from ...ir.expr import Expr, Op, Rank, Read, integer, op, rank, ranks_of, reads_of, transform
from ...ir.index import at_most
from ...ir.machine import Machine
from ...ir.microkernels import FMA
from ...ir.plans import plan_gemm, summed
from ...ir.target import Target
from ...ir.tile import Buffer, Compute, Loop, Method, Node, Scope, When, map_computes, walk
from ...ir.types import DType
from .factors import factor_of, is_sum, scaled_by_readers
from .methods import choose
from .placement import Local
from .skipping import visited

SCORES = 128
"""Elements of a row of a block: a tile of keys (PRODUCT_TILE of derive.py)."""

TILE_ROWS = 32
"""Rows of a block of matrix tiles: two tiles by two."""

TILE_DEPTH = 256
"""The greatest depth and width of a right operand that is packed for a block of matrix tiles: two of them leave L2 room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Along:
    """The cut rank of a group: ``cuts`` gives the dimension of each tile that runs along it, ``rows`` the extent of a block,
    ``points`` of a tile."""

    cuts: Mapping[str, int]
    rows: int
    points: Expr

    @staticmethod
    def of(local: Mapping[str, Local], rows: int, points: Expr) -> Along:
        """The cut rank of the tiles ``local``."""
        cuts: dict[str, int] = {}
        for name, held in local.items():
            if held.cut is not None:
                at = sum(d not in held.dropped and d != held.generation for d in range(held.cut))
                cuts |= {each: at for each in (name, held.following) if each is not None}
        return Along(cuts=cuts, rows=rows, points=points)


def rows_of_block(target: Target, kernel: str = FMA) -> int:
    """Rows of a block: whole register tiles whose scores take a third of L1, or a block of matrix tiles."""
    if kernel != FMA:
        return TILE_ROWS
    machine = Machine(target=target)
    tile = plan_gemm(machine, "float32").mr
    return max(1, machine.l1_bytes // 3 // (4 * SCORES) // tile) * tile


def deepest_panel(target: Target, accumulator: DType, kernel: str = FMA) -> int:
    """The depth to which a panel of a right operand is packed in one piece for sums in ``accumulator``, a floating type."""
    return TILE_DEPTH if kernel != FMA else plan_gemm(Machine(target=target), summed(accumulator)).kc


def blocked(
    body: Sequence[Node],
    buffers: dict[str, Buffer],
    along: Along,
    fresh: Callable[[str], str],
    masked: Sequence[Sequence[Compute]] | None = None,
) -> tuple[list[Node], list[str]] | None:
    """The body of a group with its merged loop's rows in blocks, and the names of the tiles that it adds; ``buffers`` are
    changed with it. ``masked`` are the loop's reductions as placed, where a mask may leave tiles out. None where the loop is
    not of this form.
    """
    at = next((i for i, n in enumerate(body) if isinstance(n, Loop)), None)
    if at is None or not isinstance(loop := body[at], Loop) or loop.inner or loop.reverse:
        return None
    form = _Blocking(loop, buffers, along, [n for i, n in enumerate(body) if i != at])
    variables = form.variables()
    if variables is None:
        return None
    made = form.loop(variables, fresh("block"), masked)
    before, loop = form.left_operands(made, fresh)
    return [*body[:at], *before, loop, *body[at + 1 :]], form.added


class _Blocking:
    def __init__(self, loop: Loop, buffers: dict[str, Buffer], along: Along, outside: Sequence[Node]) -> None:
        self.loop_, self.buffers, self.along = loop, buffers, along
        self.elsewhere = {name for n in walk(tuple(outside)) for name in _touched(n)}
        self.added: list[str] = []

    def variables(self) -> dict[int, str] | None:
        """The rank of each Compute of the body (by identity) that runs along the cut; None where one has none, or where no
        product has its rows there."""
        found: dict[int, str] = {}
        products = False
        for node in walk(self.loop_.body):
            match node:
                case When():
                    continue
                case Compute():
                    mine = self._variable(node)
                    if mine is None:
                        return None
                    found[id(node)] = mine
                    products |= node.product is not None and node.product.rows == mine
                case _:
                    return None
        return found if products else None

    def _variable(self, compute: Compute) -> str | None:
        names: set[str] = set()
        for tensor, indices in _accesses(compute):
            dim = self.along.cuts.get(tensor)
            if dim is None:
                if tensor in self.buffers and self.buffers[tensor].scope is Scope.TILE:
                    return None
                continue
            index = indices[dim]
            if not isinstance(index, Rank):
                return None
            names.add(index.name)
        if len(names) != 1 or compute.scatter:
            return None
        (name,) = names
        return name if name in compute.output_ranks else None

    def loop(self, variables: Mapping[int, str], block: str, masked: Sequence[Sequence[Compute]] | None) -> Loop:
        """The loop with a loop over blocks inside."""
        own = self._own()
        for name in own:
            held, dim = self.buffers[name], self.along.cuts[name]
            shape = tuple(integer(self.along.rows) if d == dim else e for d, e in enumerate(held.shape))
            self.buffers[name] = replace(held, shape=shape)
        extents = {c.extent(variables[id(c)]) for c in walk(self.loop_.body) if isinstance(c, Compute)}
        (rows, *_) = sorted(extents, key=lambda e: e == self.along.points)  # a tile that is copied whole comes last

        def placed(compute: Compute, variable: str) -> Compute:
            return _placed(compute, variable, own, block, self.along.rows, rows)

        def rebuilt(nodes: Sequence[Node]) -> tuple[Node, ...]:
            made: list[Node] = []
            for node in nodes:
                match node:
                    case Compute():
                        made.append(placed(node, variables[id(node)]))
                    case When(condition=condition, body=body):
                        made.append(When(condition=condition, body=rebuilt(body)))
            return tuple(made)

        inside = rebuilt(self.loop_.body)
        if masked is not None:
            sets = [[placed(c, v) for c in each if (v := self._variable(c)) is not None] for each in masked]
            whole = [made for made, each in zip(sets, masked, strict=True) if len(made) == len(each)]
            limit = visited(whole, self.loop_.variable)
            if limit is not None and not at_most(self.loop_.extent, limit, {}):
                inside = (When(condition=op("lt", rank(self.loop_.variable), limit), body=inside),)
        count = op("ceildiv", rows, integer(self.along.rows))
        return replace(self.loop_, body=(Loop(variable=block, extent=count, body=inside),))

    def _own(self) -> set[str]:
        """The tiles that a generation writes before it reads them, and that nothing outside the loop touches."""
        written: set[str] = set()
        own: set[str] = set()
        lost: set[str] = set()
        for node in walk(self.loop_.body):
            if not isinstance(node, Compute):
                continue
            for name in _read(node):
                if name not in written:
                    lost.add(name)
            for each in (node, *node.along):
                written.add(each.target)
                own.add(each.target)
        return {n for n in own - lost - self.elsewhere if n in self.along.cuts}

    def left_operands(self, loop: Loop, fresh: Callable[[str], str]) -> tuple[list[Node], Loop]:
        """What computes the left operands that the loop does not vary into tiles of their own, and the loop that reads them."""
        before: list[Node] = []
        known: dict[tuple[Expr, Expr], str] = {}
        (blocks,) = loop.body
        assert isinstance(blocks, Loop)
        changed = {name for n in walk(loop.body) if isinstance(n, Compute) for name in n.targets}

        def taken(compute: Compute) -> Compute:
            product = compute.product
            if product is None or product.rows is None or not self._is_fixed(compute, loop.variable, blocks.variable, changed):
                return compute
            value, epilogue = product.left, product.epilogue
            if (found := factor_of(epilogue, value.dtype)) is not None:
                kind, factor, rest = found
                value = Op(op=kind, args=(value, factor), dtype=value.dtype)
                epilogue = None if is_sum(rest) else rest
            row = op("add", op("mul", rank(blocks.variable), integer(self.along.rows)), rank(product.rows))
            key = value, compute.extent(product.inner)
            if key not in known:
                variable = product.rows
                whole = transform(value, lambda node: rank(variable) if node == row else None)
                if blocks.variable in ranks_of(whole):
                    return compute
                known[key] = fresh("rows")
                before.append(self._tile(known[key], whole, compute, product.rows, product.inner))
            read = Read(tensor=known[key], indices=(row, rank(product.inner)), dtype=value.dtype)
            return replace(compute, product=replace(product, left=read, epilogue=epilogue))

        made = replace(loop, body=map_computes(loop.body, taken))
        return before, scaled_by_readers(made, self._own())

    def _is_fixed(self, compute: Compute, loop: str, block: str, changed: set[str]) -> bool:
        """Whether the rows of a product's left operand are the block's and no step of the loop changes them."""
        product = compute.product
        if product is None or product.rows is None or compute.method is not Method.CONTRACTION:
            return False
        left, own = product.left, {product.rows, product.inner}
        ranks, tensors = set(ranks_of(left)), {r.tensor for r in reads_of(left)}
        if (
            (left.dtype != compute.accumulator) == (product.kernel == FMA)
            or not {product.rows, block} <= ranks
            or loop in ranks
        ):
            return False
        if tensors & (changed | set(self.along.cuts)):
            return False
        others = {r.name for r in compute.ranks} - own
        return not others & ranks and not own & {n for r in compute.ranks for n in ranks_of(r.extent)}

    def _tile(self, name: str, value: Expr, product: Compute, row: str, inner: str) -> Compute:
        """The Compute that fills a tile with a left operand, and its buffer."""
        depth = product.extent(inner)
        self.buffers[name] = Buffer(name=name, dtype=value.dtype, shape=(self.along.points, depth), scope=Scope.TILE)
        self.added.append(name)
        compute = Compute(
            target=name,
            indices=(rank(row), rank(inner)),
            value=value,
            ranks=(RankExtent(name=row, extent=_whole(product.extent(row))), RankExtent(name=inner, extent=depth)),
            accumulator=value.dtype,
            origin=product.origin,
        )
        return choose(compute)


def _placed(compute: Compute, variable: str, own: set[str], block: str, rows: int, extent: Expr) -> Compute:
    """``compute`` for one block of rows: its rank starts at the block's first row, except in tiles of the block's own."""
    start = op("mul", rank(block), integer(rows))
    moved = op("add", start, rank(variable))

    def put(expr: Expr) -> Expr:
        def rule(node: Expr) -> Expr | None:
            match node:
                case Rank(name=name) if name == variable:
                    return moved
                case Read(tensor=tensor, indices=indices) if tensor in own:
                    return replace(node, indices=tuple(_unmoved(i, moved, variable) for i in indices))
                case _:
                    return None

        return transform(expr, rule)

    def at(target: str, indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return indices if target in own else tuple(put(i) for i in indices)

    product = compute.product
    if product is not None:
        epilogue = None if product.epilogue is None else put(product.epilogue)
        product = replace(product, left=put(product.left), right=put(product.right), epilogue=epilogue)
    height = op("min", integer(rows), op("sub", extent, start))
    return replace(
        compute,
        indices=at(compute.target, compute.indices),
        value=put(compute.value),
        filter=None if compute.filter is None else put(compute.filter),
        condition=None if compute.condition is None else put(compute.condition),
        within=None if compute.within is None else put(compute.within),
        ranks=tuple(
            replace(r, extent=height) if r.name == variable else replace(r, extent=put(r.extent)) for r in compute.ranks
        ),
        product=product,
        along=tuple(_placed(inner, variable, own, block, rows, extent) for inner in compute.along),
    )


def _unmoved(index: Expr, moved: Expr, variable: str) -> Expr:
    return rank(variable) if index == moved else index


def _whole(height: Expr) -> Expr:
    """The rows of a tile, from those of a block: min(rows, extent - block · rows)."""
    match height:
        case Op(op="min", args=(_, Op(op="sub", args=(extent, _)))):
            return extent
    raise AssertionError(height)


def _accesses(compute: Compute) -> Iterator[tuple[str, tuple[Expr, ...]]]:
    """Every tensor that a Compute touches, and where."""
    yield from ((each.target, each.indices) for each in (compute, *compute.along))
    yield from ((r.tensor, r.indices) for r in compute.reads())


def _read(compute: Compute) -> set[str]:
    """What a Compute reads that it does not itself write along the way."""
    return {r.tensor for r in compute.reads()} - {inner.target for inner in compute.along}


def _touched(node: Node) -> set[str]:
    match node:
        case Compute():
            return {name for name, _ in _accesses(node)}
        case Loop(extent=extent):
            return {r.tensor for r in reads_of(extent)}
        case When(condition=condition):
            return {r.tensor for r in reads_of(condition)}
        case _:
            return set()

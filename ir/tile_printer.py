"""A tile program as text: its loops, where every buffer lives, and the knobs of every computation.

It is for reading (``kernel.source("tile")``) and has no parser. Below a computation stand, indented, the points that it goes
over, the conditions, and, behind ``by``, how it is carried out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .cascade import Let, RankExtent
from .expr import Const, Expr
from .index import simplify
from .plans import DotPlan, GemmPlan
from .printer import expr_to_source, index_to_source
from .tile import Buffer, Compute, Fill, Loop, MatrixProduct, Method, Node, Prepacked, Scope, TileProgram, When, Window

_INDENT = "    "

_SCOPES = {Scope.INPUT: "input", Scope.OUTPUT: "output", Scope.WORKSPACE: "workspace", Scope.TILE: "tile"}


def tile_to_source(program: TileProgram) -> str:
    """The whole program, a line for each buffer, loop and computation, and for each of their properties."""
    lines = [f"kernel {program.cascade.name}"]
    lines += _indented(_let(let) for let in (*program.cascade.lets, *program.derived))
    lines += _indented(_buffer(buffer) for buffer in program.buffers)
    lines += _indented(_prepacked(form) for form in program.prepacked)
    lines += _indented(_nodes(program.body, serial=False))
    return "".join(f"{line}\n" for line in lines)


def _let(let: Let) -> str:
    return f"let {let.name} = {expr_to_source(simplify(let.value))}"


def _buffer(buffer: Buffer) -> str:
    shape = f"[{', '.join(map(index_to_source, buffer.shape))}]" if buffer.shape else ""
    return f"{_SCOPES[buffer.scope]} {buffer.name}: {buffer.dtype}{shape}"


def _prepacked(form: Prepacked) -> str:
    turned = ", transposed" if form.transposed else ""
    panels = f"panels of {form.layout.columns} columns, {form.layout.steps} steps at a time"
    return f"packed {form.name} = {form.parameter}{turned} in {panels}: {expr_to_source(form.size)} bytes"


def _nodes(nodes: Sequence[Node], *, serial: bool) -> Iterator[str]:
    for node in nodes:
        match node:
            case Loop():
                yield from _loop(node, serial=serial)
            case When(condition=condition, body=body):
                yield f"if {expr_to_source(condition)}:"
                yield from _indented(_nodes(body, serial=serial))
            case Fill(target=target, value=value):
                yield f"{target} = {value}"
            case Compute():
                yield from _compute(node, serial=serial)


def _loop(loop: Loop, *, serial: bool) -> Iterator[str]:
    ranks = (RankExtent(name=loop.variable, extent=loop.extent), *loop.inner)
    how = "in parallel " if loop.parallel and not serial else ""
    yield f"{how}for {_ranges(ranks)}{', from the end' if loop.reverse else ''}:"
    yield from _indented(_buffer(buffer) for buffer in loop.buffers)
    yield from _indented(_nodes(loop.body, serial=serial or loop.parallel))


def _compute(compute: Compute, *, serial: bool) -> Iterator[str]:
    place = f"{compute.target}[{', '.join(map(index_to_source, compute.indices))}]" if compute.indices else compute.target
    yield f"{place} = {expr_to_source(compute.value)}"
    yield from _indented(_properties(compute, serial=serial))


def _properties(compute: Compute, *, serial: bool) -> Iterator[str]:
    inner = set(compute.reduced)
    outputs = [r for r in compute.ranks if r.name not in inner]
    if outputs:
        yield f"for {_ranges(outputs)}"
    if compute.reduced:
        reduced = [r for r in compute.ranks if r.name in inner]
        yield f"{compute.reduction}({_ranges(reduced)}) in {compute.accumulator}"
    elif compute.reduction is not None:
        yield f"{compute.reduction}= in {compute.accumulator}"
    for word, condition in (("where", compute.filter), ("if", compute.condition), ("within", compute.within)):
        if condition is not None:
            yield f"{word} {expr_to_source(condition)}"
    for along in compute.along:
        yield from (f"along {line}" if n == 0 else line for n, line in enumerate(_compute(along, serial=True)))
    yield from _how(compute)
    if compute.parallel and not serial:
        yield f"in parallel over {', '.join(compute.parallel)}"
    if compute.streams is not None:
        yield "stored past the caches" + _if(compute.streams)
    for ahead in compute.ahead:
        yield f"prefetch {expr_to_source(ahead.read)}, {expr_to_source(ahead.distance)} elements ahead{_if(ahead.when)}"


def _how(compute: Compute) -> Iterator[str]:
    match compute:
        case Compute(method=Method.CONTRACTION, product=MatrixProduct() as product):
            yield from _product(product)
        case Compute(method=Method.WINDOW, window=Window() as window):
            depth = ", ".join(r for r in (window.channel, *window.taps) if r is not None)
            packed = "" if window.packed is None else f", rows from {window.packed}"
            yield f"by {window.kernel}: rows {window.rows}, columns {', '.join(window.columns)}, depth {depth}{packed}"
            if window.dot_plan is not None:
                yield _dot_plan(window.dot_plan)
            if window.plan is not None:
                yield _plan(window.plan)
        case Compute(method=Method.LANES, vector=vector):
            yield f"by vectors along {vector}"
        case Compute(method=Method.FOLD, vector=vector):
            yield f"by vectors along {vector}, folded at the end"
        case _:
            yield "by single elements"


def _product(product: MatrixProduct) -> Iterator[str]:
    packed = "" if product.packed is None else f", columns from {product.packed}"
    rows, columns = (", ".join(ranks) or 1 for ranks in (product.row_ranks, product.column_ranks))
    taps = "" if product.joined is None else f" at each of {', '.join(product.joined.taps)}"
    yield f"by {product.kernel}: rows {rows}, columns {columns}, depth {product.inner}{taps}{packed}"
    if product.epilogue is not None:
        yield f"then {expr_to_source(product.epilogue)}"
    if product.dot_plan is not None:
        yield _dot_plan(product.dot_plan)
    if product.plan is not None and (product.dot_plan is None or product.plan.skinny):
        yield _plan(product.plan)


def _plan(plan: GemmPlan) -> str:
    few = f", up to {plan.skinny} rows or columns unpacked" if plan.skinny else ""
    return f"with mr = {plan.mr}, nr = {plan.nr}, mc = {plan.mc}, nc = {plan.nc}, kc = {plan.kc}, unroll = {plan.unroll}{few}"


def _dot_plan(plan: DotPlan) -> str:
    return f"with mr = {plan.mr}, nc = {plan.nc}, kc = {plan.kc}, packed = {plan.packed} bytes"


def _if(condition: Expr) -> str:
    return "" if isinstance(condition, Const) else f" if {expr_to_source(condition)}"


def _ranges(ranks: Sequence[RankExtent]) -> str:
    return ", ".join(f"{r.name} < {index_to_source(r.extent)}" for r in ranks)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"{_INDENT}{line}" for line in lines)

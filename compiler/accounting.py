"""What a kernel costs, as expressions over the sizes: operations and compulsory traffic as written, memory as compiled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..ir.cascade import Cascade, Einsum
from ..ir.expr import Cast, Expr, Op, Read, children, integer, op, ranks_of
from ..ir.index import expand_lets, simplify
from ..ir.microkernels import FEW_ROWS
from ..ir.operators import FUNCTIONS, REDUCTIONS
from ..ir.tile import Buffer, Compute, Loop, Node, Prepacked, Scope, TileProgram, When, walk
from ..ir.types import INDEX, StorageType, value_type


def flops(cascade: Cascade) -> Expr:
    """The scalar operations of all Einsums, functions by the weights of the operator table.

    An operation counts once for each point of the ranks that its operands depend on; factors that no reduced rank
    indexes count as applied to the finished sum. Arithmetic of indices and conditions is not counted, so that a masked
    Einsum counts what an unmasked one does. A matrix product of M by K by N counts 2 M N K.
    """
    return _total(
        _product([integer(weight), *(r.extent for r in einsum.ranks if r.name in ranks)])
        for einsum in cascade.einsums
        for weight, ranks in _operations(einsum)
    )


def traffic(cascade: Cascade) -> Expr:
    """Bytes of all tensor parameters and results: what any implementation reads and writes at least once."""
    tensors = [t for t in (*cascade.parameters, *cascade.results) if t.shape]
    return _total(_product([integer(_bytes(t.dtype)), *t.shape]) for t in tensors)


def workspace(program: TileProgram) -> Expr:
    """Bytes of the buffers that one call takes from the pool, over the free sizes (:func:`tile_bytes` not counted)."""
    return _bytes_of([b for b in program.buffers if b.scope is Scope.WORKSPACE], program)


def tile_bytes(program: TileProgram) -> Expr:
    """Bytes of the tiles that one thread holds at once, over the free sizes: those of the group with the most.

    The blocks of operands that the matrix-product micro-kernel packs belong to the machine, not to the program, and are
    not counted: they are cut so that they take at most three quarters of a core's L2 cache.
    """
    groups = [_bytes_of(_tiles(node), program) for node in _groups(program.body)]
    most: Expr = integer(0)
    for each in dict.fromkeys(groups):
        most = each if most == integer(0) else op("max", most, each)
    return simplify(most)


def packed_bytes(program: TileProgram) -> Expr:
    """Bytes of the packed forms of constants, which are kept from the time these are bound, over the free sizes."""
    lets = {let.name: let.value for let in program.cascade.lets}
    return _total(expand_lets(form.size, lets) for form in program.prepacked)


def rows_reading(form: Prepacked, program: TileProgram) -> Expr:
    """The most rows of the products that read a packed constant, over the free sizes; of rows that loops decide, that they may
    be many."""
    lets = {let.name: let.value for let in (*program.cascade.lets, *program.derived)}
    most: Expr = integer(0)
    for node in walk(program.body):
        if isinstance(node, Compute) and node.window is not None:
            if node.window.packed != form.name or form.layout.words:
                continue  # bytes that are not bound are multiplied another way
            most = op("max", most, integer(FEW_ROWS + 1))  # its rows are points
        elif isinstance(node, Compute) and node.product is not None and node.product.packed == form.name:
            rows = expand_lets(node.extent(node.product.rows or ""), lets)
            most = op("max", most, integer(FEW_ROWS + 1) if ranks_of(rows) else rows)
    return simplify(most)


def _groups(nodes: Iterable[Node]) -> Iterator[Node]:
    """The outermost nodes that run one after another, in whichever branch."""
    for node in nodes:
        if isinstance(node, When):
            yield from _groups(node.body)
        else:
            yield node


def _tiles(node: Node) -> list[Buffer]:
    return [b for each in walk((node,)) if isinstance(each, Loop) for b in each.buffers]


def _bytes_of(buffers: Iterable[Buffer], program: TileProgram) -> Expr:
    lets = {let.name: let.value for let in (*program.cascade.lets, *program.derived)}
    return _total(_product([integer(_bytes(b.dtype)), *(expand_lets(e, lets) for e in b.shape)]) for b in buffers)


def _operations(einsum: Einsum) -> Iterator[tuple[int, frozenset[str]]]:
    """(weight, the ranks over whose points it is done) of every operation of an Einsum."""
    if einsum.reduction is not None and einsum.reduced:
        combine = FUNCTIONS[REDUCTIONS[einsum.reduction].combine]
        yield combine.flops, frozenset(r.name for r in einsum.ranks)
    yield from _mapped(einsum.value, frozenset(einsum.reduced) if einsum.reduction == "+" else frozenset())


def _mapped(expr: Expr, reduced: frozenset[str]) -> Iterator[tuple[int, frozenset[str]]]:
    """``reduced`` is not empty along the product that a sum is taken of: there, factors may leave the sum."""
    if isinstance(expr, Read) or expr.dtype == INDEX:
        return
    inner: dict[int, frozenset[str]] = {}
    if isinstance(expr, Op):
        ranks = frozenset(ranks_of(expr))
        dependent = [i for i, arg in enumerate(expr.args) if reduced & set(ranks_of(arg))]
        if expr.op in ("mul", "div") and len(dependent) == 1:
            ranks -= reduced
            inner[dependent[0]] = reduced
        yield FUNCTIONS[expr.op].flops, ranks
    elif isinstance(expr, Cast):
        inner[0] = reduced
    for i, child in enumerate(children(expr)):
        yield from _mapped(child, inner.get(i, frozenset()))


def _bytes(dtype: StorageType) -> int:
    return value_type(dtype).storage.itemsize


def _product(factors: Iterable[Expr]) -> Expr:
    total: Expr = integer(1)
    for factor in factors:
        total = op("mul", total, factor)
    return total


def _total(terms: Iterable[Expr]) -> Expr:
    total: Expr = integer(0)
    for term in terms:
        total = op("add", total, term)
    return simplify(total)

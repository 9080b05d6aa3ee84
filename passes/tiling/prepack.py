"""Constants that are packed when they are bound, for the matrix products that read all of them.

A product packs its right operand block by block into the order in which its micro-kernel reads it. Where that operand is a
`const` parameter as it stands, the order is a property of the parameter: it depends on the micro-kernel and on nothing that
a call decides, neither the number of rows nor the number of threads.
Requires: products with their micro-kernels. Guarantees: the same values in the same order of rounding, bound or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...ir.cascade import Role
from ...ir.expr import Const, Expr, Op, Rank, Read, rank, ranks_of, reads_of
from ...ir.index import constant_value, equal
from ...ir.microkernels import FMA, Lies, few_rows
from ...ir.plans import panels
from ...ir.printer import expr_to_source
from ...ir.target import Target
from ...ir.tile import Compute, Decision, MatrixProduct, Method, Prepacked, TileProgram, map_computes
from .methods import lane_step


def prepacked(program: TileProgram, target: Target) -> TileProgram:
    """``program`` whose products name the packed form of the constants that they read."""
    if target.kind != "cpu":
        return program
    found = _Found(program, target)
    body = map_computes(program.body, found.marked)
    if not found.forms:
        return program
    decisions = tuple(
        Decision(
            made_by="pack",
            subject=form.parameter,
            chosen=f"packed when it is bound: panels of {form.layout.columns} columns, {expr_to_source(form.size)} bytes",
            because=f"a constant, all of which the product {', '.join(dict.fromkeys(found.readers[form.name]))} reads",
        )
        for form in found.forms.values()
    )
    forms = (*program.prepacked, *found.forms.values())
    return replace(program, body=body, prepacked=forms, decisions=(*program.decisions, *decisions))


@dataclass(slots=True)
class _Found:
    program: TileProgram
    target: Target
    forms: dict[str, Prepacked] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)

    def marked(self, compute: Compute) -> Compute:
        """A Compute whose product names the packed form of its right operand, where it has one."""
        product = compute.product
        if product is None or compute.method is not Method.CONTRACTION:
            return compute
        form = self._form(compute, product)
        return compute if form is None else replace(compute, product=replace(product, packed=form))

    def _form(self, compute: Compute, product: MatrixProduct) -> str | None:
        """The name of the packed form of a product's right operand; None where it is read as it lies."""
        right, columns, inner = product.right, product.columns, product.inner
        if product.rows is None or columns is None or compute.reduced != (inner,) or not isinstance(right, Read):
            return None
        if lane_step(compute.indices, columns) != 1:
            return None
        tensor = self.program.cascade.by_name.get(right.tensor)
        if tensor is None or tensor.role is not Role.CONST or any(part != 1 for part in tensor.parts):
            return None
        layout = panels(self.target, product.kernel, right.dtype, compute.accumulator)
        if layout is None or len(right.indices) < 2:
            return None
        *lead, first, second = right.indices
        transposed = second == rank(inner or "")
        along_k, along_n = (second, first) if transposed else (first, second)
        k, n = reversed(tensor.shape[-2:]) if transposed else tensor.shape[-2:]
        lets = {let.name: let.value for let in self.program.cascade.lets}
        if along_k != rank(inner or "") or not equal(compute.extent(inner or ""), k, lets):
            return None
        whole = along_n == rank(columns) and equal(compute.extent(columns), n, lets)
        if not whole and not (layout.words and _begins_panels(along_n, columns, layout.columns)):
            return None
        few = few_rows(product.kernel, _lies(product, along=transposed), constant_value(k, lets), packed=True)
        if _at_most(compute.extent(product.rows), few):
            return None
        if lead and not (layout.words and all({columns, inner}.isdisjoint(ranks_of(i)) and not reads_of(i) for i in lead)):
            return None
        name = f"{tensor.name}.{'rows' if transposed else 'columns'}.{'fma' if product.kernel == FMA else 'dot'}"
        self.forms[name] = Prepacked(
            name=name,
            parameter=tensor.name,
            shape=(k, n),
            transposed=transposed,
            layout=layout,
            lead=tensor.shape[:-2],
        )
        self.readers.setdefault(name, []).append(compute.target)
        return name


def _begins_panels(index: Expr, columns: str, panel: int) -> bool:
    """Whether an index is ``columns`` after the beginning of a panel: tiles of whole panels."""
    match index:
        case Op(op="add", args=(Op(op="mul", args=(Rank(), Const(value=width))), Rank(name=name))):
            return name == columns and int(width) % panel == 0
        case _:
            return False


def _lies(product: MatrixProduct, *, along: bool) -> Lies:
    """How the operands of a product lie, the right one contiguous ``along`` k or across."""
    if not along:
        return Lies.ACROSS
    left, inner = product.left, product.inner
    both = left.dtype.is_float or (isinstance(left, Read) and inner is not None and lane_step(left.indices, inner) == 1)
    return Lies.ALONG if both else Lies.OTHERWISE


def _at_most(extent: Expr, limit: int) -> bool:
    return isinstance(extent, Const) and int(extent.value) <= limit

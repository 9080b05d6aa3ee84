"""Constants that are packed when they are bound, for the matrix products that read all of them.

A product packs its right operand block by block into the order in which its micro-kernel reads it. Where that operand is a
`const` parameter as it stands, the order is a property of the parameter: it depends on the micro-kernel and on nothing that
a call decides, neither the number of rows nor the number of threads.
Requires: products with their micro-kernels. Guarantees: the same values in the same order of rounding, bound or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...ir.cascade import Role
from ...ir.expr import Const, Expr, Op, Rank, Read, integer, op, rank, ranks_of, reads_of
from ...ir.index import affine_in, constant_value, equal
from ...ir.layouts import PanelLayout
from ...ir.microkernels import FMA, Lies, few_rows
from ...ir.plans import panels, weight_panels
from ...ir.printer import expr_to_source
from ...ir.target import Target
from ...ir.tile import Compute, Decision, MatrixProduct, Method, Prepacked, TileProgram, Window, map_computes
from .methods import lane_step

_FEWEST_ROWS = 32
"""Rows of weights of bytes from which on they are packed."""
_WHOLE = 3
"""Whole panels beside which one that is at most half full, whose sums are too few to hide their latency, does not count."""
_SHALLOWEST = 128
"""Elements of a row from which on the sum takes much longer than the transposition of the result."""
_FARTHEST_STEP, _FARTHEST_TAP = 4, 16
"""The largest steps of neighbouring points, and of neighbouring taps, in the image."""

_NEAREST_TAP = 2
"""The same for taps where what lies between two lines of points is multiplied too."""


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
            because=f"a constant, all of which the {found.kinds[form.name]} {', '.join(found.of(form.name))} reads",
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
    kinds: dict[str, str] = field(default_factory=dict)

    def of(self, form: str) -> list[str]:
        """What reads a packed form."""
        return list(dict.fromkeys(self.readers[form]))

    def marked(self, compute: Compute) -> Compute:
        """A Compute whose product names the packed form of its right operand, or whose window that of its weights."""
        product = compute.product
        if compute.window is not None and compute.method is Method.WINDOW:
            packed = self._weights(compute, compute.window)
            return compute if packed is None else replace(compute, window=replace(compute.window, packed=packed))
        if product is None or compute.method is not Method.CONTRACTION:
            return compute
        form = self._form(compute, product)
        return compute if form is None else replace(compute, product=replace(product, packed=form))

    def _weights(self, compute: Compute, window: Window) -> str | None:
        """The name of the packed form of a window's weights; None where they are read as they lie."""
        tensor = self.program.cascade.by_name.get(window.weights.tensor)
        if tensor is None or tensor.role is not Role.CONST or any(part != 1 for part in tensor.parts):
            return None
        depth = [r for r in (window.channel, *window.taps) if r is not None]
        lets = {let.name: let.value for let in self.program.cascade.lets}
        extents = [compute.extent(r) for r in (window.rows, *depth)]
        if len(tensor.shape) != len(extents) or not all(equal(a, b, lets) for a, b in zip(extents, tensor.shape, strict=True)):
            return None
        n, k = tensor.shape[0], _product_of(tensor.shape[1:])
        few, shallow = constant_value(n, lets), constant_value(k, lets)
        layout = weight_panels(self.target, window.kernel, window.weights.dtype, compute.accumulator)
        if layout is None or few is None or shallow is None or shallow < _SHALLOWEST:
            return None
        if not _enough(few, layout):
            return None
        taps = 1
        if window.kernel != FMA:
            channels = None if window.channel is None else constant_value(tensor.shape[1], lets)
            if layout.notes or channels is None or channels * 4 < -(-channels // layout.steps) * layout.steps * 3:
                return None
            taps = shallow // channels
            k = integer(-(-channels // layout.steps) * layout.steps * taps)
            if not _beside(window):
                return None
        elif not _close(window):
            return None
        name = f"{tensor.name}.window.{'fma' if window.kernel == FMA else 'dot'}"
        self.forms[name] = Prepacked(
            name=name, parameter=tensor.name, shape=(k, n), transposed=True, layout=layout, joined=len(depth), taps=taps
        )
        self.kinds[name] = "window"
        self.readers.setdefault(name, []).append(compute.target)
        return name

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
        self.kinds[name] = "product"
        self.readers.setdefault(name, []).append(compute.target)
        return name


def _enough(rows: int, layout: PanelLayout) -> bool:
    """Whether panels of so many rows are worth it."""
    if layout.words:
        return rows >= _FEWEST_ROWS
    whole, last = divmod(rows, layout.columns)
    return whole >= _WHOLE or (whole > 0 and (last == 0 or 2 * last > layout.columns))


def _close(window: Window) -> bool:
    """Whether the points' windows overlap, or nearly so: what is around some points is then not much more than they meet."""
    for index in window.image.indices:
        form = affine_in(index, {*window.columns, *window.taps})
        if form is None:
            return False
        factors = {r: abs(int(c.value)) for r, c in form.terms if isinstance(c, Const)}
        steps, reach = (max((factors.get(r, 0) for r in ranks), default=0) for ranks in (window.columns, window.taps))
        if steps > _FARTHEST_STEP or reach > _FARTHEST_TAP:
            return False
    return True


def _beside(window: Window) -> bool:
    """Whether neighbours of the result are neighbours in the image along every dimension, but for few places at its border."""
    columns = list(window.columns)
    for index in window.image.indices:
        form = affine_in(index, {*window.columns, *window.taps})
        if form is None:
            return False
        factors = {r: int(c.value) for r, c in form.terms if isinstance(c, Const)}
        moving = [r for r in window.columns if r in factors]
        if any(r in factors for r in (*window.columns, *window.taps)) and (moving != columns[:1] or factors[moving[0]] != 1):
            return False
        columns = columns[len(moving) :]
        if max((abs(factors.get(r, 0)) for r in window.taps), default=0) > _NEAREST_TAP:
            return False
    return not columns


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


def _product_of(extents: Sequence[Expr]) -> Expr:
    total = extents[0]
    for extent in extents[1:]:
        total = op("mul", total, extent)
    return total


def _at_most(extent: Expr, limit: int) -> bool:
    return isinstance(extent, Const) and int(extent.value) <= limit

"""Contractions on the matrix-product micro-kernel: batches and further reduced ranks are loops around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ..ir.expr import Expr, Op, Read, ranks_of, reads_of, walk
from ..ir.index import affine_in, upper_bound
from ..ir.machine import Machine
from ..ir.microkernels import BY_NAME, FMA, Lies, few_rows
from ..ir.plans import DotPlan, GemmPlan
from ..ir.tile import SUM, Compute, MatrixProduct
from .arithmetic import convert, lanes_of, literal
from .context import Context, Variables
from .element import computed, raw_type, stored
from .expressions import Evaluator, Lanes
from .functions import REAL
from .microkernels.byte_rows import emit_byte_rows, lie
from .microkernels.dot import emit_dot
from .microkernels.dot_inside import PackedPanels, Pieces, emit_dot_inside, pack_panels
from .microkernels.families import byte_dots, panel_product
from .microkernels.gemm import emit_gemm, pack_right
from .microkernels.gemv import emit_skinny, lies
from .microkernels.operand import Epilogue, Formula, Operand, Site
from .microkernels.packing import PackedMatrix
from .microkernels.panels import PackedWords
from .microkernels.statements import Statements, as_index, both, ceil_div, constant, index, maximum, minimum, round_up
from .microkernels.words import reinterpreted
from .prepacked import part_of
from .views import View, broadcast, encode, is_matrix, moves_along

LIGHT = 12
"""Operations of an epilogue up to which every register of a tile gets a copy of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractionEmitter:
    """Emits one Compute whose method is a contraction."""

    context: Context
    compute: Compute
    variables: Variables
    serial: bool
    machine: Machine
    packed: PackedMatrix | PackedPanels | PackedWords | None = None  # the right operand, packed already

    @property
    def product(self) -> MatrixProduct:
        assert self.compute.product is not None
        return self.compute.product

    def emit(self, s: Statements) -> None:
        """Adds the contraction to ``s``. Every task computes a block of rows of one product of the batch."""
        product = self.product
        roles = (product.rows, product.columns, product.inner)
        batch = [r for r in self.compute.output_ranks if r not in roles]
        outer = [r for r in self.compute.reduced if r != product.inner]
        m = self._extent(s, product.rows, self.variables)
        if self.serial or not batch:
            self._batched(s, batch, outer, dict(self.variables), parallel=not self.serial)
            return
        plan = self._blocking()
        extents = {r: s.bind(f"extent_{r}", self._extent(s, r, self.variables)) for r in batch}
        count = extents[batch[0]]
        for r in batch[1:]:
            count = count * extents[r]
        count = s.bind("batch", count)
        # Enough tasks for every thread: cut the rows only as far as the batch does not provide them.
        cuts = s.bind("cuts", ceil_div(index(2 * plan.threads), maximum(count, 1)))
        rows = s.bind("rows", maximum(round_up(ceil_div(m, cuts), plan.mr), plan.mr))
        blocks = s.bind("blocks", maximum(ceil_div(m, rows), 1))
        with s.loop("task", count * blocks, kind=ForKind.PARALLEL) as task:
            block = s.bind("block", tirx.truncmod(task, blocks))
            rest = s.bind("rest", tirx.truncdiv(task, blocks))
            inside = {**self.variables, **s.coordinates(rest, batch, list(extents.values()))}
            first = s.bind("first", block * rows)
            height = s.bind("height", maximum(minimum(rows, m - first), 0))
            self._accumulated(s, outer, inside, first, height, parallel=False)

    def pack(self, s: Statements) -> PackedMatrix | PackedPanels | None:
        """Packs the right operand for all products of a loop that does not vary it; None where that is not worth it, or too
        large for one block."""
        product, plan = self.product, self._plan()
        columns, rows = self._static(product.columns), self._static(product.rows)
        few = rows is not None and rows <= plan.skinny
        if few or columns is None or columns > plan.nc or not plan.shallow:
            return None
        across = self._stride(
            self.context.evaluator(s, self.variables),
            self.context.views[self.compute.target],
            self.compute.indices,
            product.columns,
        )
        if constant(across) != 1:
            return None
        if product.kernel != FMA:
            return self._pack_panels(s, columns)
        return pack_right(
            s,
            b=self._operand(s, product.right, self.variables, product.inner, product.columns, index(0)),
            n=self._extent(s, product.columns, self.variables),
            k=self._extent(s, product.inner, self.variables),
            dtype=computed(self.compute.accumulator),
            plan=plan,
        )

    def many_rows(self, s: Statements) -> tirx.Expr | bool:
        """Whether the product may have so many rows that it reads a packed right operand."""
        product = self.product
        extent = self.compute.extent(product.rows or "")
        if ranks_of(extent):
            return True
        m = as_index(self.context.evaluator(s, {}).value(extent))
        anywhere = dict.fromkeys((*ranks_of(product.left), *ranks_of(product.right)), index(0))
        b = self._raw_operand(s, product.right, anywhere, product.inner, product.columns, index(0))
        how = lies(b)
        if not self.compute.accumulator.is_float:
            along = isinstance(b, Operand) and b.columns_contiguous and self._left_along(s, anywhere)
            how = Lies.ALONG if along else Lies.OTHERWISE
        few = self._few(how, self._extent(s, product.inner, {}), packed=self.compute.accumulator.is_float)
        return m > few if few else True

    def _left_along(self, s: Statements, variables: Variables) -> bool:
        """Whether the left operand lies along k; a buffer of ours that is made later on does: those have no gaps."""
        left, inner = self.product.left, self.product.inner
        if isinstance(left, Read) and left.tensor not in self.context.views:
            others = (*left.indices[:-1], *reads_of(left.indices[-1]))
            return moves_along(left, inner) and not any(inner in ranks_of(other) for other in others)
        a = self._raw_operand(s, left, variables, self.product.rows, inner, index(0))
        return isinstance(a, Operand) and a.rows_contiguous

    def _few(self, how: Lies, k: tirx.Expr, *, packed: bool) -> int:
        """Rows up to which the right operand is read as it lies, where there is a packed form of it, and otherwise."""
        never = self._plan().skinny == 0 if self.compute.accumulator.is_float else not self._reads_bytes()
        return 0 if never else few_rows(self.product.kernel, how, constant(k), packed=packed)

    def _reads_bytes(self) -> bool:
        """Whether the machine multiplies bytes as they lie."""
        return self.machine.target.has("avx512vnni", "avx512bw")

    def _pack_panels(self, s: Statements, columns: int) -> PackedPanels | None:
        product, depth = self.product, self._static(self.product.inner)
        if depth is None:
            return None
        return pack_panels(
            s,
            b=self._raw_operand(s, product.right, self.variables, product.inner, product.columns, index(0)),
            raw=raw_type(product.right.dtype),
            n=s.bind("n", self._extent(s, product.columns, self.variables)),
            k=s.bind("k", self._extent(s, product.inner, self.variables)),
            most=(columns, depth),
        )

    def pieces(self, s: Statements) -> Pieces | None:
        """The product in pieces that can be done between other work; None where it must be done at once."""
        product, none = self.product, index(0)
        columns, depth = self._static(product.columns), self._static(product.inner)
        kernel = BY_NAME.get(product.kernel)
        if not isinstance(self.packed, PackedPanels) or kernel is None or columns is None or depth is None:
            return None
        ranks = (product.rows, product.columns, product.inner)
        m, n, k = (s.bind("size", self._extent(s, each, self.variables)) for each in ranks)
        return Pieces.of(
            s, kernel=panel_product(kernel, computed(self.compute.accumulator)), b=self.packed,
            a=self._raw_operand(s, product.left, self.variables, product.rows, product.inner, none),
            c=self._result(s, self.variables, none), raw=raw_type(product.left.dtype), m=m, n=n, k=k, most=(columns, depth),
            epilogue=self._epilogue(self.variables, none),
        )  # fmt: skip

    def _batched(
        self, s: Statements, batch: Sequence[str], outer: Sequence[str], variables: Variables, *, parallel: bool
    ) -> None:
        if batch:
            with s.loop(batch[0], self._extent(s, batch[0], variables)) as at:
                self._batched(s, batch[1:], outer, {**variables, batch[0]: at}, parallel=parallel)
            return
        m = self._extent(s, self.product.rows, variables)
        self._accumulated(s, outer, variables, index(0), m, parallel=parallel)

    def _accumulated(
        self,
        s: Statements,
        outer: Sequence[str],
        variables: Variables,
        first: tirx.Expr,
        height: tirx.Expr,
        *,
        parallel: bool,
    ) -> None:
        """The sum over further reduced ranks: cleared, then every product adds. It has no epilogue."""
        if not outer:
            self._gemm(s, variables, first, height, accumulate=False, last=True, parallel=parallel)
            return
        extents = [s.bind(f"extent_{r}", self._extent(s, r, variables)) for r in outer]
        total = extents[0]
        for extent in extents[1:]:
            total = total * extent
        total = s.bind("turns", total)
        self._clear(s, variables, first, height)
        with s.loop("turn", total) as turn:
            inside = {**variables, **s.coordinates(turn, outer, extents)}
            self._gemm(s, inside, first, height, accumulate=True, last=False, parallel=parallel)

    def _clear(self, s: Statements, variables: Variables, first: tirx.Expr, height: tirx.Expr) -> None:
        c, width = self._result(s, variables, first), self._extent(s, self.product.columns, variables)
        zero = literal(0, c.dtype)
        with s.loop("i", height) as i, s.loop("j", width) as j:
            s.store(c.buffer, c.at(i, j), zero)

    def _gemm(
        self,
        s: Statements,
        variables: Variables,
        first: tirx.Expr,
        height: tirx.Expr,
        *,
        accumulate: bool,
        last: bool,
        parallel: bool,
    ) -> None:
        product = self.product
        c = self._result(s, variables, first)
        m, n, k = height, self._extent(s, product.columns, variables), self._extent(s, product.inner, variables)
        dtype = computed(self.compute.accumulator)
        epilogue = self._epilogue(variables, first) if last else None
        sides = (
            (product.left, product.rows, product.inner, first),
            (product.right, product.inner, product.columns, index(0)),
        )
        kernel = BY_NAME.get(product.kernel)
        if kernel is None:
            assert not isinstance(self.packed, PackedPanels)
            a, b = (self._operand(s, side[0], variables, *side[1:]) for side in sides)
            s.add(
                emit_gemm(
                    a=a, b=b, c=c, m=m, n=n, k=k, dtype=dtype, accumulate=accumulate, plan=self._plan(), parallel=parallel,
                    epilogue=epilogue, packed=self.packed if isinstance(self.packed, PackedMatrix) else None,
                )
            )  # fmt: skip
            return
        m, n, k = (s.bind(name, size) for name, size in (("m", m), ("n", n), ("k", k)))
        if isinstance(self.packed, PackedPanels):
            emit_dot_inside(
                s, kernel=panel_product(kernel, dtype), a=self._raw_operand(s, sides[0][0], variables, *sides[0][1:]),
                b=self.packed, c=c, raw=raw_type(product.left.dtype), m=m, n=n, k=k, deepest=self._static(product.inner) or 0,
                epilogue=epilogue,
            )  # fmt: skip
            return
        a, b = (self._raw_operand(s, side[0], variables, *side[1:]) for side in sides)
        ahead = self._ahead(s, variables)
        unless: tirx.Expr | bool = False
        if ahead is not None:
            # Sums of floats depend on the way: that is the rows' to decide, not the caller's who has bound the constant.
            floats = self.compute.accumulator.is_float
            anyhow, how = (True, lies(b)) if floats else (ahead.ahead, lie(a, b))
            unless = s.bind("unless", both(anyhow, m > self._few(how, k, packed=True)))
        wide: tirx.Expr | bool = True
        if self.compute.accumulator.is_float:
            # What lies in memory is read by either path; a formula gives numbers to this one, and bits to the other.
            numbers = [
                raw if isinstance(raw, Operand) else self._operand(s, side[0], variables, *side[1:])
                for raw, side in zip((a, b), sides, strict=True)
            ]
            wide = emit_skinny(
                s, a=numbers[0], b=numbers[1], c=c, m=m, n=n, k=k, dtype=dtype, accumulate=accumulate, plan=self._plan(),
                epilogue=epilogue, parallel=parallel, unless=unless,
            )  # fmt: skip
        elif self._reads_bytes():
            wide = emit_byte_rows(
                s, kernel=byte_dots(kernel), a=a, b=b, c=c, m=m, n=n, k=k,
                accumulate=accumulate, threads=self.machine.threads, epilogue=epilogue, parallel=parallel, unless=unless,
            )  # fmt: skip
        with s.when(wide):
            s.add(
                emit_dot(
                    kernel=panel_product(kernel, dtype), a=a, b=b, c=c, raw=raw_type(product.left.dtype), m=m, n=n, k=k,
                    accumulate=accumulate, plan=self._dot_plan(), parallel=parallel, epilogue=epilogue,
                    packed=ahead,
                )
            )  # fmt: skip

    def _ahead(self, s: Statements, variables: Variables) -> PackedWords | None:
        """The packed right operand at the point of the batch."""
        right, columns = self.product.right, self.product.columns
        if not isinstance(self.packed, PackedWords) or not isinstance(right, Read):
            return None
        at = self.context.evaluator(s, {**variables, **dict.fromkeys((columns or "", self.product.inner or ""), index(0))})
        place = -1 if columns in ranks_of(right.indices[-1]) else -2
        indices = [as_index(at.value(i)) for i in right.indices]
        return part_of(s, self.packed, self.context.views[right.tensor], indices, place)

    # -- operands ------------------------------------------------------------------------------------------------------

    def _extent(self, s: Statements, rank: str | None, variables: Variables) -> tirx.Expr:
        if rank is None:
            return index(1)
        return as_index(self.context.evaluator(s, variables).value(self.compute.extent(rank)))

    def _static(self, rank: str | None) -> int | None:
        return 1 if rank is None else upper_bound(self.compute.extent(rank), self.context.lets)

    def _blocking(self) -> GemmPlan | DotPlan:
        return self._plan() if self.product.kernel == FMA else self._dot_plan()

    def _dot_plan(self) -> DotPlan:
        assert self.product.dot_plan is not None
        return self.product.dot_plan

    def _plan(self) -> GemmPlan:
        assert self.product.plan is not None
        return self.product.plan

    def _operand(
        self, s: Statements, expr: Expr, variables: Variables, row: str | None, column: str | None, first: tirx.Expr
    ) -> Operand | Formula:
        if isinstance(expr, Read) and is_matrix(expr):
            return self._matrix(s, self.context.views[expr.tensor], expr.indices, variables, row, column, first)

        def compute(s: Statements, site: Site) -> tirx.Expr:
            value = self._at(s, variables, site, row, column, first, {}).value(expr)
            return broadcast(convert(value, computed(self.compute.accumulator)), site.lanes, lanes_of(value))

        down, across = (sum(moves_along(r, rank) for r in reads_of(expr)) for rank in (row, column))
        return Formula(compute=compute, along_rows=across >= down)

    def _raw_operand(
        self, s: Statements, expr: Expr, variables: Variables, row: str | None, column: str | None, first: tirx.Expr
    ) -> Operand | Formula:
        """An operand whose elements are taken as bits, of a dot-product kernel."""
        if isinstance(expr, Read) and not any(reads_of(i) for i in expr.indices):
            return self._matrix(s, self.context.views[expr.tensor], expr.indices, variables, row, column, first)

        def compute(s: Statements, site: Site) -> tirx.Expr:
            value = self._at(s, variables, site, row, column, first, {}).value(expr)
            bits = encode(broadcast(value, site.lanes, lanes_of(value)), expr.dtype, site.lanes)
            return reinterpreted(bits, raw_type(expr.dtype), site.lanes)

        down, across = (sum(moves_along(r, rank) for r in reads_of(expr)) for rank in (row, column))
        return Formula(compute=compute, along_rows=across >= down)

    def _result(self, s: Statements, variables: Variables, first: tirx.Expr) -> Operand:
        compute, product = self.compute, self.product
        view = self.context.views[compute.target]
        c = self._matrix(s, view, compute.indices, variables, product.rows, product.columns, first)
        if computed(view.dtype) == stored(view.dtype) == computed(compute.accumulator):
            return c
        return replace(c, buffer=view.flat, encode=lambda value: encode(value, view.dtype, lanes_of(value)))

    def _matrix(
        self,
        s: Statements,
        view: View,
        indices: tuple[Expr, ...],
        variables: Variables,
        row: str | None,
        column: str | None,
        first: tirx.Expr,
    ) -> Operand:
        """A tensor as a matrix of the ranks ``row`` and ``column`` at the point of all the others; rows from ``first`` on."""
        origin = dict(variables)
        for rank in (row, column):
            if rank is not None:
                origin[rank] = index(0)
        at = self.context.evaluator(s, origin)
        offset = view.offset([as_index(at.value(i)) for i in indices])
        strides = [self._stride(at, view, indices, rank) for rank in (row, column)]
        # The first row is that of the result; an operand of the inner rank starts at 0.
        offset = offset if constant(first) == 0 else offset + first * strides[0]
        return Operand(
            buffer=view.flat if view.typed is None else view.typed,
            offset=s.bind("origin", offset),
            row_stride=strides[0],
            col_stride=strides[1],
            slack=view.slack,
        )

    def _stride(self, at: Evaluator, view: View, indices: tuple[Expr, ...], rank: str | None) -> tirx.Expr:
        total: tirx.Expr = index(0)
        if rank is None:
            return total
        for i, stride in zip(indices, view.strides, strict=True):
            form = affine_in(i, (rank,))
            if form is None or rank not in form.ranks:
                assert rank not in ranks_of(i)
                continue
            factor = as_index(at.value(form.coefficient(rank)))
            step = stride if constant(factor) == 1 else factor * stride
            total = step if constant(total) == 0 else total + step
        return as_index(constant(total)) if constant(total) is not None else total

    def _at(
        self,
        s: Statements,
        variables: Variables,
        site: Site,
        row: str | None,
        column: str | None,
        first: tirx.Expr,
        values: dict[str, tirx.Expr],
    ) -> Evaluator:
        """An evaluator at a site of the matrix of ``row`` and ``column``, its rows from ``first`` on where they are C's."""
        inside = dict(variables)
        if row is not None:
            inside[row] = site.row if row == self.product.inner else site.row + first
        if column is not None:
            inside[column] = site.col
        moving = column if site.along_row else row
        lanes = None
        if site.lanes > 1 and moving is not None:
            base = s.bind("base", inside.pop(moving))
            whole = constant(site.count)
            valid = None if whole is not None and whole >= site.lanes else minimum(site.count, site.lanes)
            lanes = Lanes(rank=moving, base=base, count=site.lanes, valid=valid)
        return self.context.evaluator(s, inside, lanes, values)

    def _epilogue(self, variables: Variables, first: tirx.Expr) -> Epilogue | None:
        """What is stored in the place of a sum: the product's epilogue, converted to the type in which C is computed."""
        product, accumulator = self.product, self.compute.accumulator
        view = self.context.views[self.compute.target]
        wanted = product.epilogue
        if wanted is None:
            if computed(view.dtype) == computed(accumulator):
                return None
            wanted = Read(tensor=SUM, indices=(), dtype=accumulator)
        value_of = wanted

        def apply(s: Statements, site: Site, value: tirx.Expr) -> tirx.Expr:
            at = self._at(s, variables, site, product.rows, product.columns, first, {SUM: s.share(value)})
            result = at.value(value_of)
            if view.dtype.is_float:
                result = convert(result, computed(view.dtype))
            else:
                result = at.cast(result, value_of.dtype, view.dtype)
            return broadcast(result, site.lanes, lanes_of(result))

        reads = [r for r in reads_of(value_of) if r.tensor == self.compute.target]
        nodes = list(walk(value_of))
        heavy = any(isinstance(n, Op) and n.op in REAL and n.op != "sqrt" for n in nodes)
        return Epilogue(apply=apply, reads_result=bool(reads), light=not heavy and len(nodes) <= LIGHT)

"""The extents of rank variables and the shapes of intermediates.

A variable's extent is that of every dimension that it indexes directly on the right, which must all be provably
equal; failing those, of the dimension that it indexes on the left. An iterative dimension gives its number of steps.
Shapes and extents are found together, by repeating both rules until nothing new is known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count

from ..ir.diagnostics import Diagnostics
from ..ir.expr import Expr, integer, op
from ..ir.index import affine, at_most, constant_difference, constant_value, equal, non_negative, simplify
from ..ir.printer import expr_to_source
from ..ir.span import Span
from ..ir.types import DType
from .analysis import EinsumInfo, Index
from .iteration import Iteration
from .names import TensorInfo


@dataclass(frozen=True, slots=True)
class Bound:
    """One place that bounds a rank variable: dimension ``dim`` of ``tensor``, by its steps if ``steps``."""

    extent: Expr
    tensor: TensorInfo
    dim: int
    steps: bool
    span: Span

    def describe(self) -> str:
        what = "the steps of " if self.steps else ""
        return f"`{expr_to_source(self.extent)}` ({what}{self.tensor.name}'s dimension {self.dim + 1})"


def _unreliable(tensor: TensorInfo) -> bool:
    """Whether what is known of a shape comes from an Einsum that was rejected."""
    return tensor.broken and not tensor.declared


class Extents:
    """Finds extents and shapes of one kernel.

    ``lets`` holds derived sizes and what ``require`` equates; ``taken`` the names that are in use.
    """

    def __init__(
        self,
        infos: list[EinsumInfo],
        iteration: Iteration,
        lets: Mapping[str, Expr],
        diagnostics: Diagnostics,
        taken: Collection[str] = (),
    ) -> None:
        self.infos = [info for info in infos if not info.broken]
        self.iteration = iteration
        self.lets = lets
        self.diagnostics = diagnostics
        self.taken = taken

    def solve(self) -> None:
        """Fill in every extent and shape. What cannot be found, or contradicts itself, is reported (E03)."""
        self._declared_steps()
        changed = True
        while changed:
            changed = False
            for info in self.infos:
                changed |= self._bind(info)
        for info in self.infos:
            self._check_shape(info)
        for info in self.infos:
            self._check_extents(info)
        self._check_circles()

    def _declared_steps(self) -> None:
        for info in self.infos:
            target = info.target
            for d, extent in enumerate(target.dims or ()):
                offset = self.iteration.offset(target, d)
                if extent is not None and offset is not None and target.steps[d] is None:
                    target.steps[d] = simplify(op("sub", extent, integer(offset)))

    # Binding.

    def _right(self, info: EinsumInfo) -> Iterator[tuple[str, Bound]]:
        """What the reads of an Einsum say about its rank variables."""
        for access in info.reads:
            for d, (index, node) in enumerate(zip(access.indices, access.syntax.indices, strict=True)):
                bound = self._bound(access.tensor, d, index, node.span)
                if bound is not None and index.variable is not None:
                    yield index.variable, bound

    def _left(self, info: EinsumInfo) -> Iterator[tuple[str, Bound]]:
        """What the target of an Einsum says: an initialiser ranges over the full extent of iterative dimensions."""
        for d, (index, node) in enumerate(zip(info.coords, info.syntax.target.indices, strict=True)):
            bound = self._bound(info.target, d, index, node.span, full=info.initialiser)
            if bound is not None and index.variable is not None:
                yield index.variable, bound

    def _bound(self, tensor: TensorInfo, dim: int, index: Index, span: Span, *, full: bool = False) -> Bound | None:
        offset = self.iteration.offset(tensor, dim)
        steps = offset is not None and not (full and index.is_bare)
        if tensor.dims is None or index.variable is None or index.offset is None or _unreliable(tensor):
            return None
        if not 0 <= index.offset <= (offset or 0 if steps else 0):
            return None
        extent = tensor.steps[dim] if steps else tensor.dims[dim]
        return None if extent is None else Bound(extent, tensor, dim, steps, span)

    def _bind(self, info: EinsumInfo) -> bool:
        """Extents from shapes, then the target's shape from extents; whether anything new was found."""
        changed = False
        for source in (self._right(info), self._left(info)):
            for name, bound in source:
                if name not in info.extents:
                    info.extents[name] = bound.extent
                    changed = True
        return self._shape_target(info) or changed

    def _shape_target(self, info: EinsumInfo) -> bool:
        target = info.target
        changed = False
        for d, index in enumerate(info.coords):
            if target.dims is None or target.dims[d] is not None:
                continue
            offset = self.iteration.offset(target, d)
            extent = info.extents.get(index.variable) if index.variable is not None else None
            if offset is not None and not info.initialiser:
                if extent is not None and index.offset is not None:
                    target.steps[d] = extent
                    target.dims[d] = simplify(op("add", extent, integer(offset)))
                    changed = True
            elif offset is None and index.is_bare and extent is not None:
                target.dims[d] = extent
                changed = True
            elif offset is None and index.constant is not None:
                target.dims[d] = simplify(op("add", index.constant, integer(1)))
                changed = True
        return changed

    # Checking.

    def _check_shape(self, info: EinsumInfo) -> None:
        """E0304 for a shape that is neither declared nor follows from the Einsum that writes it."""
        target = info.target
        if target.broken or target.dims is None or None not in target.dims or info.initialiser:
            return
        unknown = [d for d, extent in enumerate(target.dims) if extent is None]
        blamed = [d for d in unknown if self._is_own_fault(info, d)]
        if not blamed:
            return
        target.broken = info.broken = True
        self._no_shape(info, blamed[0])

    def _check_circles(self) -> None:
        """Tensors whose shapes depend on one another alone: nothing else has been reported about them."""
        for info in self.infos:
            dims = info.target.dims
            if info.broken and not self.diagnostics and dims is not None and None in dims:
                self._no_shape(info, dims.index(None))

    def _no_shape(self, info: EinsumInfo, dim: int) -> None:
        self.diagnostics.add(
            "E0304",
            f"the extent of {info.target.name}'s dimension {dim + 1} cannot be inferred",
            span=info.syntax.target.indices[dim].span,
            label="nothing but this Einsum says how long it is",
            help=f"declare the tensor: `{self._declaration(info)}`",
        )

    def _is_own_fault(self, info: EinsumInfo, dim: int) -> bool:
        """Whether a dimension is unknown because of how it is written, and not because of what is read."""
        index = info.coords[dim]
        if index.variable is None or index.offset is None:
            return True
        if index.variable in info.extents:
            return True
        return not self._waits(info, index.variable)

    def _waits(self, info: EinsumInfo, variable: str) -> bool:
        """Whether a variable directly indexes something on the right whose extent is not known."""
        return any(
            index.variable == variable and index.offset is not None and access.tensor is not info.target
            for access in info.reads
            for d, index in enumerate(access.indices)
            if access.tensor.dims is None or access.tensor.dims[d] is None or _unreliable(access.tensor)
        )

    def _declaration(self, info: EinsumInfo) -> str:
        target = info.target
        dims = [
            expr_to_source(extent) if extent is not None else self._guess(info, d) for d, extent in enumerate(target.dims or ())
        ]
        dtype = target.dtype.name if isinstance(target.dtype, DType) else "f32"
        return f"{target.name}: {dtype}[{', '.join(dims)}]"

    def _guess(self, info: EinsumInfo, dim: int) -> str:
        """The extent that an affine coordinate reaches, or that those who read it have, or the name of a new size."""
        index = info.coords[dim]
        form = None if index.expr is None else affine(index.expr)
        if form is not None and all(name in info.extents for name in form.ranks):
            last = form.constant
            for name, coefficient in form.terms:
                most = op("sub", info.extents[name], integer(1))
                last = op("add", last, op("mul", coefficient, most))
            if all(non_negative(coefficient) for _, coefficient in form.terms):
                return expr_to_source(simplify(op("add", last, integer(1))))
        offset = index.offset or 0
        for reader in self.infos:
            for bound in (access.indices[dim] for access in reader.reads if access.tensor is info.target):
                extent = reader.extents.get(bound.variable or "")
                if extent is not None and bound.offset in range(offset + 1):
                    return expr_to_source(simplify(op("add", extent, integer(offset))))
        names = chain("VULR", (f"N{i}" for i in count(1)))
        fresh = next(name for name in names if name not in self.taken)
        return f"{fresh} + {index.offset}" if index.offset else fresh

    def _check_extents(self, info: EinsumInfo) -> None:
        if info.broken:
            return
        bounds: dict[str, list[Bound]] = {}
        for name, bound in (*self._right(info), *self._left(info)):
            bounds.setdefault(name, []).append(bound)
        for name, (first, *others) in bounds.items():
            info.extents[name] = first.extent
            for other in others:
                if not equal(first.extent, other.extent, self.lets):
                    info.broken = info.target.broken = True
                    self.diagnostics.add(
                        "E0301",
                        f"`{name}` ranges over {first.describe()} and {other.describe()}",
                        span=other.span,
                        help=self._mismatch_help(info, name, first, other),
                    )
                    return
        for name in sorted(info.variables - bounds.keys()):
            self._unbounded(info, name)
        if not info.broken:
            self._check_constants(info)

    def _mismatch_help(self, info: EinsumInfo, variable: str, first: Bound, second: Bound) -> str:
        a, b = expr_to_source(first.extent), expr_to_source(second.extent)
        if first.steps != second.steps:
            steps, other = (first, second) if first.steps else (second, first)
            whole = f"all generations are had by making `{steps.tensor.name}` itself the result"
            return (
                f"an iterative dimension has one generation more than steps: `{steps.tensor.name}` has its last "
                f"generation at `{expr_to_source(steps.extent)}`; "
                + (whole if other.tensor is info.target else f"read `{other.tensor.name}` with another variable")
            )
        more = constant_difference(first.extent, second.extent, self.lets)
        if more is None:
            return f"use one size for both, or state `require {a} == {b}`"
        longer, shorter = (first, b) if more > 0 else (second, a)
        if longer.tensor is info.target:
            return "use one size for both: these two are never equal"
        return (
            f"use one size for both; to read the first `{shorter}` of `{longer.tensor.name}`, write `{variable} % {shorter}` "
            "in its place: an index that does more than name the variable gives no extent"
        )

    def _unbounded(self, info: EinsumInfo, name: str) -> None:
        waits = self._waits(info, name) or info.target.broken
        info.broken = info.target.broken = True
        if waits:
            return
        node = _first_use(info, name)
        written = any(index.variable == name for index in info.coords) and not info.target.declared
        dtype = info.target.dtype.name if isinstance(info.target.dtype, DType) else "f32"
        declared = f"; a declaration with its shape, `{info.target.name}: {dtype}[…]`, gives it too" if written else ""
        self.diagnostics.add(
            "E0303",
            f"nothing bounds the rank variable `{name}`",
            span=node,
            help="a variable takes its extent from a dimension that it indexes directly, as in "
            f"`X[{name}]`; shifted, scaled and data-dependent indices give none{declared}",
        )

    def _check_constants(self, info: EinsumInfo) -> None:
        """E0307 for a constant index that is never inside, which mostly is a size in a rank variable's place."""
        places = [(access.tensor, access.indices, access.syntax.indices) for access in info.reads]
        places.append((info.target, info.coords, info.syntax.target.indices))
        for tensor, indices, nodes in places:
            for d, (index, node) in enumerate(zip(indices, nodes, strict=True)):
                extent = None if tensor.dims is None else tensor.dims[d]
                if index.constant is None or extent is None:
                    continue
                value = constant_value(index.constant, self.lets)
                if not at_most(extent, index.constant, self.lets) and (value is None or value >= 0):
                    continue
                if value is not None and constant_value(extent, self.lets) is None and value >= 0:
                    continue  # a size may be 0 or small: absent then, and no mistake
                text = expr_to_source(index.constant)
                info.broken = info.target.broken = True
                self.diagnostics.add(
                    "E0307",
                    f"`{text}` is never a coordinate of {tensor.name}'s dimension {d + 1}, which has "
                    f"`{expr_to_source(extent)}`",
                    span=node.span,
                    help=f"rank variables are written in lower case: `{text.lower()}`"
                    if text.isidentifier()
                    else "coordinates start at 0 and end before the extent",
                )
                return


def _first_use(info: EinsumInfo, name: str) -> Span:
    """The span of an index that mentions a rank variable, else of the Einsum."""
    places: Iterable[tuple[tuple[Index, ...], tuple[object, ...]]] = [
        (info.coords, info.syntax.target.indices),
        *((access.indices, access.syntax.indices) for access in info.reads),
    ]
    for indices, nodes in places:
        for index, node in zip(indices, nodes, strict=True):
            if index.variable == name:
                span = getattr(node, "span", None)
                if isinstance(span, Span):
                    return span
    return info.syntax.span

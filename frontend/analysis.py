"""What the Einsums of a kernel read and write, before types and extents are known."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.cascade import Role
from ..ir.diagnostics import Diagnostics, EinfallError, did_you_mean, error
from ..ir.expr import Const, Expr, Rank, Read, Size, ranks_of, reads_of, walk
from ..ir.index import affine
from ..ir.types import BOOL, INDEX, DType
from . import syntax as ast
from .expressions import Elaborator, ReportedError
from .names import BUILTIN_FUNCTIONS, Occurrences, TensorInfo, is_size_name, rank_variables
from .scope import MOST_DIMENSIONS, KernelScope
from .typing import Value


@dataclass(frozen=True, slots=True)
class Index:
    """One index of an access as far as extents and generations depend on it.

    ``variable + offset`` for a shifted rank variable (``offset`` is None where it is no constant integer);
    ``constant`` for an index over sizes alone; neither for everything else.
    """

    variable: str | None = None
    offset: int | None = None
    constant: Expr | None = None
    expr: Expr | None = None

    @property
    def is_bare(self) -> bool:
        return self.variable is not None and self.offset == 0


@dataclass(frozen=True, slots=True)
class Access:
    """A read of a tensor in an Einsum, in its value, its condition or a coordinate."""

    tensor: TensorInfo
    indices: tuple[Index, ...]
    syntax: ast.Access


@dataclass(slots=True)
class EinsumInfo:
    """One Einsum while it is analysed."""

    syntax: ast.Einsum
    target: TensorInfo
    variables: set[str] = field(default_factory=set)
    right: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    coords: tuple[Index, ...] = ()
    reads: list[Access] = field(default_factory=list)
    scalars_read: list[TensorInfo] = field(default_factory=list)
    initialiser: bool = False
    extents: dict[str, Expr] = field(default_factory=dict)
    value: Value | None = None
    filters: tuple[Expr, ...] = ()
    coordinates: tuple[Expr, ...] = ()
    broken: bool = False

    @property
    def tensors_read(self) -> list[TensorInfo]:
        return [access.tensor for access in self.reads] + self.scalars_read


class EinsumNames:
    """Names in an Einsum: rank variables, sizes, constants, scalars, tensors."""

    def __init__(self, scope: KernelScope, variables: set[str]) -> None:
        self._scope = scope
        self._variables = variables

    def name(self, node: ast.Name) -> Value:
        if node.name in self._variables:
            return Value(Rank(name=node.name, dtype=INDEX, span=node.span), INDEX, weak=True)
        info = self._scope.tensors.get(node.name)
        if info is None:
            return self.constant(node)
        if info.dims:
            example = ", ".join("…" for _ in info.dims)
            raise error(
                "E0210",
                f"`{info.name}` is a tensor with {_dimensions(len(info.dims))}",
                span=node.span,
                help=f"read one of its elements: `{info.name}[{example}]`",
            )
        dtype = self._scope.value_type_of(info)
        return Value(Read(tensor=info.name, indices=(), dtype=dtype, span=node.span), dtype)

    def constant(self, node: ast.Name) -> Value:
        if node.name in self._scope.sizes:
            return Value(Size(name=node.name, dtype=INDEX, span=node.span), INDEX, weak=True)
        if self._scope.is_constant(node.name):
            return self._scope.let(node)
        raise self._scope.undefined(node, self._variables)

    def tensor(self, node: ast.Access, count: int) -> tuple[str, DType]:
        info = find_tensor(self._scope, node)
        if info.dims is not None and len(info.dims) != count:
            raise wrong_count(info, node)
        return info.name, self._scope.value_type_of(info)

    def element_type(self, node: ast.TypeName) -> DType:
        return self._scope.element_type(node)


def find_tensor(scope: KernelScope, node: ast.Access) -> TensorInfo:
    """The tensor that an access names. Raises E0201, or E0210 for the name of something else."""
    name = node.tensor.name
    if name in scope.tensors:
        return scope.tensors[name]
    if name in scope.sizes or scope.is_constant(name):
        raise error("E0210", f"`{name}` is a number and has no indices", span=node.span)
    if name in scope.file.definitions or name in BUILTIN_FUNCTIONS:
        raise error("E0210", f"`{name}` is a function: call it with round brackets", span=node.span)
    raise error(
        "E0201",
        f"`{name}` is not defined",
        span=node.tensor.span,
        help=did_you_mean(name, scope.tensors) or "tensors are parameters, results, and what an Einsum writes",
    )


def wrong_count(info: TensorInfo, node: ast.Access) -> EinfallError:
    """E0302 for an access with a wrong number of indices."""
    count, wanted = len(node.indices), len(info.dims or ())
    return error(
        "E0302",
        f"`{info.name}` has {_dimensions(wanted)}, but {count} {'index is' if count == 1 else 'indices are'} given",
        span=node.span,
        notes=[f"`{info.name}` is defined in line {info.span.line}"],
    )


def _dimensions(count: int) -> str:
    return {0: "no dimensions", 1: "one dimension"}.get(count, f"{count} dimensions")


def analyse(scope: KernelScope, diagnostics: Diagnostics) -> list[EinsumInfo]:
    """The Einsums of a kernel in source order; what is wrong with their names is reported, and they are broken."""
    infos = [
        EinsumInfo(syntax=statement, target=scope.tensors[statement.target.tensor.name])
        for statement in scope.kernel.statements
        if isinstance(statement, ast.Einsum)
    ]
    for info in infos:
        try:
            _check_target(info, scope)
        except EinfallError as problem:
            diagnostics.extend(problem.diagnostics)
            info.broken = True
    integers, numbers = scope.scalars()
    for info in infos:
        try:
            _occurrences(info, scope, integers, numbers)
        except (EinfallError, ReportedError) as problem:
            if isinstance(problem, EinfallError):
                diagnostics.extend(problem.diagnostics)
            info.broken = info.target.broken = True
    return infos


def _check_target(info: EinsumInfo, scope: KernelScope) -> None:
    node, target = info.syntax.target, info.target
    name = node.tensor.name
    if target.role in (Role.INPUT, Role.CONST, Role.SCALAR):
        raise error(
            "E0205",
            f"`{name}` is a parameter and cannot be written",
            span=node.span,
            help="name a result or an intermediate of its own",
        )
    if name in scope.sizes or scope.is_constant(name):
        info.broken = True
        return
    if target.dims is None:
        target.dims = [None] * len(node.indices)
        target.steps = [None] * len(node.indices)
    elif len(target.dims) != len(node.indices):
        raise wrong_count(target, node)
    if len(node.indices) > MOST_DIMENSIONS:
        target.broken = True
        raise error(
            "E0308",
            f"`{name}` has {len(node.indices)} dimensions; {MOST_DIMENSIONS} are the most",
            span=node.span,
        )


def _occurrences(info: EinsumInfo, scope: KernelScope, integers: list[str], numbers: list[str]) -> None:
    einsum = info.syntax
    right, left = Occurrences(), Occurrences()
    right.add(einsum.value, in_index=False)
    if einsum.condition is not None:
        right.add(einsum.condition, in_index=False)
    left.add_indices(einsum.target.indices)
    both = Occurrences(
        whole={**left.whole, **right.whole},
        inside={**left.inside, **right.inside},
        value=right.value,
        accesses=[*right.accesses, *left.accesses],
    )
    _check_coordinates(left, right, integers)
    info.variables = rank_variables(einsum, both, integers, numbers)
    _check_listed(einsum, info.variables, both, scope)
    info.right = info.variables & {*right.whole, *right.inside, *right.value}
    info.left = info.variables & {*left.whole, *left.inside}
    elaborator = Elaborator(EinsumNames(scope, info.variables), scope.file)
    info.coords = tuple(_index(elaborator, node) for node in einsum.target.indices)
    for node in both.accesses:
        tensor = find_tensor(scope, node)
        if tensor.dims is not None and len(tensor.dims) != len(node.indices):
            raise wrong_count(tensor, node)
        indices = tuple(_index(elaborator, index) for index in node.indices)
        info.reads.append(Access(tensor, indices, node))
    for name in (*both.value, *both.whole, *both.inside):
        if name in scope.tensors and name not in info.variables:
            info.scalars_read.append(scope.tensors[name])


def _check_coordinates(left: Occurrences, right: Occurrences, integers: list[str]) -> None:
    """E0211 where an integer constant or scalar stands as a rank variable would, on both sides."""
    for name, node in left.whole.items():
        if name in integers and name in right.whole and not is_size_name(name):
            raise error(
                "E0211",
                f"`{name}` is a number of this program, not a rank variable",
                span=node.span,
                help="give the rank variable another name",
            )


def _check_listed(einsum: ast.Einsum, variables: set[str], occurrences: Occurrences, scope: KernelScope) -> None:
    """The names in `:: op(…)` are rank variables of the Einsum."""
    used = {*occurrences.whole, *occurrences.inside, *occurrences.value}
    for node in () if einsum.reduction is None else einsum.reduction.ranks:
        if node.name in used and node.name in variables:
            continue
        if is_size_name(node.name) and node.name.lower() in variables:
            raise error(
                "E0502",
                f"`{node.name}` is written as a size; a reduction lists rank variables",
                span=node.span,
                help=f"write `{node.name.lower()}`",
            )
        known = variables & used
        raise error(
            "E0502",
            f"`{node.name}` is no rank variable of this Einsum",
            span=node.span,
            help=did_you_mean(node.name, known) or (f"it has {', '.join(sorted(known))}" if known else None),
        )


def _index(elaborator: Elaborator, node: ast.Expression) -> Index:
    try:
        expr = elaborator.index(node)
    except (EinfallError, ReportedError):
        return Index()  # reported when the Einsum's types are known
    return index_of(expr)


def index_of(expr: Expr) -> Index:
    """The form of an index expression."""
    if isinstance(expr, Rank):
        return Index(variable=expr.name, offset=0, expr=expr)
    if reads_of(expr) or any(node.dtype not in (INDEX, BOOL) for node in walk(expr)):
        return Index()
    if not ranks_of(expr):
        return Index(constant=expr, expr=expr)
    form = affine(expr)
    shifted = None if form is None else form.shifted_rank
    if shifted is None:
        return Index(expr=expr)
    match shifted[1]:
        case Const(value=int(offset)):
            return Index(variable=shifted[0], offset=offset, expr=expr)
        case _:
            return Index(variable=shifted[0], expr=expr)

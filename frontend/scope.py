"""The names of one kernel: its tensors with their declared types, its sizes, and the constants that ``let`` gives."""

from __future__ import annotations

from collections.abc import Iterable

from ..ir.cascade import Let, Origin, Role
from ..ir.diagnostics import Diagnostics, EinfallError, did_you_mean, error
from ..ir.expr import Expr, Read, Size, reads_of, size
from ..ir.formats import FORMATS
from ..ir.index import constant_value
from ..ir.types import DTYPES, INDEX, DType, QuantType, StorageType, value_type
from . import syntax as ast
from .expressions import Elaborator
from .names import FileScope, TensorInfo, is_size_name, walk
from .typing import PENDING, POISON, Value, coerce

MOST_DIMENSIONS = 64


class KernelScope:
    """Parameters, results, locals, sizes and constants of a kernel. Mistakes in declarations go to ``diagnostics``."""

    def __init__(self, file: FileScope, kernel: ast.Kernel, diagnostics: Diagnostics) -> None:
        self.file = file
        self.kernel = kernel
        self.diagnostics = diagnostics
        self.tensors: dict[str, TensorInfo] = {}
        self.sizes: dict[str, None] = {}
        self.lets: dict[str, Let] = {}
        self._let_syntax: dict[str, ast.Let] = {}
        self._let_values: dict[str, Value | EinfallError] = {}
        self._open_lets: list[str] = []
        self._declare_lets()
        self._declare_tensors()
        self._collect_sizes()
        self._resolve()

    # Declarations.

    def _declare_lets(self) -> None:
        for statement in self.kernel.statements:
            if not isinstance(statement, ast.Let):
                continue
            name = statement.name
            if (earlier := self._let_syntax.get(name.name) or self.file.lets.get(name.name)) is not None:
                self._twice(name, earlier.name)
            else:
                self._let_syntax[name.name] = statement

    def _twice(self, name: ast.Name, earlier: ast.Name) -> None:
        self.diagnostics.add(
            "E0202",
            f"`{name.name}` is defined twice",
            span=name.span,
            notes=[f"it was first defined in line {earlier.span.line}"],
            help="tensors, sizes, scalars and constants share one namespace",
        )

    def _declare_tensors(self) -> None:
        for parameter in self.kernel.parameters:
            role = Role.CONST if parameter.constant else Role.INPUT
            if not parameter.type.dimensions:
                role = Role.SCALAR
            self._declare(parameter.name, role, parameter.type)
        for result in self.kernel.results:
            self._declare(result.name, Role.RESULT, result.type)
        for statement in self.kernel.statements:
            if isinstance(statement, ast.Declaration):
                self._declare(statement.name, Role.LOCAL, statement.type)
        for statement in self.kernel.statements:
            if isinstance(statement, ast.Einsum):
                self._declare_target(statement)

    def _declare(self, name: ast.Name, role: Role, type_: ast.TensorType) -> None:
        known = self.tensors.get(name.name)
        constant = self._let_syntax.get(name.name) or self.file.lets.get(name.name)
        if known is not None and known.role is Role.RESULT and role is Role.LOCAL:
            self.diagnostics.add(
                "E0202",
                f"the result `{name.name}` already has its type in the kernel's head",
                span=name.span,
                help="remove this declaration",
            )
        elif known is not None:
            self._twice(name, ast.Name(name=name.name, span=known.span))
        elif constant is not None:
            self._twice(name, constant.name)
        else:
            self.tensors[name.name] = TensorInfo(
                name=name.name,
                role=role,
                span=name.span,
                annotated=True,
                declared=True,
                type_syntax=type_.element,
                dims_syntax=type_.dimensions,
            )

    def _declare_target(self, einsum: ast.Einsum) -> None:
        name = einsum.target.tensor
        info = self.tensors.get(name.name)
        if info is None:
            constant = self._let_syntax.get(name.name) or self.file.lets.get(name.name)
            if constant is not None:
                self._twice(name, constant.name)
            info = TensorInfo(name=name.name, role=Role.LOCAL, span=name.span)
            self.tensors[name.name] = info
        info.written = True
        if einsum.type is None:
            return
        if info.annotated:
            self.diagnostics.add(
                "E0202",
                f"the type of `{name.name}` is stated twice",
                span=einsum.type.span,
                notes=[f"it is declared in line {info.span.line}"],
                help="remove this annotation",
            )
        else:
            info.annotated = True
            info.type_syntax = einsum.type

    def _collect_sizes(self) -> None:
        """The sizes: upper-case names in the dimensions of parameters, results and declared locals."""
        for info in self.tensors.values():
            for dimension in info.dims_syntax or ():
                for node in walk(dimension):
                    if isinstance(node, ast.Name) and is_size_name(node.name):
                        self._add_size(node.name, set())
        for name, info in self.tensors.items():
            if name in self.sizes:
                self.diagnostics.add(
                    "E0202",
                    f"`{name}` names a tensor and a size",
                    span=info.span,
                    help="tensors, sizes, scalars and constants share one namespace: rename one of them",
                )
                info.broken = True

    def _add_size(self, name: str, seen: set[str]) -> None:
        """A size, or the sizes that the constant of that name is made of."""
        if name in seen:
            return
        seen.add(name)
        let = self._let_syntax.get(name) or self.file.lets.get(name)
        if let is None:
            self.sizes.setdefault(name)
            return
        for node in walk(let.value):
            if isinstance(node, ast.Name) and is_size_name(node.name) and node.name not in self.tensors:
                self._add_size(node.name, seen)

    def _resolve(self) -> None:
        for info in self.tensors.values():
            if info.type_syntax is not None:
                try:
                    self._resolve_declaration(info)
                except EinfallError as problem:
                    self.diagnostics.extend(problem.diagnostics)
                    info.broken = True
        for name in self._let_syntax:
            try:
                self.let(ast.Name(name=name, span=self._let_syntax[name].name.span))
            except EinfallError as problem:
                self.diagnostics.extend(problem.diagnostics)
        for info in self.tensors.values():
            if info.dims is not None and len(info.dims) > MOST_DIMENSIONS:
                self.diagnostics.add(
                    "E0308",
                    f"`{info.name}` has {len(info.dims)} dimensions; {MOST_DIMENSIONS} are the most",
                    span=info.span,
                )
                info.broken = True

    def _resolve_declaration(self, info: TensorInfo) -> None:
        assert info.type_syntax is not None
        if info.dims_syntax is not None:
            info.dims = [None] * len(info.dims_syntax)
            info.steps = [None] * len(info.dims_syntax)
        info.dtype = self.storage_type(info.type_syntax, info.dims_syntax)
        for i, dimension in enumerate(info.dims_syntax or ()):
            assert info.dims is not None
            info.dims[i] = self.dimension(dimension, info.name)
        if info.role is Role.SCALAR and isinstance(info.dtype, QuantType):
            raise error("E0406", f"the scalar `{info.name}` cannot be quantised", span=info.type_syntax.span)

    def dimension(self, node: ast.Expression, tensor: str) -> Expr:
        """A dimension, over sizes. Raises E0305 where it is none."""
        value = Elaborator(SizeNames(self, f"a dimension of `{tensor}`"), self.file).value(node)
        if not value.dtype.is_integer:
            raise error(
                "E0305",
                f"a dimension is an integer, but this dimension of `{tensor}` is none",
                span=node.span,
                help="use `//` or `ceildiv` for whole division",
            )
        expr = coerce(value, INDEX)
        constant = constant_value(expr)
        if constant is not None and constant < 0:
            raise error("E0305", f"a dimension of `{tensor}` is {constant}", span=node.span)
        return expr

    def storage_type(self, node: ast.ElementType, dims: tuple[ast.Expression, ...] | None = None) -> StorageType:
        """The type that a declaration names. Raises E0209 and E0406."""
        match node:
            case ast.TypeName(name=name):
                if name in DTYPES:
                    return DTYPES[name]
                if name in FORMATS:
                    return FORMATS[name]
                if name in self.file.types:
                    definition = self.file.types[name].type
                    if isinstance(definition, ast.TypeName) and definition.name in self.file.types:
                        raise error(
                            "E0209",
                            f"`{name}` is defined by another `type` item",
                            span=definition.span,
                            help="name a built-in type",
                        )
                    found = self.storage_type(definition, dims)
                    return found if isinstance(found, DType) or found.name is not None else _renamed(found, name)
                raise error(
                    "E0209",
                    f"there is no type `{name}`",
                    span=node.span,
                    help=did_you_mean(name, [*DTYPES, *FORMATS, *self.file.types]),
                )
            case ast.QuantType():
                return self._quant_type(node, dims)

    def _quant_type(self, node: ast.QuantType, dims: tuple[ast.Expression, ...] | None) -> QuantType:
        element = self.element_type(node.element)
        dimension: str | None = None
        group = 0
        parts: dict[str, DType] = {}
        for option in node.options:
            match option.name.name, option.value:
                case "group", ast.GroupSize(rank=rank, size=ast.Integer(value=count)):
                    dimension, group = rank.name, count
                    names = {n.name for d in dims or () for n in walk(d) if isinstance(n, ast.Name)}
                    if dims is not None and rank.name not in names:
                        raise error(
                            "E0406",
                            f"the groups run along `{rank.name}`, which is no dimension of the tensor",
                            span=rank.span,
                            help=did_you_mean(rank.name, names),
                        )
                case "group", ast.Integer(value=count):
                    group = count
                case ("scale" | "zero") as key, ast.TypeName() as type_name:
                    parts[key] = self.element_type(type_name)
                case _:
                    raise error(
                        "E0406",
                        f"`{option.name.name}` is no option of a quantised type with this value",
                        span=option.span,
                        help="the options are `group = K:128`, `scale = f16` and `zero = u4`",
                    )
        if dimension is not None and group < 1:
            raise error("E0406", "a group has at least one element", span=node.span)
        return QuantType(
            name=None,
            element=element,
            dimension=dimension,
            group=group,
            scale=parts.get("scale"),
            zero=parts.get("zero"),
        )

    def element_type(self, node: ast.TypeName) -> DType:
        """An element type. Raises E0209 for none, E0408 for a quantised one."""
        found = self.storage_type(node)
        if isinstance(found, DType):
            return found
        raise error(
            "E0408",
            f"`{node.name}` is a storage format; an element type is needed here",
            span=node.span,
            help="its values are f32",
        )

    # Look-up.

    def let(self, node: ast.Name) -> Value:
        """The value of a constant: a size symbol for integers over sizes, else its expression.

        Raises E0206 for constants that are defined by themselves.
        """
        name = node.name
        known = self._let_values.get(name)
        if isinstance(known, EinfallError):
            raise known
        if known is not None:
            return known
        syntax = self._let_syntax.get(name) or self.file.lets[name]
        if name in self._open_lets:
            cycle = [*self._open_lets[self._open_lets.index(name) :], name]
            raise error(
                "E0206",
                f"the constant `{name}` is defined by itself: {' → '.join(f'`{n}`' for n in cycle)}",
                span=syntax.name.span,
            )
        self._open_lets.append(name)
        try:
            value = Elaborator(ConstantNames(self, f"the constant `{name}`"), self.file).value(syntax.value)
            if value.dtype.is_integer and not reads_of(value.expr):
                origin = Origin(span=syntax.span)
                self.lets[name] = Let(name=name, value=coerce(value, INDEX), origin=origin)
                value = Value(size(name), INDEX, weak=True, nodes=value.nodes, depth=value.depth)
            self._let_values[name] = value
        except EinfallError as problem:
            self._let_values[name] = problem
            raise
        finally:
            self._open_lets.pop()
        return value

    def is_constant(self, name: str) -> bool:
        return name in self._let_syntax or name in self.file.lets

    def value_type_of(self, info: TensorInfo) -> DType:
        """The type of a tensor's values; PENDING before it is inferred, POISON where it was rejected."""
        if info.dtype is not None:
            return value_type(info.dtype)
        return POISON if info.broken else PENDING

    def undefined(self, node: ast.Name, candidates: Iterable[str] = ()) -> EinfallError:
        """E0201 for a name that means nothing here."""
        name = node.name
        known = [*self.tensors, *self.sizes, *self._let_syntax, *self.file.lets, *candidates]
        hint = did_you_mean(name, known)
        if hint is None and is_size_name(name):
            hint = "a size occurs in the type of a parameter, result or local; a constant is named by `let`"
        elif hint is None:
            hint = "a rank variable indexes a tensor; a number is a scalar parameter or a `let`"
        return error("E0201", f"`{name}` is not defined", span=node.span, help=hint)

    def scalars(self) -> tuple[list[str], list[str]]:
        """The names that stand for a number on their own: those that may be integers, and the others."""
        integers: list[str] = []
        others: list[str] = []
        for info in self.tensors.values():
            if info.dims is not None and not info.dims:
                dtype = self.value_type_of(info)
                (integers if dtype.is_integer or dtype is PENDING else others).append(info.name)
        for name in (*self._let_syntax, *self.file.lets):
            if name in self.tensors:
                continue
            try:
                value = self.let(ast.Name(name=name, span=self.kernel.span))
            except EinfallError:
                continue
            (integers if value.dtype.is_integer else others).append(name)
        return integers, others

    def let_definitions(self) -> dict[str, Expr]:
        return {name: let.value for name, let in self.lets.items()}


def _renamed(quant: QuantType, name: str) -> QuantType:
    return QuantType(
        name=name,
        element=quant.element,
        dimension=quant.dimension,
        group=quant.group,
        scale=quant.scale,
        zero=quant.zero,
    )


class SizeNames:
    """Names in a dimension or a condition on sizes: sizes and integer constants."""

    def __init__(self, scope: KernelScope, what: str, code: str = "E0305") -> None:
        self._scope = scope
        self._what = what
        self._code = code

    def name(self, node: ast.Name) -> Value:
        scope = self._scope
        if node.name in scope.sizes:
            return Value(Size(name=node.name, dtype=INDEX, span=node.span), INDEX, weak=True)
        if scope.is_constant(node.name):
            return scope.let(node)
        if node.name in scope.tensors:
            return self.of_tensor(scope.tensors[node.name], node)
        raise scope.undefined(node)

    def of_tensor(self, info: TensorInfo, node: ast.Name) -> Value:
        raise error(
            self._code,
            f"{self._what} is made of sizes and constants, but `{info.name}` is a tensor or scalar",
            span=node.span,
        )

    def constant(self, node: ast.Name) -> Value:
        return self.name(node)

    def tensor(self, node: ast.Access, count: int) -> tuple[str, DType]:
        raise error("E0213", f"{self._what} cannot read the tensor `{node.tensor.name}`", span=node.span)

    def element_type(self, node: ast.TypeName) -> DType:
        return self._scope.element_type(node)


class ConstantNames(SizeNames):
    """Names in a ``let``: sizes, other constants, scalar parameters."""

    def of_tensor(self, info: TensorInfo, node: ast.Name) -> Value:
        if info.role is not Role.SCALAR:
            raise error("E0213", f"{self._what} cannot read the tensor `{info.name}`", span=node.span)
        dtype = self._scope.value_type_of(info)
        return Value(Read(tensor=info.name, indices=(), dtype=dtype, span=node.span), dtype)

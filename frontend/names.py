"""What the names of a file and of one of its kernels stand for.

Tensors, sizes, scalars and ``let`` constants share one namespace; rank variables, kernels, types and functions have
their own. What a rank variable is depends on the Einsum: see :func:`rank_variables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..ir.cascade import Role
from ..ir.diagnostics import Diagnostics, EinfallError, did_you_mean, error
from ..ir.expr import Expr
from ..ir.formats import FORMATS
from ..ir.operators import FUNCTIONS
from ..ir.span import Span
from ..ir.types import DTYPES, StorageType
from . import syntax as ast

BUILTIN_FUNCTIONS = frozenset(name for name, info in FUNCTIONS.items() if info.symbol is None)
"""Functions that are written as calls. ``cast`` and ``bitcast`` are syntax of their own."""

_ELSEWHERE = {
    "relu": "write `max(x, 0)`",
    "pow": "write `x ** y`",
    "ln": "write `log(x)`",
    "where": "a choice is `if c then a else b`",
    "select": "a choice is `if c then a else b`",
    "sum": "what is not on the left is summed: `Y[m] = X[m, k]`",
    "mean": "a mean is a sum, `Y[m] = X[m, k] / K`",
    "softmax": "it is a cascade: a maximum, the exponentials, their sum, the quotient",
    "silu": "define it: `def silu(x) = x * sigmoid(x)`",
    "gelu": "define it: `def gelu(x) = 0.5 * x * (1 + erf(x / sqrt(2)))`",
    "softplus": "define it: `def softplus(x) = max(x, 0) + log(1 + exp(-abs(x)))`",
}
"""Functions of other languages, and what stands for them here."""

_BRACKETS = "tensors are indexed with square brackets, `X[m, k]`; functions of your own are defined by `def`"


def is_size_name(name: str) -> bool:
    """Whether a name is written as a size (upper case) and not as a rank variable."""
    return name.lstrip("_")[:1].isupper()


@dataclass(slots=True, kw_only=True)
class TensorInfo:
    """What is known about a tensor of a kernel; filled in as the analysis goes on.

    ``dtype`` is None until it is inferred, ``dims`` is None until the number of dimensions is known, and a
    dimension in it None until its extent is.
    """

    name: str
    role: Role
    span: Span
    dtype: StorageType | None = None
    dims: list[Expr | None] | None = None
    steps: list[Expr | None] = field(default_factory=list)
    annotated: bool = False
    declared: bool = False
    type_syntax: ast.ElementType | None = None
    dims_syntax: tuple[ast.Expression, ...] | None = None
    broken: bool = False  # an error was reported: nothing that follows from it is
    written: bool = False


class FileScope:
    """The ``def``, ``let``, ``type`` and ``kernel`` items of a file."""

    def __init__(self, program: ast.Program, diagnostics: Diagnostics) -> None:
        self.program = program
        self.diagnostics = diagnostics
        self.kernels: dict[str, ast.Kernel] = {}
        self.definitions: dict[str, ast.Definition] = {}
        self.lets: dict[str, ast.Let] = {}
        self.types: dict[str, ast.TypeDefinition] = {}
        self.broken_definitions: set[str] = set()
        for item in program.items:
            self._collect(item)
        for definition in self.definitions.values():
            self._check_definition(definition)
        for cycle in find_cycles({name: list(self._called(d.body)) for name, d in self.definitions.items()}):
            self.broken_definitions.update(cycle)
            diagnostics.add(
                "E0206",
                f"the function `{cycle[0]}` is defined by itself: {_arrows(cycle)}",
                span=self.definitions[cycle[0]].name.span,
                help="a recurrence over a rank is written as an iterative Einsum, `S[t+1] = … S[t] …`",
            )

    def _collect(self, item: ast.Item) -> None:
        match item:
            case ast.Kernel(name=name):
                self._add(self.kernels, name, item, "kernel", ())
            case ast.Definition(name=name):
                self._add(self.definitions, name, item, "function", {*BUILTIN_FUNCTIONS, "cast", "bitcast"})
            case ast.Let(name=name):
                self._add(self.lets, name, item, "constant", ())
            case ast.TypeDefinition(name=name):
                self._add(self.types, name, item, "type", {*DTYPES, *FORMATS, "quant"})
            case ast.Check():
                pass

    def _add(
        self,
        table: dict[str, ast.Kernel] | dict[str, ast.Definition] | dict[str, ast.Let] | dict[str, ast.TypeDefinition],
        name: ast.Name,
        item: ast.Item,
        kind: str,
        reserved: Iterable[str],
    ) -> None:
        if name.name in set(reserved):
            self.diagnostics.add("E0212", f"`{name.name}` is a built-in {kind} and cannot be redefined", span=name.span)
        elif name.name in table:
            self.diagnostics.add(
                "E0202",
                f"the {kind} `{name.name}` is defined twice",
                span=name.span,
                notes=[f"it was first defined in line {table[name.name].name.span.line}"],
            )
        else:
            table[name.name] = item  # type: ignore[assignment]

    def _called(self, body: ast.Expression) -> Iterator[str]:
        for node in walk(body):
            if isinstance(node, ast.Call) and node.function.name in self.definitions:
                yield node.function.name

    def _check_definition(self, definition: ast.Definition) -> None:
        """Everything that is wrong with a ``def`` wherever it is used, reported once."""
        before = len(self.diagnostics)
        parameters = [p.name for p in definition.parameters]
        for i, parameter in enumerate(definition.parameters):
            if parameter.name in parameters[:i]:
                self.diagnostics.add(
                    "E0202",
                    f"`{definition.name.name}` has two parameters `{parameter.name}`",
                    span=parameter.span,
                )
        for node in walk(definition.body):
            match node:
                case ast.Access(tensor=tensor):
                    self.diagnostics.add(
                        "E0213",
                        f"the function `{definition.name.name}` reads the tensor `{tensor.name}`, but functions see "
                        "scalars only",
                        span=node.span,
                        help=f"give it a parameter and pass `{tensor.name}[…]`",
                    )
                case ast.Name(name=name) if name not in parameters and name not in self.lets and not is_size_name(name):
                    self.diagnostics.add(
                        "E0201",
                        f"`{name}` is neither a parameter of `{definition.name.name}` nor a constant of the file",
                        span=node.span,
                        help=did_you_mean(name, [*parameters, *self.lets]),
                    )
                case ast.Call(function=function, arguments=arguments):
                    try:
                        self.check_call(function, len(arguments), node.span)
                    except EinfallError as problem:
                        self.diagnostics.extend(problem.diagnostics)
                case _:
                    pass
        if len(self.diagnostics) > before:
            self.broken_definitions.add(definition.name.name)

    def check_call(self, function: ast.Name, count: int, span: Span) -> None:
        """Raise E0208 for a function that does not exist, E0207 for a wrong number of arguments."""
        name = function.name
        if name in self.definitions:
            lowest = highest = len(self.definitions[name].parameters)
        elif name in BUILTIN_FUNCTIONS:
            lowest = FUNCTIONS[name].arity
            highest = 1000 if name in ("min", "max") else lowest
        else:
            known = [*self.definitions, *BUILTIN_FUNCTIONS, "cast", "bitcast"]
            raise error(
                "E0208",
                f"there is no function `{name}`",
                span=function.span,
                help=_ELSEWHERE.get(name.lower()) or did_you_mean(name, known) or _BRACKETS,
            )
        if not lowest <= count <= highest:
            wanted = f"{lowest} argument{'s' * (lowest != 1)}" + (" or more" if highest > lowest else "")
            raise error("E0207", f"`{name}` takes {wanted}, but {count} {'is' if count == 1 else 'are'} given", span=span)


def find_cycles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """One cycle for each group of names that refer to themselves, each closed (`[a, b, a]`)."""
    done: set[str] = set()
    cycles: list[list[str]] = []
    for start in edges:
        path: list[str] = []
        stack = [(start, iter(edges[start]))] if start not in done else []
        if stack:
            path.append(start)
            done.add(start)
        while stack:
            _, following = stack[-1]
            for name in following:
                if name in path:
                    cycles.append([*path[path.index(name) :], name])
                elif name in edges and name not in done:
                    done.add(name)
                    path.append(name)
                    stack.append((name, iter(edges[name])))
                    break
            else:
                stack.pop()
                path.pop()
    return cycles


def _arrows(cycle: list[str]) -> str:
    return " → ".join(f"`{name}`" for name in cycle)


def walk(node: ast.Expression) -> Iterator[ast.Expression]:
    """All expressions in an expression, parents first. The tensor name of an access is none."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(parts(current)))


def parts(node: ast.Expression) -> tuple[ast.Expression, ...]:
    """The direct subexpressions in source order."""
    match node:
        case ast.Access(indices=indices):
            return indices
        case ast.Call(arguments=arguments):
            return arguments
        case ast.Cast(operand=operand) | ast.Unary(operand=operand):
            return (operand,)
        case ast.Binary(left=left, right=right):
            return (left, right)
        case ast.Conditional(condition=condition, accepted=accepted, rejected=rejected):
            return (condition, accepted, rejected)
        case _:
            return ()


@dataclass(slots=True)
class Occurrences:
    """Where the bare names of one Einsum stand: in a coordinate or index, alone or inside it, or as a value."""

    whole: dict[str, ast.Name] = field(default_factory=dict)
    inside: dict[str, ast.Name] = field(default_factory=dict)
    value: dict[str, ast.Name] = field(default_factory=dict)
    accesses: list[ast.Access] = field(default_factory=list)

    def add(self, node: ast.Expression, *, in_index: bool) -> None:
        match node:
            case ast.Name(name=name):
                (self.inside if in_index else self.value).setdefault(name, node)
            case ast.Access(indices=indices):
                self.accesses.append(node)
                self.add_indices(indices)
            case _:
                for part in parts(node):
                    self.add(part, in_index=in_index)

    def add_indices(self, indices: Iterable[ast.Expression]) -> None:
        for index in indices:
            if isinstance(index, ast.Name):
                self.whole.setdefault(index.name, index)
            else:
                self.add(index, in_index=True)


def rank_variables(einsum: ast.Einsum, occurrences: Occurrences, integers: Iterable[str], numbers: Iterable[str]) -> set[str]:
    """The names that are rank variables in an Einsum: lower-case names in its coordinates, indices and reduction.

    ``integers`` are the declared integer scalars and constants, which win over rank variables of their name (``Y[pos]``
    is a coordinate); ``numbers`` the other declared scalars. Raises E0211 where one name would be both a rank variable
    and one of the latter.
    """
    listed = [] if einsum.reduction is None else einsum.reduction.ranks
    own, others = set(integers), set(numbers)
    indexing = {**occurrences.inside, **occurrences.whole, **{n.name: n for n in listed}}
    found: set[str] = set()
    for name, node in indexing.items():
        if is_size_name(name) or name in own:
            continue
        if name in others and name not in occurrences.whole and all(n.name != name for n in listed):
            continue
        if name in others and name in occurrences.value:
            raise error(
                "E0211",
                f"`{name}` is the name of a scalar of this kernel and indexes a tensor here",
                span=node.span,
                help="give the rank variable another name",
            )
        found.add(name)
    return found

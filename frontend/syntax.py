"""The abstract syntax of `.ecs` files: what was written, before any name is looked up.

Parentheses, trailing commas, comments and layout leave no trace in the nodes; `Program.comments` and
`Program.source` keep them for the formatter. Equality ignores spans and the spelling of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..ir.span import Span

UnaryOperator: TypeAlias = Literal["-", "not"]
BinaryOperator: TypeAlias = Literal[
    "or",
    "and",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "|",
    "^",
    "&",
    "<<",
    ">>",
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "??",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What every node has: its place in the source."""

    span: Span = field(compare=False, repr=False)


# Expressions.


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer(Node):
    """An integer literal, of any size; `text` is its spelling (`0x3F780000`)."""

    value: int
    text: str = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Real(Node):
    """A fraction such as `2.5e-3`, or `inf`."""

    value: float
    text: str = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boolean(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Name(Node):
    """A name on its own: in an expression a rank variable, size, scalar, `let` constant or rank-0 tensor."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Access(Node):
    """`X[m, k + 1]`, a read of a tensor or the left side of an Einsum. A bare left side `Z` has no indices."""

    tensor: Name
    indices: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Node):
    """`exp(x)`: a built-in or a user-defined scalar function."""

    function: Name
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast(Node):
    """`cast(type, x)`, or with `bits` `bitcast(type, x)`."""

    type: TypeName
    operand: Expression
    bits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary(Node):
    """`-x` or `not x`."""

    operator: UnaryOperator
    operand: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary(Node):
    """`left operator right`; `operator_span` marks the operator itself."""

    operator: BinaryOperator
    left: Expression
    right: Expression
    operator_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional(Node):
    """`if condition then accepted else rejected`."""

    condition: Expression
    accepted: Expression
    rejected: Expression


Expression: TypeAlias = "Integer | Real | Boolean | Name | Access | Call | Cast | Unary | Binary | Conditional"


# Types.


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeName(Node):
    """The name of an element type: built in (`f32`, `q4_0`) or defined by a `type` item."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSize(Node):
    """`K:128`: runs of 128 elements along the dimension K."""

    rank: Name
    size: Integer | Name


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantOption(Node):
    """`name = value` inside `quant(...)`."""

    name: Name
    value: TypeName | GroupSize | Integer | Real


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantType(Node):
    """`quant(element, option = value, ...)`."""

    element: TypeName
    options: tuple[QuantOption, ...]


ElementType: TypeAlias = "TypeName | QuantType"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType(Node):
    """`f32[M, K]`; a scalar (`f32` or `f32[]`) has no dimensions."""

    element: ElementType
    dimensions: tuple[Expression, ...]


# Statements of a kernel.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction(Node):
    """`:: operator(ranks)`. The operator is `+`, `*`, `and`, `or` or a name such as `max`, not yet looked up."""

    operator: str
    ranks: tuple[Name, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Einsum(Node):
    """`target = value :: reduction where condition`, with `type` where `Y: bf16[m] = …` annotates it."""

    target: Access
    type: ElementType | None
    value: Expression
    reduction: Reduction | None
    condition: Expression | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration(Node):
    """`MX: f32[V]`: type and shape of an intermediate."""

    name: Name
    type: TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class Require(Node):
    """`require condition` over sizes."""

    condition: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Let(Node):
    """`let name = value`, in a kernel or at file level."""

    name: Name
    value: Expression


Statement: TypeAlias = "Einsum | Declaration | Require | Let"


# Items of a file.


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter(Node):
    """A parameter of a kernel; `constant` where it may be bound ahead of time."""

    name: Name
    type: TensorType
    constant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Node):
    """A result of a kernel."""

    name: Name
    type: TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance(Node):
    """`@tolerance(value)`: the relative error in the Frobenius norm that rewrites may cause."""

    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel(Node):
    """A kernel with its statements in the order of the text."""

    name: Name
    parameters: tuple[Parameter, ...]
    results: tuple[Result, ...]
    statements: tuple[Statement, ...]
    tolerance: Tolerance | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition(Node):
    """`def name(parameters) = body`, a scalar function."""

    name: Name
    parameters: tuple[Name, ...]
    body: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeDefinition(Node):
    """`type name = …`."""

    name: Name
    type: ElementType


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckValue(Node):
    """`H = 2` in a check: the value of a size or of a scalar parameter."""

    name: Name
    value: int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Node):
    """`check kernel(sizes and scalars)`: a test that travels with the kernel."""

    kernel: Name
    values: tuple[CheckValue, ...]


Item: TypeAlias = "Kernel | Definition | Let | TypeDefinition | Check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment(Node):
    """A comment from `#` to the end of its line; `own_line` if nothing but space stands before it."""

    text: str
    own_line: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Node):
    """A file: its items in order, and what the nodes do not keep."""

    items: tuple[Item, ...]
    file: str = field(compare=False)
    source: str = field(compare=False, repr=False)
    comments: tuple[Comment, ...] = field(compare=False, repr=False)

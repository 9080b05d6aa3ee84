"""From the syntax of an expression to a typed expression; ``def``s are expanded on the way."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Protocol

from ..ir.diagnostics import EinfallError, error
from ..ir.expr import Expr, Read
from ..ir.types import INDEX, DType
from . import syntax as ast
from . import typing as rules
from .names import FileScope
from .typing import Value

_BINARY: dict[str, str] = {
    "or": "or",
    "and": "and",
    "==": "eq",
    "!=": "ne",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "|": "bitor",
    "^": "bitxor",
    "&": "bitand",
    "<<": "shl",
    ">>": "shr",
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floordiv",
    "%": "mod",
    "**": "pow",
}
_UNARY: dict[str, str] = {"-": "neg", "not": "not"}
_DEEPEST = 170
"""Levels of one expression with the bodies of its functions; a file alone may have 150."""


class ReportedError(Exception):
    """What is looked at depends on something that has been reported already."""


class Names(Protocol):
    """What the names of an expression mean where it stands."""

    def name(self, node: ast.Name) -> Value:
        """The value of a bare name. Raises EinfallError, or ReportedError."""

    def constant(self, node: ast.Name) -> Value:
        """The value of a bare name in the body of a ``def``: a size or a constant."""

    def tensor(self, node: ast.Access, count: int) -> tuple[str, DType]:
        """The tensor of an access with ``count`` indices, and the type of its values."""

    def element_type(self, node: ast.TypeName) -> DType:
        """The element type of that name."""


class Elaborator:
    """Builds typed expressions. One for each Einsum, since rank variables differ."""

    def __init__(self, names: Names, file: FileScope) -> None:
        self._names = names
        self._file = file
        self._depth = 0

    def value(self, node: ast.Expression, local: Mapping[str, Value] | None = None) -> Value:
        """The typed expression; ``local`` holds the arguments inside the body of a ``def``.

        Raises EinfallError (E02, E04) for what is wrong with it.
        """
        self._depth += 1
        try:
            return self._value(node, local)
        finally:
            self._depth -= 1

    def _value(self, node: ast.Expression, local: Mapping[str, Value] | None) -> Value:
        span = node.span
        if self._depth > _DEEPEST:
            raise error(
                "E0214",
                "this expression is nested too deeply once its functions are expanded",
                span=span,
                help="give a part of it an Einsum of its own",
            )
        match node:
            case ast.Integer(value=number) | ast.Real(value=number) | ast.Boolean(value=number):
                return rules.literal(number, span)
            case ast.Name(name=name):
                if local is None:
                    return self._names.name(node)
                return local[name] if name in local else self._names.constant(node)
            case ast.Unary(operator=operator, operand=operand):
                name = _UNARY[operator]
                return rules.RULES[name](name, (self.value(operand, local),), span)
            case ast.Binary(operator="??", left=left, right=right):
                return rules.default(self.value(left, local), self.value(right, local), span)
            case ast.Binary(operator=operator, left=left, right=right):
                name = _BINARY[operator]
                return rules.RULES[name](name, (self.value(left, local), self.value(right, local)), span)
            case ast.Conditional(condition=condition, accepted=accepted, rejected=rejected):
                test, then, otherwise = (self.value(part, local) for part in (condition, accepted, rejected))
                return rules.select(test, then, otherwise, span)
            case ast.Cast(type=type_name, operand=operand, bits=bits):
                convert = rules.bitcast if bits else rules.cast
                return convert(self.value(operand, local), self._names.element_type(type_name), span)
            case ast.Call():
                return self._call(node, local)
            case ast.Access():
                return self._access(node)

    def _call(self, node: ast.Call, local: Mapping[str, Value] | None) -> Value:
        name = node.function.name
        self._file.check_call(node.function, len(node.arguments), node.span)
        arguments = [self.value(argument, local) for argument in node.arguments]
        definition = self._file.definitions.get(name)
        if definition is None:
            rule = rules.RULES[name]
            if name in ("min", "max"):
                return reduce(lambda a, b: rule(name, (a, b), node.span), arguments)
            return rule(name, arguments, node.span)
        if name in self._file.broken_definitions:
            raise ReportedError
        parameters = (p.name for p in definition.parameters)
        return self.value(definition.body, dict(zip(parameters, arguments, strict=True)))

    def _access(self, node: ast.Access) -> Value:
        tensor, dtype = self._names.tensor(node, len(node.indices))
        indices = tuple(self.index(index) for index in node.indices)
        return Value(Read(tensor=tensor, indices=indices, dtype=dtype, span=node.span), dtype, nodes=1 + len(indices))

    def index(self, node: ast.Expression) -> Expr:
        """An index or coordinate, of type i64. Raises E0309 where it is no integer."""
        value = self.value(node)
        if value.is_unknown:
            return value.expr
        if not value.dtype.is_integer:
            raise self._no_index(node, value)
        return rules.coerce(value, INDEX)

    @staticmethod
    def _no_index(node: ast.Expression, value: Value) -> EinfallError:
        what = "a condition" if value.dtype.is_bool else "a real number" if value.weak else f"of type {value.dtype}"
        if isinstance(node, ast.Name) and isinstance(value.expr, Read):
            return error(
                "E0309",
                f"an index is an integer, but the scalar `{node.name}` is {what}",
                span=node.span,
                help="give the rank variable another name than the scalar's",
            )
        return error(
            "E0309",
            f"an index is an integer, but this is {what}",
            span=node.span,
            help="use `//` for whole division, or `cast(i32, …)`",
        )

    def condition(self, node: ast.Expression, what: str) -> Expr:
        """A condition, of type bool. Raises E0402 where it is none."""
        return rules.require_bool(what, self.value(node), node.span)

"""From parse tree to syntax tree, with those rules of syntax that a grammar does not express well.

Checked here: the range of numbers, the depth of expressions, `cast` and `bitcast`, annotations, storage types, and
that declared dimensions are sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from lark import Token, Tree

from ..ir.diagnostics import Diagnostics, did_you_mean
from ..ir.span import SourceText, Span
from . import syntax
from .layout import token_span

MAX_DEPTH = 150
_MAX_DIGITS = 1000

Branch = Tree[Token]


class Builder:
    """Builds the syntax tree of one file; mistakes go to `diagnostics` and are raised together at the end."""

    def __init__(self, source: SourceText, comments: tuple[syntax.Comment, ...], diagnostics: Diagnostics) -> None:
        self._source = source
        self._comments = comments
        self._diagnostics = diagnostics

    def program(self, tree: Branch) -> syntax.Program:
        """The whole file. Raises EinfallError with every mistake found."""
        self._check_depth(tree)
        items = tuple(self._item(_tree(child)) for child in tree.children)
        self._diagnostics.raise_if_any()
        return syntax.Program(
            span=self._source.span(0, len(self._source.text)),
            items=items,
            file=self._source.file,
            source=self._source.text,
            comments=self._comments,
        )

    # Items.

    def _item(self, tree: Branch) -> syntax.Item:
        span = self._span(tree)
        match tree.data:
            case "kernel":
                return self._kernel(tree, span)
            case "definition":
                name, *parameters, body = tree.children
                return syntax.Definition(
                    span=span,
                    name=self._name(_token(name)),
                    parameters=tuple(self._name(_token(each)) for each in parameters if each is not None),
                    body=self._expression(_tree(body)),
                )
            case "let":
                return self._let(tree, span)
            case "type_alias":
                name, type = tree.children
                return syntax.TypeDefinition(span=span, name=self._name(_token(name)), type=self._element_type(_tree(type)))
            case "check":
                kernel, *values = tree.children
                return syntax.Check(
                    span=span,
                    kernel=self._name(_token(kernel)),
                    values=tuple(self._check_value(_tree(each)) for each in values if each is not None),
                )
            case other:
                raise AssertionError(other)

    def _kernel(self, tree: Branch, span: Span) -> syntax.Kernel:
        tolerance, name, parameters, results, *statements = tree.children
        return syntax.Kernel(
            span=span,
            name=self._name(_token(name)),
            parameters=() if parameters is None else tuple(self._parameter(_tree(each)) for each in _tree(parameters).children),
            results=tuple(self._result(_tree(each)) for each in _tree(results).children),
            statements=tuple(self._statement(_tree(each)) for each in statements),
            tolerance=None if tolerance is None else self._tolerance(_tree(tolerance)),
        )

    def _tolerance(self, tree: Branch) -> syntax.Tolerance:
        name, number = (_token(each) for each in tree.children[:2])
        if name != "tolerance":
            self._diagnostics.add(
                "E0110",
                f"there is no annotation `@{name}`",
                span=token_span(name, self._source),
                help=did_you_mean(name, ["tolerance"]) or "the only annotation is `@tolerance(x)`",
            )
        value = self._real(number) if number.type == "REAL" else float(min(self._integer(number), 10**300))
        return syntax.Tolerance(span=self._span(tree), value=value)

    def _parameter(self, tree: Branch) -> syntax.Parameter:
        constant, name, type = tree.children
        return syntax.Parameter(
            span=self._span(tree),
            name=self._name(_token(name)),
            type=self._declared_type(_tree(type)),
            constant=constant is not None,
        )

    def _result(self, tree: Branch) -> syntax.Result:
        name, type = tree.children
        return syntax.Result(span=self._span(tree), name=self._name(_token(name)), type=self._declared_type(_tree(type)))

    def _check_value(self, tree: Branch) -> syntax.CheckValue:
        name, minus, literal = tree.children
        token = _token(literal)
        value: int | float | bool
        match token.type:
            case "INTEGER":
                value = self._integer(token)
            case "REAL":
                value = self._real(token)
            case "INF":
                value = math.inf
            case _:
                value = token.type == "TRUE"
        return syntax.CheckValue(span=self._span(tree), name=self._name(_token(name)), value=value if minus is None else -value)

    # Statements.

    def _statement(self, tree: Branch) -> syntax.Statement:
        span = self._span(tree)
        match tree.data:
            case "einsum":
                target, value, reduction, condition = tree.children
                return self._einsum(span, self._target(_tree(target)), None, value, reduction, condition)
            case "annotated":
                name, type, value, reduction, condition = tree.children
                tensor = self._name(_token(name))
                annotation = self._tensor_type(_tree(type))
                target_node = syntax.Access(
                    span=tensor.span.join(annotation.span), tensor=tensor, indices=annotation.dimensions
                )
                return self._einsum(span, target_node, annotation.element, value, reduction, condition)
            case "declaration":
                name, type = tree.children
                return syntax.Declaration(span=span, name=self._name(_token(name)), type=self._declared_type(_tree(type)))
            case "require":
                return syntax.Require(span=span, condition=self._expression(_tree(tree.children[0])))
            case "let":
                return self._let(tree, span)
            case other:
                raise AssertionError(other)

    def _einsum(
        self,
        span: Span,
        target: syntax.Access,
        type: syntax.ElementType | None,
        value: Branch | Token,
        reduction: Branch | Token | None,
        condition: Branch | Token | None,
    ) -> syntax.Einsum:
        return syntax.Einsum(
            span=span,
            target=target,
            type=type,
            value=self._expression(_tree(value)),
            reduction=None if reduction is None else self._reduction(_tree(reduction)),
            condition=None if condition is None else self._expression(_tree(_tree(condition).children[0])),
        )

    def _target(self, tree: Branch) -> syntax.Access:
        name, indices = tree.children
        return syntax.Access(span=self._span(tree), tensor=self._name(_token(name)), indices=self._indices(indices))

    def _reduction(self, tree: Branch) -> syntax.Reduction:
        operator, *ranks = tree.children
        return syntax.Reduction(
            span=self._span(tree),
            operator=str(operator),
            ranks=tuple(self._name(_token(each)) for each in ranks if each is not None),
        )

    def _let(self, tree: Branch, span: Span) -> syntax.Let:
        name, value = tree.children
        return syntax.Let(span=span, name=self._name(_token(name)), value=self._expression(_tree(value)))

    # Types.

    def _declared_type(self, tree: Branch) -> syntax.TensorType:
        """A type whose dimensions must be sizes, not rank variables."""
        type = self._tensor_type(tree)
        for dimension in type.dimensions:
            for name in _names(dimension):
                first = name.name.lstrip("_")[:1]
                if first.islower():
                    self._diagnostics.add(
                        "E0113",
                        f"the size `{name.name}` is written in lower case",
                        span=name.span,
                        help=f"write `{name.name.upper()}`; lower case is for rank variables",
                    )
        return type

    def _tensor_type(self, tree: Branch) -> syntax.TensorType:
        element, dimensions = tree.children
        return syntax.TensorType(
            span=self._span(tree),
            element=self._element_type(_tree(element)),
            dimensions=self._indices(dimensions),
        )

    def _element_type(self, tree: Branch) -> syntax.ElementType:
        if tree.data == "type_name":
            return self._type_name(tree)
        constructor, element, *options = tree.children
        if constructor != "quant":
            self._diagnostics.add(
                "E0120",
                f"there is no type constructor `{constructor}`",
                span=token_span(_token(constructor), self._source),
                help=did_you_mean(str(constructor), ["quant"])
                or "`quant(u4, group = K:128, scale = f16)` is a storage type, `f32[M]` a tensor",
            )
        return syntax.QuantType(
            span=self._span(tree),
            element=self._type_name(_tree(element)),
            options=tuple(self._quant_option(_tree(each)) for each in options),
        )

    def _type_name(self, tree: Branch) -> syntax.TypeName:
        return syntax.TypeName(span=self._span(tree), name=str(tree.children[0]))

    def _quant_option(self, tree: Branch) -> syntax.QuantOption:
        name, value = tree.children
        node: syntax.TypeName | syntax.GroupSize | syntax.Integer | syntax.Real
        if isinstance(value, Token):
            node = self._number(value)
        elif value.data == "type_name":
            node = self._type_name(value)
        else:
            rank, size = (_token(each) for each in value.children)
            node = syntax.GroupSize(
                span=self._span(value),
                rank=self._name(rank),
                size=self._name(size)
                if size.type == "NAME"
                else syntax.Integer(span=token_span(size, self._source), value=self._integer(size), text=str(size)),
            )
        return syntax.QuantOption(span=self._span(tree), name=self._name(_token(name)), value=node)

    # Expressions.

    def _indices(self, tree: Branch | Token | None) -> tuple[syntax.Expression, ...]:
        if tree is None:
            return ()
        return tuple(self._expression(_tree(each)) for each in _tree(tree).children if each is not None)

    def _expression(self, tree: Branch) -> syntax.Expression:
        span = self._span(tree)
        children = tree.children
        match tree.data:
            case "name":
                return syntax.Name(span=span, name=str(children[0]))
            case "access":
                return syntax.Access(span=span, tensor=self._name(_token(children[0])), indices=self._indices(children[1]))
            case "call":
                return self._call(tree, span)
            case "integer" | "real":
                return self._number(_token(children[0]))
            case "infinity":
                return syntax.Real(span=span, value=math.inf, text="inf")
            case "boolean":
                return syntax.Boolean(span=span, value=_token(children[0]).type == "TRUE")
            case "unary":
                return syntax.Unary(
                    span=span,
                    operator=cast(syntax.UnaryOperator, str(children[0])),
                    operand=self._expression(_tree(children[1])),
                )
            case "binary":
                left, operator, right = children
                return syntax.Binary(
                    span=span,
                    operator=cast(syntax.BinaryOperator, str(operator)),
                    left=self._expression(_tree(left)),
                    right=self._expression(_tree(right)),
                    operator_span=token_span(_token(operator), self._source),
                )
            case "conditional":
                condition, accepted, rejected = children
                return syntax.Conditional(
                    span=span,
                    condition=self._expression(_tree(condition)),
                    accepted=self._expression(_tree(accepted)),
                    rejected=self._expression(_tree(rejected)),
                )
            case other:
                raise AssertionError(other)

    def _call(self, tree: Branch, span: Span) -> syntax.Expression:
        name, *rest = tree.children
        function = self._name(_token(name))
        arguments = tuple(self._expression(_tree(each)) for each in rest if each is not None)
        if function.name not in ("cast", "bitcast"):
            return syntax.Call(span=span, function=function, arguments=arguments)
        match arguments:
            case (syntax.Name() as type, operand):
                return syntax.Cast(
                    span=span,
                    type=syntax.TypeName(span=type.span, name=type.name),
                    operand=operand,
                    bits=function.name == "bitcast",
                )
            case _:
                self._diagnostics.add(
                    "E0119",
                    f"`{function.name}` takes a type and one expression",
                    span=span,
                    help=f"write `{function.name}(i8, x)`: the type first",
                )
                return syntax.Call(span=span, function=function, arguments=arguments)

    # Leaves.

    def _name(self, token: Token) -> syntax.Name:
        return syntax.Name(span=token_span(token, self._source), name=str(token))

    def _number(self, token: Token) -> syntax.Integer | syntax.Real:
        span = token_span(token, self._source)
        if token.type == "INTEGER":
            return syntax.Integer(span=span, value=self._integer(token), text=str(token))
        return syntax.Real(span=span, value=self._real(token), text=str(token))

    def _integer(self, token: Token) -> int:
        if len(token) > _MAX_DIGITS:
            self._diagnostics.add(
                "E0105",
                f"this integer has more than {_MAX_DIGITS} digits",
                span=token_span(token, self._source),
            )
            return 0
        return int(token, 16) if token[:2] in ("0x", "0X") else int(token)

    def _real(self, token: Token) -> float:
        value = float(token)
        if math.isinf(value):
            self._diagnostics.add(
                "E0105",
                "this number is larger than any f64",
                span=token_span(token, self._source),
                help="write `inf` for infinity",
            )
        return value

    def _span(self, tree: Branch) -> Span:
        return self._source.span(tree.meta.start_pos, tree.meta.end_pos)

    def _check_depth(self, program: Branch) -> None:
        """Everything that walks the tree later is recursive; a limit here keeps Python's stack out of it."""
        reported: set[int] = set()
        # The depth counts from the statement: program, kernel and statement are levels of their own.
        stack: list[tuple[Branch, int, int]] = [(program, -3, 0)]
        while stack:
            tree, depth, statement = stack.pop()
            if depth <= 0:
                statement = id(tree)
            if depth > MAX_DEPTH:
                if statement not in reported:
                    reported.add(statement)
                    self._diagnostics.add(
                        "E0109",
                        f"this expression is nested more than {MAX_DEPTH} levels deep",
                        span=self._span(tree),
                        help="name a part of it by an Einsum of its own",
                    )
                continue
            stack += [(child, depth + 1, statement) for child in tree.children if isinstance(child, Tree)]
        self._diagnostics.raise_if_any()


def _tree(child: Branch | Token | None) -> Branch:
    assert isinstance(child, Tree)
    return child


def _token(child: Branch | Token | None) -> Token:
    assert isinstance(child, Token)
    return child


def _names(expression: syntax.Expression) -> Sequence[syntax.Name]:
    """The names that a dimension mentions."""
    match expression:
        case syntax.Name():
            return [expression]
        case syntax.Unary():
            return _names(expression.operand)
        case syntax.Binary():
            return [*_names(expression.left), *_names(expression.right)]
        case syntax.Call():
            return [name for each in expression.arguments for name in _names(each)]
        case _:
            return []

"""Words for syntax errors: from a token that the grammar does not accept to a sentence in the user's terms.

Each rule below recognises one slip and returns its diagnostic, or None; the first that speaks wins, and the last
one, which names what was found and what could have stood there, always does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from lark import Token

from ..ir.diagnostics import Diagnostic, did_you_mean
from ..ir.span import SourceText, Span
from .layout import token_span

RESERVED = frozenset({"WHERE", "IF", "THEN", "ELSE", "AND", "OR", "NOT", "TRUE", "FALSE", "INF"})
_COMPARISONS = frozenset({"LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL_EQUAL", "NOT_EQUAL"})
_OPERATORS = _COMPARISONS | {
    *("OR", "AND", "BAR", "CARET", "AMPERSAND", "SHIFT_LEFT", "SHIFT_RIGHT", "PLUS", "MINUS", "STAR", "SLASH"),
    *("FLOOR_SLASH", "PERCENT", "POWER", "DEFAULT"),
}
_OPERAND_STARTS = frozenset({"NAME", "INTEGER", "REAL", "INF", "TRUE", "FALSE", "LPAR", "IF", "NOT"})
_OPERAND_ENDS = frozenset({"NAME", "INTEGER", "REAL", "INF", "TRUE", "FALSE", "RPAR", "RSQB"})
_BODY_ITEMS = frozenset({"KERNEL", "DEF", "TYPE", "CHECK"})

# Statements of other languages, by their first word.
_FOREIGN_STATEMENTS = {
    "return": "the results are the tensors named after `->`; define them like any other",
    "for": "there are no loops: an Einsum ranges over its rank variables",
    "while": "there are no loops: an Einsum ranges over its rank variables",
    "import": "a file stands on its own; there is nothing to import",
    "from": "a file stands on its own; there is nothing to import",
    "var": "a tensor is introduced by its definition: `Y[m] = …`",
    "sum": "a sum is `Y[m] = X[m, k]`: what is not on the left is summed",
}

_PHRASES = {
    "NAME": "a name",
    "INTEGER": "a number",
    "REAL": "a number",
    "_NEWLINE": "the end of the line",
    "$END": "the end of the file",
    "KERNEL": "`kernel`",
    "DEF": "`def`",
    "LET": "`let`",
    "TYPE": "`type`",
    "CHECK": "`check`",
    "REQUIRE": "`require`",
    "CONST": "`const`",
    "WHERE": "`where`",
    "IF": "`if`",
    "THEN": "`then`",
    "ELSE": "`else`",
    "TRUE": "`true`",
    "FALSE": "`false`",
    "INF": "`inf`",
    "ARROW": "`->`",
    "REDUCE": "`::`",
    "EQUAL": "`=`",
    "COLON": "`:`",
    "COMMA": "`,`",
    "AT": "`@`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A statement (or item, or kernel header) that stops making sense at `position`, before the token `found`."""

    statement: tuple[Token, ...]
    position: int
    found: Token | None
    following: Token | None
    accepted: frozenset[str]
    in_body: bool
    source: SourceText

    @property
    def kind(self) -> str:
        """The type of the unexpected token; `$END` at the end of the file."""
        return "$END" if self.found is None else self.found.type

    @property
    def previous(self) -> Token | None:
        """The token before the unexpected one, in the same statement."""
        return self.statement[self.position - 1] if 0 < self.position <= len(self.statement) else None

    @property
    def span(self) -> Span:
        """Where the caret goes: below the unexpected token; behind the last one where nothing more came."""
        if self.found is None:
            return self.source.span(len(self.source.text), len(self.source.text))
        return token_span(self.found, self.source)

    @property
    def outer(self) -> list[Token]:
        """The tokens before the unexpected one that stand outside all brackets opened in the statement."""
        depth = 0
        tokens = []
        for token in self.statement[: self.position]:
            if token.type in ("RPAR", "RSQB"):
                depth -= 1
            if depth == 0:
                tokens.append(token)
            if token.type in ("LPAR", "LSQB"):
                depth += 1
        return tokens

    @property
    def opened(self) -> Token | None:
        """The innermost bracket that is still open at the unexpected token."""
        stack = []
        for token in self.statement[: self.position]:
            if token.type in ("LPAR", "LSQB"):
                stack.append(token)
            elif token.type in ("RPAR", "RSQB") and stack:
                stack.pop()
        return stack[-1] if stack else None

    def says(self, code: str, message: str, help: str | None = None, span: Span | None = None) -> Diagnostic:
        """A diagnostic at the unexpected token, or at `span`."""
        return Diagnostic(code=code, message=message, help=help, span=span or self.span)


Rule: TypeAlias = Callable[[Mistake], "Diagnostic | None"]


def explain(mistake: Mistake) -> Diagnostic:
    """The diagnostic for a syntax error."""
    for rule in _RULES:
        diagnostic = rule(mistake)
        if diagnostic is not None:
            return diagnostic
    return _unexpected(mistake)


def _misplaced_statement(mistake: Mistake) -> Diagnostic | None:
    if mistake.position != 0 or mistake.found is None:
        return None
    word = str(mistake.found)
    if mistake.in_body:
        if mistake.kind not in _BODY_ITEMS:
            return None
        return mistake.says(
            "E0116",
            f"`{word}` cannot stand inside a kernel",
            help="close the kernel with `}` first",
        )
    if mistake.kind == "NAME" and (suggestion := did_you_mean(word, ["kernel", "def", "let", "type", "check"])):
        return mistake.says("E0116", f"`{word}` begins nothing that a file may hold", help=suggestion)
    if mistake.kind in ("NAME", "REQUIRE"):
        return mistake.says(
            "E0116",
            "this statement stands outside the braces of a kernel",
            help="a file holds `kernel`, `def`, `let`, `type` and `check` items; Einsums belong into a kernel",
        )
    return None


def _foreign_statement(mistake: Mistake) -> Diagnostic | None:
    if not mistake.statement:
        return None
    first = mistake.statement[0]
    if not mistake.in_body or str(first) not in _FOREIGN_STATEMENTS or mistake.position > 2:
        return None
    return mistake.says(
        "E0106",
        f"there is no `{first}` statement in this language",
        help=_FOREIGN_STATEMENTS[str(first)],
        span=token_span(first, mistake.source),
    )


def _reserved_word(mistake: Mistake) -> Diagnostic | None:
    if mistake.kind not in RESERVED or (mistake.position > 0 and "NAME" not in mistake.accepted):
        return None
    named = mistake.previous is not None and mistake.previous.type in (
        *("KERNEL", "DEF", "LET", "TYPE", "CHECK", "COLON", "CONST"),
    )
    used = mistake.following is not None and mistake.following.type in (*("EQUAL", "LSQB", "COLON", "COMMA", "RPAR", "RSQB"),)
    if not (named or used):
        return None
    return mistake.says(
        "E0108",
        f"`{mistake.found}` is a reserved word and cannot be a name",
        help=f"choose another name, for example `{mistake.found}_`",
    )


def _header(mistake: Mistake) -> Diagnostic | None:
    if mistake.in_body or not any(token.type == "KERNEL" for token in mistake.statement[: mistake.position]):
        return None
    previous = mistake.previous
    if mistake.opened is None and "ARROW" in mistake.accepted:
        return mistake.says(
            "E0112",
            "the results of the kernel are missing",
            help="after the parameters write `-> (Y: f32[M])`, with the names and types of the results",
        )
    if previous is not None and previous.type == "ARROW":
        return mistake.says(
            "E0112",
            "the results of a kernel stand in parentheses",
            help="write `-> (Y: f32[M])`",
        )
    if previous is not None and previous.type == "LPAR" and mistake.kind == "RPAR":
        return mistake.says("E0112", "a kernel has at least one result", help="write `-> (Y: f32[M])`")
    if mistake.opened is None and "LBRACE" in mistake.accepted:
        return mistake.says("E0106", f"expected `{{` and the statements of the kernel, found {_found(mistake)}")
    if mistake.accepted == {"COLON"} and previous is not None:
        return mistake.says(
            "E0106",
            f"`{previous}` has no type",
            help=f"write `{previous}: f32` for a scalar, `{previous}: f32[M]` for a tensor",
            span=token_span(previous, mistake.source),
        )
    return None


def _equality(mistake: Mistake) -> Diagnostic | None:
    if mistake.kind == "EQUAL_EQUAL" and "EQUAL" in mistake.accepted:
        return mistake.says("E0107", "`==` compares; a definition is written with `=`", help="write `=`")
    if mistake.kind == "EQUAL" and mistake.accepted & (_COMPARISONS | {"AND", "STAR"}):
        if any(token.type in ("WHERE", "REQUIRE", "IF") for token in mistake.statement) or mistake.opened:
            return mistake.says("E0107", "`=` defines; a comparison is written with `==`", help="write `==`")
        return mistake.says(
            "E0107",
            "a second `=` in one statement",
            help="a comparison is `==`; two definitions are two lines",
        )
    return None


def _missing_equals(mistake: Mistake) -> Diagnostic | None:
    if "EQUAL" not in mistake.accepted or mistake.opened is not None or not mistake.statement:
        return None
    defined = mistake.statement[0].type
    if defined == "NAME" and mistake.kind == "_NEWLINE":
        return mistake.says(
            "E0107",
            "this statement defines nothing",
            help="an Einsum reads `OUT[indices] = expression`",
            span=token_span(mistake.statement[0], mistake.source).join(mistake.span),
        )
    advice = "an annotation stands before the brackets: `Y: f32[m] = …`" if mistake.kind == "COLON" else None
    return mistake.says("E0107", f"expected `=`, found {_found(mistake)}", help=advice)


def _chained_comparison(mistake: Mistake) -> Diagnostic | None:
    if mistake.kind not in _COMPARISONS or "AND" not in mistake.accepted:
        return None
    return mistake.says("E0111", "comparisons cannot be chained", help="join two comparisons: `0 <= m and m < 8`")


def _clause_order(mistake: Mistake) -> Diagnostic | None:
    if mistake.kind not in ("REDUCE", "WHERE"):
        return None
    before = {token.type for token in mistake.outer}
    if mistake.kind == "WHERE" and "WHERE" in before:
        return mistake.says("E0117", "an Einsum has one `where`", help="join the conditions with `and`")
    if mistake.kind == "REDUCE" and "WHERE" in before:
        return mistake.says("E0117", "`::` stands before `where`", help="write `:: op(ranks) where condition`")
    if mistake.kind == "REDUCE" and "REDUCE" in before:
        return mistake.says(
            "E0117",
            "an Einsum has one reduction",
            help="reduce with two operators in two Einsums; one operator takes several ranks: `:: max(m, n)`",
        )
    if not mistake.outer or mistake.outer[0].type in ("DEF", "LET", "TYPE", "REQUIRE", "CHECK"):
        return mistake.says("E0117", f"`{mistake.found}` belongs to an Einsum")
    return None


def _conditional(mistake: Mistake) -> Diagnostic | None:
    if mistake.kind == "IF" and "STAR" in mistake.accepted:
        return mistake.says(
            "E0118",
            "`if` stands before the value here, not after it",
            help="write `if condition then value else value`",
        )
    if mistake.kind == "IF" and "NAME" in mistake.accepted:
        return mistake.says("E0118", "an `if` that is an operand needs parentheses", help="write `(if … then … else …)`")
    if "ELSE" in mistake.accepted:
        return mistake.says(
            "E0118",
            "this `if` has no `else`",
            help="every point needs a value: add `else 0`, or leave points out with `where`",
        )
    if "THEN" in mistake.accepted and mistake.kind != "EQUAL":
        return mistake.says("E0118", f"expected `then`, found {_found(mistake)}", help="write `if … then … else …`")
    return None


def _reduction_without_ranks(mistake: Mistake) -> Diagnostic | None:
    previous = mistake.previous
    if previous is None:
        return None
    if previous.type == "REDUCE":
        return mistake.says(
            "E0106",
            f"expected a reduction after `::`, found {_found(mistake)}",
            help="reductions are `+ * max min and or argmax argmin`, with their ranks: `:: max(m)`",
        )
    before = mistake.outer[-2] if len(mistake.outer) > 1 else None
    if before is not None and before.type == "REDUCE" and mistake.kind != "LPAR":
        return mistake.says(
            "E0106",
            "the reduced ranks are missing",
            help=f"list them in parentheses: `:: {previous}(m)`",
        )
    return None


def _check_value(mistake: Mistake) -> Diagnostic | None:
    if not {"INF", "TRUE", "INTEGER"} <= mistake.accepted or "NAME" in mistake.accepted:
        return None
    return mistake.says(
        "E0106",
        f"expected a number, found {_found(mistake)}",
        help="a check gives sizes and scalars values: `check attention(H = 2, P = 33)`",
    )


def _missing_operator(mistake: Mistake) -> Diagnostic | None:
    previous = mistake.previous
    if previous is None or previous.type not in _OPERAND_ENDS or mistake.kind not in _OPERAND_STARTS | {"LSQB"}:
        return None
    if not mistake.accepted & _OPERATORS:
        return None
    if mistake.kind == "LSQB":
        return mistake.says("E0106", "only a tensor's name can be indexed", help="name the value by an Einsum first")
    return mistake.says(
        "E0106",
        f"an operator is missing between `{previous}` and `{mistake.found}`",
        help="a product is written with `*`, a call with parentheses",
    )


def _missing_operand(mistake: Mistake) -> Diagnostic | None:
    if not {"NAME", "INTEGER", "LPAR"} <= mistake.accepted:
        return None
    if mistake.kind == "PLUS":
        return mistake.says("E0106", "there is no unary `+`", help="leave it out")
    if mistake.kind == "NOT":
        return mistake.says("E0106", "`not` binds loosely", help="put it in parentheses: `(not x)`")
    after = f" after `{mistake.previous}`" if mistake.previous is not None else ""
    return mistake.says("E0106", f"expected an expression{after}, found {_found(mistake)}")


def _habit(mistake: Mistake) -> Diagnostic | None:
    """Signs that mean something else in other languages."""
    after = mistake.previous is not None and mistake.previous.type in _OPERAND_ENDS
    match mistake.kind:
        case "FLOOR_SLASH" if mistake.position == 0:
            return mistake.says("E0106", "`//` divides and begins no comment", help="a comment begins with `#`")
        case "AT" if after and mistake.in_body:
            advice = "a product of matrices is `Y[m, n] = X[m, k] * W[k, n]`"
            return mistake.says("E0106", "there is no operator `@`", help=advice)
        case "COLON" if mistake.opened is not None and mistake.opened.type == "LSQB" and mistake.in_body:
            advice = "ranges of a rank variable are conditions, `where m < 3`, a shift is `X[m + 3]`"
            return mistake.says("E0106", "an index is one coordinate, not a range", help=advice)
    return None


def _unexpected(mistake: Mistake) -> Diagnostic:
    accepted = set(mistake.accepted)
    wanted = []
    if {"NAME", "INTEGER", "LPAR"} <= accepted:
        accepted -= _OPERAND_STARTS | {"MINUS", "REAL"}
        wanted.append("an expression")
    if "STAR" in accepted:
        accepted -= _OPERATORS
        wanted.append("an operator")
    wanted += sorted({_PHRASES[each] for each in accepted if each in _PHRASES})
    if len(wanted) > 6:
        wanted = []
    listed = wanted[0] if len(wanted) == 1 else ", ".join(wanted[:-1]) + " or " + wanted[-1] if wanted else ""
    return mistake.says(
        "E0106",
        f"expected {listed}, found {_found(mistake)}" if listed else f"{_found(mistake)} is not expected here",
    )


def _found(mistake: Mistake) -> str:
    match mistake.kind:
        case "$END":
            return "the end of the file"
        case "_NEWLINE":
            return "the end of the line"
        case "NAME":
            return f"the name `{mistake.found}`"
        case kind if kind in RESERVED:
            return f"the word `{mistake.found}`"
        case _:
            return f"`{mistake.found}`"


_RULES: tuple[Rule, ...] = (
    _reserved_word,
    _misplaced_statement,
    _foreign_statement,
    _header,
    _equality,
    _clause_order,
    _missing_equals,
    _chained_comparison,
    _conditional,
    _reduction_without_ranks,
    _check_value,
    _habit,
    _missing_operator,
    _missing_operand,
)

"""Between the characters and the grammar: comments, brackets, the ends of statements and the soft keywords.

`arrange` takes the raw tokens of a file and returns those that the grammar is written for, together with the
comments and every mistake that can be found without parsing. Each mistake is repaired in the stream as well as can
be (a stray bracket is dropped, `&&` becomes `and`), so that one slip is one error and the rest of the file is still
examined. A bracket that nothing closes does not count as open: the lines below it stay statements.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lark import Token

from ..ir.diagnostics import Diagnostics
from ..ir.span import SourceText, Span
from .syntax import Comment

MAX_BRACKETS = 100

_PARTNER = {"RPAR": "LPAR", "RSQB": "LSQB", "RBRACE": "LBRACE"}
_OPENING = frozenset(_PARTNER.values())
_ITEM_WORDS = frozenset({"KERNEL", "DEF", "LET", "TYPE", "CHECK"})
_SOFT_WORDS = _ITEM_WORDS | {"REQUIRE", "CONST"}

_INFIX = frozenset(
    {
        *("OR", "AND", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL_EQUAL", "NOT_EQUAL", "BAR"),
        *("CARET", "AMPERSAND", "SHIFT_LEFT", "SHIFT_RIGHT", "PLUS", "MINUS", "STAR", "SLASH", "FLOOR_SLASH"),
        *("PERCENT", "POWER", "DEFAULT", "EQUAL", "ARROW", "REDUCE", "WHERE", "THEN", "ELSE", "COMMA", "COLON"),
    }
)
_CONTINUES_AFTER = _INFIX | _OPENING | {"IF", "NOT"}
_CONTINUES_BEFORE = _INFIX | {"LBRACE"}

# What people write out of habit: the token that is meant (None: nothing stands in for it), and what to say.
_FOREIGN: dict[str, tuple[tuple[str, str] | None, str]] = {
    "&&": (("AND", "and"), "write `and`"),
    "||": (("OR", "or"), "write `or`"),
    "!": (("NOT", "not"), "write `not`"),
    "~": (("NOT", "not"), "write `not` for conditions, `x ^ -1` for bits"),
    "<>": (("NOT_EQUAL", "!="), "write `!=`"),
    "=>": (("ARROW", "->"), "write `->` before the results, `>=` to compare"),
    "<-": (("EQUAL", "="), "write `=` to define; to compare with a negative number, put a space: `< -1`"),
    ":=": (("EQUAL", "="), "write `=`"),
    "+=": (("EQUAL", "="), "an Einsum defines its tensor once; a sum is `Y[m] = X[m, k]`, with k summed"),
    "-=": (("EQUAL", "="), "an Einsum defines its tensor once; write `=`"),
    "*=": (("EQUAL", "="), "an Einsum defines its tensor once; a product is `Y[m] = X[m, k] :: *(k)`"),
    "/=": (("EQUAL", "="), "an Einsum defines its tensor once; write `=`"),
    "?": (None, "a choice is `if c then a else b`, a default for absent points is `x ?? 0`"),
    ";": (("_NEWLINE", "\n"), "the end of the line ends a statement"),
}
_SYMBOLS: dict[str, tuple[str, str]] = {
    "×": ("STAR", "*"),
    "·": ("STAR", "*"),
    "⋅": ("STAR", "*"),
    "÷": ("SLASH", "/"),
    "−": ("MINUS", "-"),
    "≤": ("LESS_EQUAL", "<="),
    "≥": ("GREATER_EQUAL", ">="),
    "≠": ("NOT_EQUAL", "!="),
    "→": ("ARROW", "->"),
    "∞": ("INF", "inf"),
    "∧": ("AND", "and"),
    "∨": ("OR", "or"),
    "¬": ("NOT", "not"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """The tokens that the grammar reads, the comments of the file, and the mistakes found so far."""

    tokens: tuple[Token, ...]
    comments: tuple[Comment, ...]
    diagnostics: Diagnostics


def token_span(token: Token, source: SourceText) -> Span:
    """The place of a token."""
    start = token.start_pos or 0
    end = token.end_pos if token.end_pos is not None else start
    return source.span(start, end)


def arrange(raw: Iterable[Token], source: SourceText) -> Arranged:
    """Turn the lexer's tokens into the grammar's; see the head of this file."""
    diagnostics = Diagnostics(source.file, source.text)
    comments: list[Comment] = []
    tokens: list[Token] = []
    for token in raw:
        match token.type:
            case "COMMENT":
                comments.append(_comment(token, source))
            case "STRANGE":
                tokens += _strange(token, source, diagnostics)
            case "FOREIGN_NAME":
                diagnostics.add(
                    "E0101",
                    f"the name `{_shorten(token)}` contains other characters than those of a name",
                    span=token_span(token, source),
                    help="names consist of the letters A to Z and a to z, digits, `_` and primes",
                )
                tokens.append(_like(token, "NAME", "_"))
            case "STRING":
                diagnostics.add("E0101", "there are no strings in this language", span=token_span(token, source))
                tokens.append(_like(token, "INTEGER", "1"))
            case "FOREIGN_OPERATOR":
                meant, advice = _FOREIGN[str(token)]
                span = token_span(token, source)
                diagnostics.add("E0114", f"`{token}` is not an operator of this language", span=span, help=advice)
                if meant is not None:
                    tokens.append(_like(token, *meant))
            case "MALFORMED_NUMBER":
                diagnostics.add(
                    "E0104",
                    f"`{_shorten(token)}` is not a number",
                    span=token_span(token, source),
                    help="numbers are written `42`, `0x3F80`, `0.5` or `2.5e-3`, without a suffix",
                )
                tokens.append(_like(token, "INTEGER", "1"))
            case _:
                tokens.append(token)
    brackets = _match_brackets(tokens, source, diagnostics)
    return Arranged(tokens=tuple(_end_statements(tokens, brackets)), comments=tuple(comments), diagnostics=diagnostics)


def _comment(token: Token, source: SourceText) -> Comment:
    span = token_span(token, source)
    before = source.line(span.line)[: span.column - 1].lstrip("\ufeff")
    return Comment(span=span, text=token.rstrip(), own_line=not before.strip())


def _strange(token: Token, source: SourceText, diagnostics: Diagnostics) -> list[Token]:
    """Report a character that the language does not use; in its stead the operator that it resembles, if any."""
    meant = _SYMBOLS.get(str(token))
    name = unicodedata.name(str(token), "")
    shown = f"`{token}`" if token.isprintable() and not token.isspace() else f"U+{ord(token):04X}"
    if name and not token.isascii():
        shown += f" ({name.lower()})"
    if meant is not None:
        advice = f"write `{meant[1]}`"
    elif token == ".":
        advice = "there are no attributes or methods: a function is called with its argument, `exp(x)`"
    elif token.isspace() or not token.isprintable():
        advice = "only spaces, tabs and line ends separate words"
    else:
        advice = None
    diagnostics.add("E0101", f"{shown} has no meaning here", span=token_span(token, source), help=advice)
    return [] if meant is None else [_like(token, *meant)]


def _like(place: Token, type: str, text: str) -> Token:
    """A token of another kind at the same place."""
    return Token(type, text, start_pos=place.start_pos, end_pos=place.end_pos)


def _shorten(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:29]}…"


@dataclass(slots=True)
class _Brackets:
    """What matching the brackets found, by index of token."""

    dropped: set[int]
    uncounted: set[int]
    close_before: set[int]


def _match_brackets(tokens: Sequence[Token], source: SourceText, diagnostics: Diagnostics) -> _Brackets:
    found = _Brackets(dropped=set(), uncounted=set(), close_before=set())
    stack: list[int] = []

    def unclosed(index: int) -> None:
        found.uncounted.add(index)
        diagnostics.add(
            "E0102",
            f"this `{tokens[index]}` is never closed",
            span=token_span(tokens[index], source),
            help=f"add the missing `{ {'(': ')', '[': ']', '{': '}'}[str(tokens[index])] }`",
        )

    for index, token in enumerate(tokens):
        in_body = any(tokens[each].type == "LBRACE" for each in stack[:1])
        if in_body and len(stack) > 1 and _begins_statement(tokens, index):
            # The next statement cannot stand inside the brackets of this one.
            for each in stack[1:]:
                unclosed(each)
            del stack[1:]
        match token.type:
            case "KERNEL" if stack and _begins_kernel(tokens, index):
                # A kernel cannot stand inside brackets: whatever is open was forgotten.
                if in_body:
                    found.close_before.add(index)
                for each in stack:
                    unclosed(each)
                stack.clear()
            case "LBRACE" if in_body:
                diagnostics.add(
                    "E0106",
                    "a kernel's statements have no blocks of their own",
                    span=token_span(token, source),
                    help="write one Einsum per line, without inner braces",
                )
                found.dropped.add(index)
                stack.append(index)
            case "LBRACE":
                for each in stack:
                    unclosed(each)
                stack[:] = [index]
            case "LPAR" | "LSQB":
                stack.append(index)
                if len(stack) > MAX_BRACKETS:
                    diagnostics.add(
                        "E0109",
                        f"brackets are nested more than {MAX_BRACKETS} levels deep",
                        span=token_span(token, source),
                        help="name a part of the expression by an Einsum or a `let` of its own",
                    )
                    raise diagnostics.error()
            case "RPAR" | "RSQB" | "RBRACE":
                partner = _PARTNER[token.type]
                depth = len(stack) - 1
                while depth >= 0 and tokens[stack[depth]].type not in (partner, "LBRACE"):
                    depth -= 1
                if depth < 0 or tokens[stack[depth]].type != partner:
                    found.dropped.add(index)
                    diagnostics.add(
                        "E0103",
                        f"this `{token}` closes nothing",
                        span=token_span(token, source),
                        help="remove it, or add the bracket that it should close",
                    )
                    continue
                for each in stack[depth + 1 :]:
                    unclosed(each)
                if stack[depth] in found.dropped:
                    found.dropped.add(index)
                del stack[depth:]
            case _:
                pass
    if stack and tokens[stack[0]].type == "LBRACE":
        found.close_before.add(len(tokens))
    for each in stack:
        unclosed(each)
    return found


def _begins_kernel(tokens: Sequence[Token], index: int) -> bool:
    """Whether `kernel name(` stands at the beginning of a line."""
    following = [each.type for each in tokens[index + 1 : index + 3]]
    return following == ["NAME", "LPAR"] and (index == 0 or tokens[index - 1].type == "_NEWLINE")


def _begins_statement(tokens: Sequence[Token], index: int) -> bool:
    """Whether a line begins here that can only be a statement: no expression goes on with `X[m, k] =` or `let M0`."""
    if index == 0 or tokens[index - 1].type != "_NEWLINE" or index + 1 >= len(tokens):
        return False
    following = tokens[index + 1].type
    if tokens[index].type == "LET":
        return following == "NAME"
    if tokens[index].type != "NAME" and tokens[index].type not in _SOFT_WORDS:
        return False
    if following != "LSQB":
        return following == "EQUAL" and not _is_option(tokens, index)
    depth = 0
    for place in range(index + 1, len(tokens) - 1):
        depth += (tokens[place].type == "LSQB") - (tokens[place].type == "RSQB")
        if depth == 0 or tokens[place].type == "_NEWLINE":
            return depth == 0 and tokens[place + 1].type == "EQUAL"
    return False


def _is_option(tokens: Sequence[Token], index: int) -> bool:
    """Whether the line above ends as inside `quant(u4,`, where `group = …` may follow."""
    place = index - 1
    while place >= 0 and tokens[place].type == "_NEWLINE":
        place -= 1
    return place >= 0 and tokens[place].type in ("COMMA", "LPAR")


def _end_statements(tokens: Sequence[Token], brackets: _Brackets) -> list[Token]:
    out: list[Token] = []
    depth = 0
    in_body = False

    def end_statement() -> None:
        if out and out[-1].type not in ("_NEWLINE", "LBRACE"):
            place = out[-1].end_pos
            out.append(Token("_NEWLINE", "\n", start_pos=place, end_pos=place))

    def close_body(place: Token) -> None:
        end_statement()
        out.append(place)
        end_statement()

    following = _next_types(tokens)
    for index, token in enumerate(tokens):
        if index in brackets.close_before:
            place = out[-1].end_pos
            close_body(Token("RBRACE", "}", start_pos=place, end_pos=place))
            depth, in_body = 0, False
        if index in brackets.dropped:
            continue
        match token.type:
            case "_NEWLINE":
                continues = out and (out[-1].type in _CONTINUES_AFTER or following[index] in _CONTINUES_BEFORE)
                if continues and in_body and _begins_statement(tokens, index + 1):
                    continues = False
                if depth == 0 and not continues:
                    end_statement()
                continue
            case "RBRACE":
                depth, in_body = 0, False
                close_body(token)
                continue
            case "LBRACE":
                depth, in_body = 0, True
            case "LPAR" | "LSQB" if index not in brackets.uncounted:
                depth += 1
            case "RPAR" | "RSQB":
                depth -= 1
            case type if type in _SOFT_WORDS and not _is_keyword(type, out, following[index], in_body):
                token = _like(token, "NAME", str(token))
            case _:
                pass
        out.append(token)
    if len(tokens) in brackets.close_before:
        place = out[-1].end_pos
        close_body(Token("RBRACE", "}", start_pos=place, end_pos=place))
    end_statement()
    return out


def _next_types(tokens: Sequence[Token]) -> list[str]:
    """For each token the type of the next one that is no newline."""
    result = [""] * len(tokens)
    following = ""
    for index in range(len(tokens) - 1, -1, -1):
        result[index] = following
        if tokens[index].type != "_NEWLINE":
            following = tokens[index].type
    return result


def _is_keyword(type: str, out: Sequence[Token], following: str, in_body: bool) -> bool:
    """Whether a soft keyword introduces something here, or is a name."""
    previous = out[-1].type if out else "_NEWLINE"
    if type == "CONST":
        return previous in ("LPAR", "COMMA") and (following == "NAME" or following in _SOFT_WORDS)
    if previous not in ("_NEWLINE", "LBRACE"):
        # `@tolerance(1e-2) kernel` on one line.
        return type == "KERNEL" and previous == "RPAR" and not in_body
    return not in_body or following not in ("EQUAL", "LSQB", "COLON")

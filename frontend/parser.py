"""From text to syntax tree.

The grammar is LALR(1) and lives in `grammar.lark`; `layout.py` prepares its tokens. The parser is driven token by
token: when a statement does not parse, its mistake is recorded (`mistakes.py` finds the words), the parser goes back
to the state before the statement and goes on with the next one, so that one call reports all mistakes of a file.
"""

from __future__ import annotations

from lark import Token, Tree, UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser

from ..ir.diagnostics import Diagnostics
from ..ir.span import SourceText
from . import tables
from .build import Builder
from .layout import Arranged, arrange
from .mistakes import Mistake, explain
from .syntax import Program

# A file with so many mistakes is no `.ecs` file; the rest of it is not examined.
_ENOUGH = 100

# Stands in for a kernel header that does not parse, so that the statements below it do.
_PLACEHOLDER_HEADER = (
    ("KERNEL", "kernel"),
    ("NAME", "_"),
    ("LPAR", "("),
    ("RPAR", ")"),
    ("ARROW", "->"),
    ("LPAR", "("),
    ("NAME", "_"),
    ("COLON", ":"),
    ("NAME", "f32"),
    ("RPAR", ")"),
)


def parse(text: str, file: str = "<string>") -> Program:
    """The syntax tree of an `.ecs` file.

    Raises EinfallError with every syntax error of the file (codes E01xx), in the order of the text. `file` is the
    name that spans and messages carry; nothing is read from disk.
    """
    source = SourceText(text, file)
    arranged = tokenize(source)
    program = parse_tokens(arranged, source)
    if not any(tree.data == "kernel" for tree in program.children if isinstance(tree, Tree)):
        arranged.diagnostics.add(
            "E0115",
            "this file defines no kernel",
            span=source.span(0, 0),
            help="a kernel reads `kernel name(X: f32[M]) -> (Y: f32[M]) { … }`",
        )
        raise arranged.diagnostics.error()
    return Builder(source, arranged.comments, arranged.diagnostics).program(program)


def tokenize(source: SourceText) -> Arranged:
    """The tokens of a file as the grammar reads them. Raises EinfallError only where brackets nest too deeply."""
    text = source.text
    # A byte order mark at the very beginning is white space; the length must stay, for the offsets.
    return arrange(tables.parser().lex(" " + text[1:] if text.startswith("\ufeff") else text), source)


def parse_tokens(arranged: Arranged, source: SourceText) -> Tree[Token]:
    """The parse tree of arranged tokens. Raises EinfallError with what `arrange` found and every syntax error."""
    tree = _Run(arranged, source).tree()
    arranged.diagnostics.raise_if_any()
    assert tree is not None
    return tree


class _Run:
    """One walk over the tokens, with a state to return to at the beginning of every statement."""

    def __init__(self, arranged: Arranged, source: SourceText) -> None:
        self._tokens: tuple[Token, ...] = arranged.tokens
        self._diagnostics: Diagnostics = arranged.diagnostics
        self._source = source
        self._layout_errors = [each.span.start for each in arranged.diagnostics.sorted() if each.span is not None]
        self._in_body = False
        self._header_failed = False

    def tree(self) -> Tree[Token] | None:
        tokens = self._tokens
        state = tables.parser().parse_interactive("")
        checkpoint = _fork(state)
        begin = index = 0
        while index < len(tokens):
            token = tokens[index]
            try:
                state.feed_token(token)
            except UnexpectedToken:
                if len(self._diagnostics) >= _ENOUGH:
                    return None
                end = self._end_of_statement(index)
                self._report(checkpoint, begin, index, end)
                state = _fork(checkpoint)
                if tokens[end].type == "LBRACE":
                    for kind, text in _PLACEHOLDER_HEADER:
                        state.feed_token(Token(kind, text))
                    state.feed_token(tokens[end])
                index = end
                token = tokens[end]
            index += 1
            if token.type in ("_NEWLINE", "LBRACE"):
                self._in_body = token.type == "LBRACE" or (self._in_body and tokens[index - 2].type != "RBRACE")
                checkpoint = _fork(state)
                begin = index
        try:
            tree = state.feed_token(Token("$END", ""))
        except UnexpectedToken:
            self._report(checkpoint, begin, index, index)
            return None
        return tree if isinstance(tree, Tree) else None

    def _end_of_statement(self, index: int) -> int:
        while self._tokens[index].type not in ("_NEWLINE", "LBRACE"):
            index += 1
        return index

    def _report(self, checkpoint: InteractiveParser, begin: int, index: int, end: int) -> None:
        """Record why the statement `begin:end` stops making sense at `index`."""
        tokens = self._tokens
        if begin < len(tokens):
            first = tokens[begin].start_pos or 0
            last = tokens[min(end, len(tokens) - 1)].end_pos or 0
            if any(first <= each <= last for each in self._layout_errors):
                return
        state = _fork(checkpoint)
        for token in tokens[begin:index]:
            state.feed_token(token)
        mistake = Mistake(
            statement=tokens[begin:end],
            position=index - begin,
            found=tokens[index] if index < len(tokens) else None,
            following=tokens[index + 1] if index + 1 < len(tokens) else None,
            accepted=frozenset(state.accepts()),  # type: ignore[no-untyped-call]
            in_body=self._in_body,
            source=self._source,
        )
        diagnostic = explain(mistake)
        if diagnostic.code == "E0116" and self._header_failed:
            return
        is_header = not self._in_body and any(token.type == "KERNEL" for token in tokens[begin : begin + 1])
        self._header_failed = is_header and (end >= len(tokens) or tokens[end].type != "LBRACE")
        self._diagnostics.extend([diagnostic])


def _fork(state: InteractiveParser) -> InteractiveParser:
    """A state that can go on without changing this one. What was parsed is shared: it is dropped after any error."""
    fork: InteractiveParser = state.copy(deepcopy_values=False)  # type: ignore[no-untyped-call]
    return fork

"""The canonical format of `.ecs` files.

Works on tokens, not on the syntax tree, so that comments, parentheses and the spelling of numbers survive. Line breaks
inside statements stay where they are, except in the header of a kernel, which has all parameters on one line or one
on each. Blank lines group statements as before (never two in a row); within a group the `=` of the Einsums and their
`::` or `where` clauses are aligned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lark import Token

from ..ir.span import SourceText
from .layout import Arranged, token_span
from .parser import parse_tokens, tokenize
from .spacing import CLOSING, OPENING, Piece, gaps
from .syntax import Comment

_WIDTH = 100
_INDENT = 4
# A left side longer than this does not push the `=` of its neighbours to the right.
_LONG_TARGET = 32
# Clauses begin at least so far behind the expression, and in a common column if that lies within the limit.
_CLAUSE_GAP = " " * 4
_CLAUSE_LIMIT = 72


def format_source(text: str, file: str = "<string>") -> str:
    """The file in its canonical format: the same syntax tree and comments, ending in one newline.

    Idempotent. Raises EinfallError (codes E01xx) where the file does not parse.
    """
    source = SourceText(text, file)
    arranged = tokenize(source)
    parse_tokens(arranged, source)
    rows = [row for block in _spread(list(_blocks(arranged, source))) for row in block]
    _align_comments(rows)
    lines = []
    for index, row in enumerate(rows):
        if row.blank_before and index > 0:
            lines.append("")
        lines.append((" " * row.indent + row.text + row.comment).rstrip())
    return "".join(f"{line}\n" for line in lines)


@dataclass(slots=True, kw_only=True)
class _Row:
    """One line of the result; `comment` comes with the space before it."""

    indent: int
    text: str
    comment: str = ""
    blank_before: bool = False


@dataclass(slots=True, kw_only=True)
class _Block:
    """A statement, a header, a brace or a run of whole-line comments between them."""

    kind: str
    base: int
    pieces: list[Piece] = field(default_factory=list)
    blank_before: bool = False


def _blocks(arranged: Arranged, source: SourceText) -> Iterator[_Block]:
    """The blocks of a file in order, with the user's line breaks and blank lines."""
    base = 0
    line = 0  # of the source, where the piece before ends
    block: _Block | None = None
    for item in _in_order(arranged, source):
        if isinstance(item, Comment):
            if block is not None and (block.pieces or block.kind == "closed") and item.span.line == line:
                block.pieces.append(Piece(type="COMMENT", text=item.text))
            elif block is not None and block.kind == "open":
                block.pieces.append(Piece(type="COMMENT", text=item.text, breaks=True))
            else:
                if block is not None:
                    yield block
                block = _Block(kind="comment", base=base, blank_before=item.span.line > line + 1)
                block.pieces.append(Piece(type="COMMENT", text=item.text))
            line = item.span.end_line
            continue
        span = token_span(item, source)
        if item.type == "_NEWLINE":
            if block is not None:
                block.kind = "closed" if block.kind == "open" else block.kind
            continue
        if item.type == "RBRACE":
            base = 0
        if block is None or block.kind != "open" or item.type in ("KERNEL", "RBRACE"):
            if block is not None:
                yield block
            block = _Block(kind="open", base=base, blank_before=span.line > line + 1)
        previous = block.pieces[-1] if block.pieces else None
        after_comment = previous is not None and previous.type == "COMMENT"
        moved = item.type == "LBRACE" and not after_comment
        breaks = previous is not None and not moved and (after_comment or span.line > line)
        block.pieces.append(Piece(type=item.type, text=str(item), breaks=breaks))
        line = span.end_line
        if item.type == "LBRACE":
            base = _INDENT
            block.kind = "closed"
    if block is not None:
        yield block


def _in_order(arranged: Arranged, source: SourceText) -> Iterator[Token | Comment]:
    """Tokens and comments by position; the end of a statement comes before the comment behind it."""
    comments = iter(arranged.comments)
    comment = next(comments, None)
    for token in arranged.tokens:
        while comment is not None and comment.span.start < (token.start_pos or 0):
            yield comment
            comment = next(comments, None)
        yield token
    while comment is not None:
        yield comment
        comment = next(comments, None)


def _spread(blocks: list[_Block]) -> Iterator[list[_Row]]:
    """The rows of every block, with the Einsums of a group aligned and the blank lines put right."""
    _separate(blocks)
    for block in blocks:
        if block.kind != "comment":
            _tidy_commas(block.pieces)
            if block.pieces[0].type == "KERNEL":
                _tidy_header(block.pieces)
    start = 0
    while start < len(blocks):
        end = start + 1
        if _is_alignable(blocks[start]):
            while end < len(blocks) and _is_alignable(blocks[end]) and not blocks[end].blank_before:
                end += 1
            yield from _aligned(blocks[start:end])
        else:
            yield _rows(blocks[start])
        start = end


def _separate(blocks: Sequence[_Block]) -> None:
    """Blank lines: around every kernel, none at the inner edges of its body."""
    for index, (before, block) in enumerate(pairwise(blocks), start=1):
        first, last = block.pieces[0].type, _last_token(before)
        if last == "LBRACE" or first == "RBRACE":
            block.blank_before = False
        elif last == "RBRACE":
            block.blank_before = True
        elif first == "KERNEL" and before.pieces[0].type == "AT":
            block.blank_before = False
        elif first in ("KERNEL", "AT"):
            # The comment right above a kernel belongs to it.
            top = index
            while top > 0 and not blocks[top].blank_before and blocks[top - 1].kind == "comment":
                top -= 1
            blocks[top].blank_before = True


def _last_token(block: _Block) -> str:
    return next((piece.type for piece in reversed(block.pieces) if piece.type != "COMMENT"), "COMMENT")


def _tidy_commas(pieces: list[Piece]) -> None:
    """Without a line break after it, a trailing comma goes."""
    for index in range(len(pieces) - 2, 0, -1):
        following = pieces[index + 1]
        if pieces[index].type == "COMMA" and following.type in CLOSING and not following.breaks:
            breaks = pieces[index].breaks
            del pieces[index]
            following.breaks = breaks


def _tidy_header(pieces: list[Piece]) -> None:
    """Parameters and results: all on one line where that was so and fits, else one on each."""
    if any(piece.type == "COMMENT" for piece in pieces[:-1]) and _comment_inside(pieces):
        return
    flat = "".join(gap + piece.text for gap, piece in zip(gaps(pieces), pieces, strict=True))
    start = next(index for index, piece in enumerate(pieces) if piece.type == "LPAR")
    end = _partner(pieces, start)
    too_long = len(flat) > _WIDTH and not any(piece.breaks for piece in pieces)
    end += _one_per_line(pieces, start, end, too_long)
    for piece in pieces[end + 1 : end + 3]:
        piece.breaks = False
    _one_per_line(pieces, end + 2, _partner(pieces, end + 2), False)


def _comment_inside(pieces: Sequence[Piece]) -> bool:
    brace = next(index for index, piece in enumerate(pieces) if piece.type == "LBRACE")
    return any(piece.type == "COMMENT" for piece in pieces[:brace])


def _one_per_line(pieces: list[Piece], start: int, end: int, force: bool) -> int:
    """Break the list between the brackets `start` and `end` if it is broken already; how many pieces were added."""
    inside = pieces[start + 1 : end + 1]
    if end == start + 1 or not (force or any(piece.breaks for piece in inside)):
        for piece in inside:
            piece.breaks = False
        return 0
    depth = 0
    for index in range(start + 1, end):
        pieces[index].breaks = depth == 0 and (index == start + 1 or pieces[index - 1].type == "COMMA")
        depth += (pieces[index].type in OPENING) - (pieces[index].type in CLOSING)
    pieces[end].breaks = True
    if pieces[end - 1].type == "COMMA":
        return 0
    pieces.insert(end, Piece(type="COMMA", text=","))
    return 1


def _partner(pieces: Sequence[Piece], start: int) -> int:
    depth = 0
    for index in range(start, len(pieces)):
        depth += (pieces[index].type in OPENING) - (pieces[index].type in CLOSING)
        if depth == 0:
            return index
    raise AssertionError("unbalanced brackets passed the parser")


def _rows(block: _Block) -> list[_Row]:
    """The lines of one block, without alignment."""
    rows: list[_Row] = []
    levels: list[int] = []  # one entry per open bracket: how far it indents the lines below
    opened_here = 0
    spaces = gaps(block.pieces)
    for index, piece in enumerate(block.pieces):
        if index == 0 or piece.breaks:
            indent = block.base
            if index > 0:
                closing = _leading_closers(block.pieces, index)
                kept = levels[: len(levels) - closing]
                indent += sum(kept) if levels else _INDENT
            rows.append(_Row(indent=indent, text="", blank_before=block.blank_before and index == 0))
            opened_here = 0
        row = rows[-1]
        if piece.type == "COMMENT" and row.text:
            row.comment = f"  {piece.text}"
            continue
        gap = "" if not row.text else spaces[index]
        if gap and piece.type in ("REDUCE", "WHERE"):
            gap = _CLAUSE_GAP if _is_first_clause(block.pieces, index) else "  "
        row.text += gap + piece.text
        if piece.type in OPENING:
            levels.append(0 if opened_here else _INDENT)
            opened_here += 1
        elif piece.type in CLOSING:
            levels.pop()
            opened_here = max(0, opened_here - 1)
    return rows


def _leading_closers(pieces: Sequence[Piece], start: int) -> int:
    count = 0
    while start + count < len(pieces) and pieces[start + count].type in CLOSING:
        count += 1
    return count


def _is_first_clause(pieces: Sequence[Piece], index: int) -> bool:
    return pieces[index].type in ("REDUCE", "WHERE") and not any(piece.type in ("REDUCE", "WHERE") for piece in pieces[:index])


def _is_alignable(block: _Block) -> bool:
    """Whether the block is an Einsum on one line."""
    pieces = block.pieces
    return (
        block.kind == "closed"
        and pieces[0].type == "NAME"
        and any(piece.type == "EQUAL" for piece in pieces)
        and not any(piece.breaks for piece in pieces)
    )


def _aligned(blocks: Sequence[_Block]) -> Iterator[list[_Row]]:
    """The rows of consecutive Einsums, with their `=` and their clauses in columns."""
    parts = [_split_einsum(block.pieces) for block in blocks]
    short = [len(target) for target, _, _ in parts if len(target) <= _LONG_TARGET]
    equals = max(short, default=0)
    heads = [f"{target:<{equals}} = {value}" for target, value, _ in parts]
    column = _clause_column(heads, [clause for _, _, clause in parts])
    for block, head, (_, _, clause) in zip(blocks, heads, parts, strict=True):
        text = f"{head:<{column}}{_CLAUSE_GAP}{clause}" if clause else head
        row = _Row(indent=block.base, text=text, blank_before=block.blank_before)
        if block.pieces[-1].type == "COMMENT":
            row.comment = f"  {block.pieces[-1].text}"
        yield [row]


def _clause_column(heads: Sequence[str], clauses: Sequence[str]) -> int:
    """Where the clauses begin: behind all Einsums of the group, else behind those that have one, if there is room."""
    with_clause = [len(head) for head, clause in zip(heads, clauses, strict=True) if clause]
    if max(map(len, heads)) + len(_CLAUSE_GAP) + _INDENT <= _CLAUSE_LIMIT:
        return max(map(len, heads))
    column = max(with_clause, default=0)
    longest = max(map(len, clauses))
    return column if column + len(_CLAUSE_GAP) + longest + _INDENT <= _WIDTH else 0


def _split_einsum(pieces: Sequence[Piece]) -> tuple[str, str, str]:
    """Left side, right side and clauses of an Einsum as text."""
    spaces = gaps(pieces)
    parts = ["", "", ""]
    part = 0
    for gap, piece in zip(spaces, pieces, strict=True):
        if piece.type == "COMMENT":
            break
        if piece.type == "EQUAL" and part == 0:
            part = 1
            continue
        if piece.type in ("REDUCE", "WHERE"):
            gap = "  "
            part = 2
        parts[part] += gap + piece.text
    target, value, clause = (each.strip() for each in parts)
    return target, value, clause


def _align_comments(rows: Sequence[_Row]) -> None:
    """Comments behind the code of adjacent lines begin in one column, where the lines have room for it."""
    start = 0
    while start < len(rows):
        end = start
        while end < len(rows) and rows[end].comment and (end == start or not rows[end].blank_before):
            end += 1
        run = rows[start:end]
        column = max((row.indent + len(row.text) for row in run), default=0)
        if all(column + len(row.comment) <= _WIDTH for row in run):
            for row in run:
                row.text = row.text.ljust(column - row.indent)
        start = max(end, start + 1)

"""Which tokens of an `.ecs` file stand apart: the horizontal half of the canonical format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OPENING = frozenset({"LPAR", "LSQB"})
CLOSING = frozenset({"RPAR", "RSQB"})
_OPERANDS = frozenset({"NAME", "INTEGER", "REAL", "INF", "TRUE", "FALSE"}) | CLOSING
_AFFINE = frozenset({"NAME", "INTEGER", "PLUS", "MINUS", "STAR"})


@dataclass(slots=True, kw_only=True)
class Piece:
    """A token or comment of one statement; `breaks` if it begins a line of its own."""

    type: str
    text: str
    breaks: bool = False


def gaps(pieces: Sequence[Piece]) -> list[str]:
    """For each piece the white space between it and the one before; the first has none."""
    tight = _tight_operators(pieces)
    result = [""] * len(pieces)
    for index in range(1, len(pieces)):
        result[index] = "" if _touches(pieces, index, tight) else " "
    return result


def is_unary_minus(pieces: Sequence[Piece], index: int) -> bool:
    """Whether the minus at `index` has no left operand."""
    return pieces[index].type == "MINUS" and (index == 0 or pieces[index - 1].type not in _OPERANDS)


def _touches(pieces: Sequence[Piece], index: int, tight: frozenset[int]) -> bool:
    before, here = pieces[index - 1].type, pieces[index].type
    if before in OPENING or here in CLOSING or here in ("COMMA", "COLON") or before == "AT":
        return True
    if index in tight or index - 1 in tight:
        return True
    if before == "MINUS" and is_unary_minus(pieces, index - 1):
        return True
    if before == "COLON":
        # `K:128` in a storage type, as opposed to `X: f32` in a declaration.
        return index >= 3 and pieces[index - 3].type == "EQUAL"
    if here in OPENING:
        is_reduction = index >= 2 and pieces[index - 2].type == "REDUCE"
        return before in _OPERANDS or is_reduction
    return False


def _tight_operators(pieces: Sequence[Piece]) -> frozenset[int]:
    """The operators of simple index expressions: `m1+1` is tight, and so is the product in `s*p + r - 1`."""
    tight: set[int] = set()
    starts: list[tuple[str, int]] = []
    for index, piece in enumerate(pieces):
        if piece.type in OPENING:
            starts.append((piece.type, index + 1))
        elif piece.type == "COMMA" or piece.type in CLOSING:
            if starts and starts[-1][0] == "LSQB":
                tight |= _tight_in_index(pieces, starts[-1][1], index)
            if starts and piece.type == "COMMA":
                starts[-1] = (starts[-1][0], index + 1)
            elif starts:
                starts.pop()
    return frozenset(tight)


def _tight_in_index(pieces: Sequence[Piece], start: int, end: int) -> set[int]:
    types = [piece.type for piece in pieces[start:end]]
    if not _AFFINE.issuperset(types):
        return set()
    binary = [
        index
        for index in range(start, end)
        if pieces[index].type in ("PLUS", "MINUS", "STAR") and not is_unary_minus(pieces, index)
    ]
    if len(types) == 3 and types[2] == "INTEGER":
        return set(binary)
    return {index for index in binary if pieces[index].type == "STAR"}

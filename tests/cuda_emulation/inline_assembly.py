"""GNU inline assembly statements of a C++ source: found, taken apart, and the PTX inside split into instructions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

OPENING = re.compile(r"\b(?:asm|__asm__|__asm)\b\s*(?:volatile\b|__volatile__\b)?\s*\(")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
OPERAND = re.compile(r'\s*(?:\[\w+\]\s*)?"([^"]*)"\s*\((.*)\)\s*$', re.DOTALL)
PAIRS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, kw_only=True)
class Operand:
    """`"=r"(expression)`."""

    constraint: str
    expression: str


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One `asm volatile(...)`; `text` is its PTX, `start` and `end` delimit it in the source, with its semicolon."""

    start: int
    end: int
    text: str
    outputs: tuple[Operand, ...]
    inputs: tuple[Operand, ...]


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """`@guard opcode operands;`, a directive (`opcode` begins with a dot) or a label (`opcode` ends with a colon).

    Braces of a scope come as instructions with the opcode `{` or `}`.
    """

    opcode: str
    operands: tuple[str, ...] = ()
    guard: str | None = None

    def __str__(self) -> str:
        return f"{self.opcode} {', '.join(self.operands)}".strip()


def top_level(text: str, separator: str) -> list[str]:
    """Splits at separators that are not inside brackets or string literals."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        if text[i] == '"':
            i = literal_end(text, i)
            continue
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
        elif text[i] == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    return [*parts, text[start:]]


def literal_end(text: str, start: int) -> int:
    """The index after the string literal that begins at `start`."""
    found = LITERAL.match(text, start)
    if found is None:
        raise ValueError("a string literal is not closed")
    return found.end()


def closing(text: str, start: int) -> int:
    """The index after the bracket that closes the one at `start`."""
    depth, i = 0, start
    while i < len(text):
        if text[i] == '"':
            i = literal_end(text, i)
            continue
        depth += (text[i] in "([{") - (text[i] in ")]}")
        i += 1
        if depth == 0:
            return i
    raise ValueError(f"{text[start]} is not closed")


def statements(source: str) -> Iterator[Statement]:
    """The inline assembly statements of a source, in order."""
    position = 0
    while found := OPENING.search(source, position):
        end = closing(source, found.end() - 1)
        body = source[found.end() : end - 1]
        template, *lists = top_level(body, ":")
        text = "".join(LITERAL.findall(template)).replace("\\n", "\n").replace("\\t", " ").replace('\\"', '"')
        after = re.compile(r"\s*;").match(source, end)
        position = after.end() if after else end
        outputs, inputs = (operands(lists[i]) if len(lists) > i else () for i in (0, 1))
        yield Statement(start=found.start(), end=position, text=text, outputs=outputs, inputs=inputs)


def operands(text: str) -> tuple[Operand, ...]:
    found = []
    for part in top_level(text, ","):
        if match := OPERAND.match(part):
            found.append(Operand(constraint=match[1], expression=match[2].strip()))
    return tuple(found)


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions of a PTX text."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    position = 0
    while True:
        position = re.compile(r"[\s;]*").match(text, position).end()  # type: ignore[union-attr]
        if position >= len(text):
            return
        if text[position] in "{}":
            yield Instruction(opcode=text[position])
            position += 1
            continue
        if label := re.compile(r"([\w$%]+)\s*:(?!:)").match(text, position):
            yield Instruction(opcode=f"{label[1]}:")
            position = label.end()
            continue
        end = instruction_end(text, position)
        yield instruction(text[position:end].strip())
        position = end + 1


def instruction_end(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        if text[i] in "[{(":
            depth += 1
        elif text[i] in "]})":
            if depth == 0:  # the end of a scope, after an instruction without a semicolon
                return i - 1
            depth -= 1
        elif text[i] == ";" and depth == 0:
            return i
    return len(text)


def instruction(text: str) -> Instruction:
    guard = None
    if found := re.match(r"@(!?[\w%]+)\s+", text):
        guard, text = found[1], text[found.end() :]
    opcode = re.match(r"\.?[\w.:]+", text)
    if opcode is None:
        raise ValueError(f"not an instruction: {text!r}")
    rest = text[opcode.end() :].strip()
    parts = tuple(" ".join(part.split()) for part in top_level(rest, ",")) if rest else ()
    return Instruction(opcode=opcode[0], operands=parts, guard=guard)

"""PTX of inline assembly as C++ statements: registers, predicates, labels and operands; the instructions are a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from .inline_assembly import Instruction, Statement, instructions, top_level

REGISTER_OF = {"r": "uint32_t", "l": "uint64_t", "h": "uint16_t", "f": "float", "d": "double", "q": "unsigned __int128"}
"""The C++ type of a register, by the letter of its constraint."""

TYPES = {
    "b8": "uint8_t",
    "u8": "uint8_t",
    "s8": "int8_t",
    "b16": "uint16_t",
    "u16": "uint16_t",
    "s16": "int16_t",
    "f16": "uint16_t",
    "bf16": "uint16_t",
    "b32": "uint32_t",
    "u32": "uint32_t",
    "s32": "int32_t",
    "f16x2": "uint32_t",
    "bf16x2": "uint32_t",
    "tf32": "uint32_t",
    "b64": "uint64_t",
    "u64": "uint64_t",
    "s64": "int64_t",
    "f32": "float",
    "f64": "double",
    "pred": "bool",
}
"""The C++ type of a PTX type, as it lies in a register."""

SPECIAL = {
    **{f"{ptx}.{axis}": f"{cpp}.{axis}" for ptx, cpp in {"tid": "threadIdx", "ctaid": "blockIdx"}.items() for axis in "xyz"},
    **{f"{ptx}.{axis}": f"{cpp}.{axis}" for ptx, cpp in {"ntid": "blockDim", "nctaid": "gridDim"}.items() for axis in "xyz"},
    "laneid": "::emulation::lane()",
    "cluster_ctarank": "0u",
    "lanemask_eq": "(1u << ::emulation::lane())",
    "lanemask_lt": "((1u << ::emulation::lane()) - 1u)",
}


class UnsupportedError(Exception):
    """An instruction, a declaration or an operand that the emulator does not model; the text names it."""


@dataclass(kw_only=True)
class Body:
    """One inline assembly statement on its way to C++."""

    line: int
    registers: set[str] = field(default_factory=set)
    labels: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def value(self, operand: str, type: str) -> str:
        """C++ for reading an operand as a PTX type."""
        return f"::emulation::as<{TYPES[type]}>({self.register(operand)})"

    def target(self, operand: str) -> str:
        """C++ for an operand that is written; `_` is a sink."""
        return "::emulation::sink()" if operand == "_" else self.register(operand)

    def register(self, operand: str) -> str:
        operand = operand.strip()
        if found := re.fullmatch(r"%(\d+)", operand):
            return f"operand{found[1]}"
        if (name := operand.lstrip("%")) in self.registers:
            return f"ptx_{name}"
        if (found := re.fullmatch(r"%{1,2}([a-z_]+(?:\.[xyz])?)", operand)) and found[1] in SPECIAL:
            return SPECIAL[found[1]]
        if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand):
            return f"::emulation::as<float>(0x{found[1]}u)"
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", operand):
            return f"int64_t({operand.rstrip('U')})"
        if re.fullmatch(r"-?\d+\.\d*([eE][-+]?\d+)?", operand):
            return f"float({operand})"
        raise UnsupportedError(f"operand {operand!r} at line {self.line}")

    def vector(self, operand: str) -> list[str]:
        """The operands in `{a, b, ...}`, or the one operand."""
        if operand.startswith("{"):
            return [part.strip() for part in top_level(operand[1:-1], ",")]
        return [operand]

    def address(self, operand: str) -> str:
        """C++ for `[register]` or `[register + offset]` as an integer."""
        inner = operand[1:-1].strip()
        base, sign, offset = re.fullmatch(r"([^+-]+)([+-]?)(.*)", inner).groups()  # type: ignore[union-attr]
        return f"({self.register(base)} {sign} {offset.strip()})" if sign else f"({self.register(base)})"

    def shared(self, operand: str) -> str:
        """C++ for `[register]` as an offset into the shared window."""
        return f"uint32_t{self.address(operand)}"

    def pointer(self, operand: str, space: str) -> str:
        """C++ for `[register]` as a pointer, by state space."""
        if space.startswith("shared"):
            return f"::emulation::generic_address({self.shared(operand)})"
        return f"reinterpret_cast<void*>(uintptr_t{self.address(operand)})"


Translator = Callable[[Body, Instruction, re.Match[str]], str]
TABLE: list[tuple[re.Pattern[str], Translator]] = []
"""Opcode patterns and what they become; each module of instructions adds its own."""


def instruction(pattern: str) -> Callable[[Translator], Translator]:
    """Enters a function into the table: (body, instruction, match of its opcode) -> one C++ statement."""

    def enter(function: Translator) -> Translator:
        TABLE.append((re.compile(pattern), function))
        return function

    return enter


def translate(statement: Statement, line: int) -> str:
    """One C++ statement on one line for an inline assembly statement at `line`. Raises UnsupportedError."""
    body = Body(line=line)
    declarations = []
    for number, operand in enumerate([*statement.outputs, *statement.inputs]):
        is_output = number < len(statement.outputs)
        letter = operand.constraint.lstrip("=+&")
        name, expression = f"operand{number}", " ".join(operand.expression.split())
        if is_output:
            declarations.append(f"auto& {name} = ::emulation::view<{of_letter(letter, line)}>({expression});")
        elif letter.isdigit():
            declarations.append(f"operand{letter} = ::emulation::as<std::decay_t<decltype(operand{letter})>>({expression});")
            declarations.append(f"auto& {name} = operand{letter};")
        elif letter in {"n", "i"}:
            declarations.append(f"const int64_t {name} = {expression};")
        else:
            type = of_letter(letter, line)
            declarations.append(f"const {type} {name} = ({type})({expression});")
    for each in instructions(statement.text):
        body.lines.append(one(body, each))
    labels = f"__label__ {', '.join(body.labels)}; " if body.labels else ""
    return f"{{ {labels}{' '.join(declarations)} {' '.join(body.lines)} }}"


def of_letter(letter: str, line: int) -> str:
    if letter not in REGISTER_OF:
        raise UnsupportedError(f"constraint {letter!r} of inline assembly at line {line}")
    return REGISTER_OF[letter]


def one(body: Body, each: Instruction) -> str:
    match each.opcode:
        case "{" | "}":
            return each.opcode
        case ".reg":
            return declaration(body, each)
        case ".pragma":
            return ""
        case opcode if opcode.endswith(":"):
            body.labels.append(f"ptx_{opcode[:-1]}")
            return f"ptx_{opcode[:-1]}: ;"
        case opcode if opcode.startswith("bra"):
            text = f"goto ptx_{each.operands[0]};"
        case _:
            text = looked_up(body, each)
    if each.guard is not None:
        negated, name = each.guard.startswith("!"), each.guard.lstrip("!")
        return f"if ({'!' if negated else ''}{body.register(name)}) {{ {text} }}"
    return text


def declaration(body: Body, each: Instruction) -> str:
    """`.reg .b32 a, b;` and `.reg .f32 x<4>;`."""
    type, first = re.fullmatch(r"\.(?:v\d\s+\.)?(\w+)\s+(.*)", each.operands[0]).groups()  # type: ignore[union-attr]
    if type not in TYPES:
        raise UnsupportedError(f"register of type .{type} at line {body.line}")
    names = []
    for name in (name.strip().lstrip("%") for name in (first, *each.operands[1:])):
        if found := re.fullmatch(r"([\w$]+)<(\d+)>", name):
            names += [f"{found[1]}{i}" for i in range(int(found[2]))]
        else:
            names.append(name)
    body.registers.update(names)
    return f"{TYPES[type]} {', '.join(f'ptx_{name}' for name in names)};"


def looked_up(body: Body, each: Instruction) -> str:
    for pattern, function in TABLE:
        if found := pattern.fullmatch(each.opcode):
            try:
                return function(body, each, found)
            except (IndexError, ValueError, KeyError) as error:
                raise UnsupportedError(f"PTX instruction `{each}` at line {body.line}: form not modelled ({error})") from error
    raise UnsupportedError(f"PTX instruction `{each}` at line {body.line} is not modelled by the emulator")

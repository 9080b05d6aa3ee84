"""CUDA C++ as C++ for g++: inline assembly, shared memory and the kernels' entries are rewritten, all else is headers."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from . import hopper_instructions, instructions, matrix_instructions  # noqa: F401  (they fill the table)
from .inline_assembly import closing, statements, top_level
from .ptx import UnsupportedError, translate

COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
ALIGNMENT = r"(?:(?:__align__|alignas)\s*\(\s*(?P<alignment>\d+)\s*\)\s*)?"
DYNAMIC = re.compile(
    rf"extern\s+(?:__align__\(\d+\)\s*)?__shared__\s+{ALIGNMENT}(?P<type>[\w:]+(?:\s+\w+)*?)\s+(?P<name>\w+)\s*\[\s*\]\s*;"
)
STATIC = re.compile(
    rf"\b(?:static\s+)?__shared__\s+{ALIGNMENT}(?P<type>[\w:]+(?:\s+[\w:]+)*?)\s+(?P<names>\w+\s*(?:\[[^\]]+\]\s*)*(?:,[^;=]+)?);"
)
DECLARATOR = re.compile(r"\s*(\w+)\s*((?:\[[^\]]+\]\s*)*)$")
KERNEL = re.compile(
    r"__global__\s+(?P<before>(?:__launch_bounds__\s*\([^)]*\)\s*)?)void\s+(?P<after>(?:__launch_bounds__\s*\([^)]*\)\s*)?)(?P<name>\w+)\s*\("
)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a kernel: `type` is the C++ type without qualifiers, of the element for a pointer."""

    name: str
    type: str
    is_pointer: bool


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A kernel's name, parameters and the most threads of a block (`__launch_bounds__`, else 1024)."""

    name: str
    parameters: tuple[Parameter, ...]
    most_threads: int


def translated(source: str) -> tuple[str, tuple[Signature, ...]]:
    """(C++ source, its kernels). Lines keep their numbers. Raises UnsupportedError."""
    plain = COMMENT.sub(lambda found: found[0] if found[0][0] == '"' else "\n" * found[0].count("\n") or " ", source)
    kernels = signatures(plain)
    text = shared_memory(without_assembly(plain))
    if found := re.search(r"__shared__[^;]*", text):
        raise UnsupportedError(f"declaration of shared memory: {found[0]!r}")
    entries = "\n".join(
        f'  ::emulation::announce<{kernel.name}>("{kernel.name}", {kernel.name}, {kernel.most_threads});' for kernel in kernels
    )
    register = f'extern "C" __attribute__((visibility("default"))) void emulation_register_kernels() {{\n{entries}\n}}\n'
    return f'#include "kernel.h"\n#line 1 "kernel.cu"\n{text}\n{register}', kernels


def without_assembly(source: str) -> str:
    pieces, position = [], 0
    for statement in statements(source):
        line = source.count("\n", 0, statement.start) + 1
        lines = source.count("\n", statement.start, statement.end)
        pieces += [source[position : statement.start], translate(statement, line), "\n" * lines]
        position = statement.end
    return "".join([*pieces, source[position:]])


def shared_memory(source: str) -> str:
    """Shared arrays become references into the emulator's window."""
    numbers = itertools.count()

    def dynamic(found: re.Match[str]) -> str:
        type, name = found["type"], found["name"]
        lines = "\n" * found[0].count("\n")
        return f"{type}* {name} = static_cast<{type}*>(::emulation::dynamic_shared({found['alignment'] or 16}));{lines}"

    def static(found: re.Match[str]) -> str:
        type, texts = found["type"], []
        for each in top_level(found["names"], ","):
            declarator = DECLARATOR.match(each)
            if declarator is None:
                raise UnsupportedError(f"declaration of shared memory: {found[0]!r}")
            name, extents = declarator[1], declarator[2].strip()
            alignment = found["alignment"] or f"alignof({type})"
            place = f"::emulation::static_shared({next(numbers)}, sizeof({type}{extents}), {alignment})"
            texts.append(f"{type} (&{name}){extents} = *static_cast<{type} (*){extents}>({place});")
        return " ".join(texts) + "\n" * found[0].count("\n")

    return STATIC.sub(static, DYNAMIC.sub(dynamic, source))


def signatures(source: str) -> tuple[Signature, ...]:
    """The kernels that a source defines."""
    kernels: dict[str, Signature] = {}
    for found in KERNEL.finditer(source):
        end = closing(source, found.end() - 1)
        if not source[end:].lstrip().startswith("{"):
            continue
        bounds = re.search(r"\(\s*(\d+)", found["before"] + found["after"])
        listed = [part for part in top_level(source[found.end() : end - 1], ",") if part.strip()]
        kernels[found["name"]] = Signature(
            name=found["name"],
            parameters=tuple(map(parameter, listed)),
            most_threads=int(bounds[1]) if bounds else 1024,
        )
    return tuple(kernels.values())


def parameter(text: str) -> Parameter:
    words = re.sub(r"\b(const|__restrict__|__grid_constant__|volatile)\b|\*", " ", text).split()
    return Parameter(name=words[-1], type=" ".join(words[:-1]), is_pointer="*" in text)


__all__ = ["Parameter", "Signature", "UnsupportedError", "translated"]

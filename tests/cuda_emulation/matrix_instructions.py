"""PTX instructions of the tensor cores at the level of a warp: ldmatrix, stmatrix, mma."""

from __future__ import annotations

import re

from .inline_assembly import Instruction
from .ptx import Body, UnsupportedError, instruction

ELEMENTS = {
    "f16": "F16",
    "bf16": "BF16",
    "tf32": "TF32",
    "e4m3": "E4M3",
    "e5m2": "E5M2",
    "s8": "S8",
    "u8": "U8",
    "s4": "S4",
    "u4": "U4",
}
BITS = {"f16": 16, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8, "s4": 4, "u4": 4}


def values(body: Body, operand: str, name: str) -> str:
    """`const uint32_t name[] = {the bits of the registers in an operand};`"""
    return f"const uint32_t {name}[] = {{{', '.join(body.value(each, 'b32') for each in body.vector(operand))}}};"


def places(body: Body, operand: str, name: str) -> str:
    """`uint32_t* const name[] = {where the registers in an operand are};`"""
    registers = (f"&::emulation::view<uint32_t>({body.register(each)})" for each in body.vector(operand))
    return f"uint32_t* const {name}[] = {{{', '.join(registers)}}};"


@instruction(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16")
def ldmatrix(body: Body, each: Instruction, found: re.Match[str]) -> str:
    transposed = "true" if found[2] else "false"
    call = f"::emulation::ldmatrix({body.line}, {found[1]}, {transposed}, {body.shared(each.operands[1])}, registers);"
    return f"{{ {places(body, each.operands[0], 'registers')} {call} }}"


@instruction(r"stmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16")
def stmatrix(body: Body, each: Instruction, found: re.Match[str]) -> str:
    transposed = "true" if found[2] else "false"
    copies = f"uint32_t kept[] = {{{', '.join(body.value(one, 'b32') for one in body.vector(each.operands[1]))}}};"
    registers = f"uint32_t* const registers[] = {{{', '.join(f'&kept[{i}]' for i in range(int(found[1])))}}};"
    call = f"::emulation::stmatrix({body.line}, {found[1]}, {transposed}, {body.shared(each.operands[0])}, registers);"
    return f"{{ {copies} {registers} {call} }}"


@instruction(r"mma\.sync\.aligned\.m16n8k(\d+)\.row\.col(\.satfinite)?\.(f32|f16|s32)\.(\w+)\.(\w+)\.(f32|f16|s32)")
def mma(body: Body, each: Instruction, found: re.Match[str]) -> str:
    k, sums, a, b = int(found[1]), found[3], found[4], found[5]
    if sums != found[6] or (sums == "s32") != (a[0] in "su") or BITS[a] != BITS[b]:
        raise UnsupportedError(f"PTX instruction `{each.opcode}` at line {body.line} is not modelled by the emulator")
    wide = 4 * 32 // BITS[a]
    counts = [len(body.vector(operand)) for operand in each.operands]
    expected = [2 if sums == "f16" else 4, 2 * k // wide, k // wide, 2 if sums == "f16" else 4]
    if k % wide or counts != expected:
        raise UnsupportedError(f"PTX instruction `{each.opcode}` at line {body.line}: {counts} registers, not {expected}")
    shape = f"{k}, ::emulation::Element::{ELEMENTS[a]}, ::emulation::Element::{ELEMENTS[b]}"
    flags = f"{'true' if sums == 'f16' else 'false'}, {'true' if found[2] else 'false'}"
    operands = " ".join(values(body, each.operands[i], name) for i, name in ((1, "a"), (2, "b"), (3, "c")))
    return (
        f"{{ static const ::emulation::MmaShape shape = {{{shape}, {flags}}}; {operands} {places(body, each.operands[0], 'd')} "
        f"::emulation::mma({body.line}, shape, a, b, c, d); }}"
    )

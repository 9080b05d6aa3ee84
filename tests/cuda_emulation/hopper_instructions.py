"""PTX instructions of sm_90: mbarrier, bulk copies (TMA) and wgmma."""

from __future__ import annotations

import re

from .inline_assembly import Instruction
from .instructions import assign
from .matrix_instructions import BITS, ELEMENTS, places, values
from .ptx import Body, UnsupportedError, instruction

CTA = r"(?:\.(?:shared::cta|shared::cluster|shared))?"
SEMANTICS = r"(?:\.(?:acquire|release|relaxed|cta|cluster))*"


# ---- mbarrier ----
@instruction(rf"mbarrier\.init{CTA}\.b64")
def mbarrier_init(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return f"::emulation::mbarrier_init({body.line}, {body.shared(each.operands[0])}, {body.value(each.operands[1], 'u32')});"


@instruction(rf"mbarrier\.inval{CTA}\.b64")
def mbarrier_inval(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return ";"


@instruction(rf"mbarrier\.expect_tx{SEMANTICS}{CTA}\.b64")
def mbarrier_expect(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return f"::emulation::mbarrier_expect({body.line}, {body.shared(each.operands[0])}, {body.value(each.operands[1], 'u32')});"


@instruction(rf"mbarrier\.arrive(\.expect_tx)?{SEMANTICS}{CTA}\.b64")
def mbarrier_arrive(body: Body, each: Instruction, found: re.Match[str]) -> str:
    address, rest = body.shared(each.operands[1]), each.operands[2:]
    if found[1]:
        expect = f"::emulation::mbarrier_expect({body.line}, {address}, {body.value(rest[0], 'u32')});"
        count = "1u"
    else:
        expect, count = "", body.value(rest[0], "u32") if rest else "1u"
    return f"{expect} {assign(body, each.operands[0], 'b64', f'::emulation::mbarrier_arrive({body.line}, {address}, {count})')}"


@instruction(rf"mbarrier\.(try_wait|test_wait)(\.parity)?{SEMANTICS}{CTA}\.b64")
def mbarrier_wait(body: Body, each: Instruction, found: re.Match[str]) -> str:
    """try_wait may wait as long as it likes: here until the phase is complete. A token of arrive is the phase's parity."""
    address, parity = body.shared(each.operands[1]), body.value(each.operands[2], "u32" if found[2] else "b64")
    if found[1] == "test_wait":
        return assign(body, each.operands[0], "pred", f"::emulation::mbarrier_test({body.line}, {address}, uint32_t({parity}))")
    wait = f"::emulation::mbarrier_wait({body.line}, {address}, uint32_t({parity}));"
    return f"{wait} {assign(body, each.operands[0], 'pred', 'true')}"


# ---- bulk copies ----
def tensor_and_corner(body: Body, operand: str) -> tuple[str, str]:
    """`[map, {c0, c1}]` as (pointer, list of coordinates)."""
    map, corner = re.fullmatch(r"\[\s*(%?\w+)\s*,\s*(\{.*\})\s*\]", operand).groups()  # type: ignore[union-attr]
    coordinates = ", ".join(body.value(each, "s32") for each in body.vector(corner))
    pointer = f"reinterpret_cast<const void*>(uintptr_t({body.register(map)}))"
    return pointer, f"const int32_t corner[] = {{{coordinates}}};"


@instruction(
    r"cp\.async\.bulk\.tensor\.([1-5])d\.shared::(?:cluster|cta)\.global(?:\.tile)?\.mbarrier::complete_tx::bytes(?:\.L2::cache_hint)?"
)
def bulk_tensor_load(body: Body, each: Instruction, found: re.Match[str]) -> str:
    map, corner = tensor_and_corner(body, each.operands[1])
    destination, barrier = body.shared(each.operands[0]), body.shared(each.operands[2])
    call = f"::emulation::bulk_tensor_load({body.line}, {found[1]}, {destination}, {map}, corner, {barrier});"
    return f"{{ {corner} {call} }}"


@instruction(r"cp\.async\.bulk\.tensor\.([1-5])d\.global\.shared::cta(?:\.tile)?\.bulk_group(?:\.L2::cache_hint)?")
def bulk_tensor_store(body: Body, each: Instruction, found: re.Match[str]) -> str:
    map, corner = tensor_and_corner(body, each.operands[0])
    call = f"::emulation::bulk_tensor_store({body.line}, {found[1]}, {map}, corner, {body.shared(each.operands[1])});"
    return f"{{ {corner} {call} }}"


@instruction(r"cp\.async\.bulk\.shared::(?:cluster|cta)\.global\.mbarrier::complete_tx::bytes(?:\.L2::cache_hint)?")
def bulk_load(body: Body, each: Instruction, found: re.Match[str]) -> str:
    destination, barrier = body.shared(each.operands[0]), body.shared(each.operands[3])
    source, size = body.pointer(each.operands[1], "global"), body.value(each.operands[2], "u32")
    return f"::emulation::bulk_load({body.line}, {destination}, {source}, {size}, {barrier});"


@instruction(r"cp\.async\.bulk\.commit_group")
def bulk_commit(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return f"::emulation::bulk_commit({body.line});"


@instruction(r"cp\.async\.bulk\.wait_group(?:\.read)?")
def bulk_wait(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return f"::emulation::bulk_wait({body.line}, {body.value(each.operands[0], 'u32')});"


# ---- wgmma ----
@instruction(r"wgmma\.fence\.sync\.aligned")
def wgmma_fence(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return ";"


@instruction(r"wgmma\.commit_group\.sync\.aligned")
def wgmma_commit(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return f"::emulation::wgmma_commit({body.line});"


@instruction(r"wgmma\.wait_group\.sync\.aligned")
def wgmma_wait(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return f"::emulation::wgmma_wait({body.line}, {body.value(each.operands[0], 'u32')});"


@instruction(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(\d+)\.(f32|s32)\.(\w+)\.(\w+)")
def wgmma(body: Body, each: Instruction, found: re.Match[str]) -> str:
    """Operands: sums, A (descriptor or four registers), B, scale-d, then scale-a, scale-b, transpose-a, transpose-b."""
    n, k, a, b = int(found[1]), int(found[2]), found[4], found[5]
    sums, left, right, scale_d, *flags = each.operands
    in_registers = left.startswith("{")
    scales = [flag.strip() == "-1" for flag in flags[:2]]
    transposes = [flag.strip() == "1" for flag in flags[2:]]
    transposed_a, transposed_b = ([False] * in_registers + transposes + [False, False])[:2]
    if len(body.vector(sums)) != n // 2 or k * BITS[a] != 256 or BITS[a] != BITS[b]:
        raise UnsupportedError(f"PTX instruction `{each.opcode}` at line {body.line}: form not modelled")
    negative_a, negative_b = (*scales, False, False)[:2]
    given = (in_registers, transposed_a, transposed_b, negative_a, negative_b)
    shape = f"{n}, {k}, ::emulation::Element::{ELEMENTS[a]}, ::emulation::Element::{ELEMENTS[b]}, "
    shape += ", ".join("true" if flag else "false" for flag in given) + f", {body.value(scale_d, 'pred')}"
    fragment = values(body, left, "fragment") if in_registers else "const uint32_t* const fragment = nullptr;"
    descriptor = "0" if in_registers else body.value(left, "b64")
    call = f"::emulation::wgmma({body.line}, shape, {descriptor}, {body.value(right, 'b64')}, fragment, sums);"
    return f"{{ const ::emulation::WgmmaShape shape = {{{shape}}}; {fragment} {places(body, sums, 'sums')} {call} }}"

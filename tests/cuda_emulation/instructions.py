"""Scalar PTX instructions: moves, arithmetic, conversions, predicates, loads and stores, atomics, barriers, fences."""

from __future__ import annotations

import re

from .inline_assembly import Instruction
from .ptx import TYPES, Body, instruction

BINARY = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "mul": "*", "div": "/", "rem": "%"}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
UNARY_F32 = {
    "ex2": "exp2f({})",
    "lg2": "log2f({})",
    "rcp": "(1.0f / {})",
    "sqrt": "sqrtf({})",
    "rsqrt": "rsqrtf({})",
    "sin": "sinf({})",
    "cos": "cosf({})",
    "tanh": "tanhf({})",
}
PACKED = {"f16": "__half", "bf16": "__nv_bfloat16"}


def assign(body: Body, operand: str, type: str, expression: str) -> str:
    return f"::emulation::put({body.target(operand)}, {TYPES[type]}({expression}));"


@instruction(r"mov\.(pred|[bsuf]\d+)")
def mov(body: Body, each: Instruction, found: re.Match[str]) -> str:
    type = found[1]
    target, source = body.vector(each.operands[0]), body.vector(each.operands[1])
    if len(target) == len(source) == 1:
        return assign(body, target[0], type, body.value(source[0], type))
    part = {"b32": ("b16", 2), "b64": ("b32", 2)}[type]
    if len(source) == 2:  # packs
        low, high = (body.value(operand, part[0]) for operand in source)
        shift = 16 if type == "b32" else 32
        return assign(body, target[0], type, f"{TYPES[type]}({low}) | {TYPES[type]}({high}) << {shift}")
    shift = 16 if type == "b32" else 32
    whole = body.value(source[0], type)
    parts = [assign(body, target[i], part[0], f"{whole} >> {shift * i}") for i in range(part[1])]
    return " ".join(parts)


@instruction(r"(add|sub|and|or|xor|mul|div|rem)(?:\.(?:lo|rn|full|approx|ftz|sat))*\.([bsuf](?:16|32|64)|pred)")
def binary(body: Body, each: Instruction, found: re.Match[str]) -> str:
    name, type = found[1], found[2]
    a, b = (body.value(operand, type) for operand in each.operands[1:3])
    return assign(body, each.operands[0], type, f"{a} {BINARY[name]} {b}")


@instruction(r"(add|sub|mul|fma|min|max|neg|abs|ex2|tanh)(?:\.(?:rn|ftz|approx|sat|relu|NaN))*\.(b?f16)(x2)?")
def packed(body: Body, each: Instruction, found: re.Match[str]) -> str:
    name, format, lanes = found[1], PACKED[found[2]], 2 if found[3] else 1
    type = f"{found[2]}{found[3] or ''}"
    sources = ", ".join(body.value(operand, type) for operand in each.operands[1:])
    return assign(body, each.operands[0], type, f"::emulation::packed_{name}<{format}, {lanes}>({sources})")


@instruction(r"mul\.wide\.([su])(16|32)")
def mul_wide(body: Body, each: Instruction, found: re.Match[str]) -> str:
    wide = f"{found[1]}{2 * int(found[2])}"
    a, b = (body.value(operand, found[1] + found[2]) for operand in each.operands[1:3])
    return assign(body, each.operands[0], wide, f"{TYPES[wide]}({a}) * {TYPES[wide]}({b})")


@instruction(r"(?:mad\.lo|fma\.rn(?:\.ftz)?(?:\.sat)?)\.([suf](?:32|64))")
def multiply_add(body: Body, each: Instruction, found: re.Match[str]) -> str:
    type = found[1]
    a, b, c = (body.value(operand, type) for operand in each.operands[1:4])
    value = f"std::fma({a}, {b}, {c})" if type.startswith("f") else f"{a} * {b} + {c}"
    return assign(body, each.operands[0], type, value)


@instruction(r"(min|max)(?:\.(?:ftz|NaN))*\.([suf](?:16|32|64))")
def extreme(body: Body, each: Instruction, found: re.Match[str]) -> str:
    name, type = found[1], found[2]
    operands = ", ".join(body.value(operand, type) for operand in each.operands[1:])
    propagates = ".NaN" in each.opcode
    return assign(body, each.operands[0], type, f"::emulation::{name}{'_nan' if propagates else '_of'}({operands})")


@instruction(r"(ex2|lg2|rcp|sqrt|rsqrt|sin|cos|tanh)(?:\.(?:approx|rn|ftz))*\.f32")
def unary(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return assign(body, each.operands[0], "f32", UNARY_F32[found[1]].format(body.value(each.operands[1], "f32")))


@instruction(r"(neg|abs|not)(?:\.ftz)?\.([bsuf](?:16|32|64)|pred)")
def sign(body: Body, each: Instruction, found: re.Match[str]) -> str:
    value = body.value(each.operands[1], found[2])
    text = {"neg": f"-{value}", "abs": f"std::abs({value})", "not": f"!{value}" if found[2] == "pred" else f"~{value}"}[
        found[1]
    ]
    return assign(body, each.operands[0], found[2], text)


@instruction(r"(shl|shr)\.([bsu](?:16|32|64))")
def shift(body: Body, each: Instruction, found: re.Match[str]) -> str:
    value, amount = body.value(each.operands[1], found[2]), body.value(each.operands[2], "u32")
    return assign(body, each.operands[0], found[2], f"::emulation::{found[1]}({value}, {amount})")


@instruction(r"lop3\.b32")
def lop3(body: Body, each: Instruction, found: re.Match[str]) -> str:
    a, b, c, table = (body.value(operand, "b32") for operand in each.operands[1:5])
    return assign(body, each.operands[0], "b32", f"::emulation::lop3({a}, {b}, {c}, {table})")


@instruction(r"prmt\.b32")
def prmt(body: Body, each: Instruction, found: re.Match[str]) -> str:
    a, b, selector = (body.value(operand, "b32") for operand in each.operands[1:4])
    return assign(body, each.operands[0], "b32", f"__byte_perm({a}, {b}, {selector})")


@instruction(r"(popc|clz)\.b32")
def count(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return assign(body, each.operands[0], "u32", f"__{found[1]}({body.value(each.operands[1], 'b32')})")


@instruction(r"dp4a\.([su])32\.([su])32")
def dp4a(body: Body, each: Instruction, found: re.Match[str]) -> str:
    a, b, c = (body.value(operand, type) for operand, type in zip(each.operands[1:4], ("b32", "b32", "s32"), strict=True))
    left, right = ({"s": "int8_t", "u": "uint8_t"}[found[i]] for i in (1, 2))
    return assign(body, each.operands[0], "s32", f"::emulation_dp4a<{left}, {right}>({a}, {b}, {c})")


@instruction(r"setp\.(eq|ne|lt|le|gt|ge|lo|ls|hi|hs)(?:\.ftz)?\.([bsuf](?:16|32|64))")
def setp(body: Body, each: Instruction, found: re.Match[str]) -> str:
    a, b = (body.value(operand, found[2]) for operand in each.operands[1:3])
    return assign(body, each.operands[0], "pred", f"{a} {COMPARE[found[1]]} {b}")


@instruction(r"selp\.([bsuf](?:16|32|64))")
def selp(body: Body, each: Instruction, found: re.Match[str]) -> str:
    a, b = (body.value(operand, found[1]) for operand in each.operands[1:3])
    return assign(body, each.operands[0], found[1], f"{body.value(each.operands[3], 'pred')} ? {a} : {b}")


# ---- conversions ----
@instruction(r"cvt(?:\.(?:rn|rna|rz|rni|rzi|rmi|rpi|ftz|sat|satfinite|relu))*\.([bsuf]\d+|bf16|tf32)\.([bsuf]\d+|bf16)")
def cvt(body: Body, each: Instruction, found: re.Match[str]) -> str:
    to, source = found[1], found[2]
    value = body.value(each.operands[1], source)
    if source in PACKED:
        value = f"float(::emulation::from_bits<{PACKED[source]}>({value}))"
    if to in PACKED:
        return assign(body, each.operands[0], to, f"::emulation::bits_of({PACKED[to]}({value}))")
    if to == "tf32":
        return assign(body, each.operands[0], "b32", f"::emulation::round_to_tf32({value})")
    if to[0] in "su" and (source in PACKED or source[0] == "f"):
        mode = next((each for each in ("rni", "rzi", "rmi", "rpi") if f".{each}" in found[0]), "rzi")
        return assign(body, each.operands[0], to, f"::emulation::to_integer<{TYPES[to]}>(::emulation::{mode}({value}))")
    if ".sat" in each.opcode and to[0] in "su":
        return assign(body, each.operands[0], to, f"::emulation::saturate<{TYPES[to]}>({value})")
    return assign(body, each.operands[0], to, value)


@instruction(r"cvt(?:\.(?:rn|rz|relu|satfinite))*\.(b?f16)x2\.f32")
def cvt_pair(body: Body, each: Instruction, found: re.Match[str]) -> str:
    high, low = (body.value(operand, "f32") for operand in each.operands[1:3])  # the first source is the upper half
    return assign(body, each.operands[0], "b32", f"::emulation::pack<{PACKED[found[1]]}>({low}, {high})")


@instruction(r"cvta(?:\.(to))?\.(shared|global)(?:::cta)?\.u(32|64)")
def cvta(body: Body, each: Instruction, found: re.Match[str]) -> str:
    value = body.value(each.operands[1], "u64")
    if found[2] == "shared" and found[1]:
        value = f"::emulation::shared_address(reinterpret_cast<const void*>({value}))"
    elif found[2] == "shared":
        value = f"uintptr_t(::emulation::generic_address(uint32_t({value})))"
    return assign(body, each.operands[0], f"u{found[3]}", value)


# ---- memory ----
ORDER = r"(?:\.(?:volatile|relaxed|acquire|release|weak|acq_rel|cta|cluster|gpu|sys|mmio))*"
CACHE = r"(?:\.(?:nc|ca|cg|cs|lu|cv|wb|wt|L1::\w+|L2::\w+|unified))*"
SPACE = r"(?:\.(shared(?:::\w+)?|global))?"
PLAIN = r"(?:\.v([24]))?\.([bsuf]\d+)"


@instruction(rf"ld{ORDER}{SPACE}{CACHE}{PLAIN}")
def load(body: Body, each: Instruction, found: re.Match[str]) -> str:
    targets, cpp = body.vector(each.operands[0]), TYPES[found[3]]
    pointer = body.pointer(each.operands[1], found[1] or "")
    puts = " ".join(f"::emulation::put({body.target(target)}, loaded.at[{i}]);" for i, target in enumerate(targets))
    return f"{{ const auto loaded = ::emulation::load<::emulation::Pack<{cpp}, {len(targets)}>>({pointer}); {puts} }}"


@instruction(rf"st{ORDER}{SPACE}{CACHE}{PLAIN}")
def store(body: Body, each: Instruction, found: re.Match[str]) -> str:
    sources, cpp = body.vector(each.operands[1]), TYPES[found[3]]
    values = ", ".join(body.value(source, found[3]) for source in sources)
    pointer = body.pointer(each.operands[0], found[1] or "")
    return f"::emulation::store({pointer}, ::emulation::Pack<{cpp}, {len(sources)}>{{{{{values}}}}});"


@instruction(rf"(red|atom){ORDER}{SPACE}{ORDER}\.(add|min|max|and|or|xor|exch|inc)(?:\.noftz)?\.([bsuf](?:32|64))")
def atomic(body: Body, each: Instruction, found: re.Match[str]) -> str:
    result = found[1] == "atom"
    name = {"exch": "atomicExch", "inc": "atomicInc"}.get(found[3], f"atomic{found[3].capitalize()}")
    cpp = {"u64": "unsigned long long", "b32": "unsigned"}.get(found[4], TYPES[found[4]])
    pointer = f"static_cast<{cpp}*>({body.pointer(each.operands[result], found[2] or '')})"
    value = f"static_cast<{cpp}>({body.value(each.operands[1 + result], found[4])})"
    call = f"{name}({pointer}, {value})"
    return assign(body, each.operands[0], found[4], call) if result else f"{call};"


@instruction(r"(prefetchu?|discard|applypriority|createpolicy|griddepcontrol|nanosleep|setmaxnreg)[\w.:]*")
def hint(body: Body, each: Instruction, found: re.Match[str]) -> str:
    """Performance hints: nothing happens."""
    if found[1] == "createpolicy":
        return assign(body, each.operands[0], "b64", "0")
    return ";"


# ---- barriers ----
@instruction(r"(?:bar|barrier)(?:\.cta)?\.(sync|arrive)(?:\.aligned)?")
def barrier(body: Body, each: Instruction, found: re.Match[str]) -> str:
    operands = [body.value(operand, "u32") for operand in each.operands]
    count = operands[1] if len(operands) > 1 else "(blockDim.x * blockDim.y * blockDim.z)"
    wait = "true" if found[1] == "sync" else "false"
    return f"::emulation::named_barrier({body.line}, {operands[0]}, {count}, {wait});"


@instruction(r"bar\.warp\.sync")
def warp_barrier(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return f"::emulation::warp_barrier({body.line}, {body.value(each.operands[0], 'b32')});"


@instruction(r"fence\.proxy\.async[\w.:]*")
def proxy_fence(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return "::emulation::proxy_fence();"


@instruction(r"(membar|fence(?!\.proxy\.async))[\w.:]*")
def fence(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return "::emulation::fence();"


@instruction(r"shfl\.sync\.(up|down|bfly|idx)\.b32")
def shfl(body: Body, each: Instruction, found: re.Match[str]) -> str:
    kind = {"up": "Up", "down": "Down", "bfly": "Xor", "idx": "Index"}[found[1]]
    value, source, clamp, mask = (body.value(operand, "b32") for operand in each.operands[1:5])
    width = f"::emulation::shuffle_width({clamp})"
    call = f"::emulation::shuffle({body.line}, ::emulation::Shuffle::{kind}, {mask}, {value}, int({source}), {width})"
    return assign(body, each.operands[0], "b32", call)


@instruction(r"activemask\.b32")
def activemask(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return assign(body, each.operands[0], "b32", f"::emulation::active_mask({body.line})")


@instruction(r"elect\.sync")
def elect(body: Body, each: Instruction, found: re.Match[str]) -> str:
    """`elect.sync lane|predicate, mask;`: the lowest lane of the mask is elected."""
    lane, predicate = each.operands[0].split("|")
    mask = body.value(each.operands[1], "b32")
    elected = f"(::emulation::vote({body.line}, ::emulation::Vote::Ballot, {mask}, true), uint32_t(__builtin_ctz({mask})))"
    result = assign(body, predicate, "pred", "elected == ::emulation::lane()")
    return f"{{ const uint32_t elected = {elected}; {assign(body, lane, 'b32', 'elected')} {result} }}"


@instruction(r"redux\.sync\.(add|min|max|and|or|xor)\.([bsu]32)")
def redux(body: Body, each: Instruction, found: re.Match[str]) -> str:
    value, mask = (body.value(operand, "b32") for operand in each.operands[1:3])
    kind, is_signed = found[1].capitalize(), "true" if found[2] == "s32" else "false"
    call = f"::emulation::reduce({body.line}, ::emulation::Reduction::{kind}, {is_signed}, {mask}, {value})"
    return assign(body, each.operands[0], "b32", call)


# ---- cp.async ----
@instruction(r"cp\.async\.c[ag]\.shared(?:::cta)?\.global(?:\.L2::\w+)*")
def cp_async(body: Body, each: Instruction, found: re.Match[str]) -> str:
    destination, source, bytes = body.shared(each.operands[0]), body.pointer(each.operands[1], "global"), each.operands[2]
    size = body.value(bytes, "u32")
    from_source = body.value(each.operands[3], "u32") if len(each.operands) > 3 else size
    return f"::emulation::cp_async({body.line}, {destination}, {source}, {size}, {from_source});"


@instruction(r"cp\.async\.commit_group")
def cp_async_commit(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return "::emulation::cp_async_commit();"


@instruction(r"cp\.async\.wait_group")
def cp_async_wait(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return f"::emulation::cp_async_wait({body.value(each.operands[0], 'u32')});"


@instruction(r"cp\.async\.wait_all")
def cp_async_wait_all(body: Body, each: Instruction, found: re.Match[str]) -> str:
    return "::emulation::cp_async_wait_all();"

"""Vectors of bf16 as words of two elements each: the even ones and the odd ones are widened by one instruction each.

The bits of an element are the upper half of its f32: shifting a word up leaves the even one, clearing its lower half the odd
one. Sixteen elements in a row would have to be spread over the vector first, and then shifted. Who multiplies by words holds
its own elements in the same order: of every ``2 · lanes`` first the even ones, then the odd ones.
"""

from __future__ import annotations

from tvm import tirx

from .vector import first_lanes, lane_type, shuffle, splat, zeros


def load_words(buffer: tirx.Buffer, at: tirx.Expr, count: tirx.Expr | int, lanes: int) -> tirx.Expr:
    """2 · lanes elements of bf16 from ``at`` on as ``lanes`` words; those beyond ``count`` are zero and not read."""
    raw = lane_type("uint16", 2 * lanes)
    address = tirx.address_of(tirx.BufferLoad(buffer, [at]))
    mask = first_lanes(count, 2 * lanes)
    value = tirx.call_llvm_pure_intrin(raw, "llvm.masked.load", address, mask, zeros("uint16", 2 * lanes))
    return tirx.call_intrin(lane_type("uint32", lanes), "tirx.reinterpret", value)


def widened(words: tirx.Expr, half: int, lanes: int) -> tirx.Expr:
    """The even (0) or odd (1) elements of words, in f32."""
    if half == 0:
        bits = words << splat(tirx.IntImm("uint32", 16), lanes)
    else:
        bits = words & splat(tirx.IntImm("uint32", 0xFFFF0000), lanes)
    return tirx.reinterpret(lane_type("float32", lanes), bits)


def parted(first: tirx.Expr, second: tirx.Expr, half: int, lanes: int) -> tirx.Expr:
    """The even (0) or odd (1) elements of two vectors, in order."""
    return shuffle([first, second], range(half, 2 * lanes, 2))

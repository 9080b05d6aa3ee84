"""Flags that a parallel loop asks in every turn are asked before it.

A sum of products with masked elements is a matrix product where the other operand is finite, and is added up element by element
where it isn't: two ways of which the second keeps tiles in shared memory that the first has in registers. Requires: nothing.
Guarantees: where all flags hold, the loop has only what is done then; where the only one does not, only what is done then; of
several flags that do not all hold it is as it was. For GPUs, where the two are kernels of their own, of which one ends at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ...ir.expr import Expr, Op, Read, op, ranks_of
from ...ir.tile import Loop, Node, TileProgram, When, accesses, walk


def unswitched(program: TileProgram) -> TileProgram:
    """The program with two forms of every parallel loop that asks for flags."""
    return replace(program, body=tuple(made for node in program.body for made in _unswitched(node)))


def _unswitched(node: Node) -> Iterator[Node]:
    match node:
        case Loop(parallel=True):
            flags = _flags(node)
            if not flags:
                yield node
                return
            every = _all(flags)
            yield When(condition=every, body=(_with(node, dict.fromkeys(flags, True)),))
            yield When(
                condition=op("not", every), body=(_with(node, dict.fromkeys(flags, False)) if len(flags) == 1 else node,)
            )
        case When(body=body) | Loop(body=body):
            yield replace(node, body=tuple(made for inner in body for made in _unswitched(inner)))
        case _:
            yield node


def _all(flags: list[Read]) -> Expr:
    every: Expr = flags[0]
    for flag in flags[1:]:
        every = op("and", every, flag)
    return every


def _flags(loop: Loop) -> list[Read]:
    """What conditions inside a loop read and nothing inside writes: truth values of the whole call."""
    written = {name for n in walk(loop.body) for name in accesses(n)[1]}
    found: dict[Read, None] = {}
    for node in walk(loop.body):
        match node:
            case When(condition=Read() as flag) if flag.tensor not in written and not ranks_of(flag):
                found[flag] = None
            case _:
                pass
    return list(found)


def _with(loop: Loop, flags: Mapping[Read, bool]) -> Loop:
    """The loop where these flags have these values."""
    return _pruned(replace(loop, body=_where(loop.body, flags)))


def _where(nodes: tuple[Node, ...], flags: Mapping[Read, bool]) -> tuple[Node, ...]:
    """What is left of the nodes where these flags have these values."""
    left: list[Node] = []
    for node in nodes:
        match node:
            case When(condition=Read() as flag, body=body) if flag in flags:
                left += _where(body, flags) if flags[flag] else ()
            case When(condition=Op(op="not", args=(Read() as flag,)), body=body) if flag in flags:
                left += () if flags[flag] else _where(body, flags)
            case When(body=body) | Loop(body=body):
                left.append(replace(node, body=_where(body, flags)))
            case _:
                left.append(node)
    return tuple(left)


def _pruned(loop: Loop) -> Loop:
    """The loop without tiles that nothing touches."""
    used = {name for n in walk(loop.body) for names in accesses(n) for name in names}

    def kept(node: Node) -> Node:
        match node:
            case Loop(body=body, buffers=buffers):
                return replace(node, body=tuple(map(kept, body)), buffers=tuple(b for b in buffers if b.name in used))
            case When(body=body):
                return replace(node, body=tuple(map(kept, body)))
            case _:
                return node

    made = kept(loop)
    assert isinstance(made, Loop)
    return made

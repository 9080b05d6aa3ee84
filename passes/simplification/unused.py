"""Dead code: what no result needs. Parameters stay, used or not: they are the kernel's signature.

An Einsum is dead where no result depends on its tensor; a generation is dead where it is initialised and never read. A size
that only a declared intermediate names stays with it: it is the caller's to give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from ...ir.cascade import Cascade, Let, Role
from ...ir.expr import Expr, sizes_of
from ...ir.flow import Flows


def without_unused(cascade: Cascade) -> Cascade:
    """``cascade`` without the Einsums, tensors and lets that nothing needs; itself where there are none."""
    needed = _needed(cascade)
    einsums = tuple(e for e in cascade.einsums if e.target in needed)
    writers = Counter(e.target for e in einsums)
    if any(n > 2 and cascade.by_name[name].role is not Role.RESULT for name, n in writers.items()):
        unread = _unread_generations(cascade)
        einsums = tuple(e for i, e in enumerate(cascade.einsums) if e.target in needed and i not in unread)
    if len(einsums) == len(cascade.einsums):
        kept = cascade
    else:
        tensors = tuple(t for t in cascade.tensors if t.role is not Role.LOCAL or t.name in needed)
        order = list(dict.fromkeys(e.target for e in einsums))
        fixed = tuple(t for t in tensors if t.role is not Role.LOCAL)
        by_name = {t.name: t for t in tensors}
        locals_ = tuple(by_name[n] for n in order if by_name[n].role is Role.LOCAL)
        kept = replace(cascade, einsums=einsums, tensors=(*fixed, *locals_))
    lets = _used_lets(kept)
    return kept if lets == kept.lets else replace(kept, lets=lets)


def _needed(cascade: Cascade) -> set[str]:
    """The tensors that the results depend on, and those that hold the only mention of a size."""
    read_by: dict[str, set[str]] = {}
    for einsum in cascade.einsums:
        read_by.setdefault(einsum.target, set()).update(r.tensor for r in einsum.reads())
    needed = _reached(read_by, (t.name for t in cascade.tensors if t.role is not Role.LOCAL))
    for tensor in cascade.locals:
        if not tensor.declared or tensor.name in needed:
            continue
        named = {n for t in cascade.tensors if t.name in needed and _states_shape(t.role, t.declared) for n in _sizes(t.shape)}
        if not _free(cascade, tensor.shape) <= named:
            needed |= _reached(read_by, [tensor.name])
    return needed


def _states_shape(role: Role, declared: bool) -> bool:
    return role is not Role.LOCAL or declared


def _reached(read_by: dict[str, set[str]], roots: Iterable[str]) -> set[str]:
    found: set[str] = set()
    stack = list(roots)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(read_by.get(name, ()))
    return found


def _free(cascade: Cascade, exprs: Iterable[Expr]) -> set[str]:
    return _sizes(exprs) & set(cascade.sizes)


def _sizes(exprs: Iterable[Expr]) -> set[str]:
    return {n for e in exprs for n in sizes_of(e)}


def _unread_generations(cascade: Cascade) -> set[int]:
    """Initialisers of generations that no Einsum reads, of tensors that have others and are no results."""
    flows = Flows(cascade)
    found: set[int] = set()
    for name, writers in flows.writers.items():
        if len(writers) < 3 or cascade.by_name[name].role is Role.RESULT:
            continue
        initialisers = [i for i in writers if cascade.einsums[i].initialiser]
        unread = [i for i in initialisers if not flows.is_read(i)]
        if len(unread) < len(initialisers):
            found.update(unread)
    return found


def _used_lets(cascade: Cascade) -> tuple[Let, ...]:
    """The derived sizes that something names, themselves or through others."""
    if not cascade.lets:
        return ()
    exprs: list[Expr] = [n for t in cascade.tensors for n in t.shape]
    exprs += [s for t in cascade.tensors for s in t.steps if s is not None]
    exprs += [x for e in cascade.einsums for x in (*e.expressions(), *(r.extent for r in e.ranks))]
    exprs += [r.condition for r in cascade.requires]
    wanted = _sizes(exprs)
    for let in reversed(cascade.lets):
        if let.name in wanted:
            wanted |= set(sizes_of(let.value))
    return tuple(let for let in cascade.lets if let.name in wanted)

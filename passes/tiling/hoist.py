"""Costly values that the steps of a recurrence share are computed once, as Einsums of their own.

``S[t+1, e, f] = exp(G[t, e]) * S[t, e, f] + …`` evaluates the exponential at every f; ``A[t, e] = exp(G[t, e])`` does so once,
and vectors go along e. What does not mention the step at all moves out of the loop.

Requires: a verified cascade. Guarantees: values are computed as before, only fewer times; a value that may be absent stays.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.cascade import Cascade, Einsum, Origin, Tensor
from ...ir.dependence import Loop, einsums_of
from ...ir.expr import Cast, Expr, Op, Read, Size, children, rank, ranks_of, reads_of, walk, with_children
from ...ir.operators import FUNCTIONS
from ..analysis.structure import Structure
from ..construct import einsum, local, rewritten
from ..names import Names

COSTLY = 10
"""Operations from which a value is worth a tensor: every transcendental function is."""


def hoisted(cascade: Cascade) -> Cascade:
    """``cascade`` with the costly values of its recurrences that lack a rank of their Einsum as Einsums of their own."""
    structure = Structure(cascade)
    loops = [step for step in structure.steps if isinstance(step, Loop)]
    if not loops:
        return cascade
    return _Hoisting(structure, {i for loop in loops for i in einsums_of(loop)}).cascade()


class _Hoisting:
    def __init__(self, structure: Structure, members: set[int]) -> None:
        self.structure = structure
        self.members = members
        self.names = Names(structure.cascade)
        self.carried = {structure.cascade.einsums[i].target for i in members}
        self.tensors: dict[str, Tensor] = {}
        self.known: dict[tuple[object, ...], Read] = {}
        self.made: list[Einsum] = []

    def cascade(self) -> Cascade:
        result: list[Einsum] = []
        for i, written in enumerate(self.structure.cascade.einsums):
            self.made = []
            value = self._without(written.value, written) if i in self.members and written.reduction is None else written.value
            result += [*self.made, written if value is written.value else replace(written, value=value)]
        return rewritten(self.structure.cascade, tuple(result), self.tensors) if self.tensors else self.structure.cascade

    def _without(self, value: Expr, source: Einsum) -> Expr:
        """``value`` with the largest costly parts that lack a rank of ``source`` read from tensors."""
        old = children(value)
        if self._moves(value, source):
            return self._tensor(value, source)
        if isinstance(value, Read):
            return value
        new = tuple(self._without(c, source) for c in old)
        return value if all(a is b for a, b in zip(old, new, strict=True)) else with_children(value, new)

    def _moves(self, value: Expr, source: Einsum) -> bool:
        names = ranks_of(value)
        if not names or len(names) >= len(source.ranks) or not value.dtype.is_float or value.dtype.bits < 32:
            return False
        if sum(FUNCTIONS[n.op].flops for n in walk(value) if isinstance(n, Op)) < COSTLY:
            return False
        if any(r.tensor in self.carried for r in reads_of(value)) or not _indexed(value):
            return False
        return self.structure.always_present(value, {r.name: r.extent for r in source.ranks})

    def _tensor(self, value: Expr, source: Einsum) -> Read:
        """The tensor of a value; its own parts that lack one of its ranks come first."""
        names = ranks_of(value)
        extents = {r.name: r.extent for r in source.ranks}
        key = (value, *(extents[n] for n in names))
        if key not in self.known:
            coords = tuple(rank(r.name) for r in source.ranks if r.name in names)
            origin = Origin(span=source.origin.span, made_by="hoist:value")
            whole = einsum(target=source.target, coords=coords, value=value, extents=extents, origin=origin)
            inner = with_children(value, tuple(self._without(c, whole) for c in children(value)))
            made = replace(whole, target=self.names.tensor(f"{source.target}_part"), value=inner)
            shape = tuple(extents[c.name] for c in coords)
            self.tensors[made.target] = local(made.target, value.dtype, shape, origin, declared=True)
            self.made.append(made)
            self.known[key] = Read(tensor=made.target, indices=coords, dtype=value.dtype)
        return self.known[key]


def _indexed(value: Expr) -> bool:
    """Whether a value is made of reads and arithmetic alone, so that all of its ranks come from reads."""
    from_reads = {name for r in reads_of(value) for i in r.indices for name in ranks_of(i)}
    return from_reads == {*ranks_of(value)} and not any(isinstance(n, Cast) and isinstance(n.value, Size) for n in walk(value))

"""Which loops over an iterative rank are linear recurrences ``S[t+1] = a[t] ⊗ S[t] ⊕ b[t]``, and why the others are not.

Where ⊗ distributes over ⊕ such a loop is a scan of the associative operator (a, b)·(a', b') = (a' ⊗ a, a' ⊗ b ⊕ b') and may be
cut into chunks (Blelloch, CMU-CS-90-190, section 1.4). Several states that mix with one another, element by element, have a
small matrix for a (a complex state, written as two real ones).

Requires: a verified cascade. Guarantees: nothing is changed; a refusal says which condition failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.cascade import Cascade, Einsum, Role
from ...ir.dependence import Loop, Straight, einsums_of, schedule
from ...ir.expr import Const, Expr, Rank, Read, rank, ranks_of, reads_of, substitute, transform
from ...ir.index import affine, equal
from ...ir.printer import expr_to_source
from ...ir.tile import Decision
from ...ir.types import F32
from .linear import NotLinearError, Semiring, linear, semirings

MADE_BY = "chunk"

SEQUENTIAL = "one step after the other"
"""What is chosen where the steps are not cut into chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One state of a recurrence: ``tensor`` at generation t + 1 is ``⊕ over l of coefficients[l] ⊗ l[t] ⊕ input``.

    ``update`` and ``start`` are its Einsums, ``dim`` the iterative dimension. A coefficient of None is the identity of ⊗, an
    input of None that of ⊕; expressions are in the rank variables of the update.
    """

    tensor: str
    dim: int
    update: int
    start: int
    coefficients: Mapping[str, Expr | None] = field(hash=False)
    input: Expr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """One loop over an iterative rank. ``refusal`` is None where it is a scan of ``ring``; else there are no ``states``.

    ``names`` are the tensors that are carried from step to step, ``variable`` the rank variable that counts ``extent`` steps,
    ``members`` the Einsums of the loop.
    """

    names: tuple[str, ...]
    variable: str
    extent: Expr
    members: tuple[int, ...]
    ring: Semiring | None = None
    states: tuple[State, ...] = ()
    refusal: str | None = None

    def decision(self) -> Decision:
        """What was found, for ``kernel.explain()``."""
        subject = f"the recurrence of {', '.join(self.names)} over {self.variable}"
        if self.ring is None or self.refusal is not None:
            return Decision(made_by=MADE_BY, subject=subject, chosen=SEQUENTIAL, because=self.refusal or "")
        ring = self.ring
        factors = [
            f"`{state.tensor}` = "
            + " ⊕ ".join(
                f"({expr_to_source(ring.one(F32) if f is None else f)}) ⊗ {name}" for name, f in state.coefficients.items()
            )
            for state in self.states
        ]
        because = f"in the semiring {self.ring}, {'; '.join(factors)} ⊕ what does not depend on the state: an associative scan"
        return Decision(made_by=MADE_BY, subject=subject, chosen="may be cut into chunks", because=because)


def recurrences(cascade: Cascade) -> tuple[Recurrence, ...]:
    """The outermost loops over iterative ranks, in the order of the schedule, recognised or refused."""
    return tuple(_recognise(cascade, step) for step in schedule(cascade) if isinstance(step, Loop))


def shift(index: Expr) -> tuple[str, int] | None:
    """(v, c) where an index is ``v + c`` for a rank variable v and an integer c."""
    form = affine(index)
    moved = None if form is None else form.shifted_rank
    if moved is None or not isinstance(moved[1], Const):
        return None
    return moved[0], int(moved[1].value)


class _RefusalError(Exception):
    """Why a loop is no scan."""


def _recognise(cascade: Cascade, loop: Loop) -> Recurrence:
    members = einsums_of(loop)
    carried = tuple(dict.fromkeys(e.target for e in (cascade.einsums[i] for i in members) if _is_state(cascade, e.target)))
    first = next((i for i in members if cascade.einsums[i].target in carried), members[0])
    found = Recurrence(names=carried, variable=loop.variables[first], extent=loop.extent, members=members)
    try:
        ring, states = _Loop(cascade, loop, carried).scan()
    except _RefusalError as refusal:
        return Recurrence(names=carried, variable=found.variable, extent=loop.extent, members=members, refusal=str(refusal))
    return Recurrence(names=carried, variable=found.variable, extent=loop.extent, members=members, ring=ring, states=states)


def _is_state(cascade: Cascade, tensor: str) -> bool:
    return bool(cascade.by_name[tensor].iterative_dims)


class _Loop:
    """The analysis of one loop."""

    def __init__(self, cascade: Cascade, loop: Loop, carried: tuple[str, ...]) -> None:
        self.cascade = cascade
        self.loop = loop
        self.carried = carried
        self.lets = {let.name: let.value for let in cascade.lets}
        self.writer = {cascade.einsums[i].target: i for i in einsums_of(loop)}

    def scan(self) -> tuple[Semiring, tuple[State, ...]]:
        if not self.carried:
            raise _RefusalError("its first generation is absent, not written")
        if self.loop.reverse:
            raise _RefusalError("it runs from the last generation to the first")
        if any(not isinstance(step, Straight) for step in self.loop.body):
            raise _RefusalError("each step holds a loop over another iterative rank")
        for i in einsums_of(self.loop):
            if not equal(self.cascade.einsums[i].extent(self.loop.variables[i]), self.loop.extent, self.lets):
                raise _RefusalError("its Einsums have different numbers of steps")
        places = {name: self._place(name) for name in self.carried}
        values = {name: self._value(name, places) for name in self.carried}
        problem: NotLinearError | None = None
        for ring in semirings():
            try:
                return ring, tuple(self._state(n, places, values[n], ring) for n in self.carried)
            except NotLinearError as found:
                problem = problem or found
        assert problem is not None
        raise _RefusalError(str(problem))

    def _place(self, name: str) -> tuple[int, int, int]:
        """(iterative dimension, update, initialiser) of a state. Raises where they are not of the simple form."""
        tensor = self.cascade.by_name[name]
        if len(tensor.iterative_dims) != 1:
            raise _RefusalError(f"`{name}` is iterative along several ranks")
        if tensor.role is Role.RESULT:
            raise _RefusalError(f"all generations of `{name}` are a result")
        if tensor.value.is_float and tensor.value.bits < 32:
            raise _RefusalError(f"`{name}` is rounded to {tensor.value} in every step")
        (dim,) = tensor.iterative_dims
        update = self.writer[name]
        einsum = self.cascade.einsums[update]
        starts = [i for i, e in enumerate(self.cascade.einsums) if e.target == name and i != update]
        if einsum.reduction is not None or einsum.scatter or einsum.point_filter or einsum.output_filter:
            raise _RefusalError(f"the update of `{name}` reduces or filters")
        if len(starts) != 1 or not _starts(self.cascade.einsums[starts[0]], dim):
            raise _RefusalError(f"`{name}` has no single initialiser of all of its first generation")
        others = [c for d, c in enumerate(einsum.coords) if d != dim]
        step = shift(einsum.coords[dim])
        if not all(isinstance(c, Rank) for c in others) or len({*others}) < len(others) or step is None or step[1] != 1:
            raise _RefusalError(f"`{name}` is not written at one generation after the other")
        return dim, update, starts[0]

    def _value(self, name: str, places: Mapping[str, tuple[int, int, int]]) -> Expr:
        """The update of a state with what the loop computes besides put in: states of the new generation, pointwise Einsums."""

        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in self.writer:
                return None
            einsum = self.cascade.einsums[self.writer[node.tensor]]
            if node.tensor in places:
                at = shift(node.indices[places[node.tensor][0]])
                if at is None or at[1] != 1:
                    return None
            elif einsum.reduction is not None or not all(isinstance(c, Rank) for c in einsum.coords):
                return None
            ranks = {c.name: i for d, (c, i) in enumerate(zip(einsum.coords, node.indices, strict=True)) if isinstance(c, Rank)}
            if node.tensor in places:
                at = shift(node.indices[places[node.tensor][0]])
                assert at is not None
                ranks[self.loop.variables[self.writer[node.tensor]]] = rank(at[0])
            if einsum.point_filter or einsum.output_filter:
                return None
            return transform(substitute(einsum.value, ranks=ranks), rule)

        return transform(self.cascade.einsums[self.writer[name]].value, rule)

    def _state(self, name: str, places: Mapping[str, tuple[int, int, int]], value: Expr, ring: Semiring) -> State:
        dim, update, start = places[name]
        einsum = self.cascade.einsums[update]
        if value.dtype != self.cascade.by_name[name].value:
            raise NotLinearError(f"`{name}` is converted to {self.cascade.by_name[name].value} in every step")
        sums = [r for r in reads_of(value) if r.tensor in self.writer and r.tensor not in places]
        for read in reads_of(value):
            if read.tensor in places and (problem := self._misplaced(read, einsum, dim, places)) is not None:
                raise _RefusalError(problem)
        form = linear(value, {*places, *(r.tensor for r in sums)}, ring)
        if sums:
            through = self.cascade.einsums[self.writer[sums[0].tensor]]
            raise _RefusalError(
                f"`{name}` reaches itself through `{sums[0].tensor}`, which reduces {', '.join(through.reduced) or 'nothing'}: "
                "the transition is a matrix, and products of matrices over a chunk cost more than the steps"
            )
        return State(
            tensor=name,
            dim=dim,
            update=update,
            start=start,
            coefficients={r.tensor: f for r, f in form.coefficients.items()},
            input=form.rest,
        )

    def _misplaced(self, read: Read, einsum: Einsum, dim: int, places: Mapping[str, tuple[int, int, int]]) -> str | None:
        """What is wrong with a read of a state in an update: it must be the element itself, one generation before."""
        wanted = list(einsum.coords)
        wanted[dim] = Rank(name=self.loop.variables[self.writer[einsum.target]], dtype=wanted[dim].dtype)
        if places[read.tensor][0] == dim and read.indices == tuple(wanted):
            return None
        target = Read(tensor=einsum.target, indices=einsum.coords, dtype=read.dtype)
        return (
            f"`{expr_to_source(target)}` reads `{expr_to_source(read)}`, another element of the state: "
            "the transition is a matrix, and products of matrices over a chunk cost more than the steps"
        )


def _starts(einsum: Einsum, dim: int) -> bool:
    """Whether an initialiser gives all of generation 0 at distinct rank variables."""
    others = [c for d, c in enumerate(einsum.coords) if d != dim]
    plain = all(isinstance(c, Rank) for c in others) and len({*others}) == len(others)
    at = einsum.coords[dim]
    return (
        plain
        and isinstance(at, Const)
        and at.value == 0
        and not einsum.scatter
        and einsum.reduction is None
        and not (einsum.output_filter or einsum.point_filter)
        and not set(ranks_of(at))
    )

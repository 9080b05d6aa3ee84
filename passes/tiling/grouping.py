"""Groups Einsums that share their outer loops, so that what passes between them stays in a thread's cache.

A group is a run of consecutive steps with at least one independent rank in common (``independent.py``): the group becomes
one parallel loop over tiles of those ranks. The parts of a split form (``split.py``) stay one of them: what merges the parts
begins the next group. Within it the loops over one iterative rank merge, and the Einsums that feed them
tile by tile join them (the online form of attention: one loop over the tiles of the keys).

Requires: a schedule. Guarantees: the order of dependent Einsums is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.cascade import Cascade
from ...ir.dependence import Loop, Step, Straight, einsums_of
from ...ir.expr import Const, Expr, Op, Rank, Size, integer, ranks_of, size, sizes_of, walk
from ...ir.index import affine, equal
from ..analysis.ranks import RankClass, rank_classes, split_index
from . import contraction
from .columns import go_down_columns
from .independent import Independent, independent_classes
from .siblings import is_linked, loop_variables, may_share, passed_ranks

DEEPEST_SHARED = 512
"""The largest inner extent of a product whose right operand every tile packs anew: beyond it packing costs too much."""

LARGEST_WEIGHTS = 1 << 19
"""Bytes of a tensor that every step of a recurrence may read in every thread: they stay in the second-level cache."""

CARRIES = ("chunk:state", "chunk:carry", "chunk:weights", "chunk:past", "chunk:local")
"""Who made the Einsums that carry a state from chunk to chunk, or from step to step of one chunk by itself
(``recurrences/chunk_products.py``, ``chunk_scan.py``)."""

FREE_WIDTH = 512
"""What a free size of such a tensor is taken to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedLoop:
    """A merged loop: the variable of each Einsum of its body, in order, and what comes before and after it."""

    variables: Mapping[int, str] = field(hash=False)
    dims: Mapping[str, int] = field(hash=False)
    extent: Expr
    reverse: bool
    before: tuple[int, ...]
    body: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Steps that share the independent ranks ``classes``; ``sequence`` is their merged loop, if they have one."""

    steps: tuple[Step, ...]
    classes: tuple[Independent, ...]
    sequence: MergedLoop | None = None

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(i for step in self.steps for i in einsums_of(step))


def form_groups(cascade: Cascade, steps: tuple[Step, ...], alone: frozenset[int], *, on_gpu: bool = False) -> list[Group]:
    """The groups in order. Einsums of ``alone`` (scatters, stored masks) keep to themselves."""
    groups: list[Group] = []
    current: list[Step] = []
    classes: list[Independent] = []
    ranks = rank_classes(cascade)
    passed = passed_ranks(cascade, ranks, steps)
    units = [*_units(cascade, steps)]
    for unit, after in zip(units, [*units[1:], None], strict=True):
        members = [i for step in unit for i in einsums_of(step)]
        joined: list[Independent] = []
        if on_gpu and any(isinstance(step, Loop) and _goes_over_chunks(cascade, step) for step in unit):
            # The threads of a launch take all steps of such a loop with them; one over the chunks waits for all of these.
            if current:
                groups.append(_finished(cascade, current, classes))
            groups.append(_finished(cascade, unit, []))
            current, classes = [], []
            continue
        if current and not alone & set(members):
            joined = _joint(cascade, [*current, *unit], ranks)
        if joined and rereads_weights(cascade, [*current, *unit], joined):
            joined = []
        if joined and not is_linked(cascade, current, unit):
            apart = [*classes, *_joint(cascade, unit, ranks)]
            joined = joined if may_share(cascade, [*current, *unit], apart, joined, passed) else []
        if joined and on_gpu and _spreads(cascade, current, unit, joined):
            joined = []
        if joined and on_gpu and go_down_columns(cascade, [*current, *unit], joined, few(cascade)):
            joined = []
        if on_gpu and current and any(numbers_chunks(cascade, c) for c in (*classes, *_joint(cascade, unit, ranks))):
            joined = _of_a_chunk(cascade, [*current, *unit], ranks)
        if joined and after is not None and _parts_from_reader(cascade, current, unit, after, ranks):
            joined = []
        if joined and _keeps_parts(cascade, classes, joined) and _worth(cascade, [*current, *unit], joined):
            current += unit
            classes = joined
            continue
        if current:
            groups.append(_finished(cascade, current, classes))
        current = unit
        classes = [] if alone & set(members) else _joint(cascade, current, ranks)
        if rereads_weights(cascade, current, classes):
            classes = []
    if current:
        groups.append(_finished(cascade, current, classes))
    return groups


def _goes_over_chunks(cascade: Cascade, loop: Loop) -> bool:
    """Whether a loop carries a state from chunk to chunk of a recurrence, or through the steps of each."""
    return any(cascade.einsums[i].origin.made_by in CARRIES for i in einsums_of(loop))


def numbers_chunks(cascade: Cascade, found: Independent) -> bool:
    """Whether a rank numbers the chunks of a recurrence."""
    lets = {let.name: let.value for let in cascade.lets}
    for i, variable in found.variables.items():
        einsum = cascade.einsums[i]
        if not (einsum.origin.made_by or "").startswith("chunk:"):
            continue
        for node in (node for expr in einsum.expressions() for node in walk(expr)):
            pair = split_index(node, einsum, lets)
            if pair is not None and pair[0] == variable:
                return True
    return False


def _of_a_chunk(cascade: Cascade, steps: Sequence[Step], ranks: Sequence[RankClass]) -> list[Independent]:
    """The ranks that all of these steps share, if they include the one that numbers the chunks of a recurrence: a thread block
    does all of a chunk."""
    joined = _joint(cascade, steps, ranks)
    return joined if any(numbers_chunks(cascade, c) for c in joined) else []


def _parts_from_reader(
    cascade: Cascade, current: Sequence[Step], unit: Sequence[Step], after: Sequence[Step], ranks: Sequence[RankClass]
) -> bool:
    """Whether a loop could share a group with what reads its states step by step, but not beside ``current``.

    Apart from its reader all generations of a state would have to be kept.
    """
    if any(isinstance(step, Loop) for step in current) or not any(isinstance(step, Loop) for step in unit):
        return False
    written = {cascade.einsums[i].target for step in unit for i in einsums_of(step)}
    read = {r.tensor for step in after for i in einsums_of(step) for r in cascade.einsums[i].reads()}
    return (
        not written.isdisjoint(read)
        and not _joint(cascade, [*current, *unit, *after], ranks)
        and bool(_joint(cascade, [*unit, *after], ranks))
    )


def _spreads(cascade: Cascade, current: Sequence[Step], unit: Sequence[Step], joined: Sequence[Independent]) -> bool:
    """Whether a unit goes through all positions of a rank whose parts ``current`` merges: they are for all thread blocks, and
    the merge for few."""
    numbers = few(cascade)
    lets = {let.name: let.value for let in cascade.lets}
    members = [cascade.einsums[i] for step in current for i in einsums_of(step)]
    merged = [e.extent(r) for e in members for r in e.reduced if e.extent(r) in numbers]
    cut = {name for extent in merged if isinstance(extent, Size) for name in sizes_of(lets[extent.name])}
    for i in (i for step in unit for i in einsums_of(step)):
        einsum, own = cascade.einsums[i], {c.variables[i] for c in joined}
        if einsum.reduction is None and any(r.name not in own and cut & set(sizes_of(r.extent)) for r in einsum.ranks):
            return True
    return False


def _units(cascade: Cascade, steps: tuple[Step, ...]) -> Iterator[list[Step]]:
    """The steps one by one, each initialiser together with the first step that touches its tensor."""
    waiting: list[Step] = []
    for step in steps:
        if isinstance(step, Straight) and cascade.einsums[step.einsum].initialiser:
            waiting.append(step)
            continue
        members = einsums_of(step)
        touched = {cascade.einsums[i].target for i in members}
        touched |= {r.tensor for i in members for r in cascade.einsums[i].reads()}
        ready = [w for w in waiting if cascade.einsums[einsums_of(w)[0]].target in touched]
        waiting = [w for w in waiting if w not in ready]
        yield [*ready, step]
    for step in waiting:
        yield [step]


def _joint(cascade: Cascade, steps: Sequence[Step], ranks: Sequence[RankClass]) -> list[Independent]:
    members = [i for step in steps for i in einsums_of(step)]
    iterative = {(i, v) for step in steps for i, v in loop_variables(step)}
    found = independent_classes(cascade, members, ranks=ranks)
    return [c for c in found if not any((i, v) in iterative for i, v in c.variables.items())]


def _finished(cascade: Cascade, steps: list[Step], classes: list[Independent]) -> Group:
    group = Group(steps=tuple(steps), classes=tuple(classes))
    return replace(group, sequence=_merged(cascade, group))


def few(cascade: Cascade) -> frozenset[Expr]:
    """The sizes that a constant bounds, as ``let M2 = min(…, 8)`` does: what they count is few."""
    found = {size(let.name): let.value for let in cascade.lets}
    return frozenset(s for s, v in found.items() if isinstance(v, Op) and v.op == "min" and Const in map(type, v.args))


def is_parts(cascade: Cascade, found: Independent) -> bool:
    """Whether a rank numbers the parts of a longer one: they are few, and it moves some index by more than one."""
    if found.extent not in few(cascade):
        return False
    for i, variable in found.variables.items():
        for read in cascade.einsums[i].reads():
            for index in read.indices:
                form = None if variable not in ranks_of(index) else affine(index)
                if form is not None and form.coefficient(variable) != integer(1):
                    return True
    return False


def _keeps_parts(cascade: Cascade, before: Sequence[Independent], after: Sequence[Independent]) -> bool:
    """Whether no rank of parts is lost when a group grows."""
    kept = [set(c.variables.items()) for c in after]
    return all(any(set(c.variables.items()) <= k for k in kept) for c in before if is_parts(cascade, c))


# -- what is worth sharing -------------------------------------------------------------------------------------------


def _worth(cascade: Cascade, steps: Sequence[Step], classes: Sequence[Independent]) -> bool:
    """Whether every contraction of the group keeps its efficiency when it is done tile by tile."""
    members = [i for step in steps for i in einsums_of(step)]
    for i in members:
        product = contraction.product_of(cascade.einsums[i])
        if product is None:
            continue
        names = {c.variables[i] for c in classes}
        extent = cascade.einsums[i].extent(product.inner)
        small = isinstance(extent, Const) and int(extent.value) <= DEEPEST_SHARED
        for operand in (product.left, product.right):
            alone = not names & set(ranks_of(operand))
            if alone and not small and not _varies_with_loop(cascade, steps, i, operand):
                return False
    return True


def rereads_weights(cascade: Cascade, steps: Sequence[Step], classes: Sequence[Independent]) -> bool:
    """Whether every step of a recurrence multiplies by all of a large tensor, whatever the points of ``classes``.

    Threads that divide those points each read all of it in every step; threads that divide its other ranks keep a part each in
    their caches.
    """
    for i in (i for step in steps if isinstance(step, Loop) for i in einsums_of(step)):
        product = contraction.product_of(cascade.einsums[i])
        if product is None:
            continue
        own = {c.variables[i] for c in classes}
        extents = {r.name: r.extent for r in cascade.einsums[i].ranks}
        loop = next(v for step in steps if isinstance(step, Loop) for j, v in step.variables.items() if j == i)
        for operand in (product.left, product.right):
            names = set(ranks_of(operand))
            if loop in names or names & own:
                continue
            elements = 1
            for name in names:
                extent = extents[name]
                elements *= int(extent.value) if isinstance(extent, Const) else FREE_WIDTH
            if elements * operand.dtype.bits // 8 >= LARGEST_WEIGHTS:
                return True
    return False


def _varies_with_loop(cascade: Cascade, steps: Sequence[Step], member: int, operand: Expr) -> bool:
    loops = [s for s in steps if isinstance(s, Loop)]
    if not loops:
        return False
    members = [i for step in steps for i in einsums_of(step)]
    aligned = _align(cascade, members, loops)
    return aligned is not None and aligned[0].get(member) in ranks_of(operand)


# -- one loop out of several -----------------------------------------------------------------------------------------


def _merged(cascade: Cascade, group: Group) -> MergedLoop | None:
    """The loops of a group as one, with the Einsums that feed it; None where there is none or order forbids it."""
    loops = [s for s in group.steps if isinstance(s, Loop)]
    if not loops or any(isinstance(inner, Loop) for loop in loops for inner in loop.body):
        return None
    if any(loop.reverse != loops[0].reverse for loop in loops):
        return None
    aligned = _align(cascade, group.members, loops)
    if aligned is None:
        return None
    variables, dims = aligned
    lets = {let.name: let.value for let in cascade.lets}
    for loop in loops:
        if not equal(loop.extent, loops[0].extent, lets) or any(variables.get(i) != v for i, v in loop.variables.items()):
            return None
    forced = {i for loop in loops for i in loop.variables}
    variables = {
        i: v for i, v in variables.items() if i in forced or _may_join(cascade, i, v, {c.variables[i] for c in group.classes})
    }
    if any(not equal(cascade.einsums[i].extent(v), loops[0].extent, lets) for i, v in variables.items()):
        return None
    return _ordered(cascade, group.members, variables, dims, loops[0])


def _align(cascade: Cascade, members: Sequence[int], loops: Sequence[Loop]) -> tuple[dict[int, str], dict[str, int]] | None:
    """The variable of the loops' rank in every Einsum that has one, and the dimension of every tensor that it indexes."""
    written = {cascade.einsums[i].target for i in members}
    variables = {i: v for loop in loops for i, v in loop.variables.items()}
    dims: dict[str, int] = {}
    changed = True
    while changed:
        changed = False
        for i in members:
            einsum = cascade.einsums[i]
            places = [(einsum.target, einsum.coords), *((r.tensor, r.indices) for r in einsum.reads())]
            for tensor, indices in places:
                if tensor not in written:
                    continue
                if i in variables and tensor not in dims:
                    at = [d for d, index in enumerate(indices) if shifted(index) == variables[i]]
                    if len(at) == 1:
                        dims[tensor] = at[0]
                        changed = True
                if i not in variables and tensor in dims:
                    name = shifted(indices[dims[tensor]])
                    if name is not None and name in einsum.output_ranks:
                        variables[i] = name
                        changed = True
    return variables, dims


def shifted(index: Expr) -> str | None:
    """``v`` where an index is ``v`` or ``v + constant``."""
    match index:
        case Rank(name=name):
            return name
        case Op(op="add" | "sub", args=(Rank(name=name), Const())):
            return name
        case _:
            return None


def offset(index: Expr) -> int:
    """The constant of an index ``v + constant``."""
    form = affine(index)
    assert form is not None and isinstance(form.constant, Const)
    return int(form.constant.value)


def _may_join(cascade: Cascade, member: int, variable: str, tiled: set[str]) -> bool:
    """Whether an Einsum that is no part of a recurrence may be done generation by generation without loss.

    Each operand of a contraction must change with the loop or be cut to a tile (``tiled`` are the group's variables): else
    every generation reads all of an operand that the whole product reads once.
    """
    einsum = cascade.einsums[member]
    if variable in einsum.reduced or einsum.scatter:
        return False
    product = contraction.product_of(einsum)
    if product is None:
        return True
    local = tiled | {variable}
    return variable not in (product.inner, product.rows, product.columns) and all(
        local & set(ranks_of(operand)) for operand in (product.left, product.right)
    )


def _ordered(
    cascade: Cascade, members: Sequence[int], variables: Mapping[int, str], dims: Mapping[str, int], loop: Loop
) -> MergedLoop | None:
    body = [i for i in members if i in variables]
    targets = {cascade.einsums[i].target: i for i in body if not cascade.einsums[i].initialiser}
    after: set[str] = set()
    before_ids: list[int] = []
    after_ids: list[int] = []
    for i in members:
        if i in variables:
            if any(r.tensor in after for r in cascade.einsums[i].reads()):
                return None
            continue
        einsum = cascade.einsums[i]
        if any(r.tensor in targets or r.tensor in after for r in einsum.reads()):
            after.add(einsum.target)
            after_ids.append(i)
        else:
            before_ids.append(i)
    position = {i: n for n, i in enumerate(body)}
    for i in body:
        for r in cascade.einsums[i].reads():
            if r.tensor not in targets:
                continue
            writer = targets[r.tensor]
            if r.tensor not in dims or shifted(r.indices[dims[r.tensor]]) != variables[i]:
                return None
            distance = offset(cascade.einsums[writer].coords[dims[r.tensor]]) - offset(r.indices[dims[r.tensor]])
            if loop.reverse:
                distance = -distance
            if distance < 0 or (distance == 0 and position[writer] >= position[i]):
                return None
    return MergedLoop(
        variables=dict(variables),
        dims=dict(dims),
        extent=loop.extent,
        reverse=loop.reverse,
        before=tuple(before_ids),
        body=tuple(body),
        after=tuple(after_ids),
    )

"""Where the tensors of a group live: whole in the workspace, as a tile of one thread, or as the state of a loop.

A tensor that only its own group touches needs no more than the tile that the group's loops are at. Along a merged sequential
loop it needs the current generation, or, when it is the state of the recurrence, the previous one besides; a state whose
previous generation nobody reads after the new one is written is updated in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.cascade import Cascade, Role
from ...ir.expr import Const, Expr, Rank, Read, integer, op, rank, ranks_of, transform, walk
from ...ir.index import equal
from ...ir.tile import Buffer
from .grouping import MergedLoop, offset, shifted
from .independent import Independent


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A tensor held as a tile: the dimensions that are dropped, the one cut to a tile's points, and the loop's."""

    dropped: frozenset[int]
    cut: int | None
    generation: int | None = None  # the dimension of the merged loop's rank, where it is dropped
    written: int = 0  # offset of the generation that the loop writes
    following: str | None = None  # buffer of the new generation, where it is not updated in place


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How the Einsums of one group see their ranks and tensors.

    ``fixed`` replaces rank variables of an Einsum by variables of the loops around it; ``cut`` gives, for each Einsum, the
    variable that runs through one tile: (variable, start of the tile, points of a tile, whole extent).
    """

    fixed: Mapping[int, Mapping[str, Expr]] = field(default_factory=dict, hash=False)
    cut: Mapping[int, tuple[str, Expr, Expr, Expr]] = field(default_factory=dict, hash=False)
    locals: Mapping[str, Local] = field(default_factory=dict, hash=False)

    def localise(self, expr: Expr, member: int) -> Expr:
        """``expr`` of an Einsum with reads of tile tensors made relative to the tile; ranks are replaced later."""

        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in self.locals:
                return None
            name, indices = self.place(node.tensor, node.indices, member)
            return Read(tensor=name, indices=indices, dtype=node.dtype)

        return transform(expr, rule)

    def place(self, tensor: str, indices: tuple[Expr, ...], member: int) -> tuple[str, tuple[Expr, ...]]:
        """The buffer and the indices within it of an access to a tile tensor."""
        local = self.locals[tensor]
        name = tensor
        kept: list[Expr] = []
        for d, index in enumerate(indices):
            if d in local.dropped:
                continue
            if d == local.generation:
                if local.following is not None and shifted(index) is not None and offset(index) == local.written:
                    name = local.following
                continue
            if d == local.cut and member in self.cut:
                kept.append(rank(within(self.cut[member][0])))
                continue
            kept.append(index)
        return name, tuple(kept)

    def ranks(self, member: int) -> dict[str, Expr]:
        """What the rank variables of an Einsum stand for inside the group's loops."""
        ranks = dict(self.fixed.get(member, {}))
        if member in self.cut:
            variable, start, _, _ = self.cut[member]
            ranks[variable] = op("add", start, rank(variable))
            ranks[within(variable)] = rank(variable)
        return ranks

    def tile_sum(self, buffer: Buffer, member: int) -> Buffer:
        """A tile for the wide sums of a contraction; its extents may not depend on the place of the tile."""
        cut = self.cut.get(member)
        shape = tuple(cut[2] if cut is not None and _mentions(extent, cut[1]) else extent for extent in buffer.shape)
        return replace(buffer, shape=shape)


def _mentions(expr: Expr, part: Expr) -> bool:
    return any(node == part for node in walk(expr))


def within(variable: str) -> str:
    """The name under which a tile's own index travels until ranks are replaced; no program can spell it."""
    return f"{variable}~"


def tile_extent(points: Expr, start: Expr, extent: Expr) -> Expr:
    """The points of the tile at ``start``: all of a tile's where they are known to divide the extent."""
    if isinstance(points, Const) and isinstance(extent, Const) and int(extent.value) % int(points.value) == 0:
        return points
    return op("min", points, op("sub", extent, start))


def local_tensors(
    cascade: Cascade,
    members: tuple[int, ...],
    fixed: list[Independent],
    cut: Independent | None,
    merged: MergedLoop | None,
    stored: frozenset[str],
) -> dict[str, Local]:
    """The tensors of a group that nothing outside it touches, and what of them is kept."""
    inside = set(members)
    found: dict[str, Local] = {}
    for name in dict.fromkeys(cascade.einsums[i].target for i in members):
        users = [i for i, e in enumerate(cascade.einsums) if e.target == name or any(r.tensor == name for r in e.reads())]
        if cascade.by_name[name].role is not Role.LOCAL or name in stored or not set(users) <= inside:
            continue
        local = Local(dropped=frozenset(c.dims[name] for c in fixed), cut=None if cut is None else cut.dims[name])
        if merged is not None and name in merged.dims:
            local = _generations(cascade, name, local, merged) or local
        found[name] = local
    return found


def _generations(cascade: Cascade, name: str, local: Local, merged: MergedLoop) -> Local | None:
    """``local`` with the loop's dimension dropped; None where more than two generations are needed."""
    if merged.reverse:
        return None
    dim = merged.dims[name]
    tensor = cascade.by_name[name]
    lets = {let.name: let.value for let in cascade.lets}
    position = {i: n for n, i in enumerate(merged.body)}
    writers = [i for i in merged.body if cascade.einsums[i].target == name]
    if len(writers) != 1:
        return None
    (writer,) = writers
    written = offset(cascade.einsums[writer].coords[dim])
    final = op("sub", tensor.shape[dim], Const(value=1, dtype=tensor.shape[dim].dtype))
    state = False
    last_read = -1
    for i, e in enumerate(cascade.einsums):
        indices = [r.indices for r in e.reads() if r.tensor == name]
        if i in position:
            for index in indices:
                if shifted(index[dim]) != merged.variables[i]:
                    return None
                behind = written - offset(index[dim])
                if behind not in (0, 1):
                    return None
                if behind == 1:
                    state = True
                    if i != writer:
                        last_read = max(last_read, position[i])
                    elif not _pointwise(e.coords, index, dim) or e.reduction is not None:
                        last_read = len(position)
        else:
            if any(not equal(index[dim], final, lets) for index in indices):
                return None
            if e.target == name and not (isinstance(e.coords[dim], Const) and written == 1):
                return None
            state = state or bool(indices) or e.target == name
    in_place = not state or last_read < position[writer]
    return Local(
        dropped=local.dropped,
        cut=local.cut,
        generation=dim,
        written=written,
        following=None if in_place else f"{name}.next",
    )


def _pointwise(coords: tuple[Expr, ...], indices: tuple[Expr, ...], dim: int) -> bool:
    return all(a == b and isinstance(a, Rank) for d, (a, b) in enumerate(zip(coords, indices, strict=True)) if d != dim)


def local_shape(shape: tuple[Expr, ...], local: Local, points: Expr | None) -> tuple[Expr, ...]:
    """The extents of a tile tensor; ``points`` is a tile's extent of the rank that is cut."""
    kept: list[Expr] = []
    for d, extent in enumerate(shape):
        if d in local.dropped or d == local.generation:
            continue
        kept.append(points if d == local.cut and points is not None else extent)
    return tuple(kept)


def read_again(
    cascade: Cascade,
    members: Sequence[int],
    classes: Sequence[Independent],
    cut: Independent,
    local: Mapping[str, Local],
) -> list[Expr]:
    """The elements at one point of the cut rank of each tensor from outside that several Einsums of a group read: a tile should
    leave them in the cache from one to the next."""
    readers: dict[str, dict[int, Expr]] = {}
    for i in members:
        einsum = cascade.einsums[i]
        outside = {c.variables[i] for c in classes}
        for read in einsum.reads():
            names = {n for index in read.indices for n in ranks_of(index)}
            if read.tensor in local or cut.variables[i] not in names:
                continue
            total: Expr = integer(1)
            for each in einsum.ranks:
                if each.name in names - outside:
                    total = op("mul", total, each.extent)
            readers.setdefault(read.tensor, {})[i] = total
    return [next(iter(found.values())) for found in readers.values() if len(found) > 1]

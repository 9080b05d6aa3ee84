"""A rank that is divided by a size becomes two: heads that share their keys and values lie side by side.

``K[h // J, m, e]`` for h < G·J reads the same for J neighbours. With h = g·J + j it is K[g, m, e]: no guard is left, and
j becomes the rows of a product that reads keys once for all heads of a group (Ainslie et al., arXiv 2305.13245).

Identity: every h in 0 … G·J - 1 is g·J + j for one g < G and one j < J; then h // J = g and h % J = j. Needs that J divides the
rank's extent: both are numbers, or the program requires ``H % G == 0`` and J is ``H // G``. A local tensor gets two
dimensions in the place of one; so does an argument or a result that nothing else indexes, whose memory stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, Let, RankExtent, Role, Tensor
from ...ir.expr import Expr, Op, Rank, Read, children, integer, op, rank, ranks_of, reads_of, size, walk, with_children
from ...ir.index import constant_value, equal, expand_lets
from ...ir.printer import index_to_source
from ...ir.tile import Decision
from ...ir.types import INDEX
from ..names import Names
from ..rewriting import Rewriting


def in_groups(cascade: Cascade) -> Rewriting:
    """``cascade`` with every rank that is divided by one size cut into groups of that size."""
    decisions: list[Decision] = []
    tried: set[tuple[int, str]] = set()
    while (found := _next(cascade, tried)) is not None:
        index, variable, divisor, count = found
        tried.add((index, variable))
        cut = _Cut(cascade, index, variable, divisor, count)
        if not cut.close():
            continue
        cascade = cut.cascade_in_groups()
        targets = ", ".join(dict.fromkeys(cascade.einsums[i].target for i in cut.members))
        decisions.append(
            Decision(
                made_by="groups",
                subject=f"{variable} of {targets}",
                chosen=f"{index_to_source(count)} groups of {index_to_source(divisor)}",
                because=f"{variable} // {index_to_source(divisor)} is the same for the members of a group, and divides evenly",
            )
        )
    return Rewriting(cascade=cascade, decisions=tuple(decisions))


def _next(cascade: Cascade, tried: set[tuple[int, str]]) -> tuple[int, str, Expr, Expr] | None:
    """A rank variable that is divided: its Einsum, its name, the members of a group and the number of groups."""
    lets = {let.name: let.value for let in cascade.lets}
    even = list(_even(cascade))
    for i, einsum in enumerate(cascade.einsums):
        extents = {r.name: r.extent for r in einsum.ranks}
        for node in (n for e in einsum.expressions() for n in walk(e)):
            match node:
                case Op(op="floordiv", args=(Rank(name=name), divisor)) if (
                    node.dtype == INDEX and name in extents and (i, name) not in tried
                ):
                    if ranks_of(divisor) or reads_of(divisor):
                        continue
                    count = _groups(extents[name], divisor, even, lets)
                    if count is not None:
                        return i, name, divisor, count
    return None


def _even(cascade: Cascade) -> Iterator[tuple[Expr, Expr]]:
    """(a, b) for every ``require a % b == 0``."""
    waiting = [r.condition for r in cascade.requires]
    while waiting:
        match waiting.pop():
            case Op(op="and", args=args):
                waiting += args
            case Op(op="eq", args=(Op(op="mod", args=(a, b)), zero)) if constant_value(zero) == 0:
                yield a, b


def _groups(extent: Expr, divisor: Expr, even: list[tuple[Expr, Expr]], lets: Mapping[str, Expr]) -> Expr | None:
    """How many groups of ``divisor`` members an extent has; None where that is not known to come out even."""
    total, members = constant_value(extent, lets), constant_value(divisor, lets)
    if total is not None and members is not None:
        return integer(total // members) if members > 0 and total % members == 0 else None
    for a, b in even:
        if equal(extent, a, lets) and equal(divisor, op("floordiv", a, b), lets):
            return b
    return None


@dataclass(slots=True)
class _Names:
    """What the variable of an Einsum becomes."""

    group: str
    member: str


class _Cut:
    """One rank, the Einsums and tensors that have it, and the cascade with it in groups."""

    def __init__(self, cascade: Cascade, index: int, variable: str, divisor: Expr, count: Expr) -> None:
        self.cascade, self.count, self.divisor = cascade, count, divisor
        self.lets = {let.name: let.value for let in cascade.lets}
        self.extent = cascade.einsums[index].extent(variable)
        self.members: dict[int, str] = {index: variable}
        self.dims: dict[str, int] = {}
        self.names: dict[int, _Names] = {}

    def close(self) -> bool:
        """Finds all that goes along the rank; whether it can be cut everywhere."""
        waiting = list(self.members)
        while waiting:
            i = waiting.pop()
            einsum, name = self.cascade.einsums[i], self.members[i]
            if einsum.scatter or einsum.initialiser or not equal(einsum.extent(name), self.extent, self.lets):
                return False
            for tensor, indices in _places(einsum):
                declared = self.cascade.by_name[tensor]
                at = [d for d, index in enumerate(indices) if index == rank(name)]
                if declared.is_parameter or not at:
                    continue
                if len(at) > 1 or self.dims.setdefault(tensor, at[0]) != at[0] or declared.iterative_dims:
                    return False
                for j, other in enumerate(self.cascade.einsums):
                    for index in (ix[at[0]] for t, ix in _places(other) if t == tensor):
                        if not isinstance(index, Rank) or self.members.get(j, index.name) != index.name:
                            return False
                        if j not in self.members:
                            self.members[j] = index.name
                            waiting.append(j)
        self._arguments()
        return True

    def _arguments(self) -> None:
        """The inputs that only variables of this rank index along one dimension: they get two dimensions as well."""
        for tensor in self.cascade.parameters:
            found = {
                (i, d, index)
                for i, e in enumerate(self.cascade.einsums)
                for t, indices in _places(e)
                if t == tensor.name
                for d, index in enumerate(indices)
            }
            along = {d for i, d, index in found if i in self.members and index == rank(self.members[i])}
            if len(along) != 1 or tensor.role is Role.CONST or tensor.parts:
                continue
            (dim,) = along
            own = all(i in self.members and index == rank(self.members[i]) for i, d, index in found if d == dim)
            if own and equal(tensor.shape[dim], self.extent, self.lets):
                self.dims[tensor.name] = dim

    def cascade_in_groups(self) -> Cascade:
        names = Names(self.cascade)
        lets = list(self.cascade.lets)
        if constant_value(self.divisor, self.lets) is None:
            let = Let(name=names.size("J"), value=expand_lets(self.divisor, self.lets))
            lets.append(let)
            members: Expr = size(let.name)
        else:
            members = integer(int(constant_value(self.divisor, self.lets) or 0))
        for i, name in self.members.items():
            known = next((n for j, n in self.names.items() if self.members[j] == name), None)
            self.names[i] = known or _Names(group=names.rank(f"{name}1"), member=names.rank(f"{name}0"))
        return replace(
            self.cascade,
            lets=tuple(lets),
            tensors=tuple(self._tensor(t, members) for t in self.cascade.tensors),
            einsums=tuple(self._einsum(i, e, members) for i, e in enumerate(self.cascade.einsums)),
        )

    def _tensor(self, tensor: Tensor, members: Expr) -> Tensor:
        dim = self.dims.get(tensor.name)
        if dim is None:
            return tensor
        shape = (*tensor.shape[:dim], self.count, members, *tensor.shape[dim + 1 :])
        steps = tensor.steps and (*tensor.steps[:dim], None, None, *tensor.steps[dim + 1 :])
        parts = () if tensor.role is Role.LOCAL else tuple(2 if d == dim else 1 for d in range(len(tensor.shape)))
        return replace(tensor, shape=shape, steps=steps, parts=parts)

    def _einsum(self, i: int, einsum: Einsum, members: Expr) -> Einsum:
        if i not in self.members:
            return einsum
        old, new = self.members[i], self.names[i]

        def put(expr: Expr) -> Expr:
            match expr:
                case Rank(name=name) if name == old:
                    return op("add", op("mul", rank(new.group), members), rank(new.member))
                case Op(op="floordiv" | "mod" as which, args=(Rank(name=name), by)) if name == old and self._is_divisor(by):
                    return rank(new.group if which == "floordiv" else new.member)
                case Read(tensor=tensor, indices=indices):
                    return replace(expr, indices=at(tensor, indices))
                case _:
                    return with_children(expr, tuple(put(c) for c in children(expr)))

        def at(tensor: str, indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
            dim = self.dims.get(tensor)
            both = (rank(new.group), rank(new.member))
            return tuple(e for d, index in enumerate(indices) for e in (both if d == dim else (put(index),)))

        def cut(name: str) -> tuple[str, ...]:
            return (new.group, new.member) if name == old else (name,)

        extents = {new.group: self.count, new.member: members, **{r.name: r.extent for r in einsum.ranks}}
        return replace(
            einsum,
            coords=at(einsum.target, einsum.coords),
            value=put(einsum.value),
            ranks=tuple(RankExtent(name=n, extent=extents[n]) for r in einsum.ranks for n in cut(r.name)),
            reduced=tuple(n for name in einsum.reduced for n in cut(name)),
            point_filter=tuple(put(c) for c in einsum.point_filter),
            output_filter=tuple(put(c) for c in einsum.output_filter),
        )

    def _is_divisor(self, expr: Expr) -> bool:
        return not ranks_of(expr) and not reads_of(expr) and equal(expr, self.divisor, self.lets)


def _places(einsum: Einsum) -> Iterator[tuple[str, tuple[Expr, ...]]]:
    yield einsum.target, einsum.coords
    yield from ((r.tensor, r.indices) for r in einsum.reads())

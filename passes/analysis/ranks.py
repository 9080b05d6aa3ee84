"""Which rank variables of different Einsums run over the same rank.

Variables of two Einsums are one rank where both index one dimension of one tensor. A rank that was partitioned into an outer
and an inner variable (``K[m1*M0 + m0, e]`` with m0 < M0) stays one rank with its unpartitioned uses: the outer variable
is a member, the inner one a rank of its own. No rank holds two variables of one Einsum: the rows and the columns of
``S[i, j] = X[i, k] * X[j, k]`` are different ranks, although both index the first dimension of X.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...ir.cascade import Cascade, Einsum
from ...ir.expr import Expr, Op, Rank, ranks_of
from ...ir.flow import shifted_rank
from ...ir.index import equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A dimension of a tensor that an Einsum indexes with ``outer``, or with ``outer`` times the extent of ``inner`` plus
    ``inner``."""

    tensor: str
    dim: int
    outer: str
    inner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankClass:
    """One rank. ``variables`` gives its variable in each Einsum (by index) that has one.

    ``outer`` holds the Einsums whose variable runs over tiles only, ``inner`` the positions of a tile within them.
    ``is_tile`` tells that the rank is itself such an inner part.
    """

    name: str
    variables: Mapping[int, str] = field(hash=False)
    inner: Mapping[int, str] = field(hash=False)
    outer: frozenset[int]
    is_tile: bool


def split_index(index: Expr, einsum: Einsum, lets: Mapping[str, Expr]) -> tuple[str, str] | None:
    """(a, b) where an index is ``f(a) * B + b`` for rank variables a, b and B the extent of b."""
    match index:
        case Op(op="add", args=(Op(op="mul", args=(left, right)), Rank(name=b))) if b in {r.name for r in einsum.ranks}:
            extent = einsum.extent(b)
            for whole, factor in ((left, right), (right, left)):
                names = ranks_of(whole)
                if len(names) == 1 and not ranks_of(factor) and equal(factor, extent, lets):
                    return names[0], b
    return None


def accesses(cascade: Cascade, index: int) -> Iterator[Access]:
    """The dimensions that an Einsum indexes with one rank variable, or with the two parts of a partitioned rank."""
    einsum = cascade.einsums[index]
    lets = {let.name: let.value for let in cascade.lets}
    own = {r.name for r in einsum.ranks}
    places = [(einsum.target, einsum.coords), *((r.tensor, r.indices) for r in einsum.reads())]
    for tensor, indices in dict.fromkeys(places):
        for dim, expr in enumerate(indices):
            name = shifted_rank(expr)
            if name is not None and name in own:
                yield Access(tensor=tensor, dim=dim, outer=name)
            elif (pair := split_index(expr, einsum, lets)) is not None:
                yield Access(tensor=tensor, dim=dim, outer=pair[0], inner=pair[1])


_Member = tuple[int, str]


class _Classes:
    """Union-find of (Einsum, variable) in which no class holds two variables of one Einsum."""

    def __init__(self) -> None:
        self.of: dict[_Member, dict[int, str]] = {}

    def add(self, member: _Member) -> None:
        self.of.setdefault(member, {member[0]: member[1]})

    def join(self, a: _Member, b: _Member) -> None:
        first, second = self.of[a], self.of[b]
        if first is second or any(second.get(i, v) != v for i, v in first.items()):
            return
        first.update(second)
        for i, v in second.items():
            self.of[i, v] = first


def rank_classes(cascade: Cascade) -> tuple[RankClass, ...]:
    """The ranks of a cascade in order of first occurrence."""
    classes = _Classes()
    table = {i: tuple(accesses(cascade, i)) for i in range(len(cascade.einsums))}
    for i, einsum in enumerate(cascade.einsums):
        for r in einsum.ranks:
            classes.add((i, r.name))
    users: dict[tuple[str, int], list[_Member]] = {}
    for i, found in table.items():
        for access in found:
            users.setdefault((access.tensor, access.dim), []).append((i, access.outer))
    parameters = {t.name for t in cascade.parameters}
    # Equal names first, then what intermediates connect: a tensor that two ranks index (doc[p], doc[m]) joins neither.
    for same_name, through_inputs in ((True, True), (False, False), (False, True)):
        for (tensor, _), members in users.items():
            if tensor in parameters and not through_inputs:
                continue
            for k, first in enumerate(members):
                for second in members[k + 1 :]:
                    if (first[1] == second[1]) is same_name:
                        classes.join(first, second)
    return _finished(cascade, classes, table)


def _finished(cascade: Cascade, classes: _Classes, table: Mapping[int, tuple[Access, ...]]) -> tuple[RankClass, ...]:
    lets = {let.name: let.value for let in cascade.lets}
    splits = [(i, a.outer, a.inner) for i, found in table.items() for a in found if a.inner is not None]
    tiles = {id(classes.of[i, inner]) for i, _, inner in splits}
    result: list[RankClass] = []
    seen: set[int] = set()
    for (_, name), members in classes.of.items():
        if id(members) in seen:
            continue
        seen.add(id(members))
        parts = [(j, v, u) for j, v, u in splits if members.get(j) == v]
        extents = [cascade.einsums[j].extent(v) for j, v, _ in parts]
        inner_classes = [classes.of[j, u] for j, _, u in parts]
        outer = frozenset(j for j, v in members.items() if any(equal(cascade.einsums[j].extent(v), e, lets) for e in extents))
        inner = {j: c[j] for j in outer for c in inner_classes if j in c}
        result.append(
            RankClass(
                name=_name(members, outer, name),
                variables=dict(sorted(members.items())),
                inner=inner,
                outer=outer,
                is_tile=id(members) in tiles,
            )
        )
    return tuple(result)


def _name(members: Mapping[int, str], outer: frozenset[int], first: str) -> str:
    """The variable of the rank as a whole, where there is one."""
    return next((v for i, v in sorted(members.items()) if i not in outer), first)

"""Readers of chunks go through the chunks themselves: ``O[t] = A[t // C, t % C]`` becomes ``O[t1*C + t0] = A[t1, t0]``.

What lies between the chunks of a recurrence and its results then has the chunk for a rank, as the chunks' own Einsums have, so
that one thread block can do all of a chunk. A tensor of the cascade's own that is only used by steps of chunks has them for
dimensions: ``D[t]`` becomes ``D[t1, t0]``.

Identity: t = t1*C + t0 with t0 < C runs through every t < T, and points beyond lie outside of what they are written to.
Requires: explicit ranks. Guarantees: the same values at the same points of every parameter and result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, RankExtent, Role, Tensor
from ...ir.expr import Const, Expr, Op, Rank, Read, op, rank, substitute, transform
from ..analysis.ranks import split_index
from ..names import Names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """A rank in ``count`` chunks of ``steps``."""

    steps: Const
    count: Expr


_Rank = tuple[int, str]
"""A rank variable of an Einsum, by index."""


def in_chunks(cascade: Cascade) -> Cascade:
    """``cascade`` whose readers of chunks, and what only these and the chunks use, go through chunks."""
    found = _Cuts(cascade)
    return found.rewritten() if found.ranks else cascade


class _Cuts:
    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.lets = {let.name: let.value for let in cascade.lets}
        self.ranks: dict[_Rank, _Cut] = {}
        self.dims: dict[tuple[str, int], _Cut] = {}
        for i, einsum in enumerate(cascade.einsums):
            for name in einsum.output_ranks:
                cut = self._read_in_chunks(einsum, name)
                if cut is not None and self._may_cut(i, name):
                    self.ranks[i, name] = cut
        while self.ranks and any(self._tensor(t) for t in cascade.tensors if t.role is Role.LOCAL):
            pass

    def _may_cut(self, i: int, name: str) -> bool:
        """Whether an Einsum writes along a rank itself, all at once."""
        einsum = self.cascade.einsums[i]
        if name not in einsum.output_ranks or einsum.scatter or rank(name) not in einsum.coords:
            return False
        return einsum.coords.index(rank(name)) not in self.cascade.by_name[einsum.target].iterative_dims

    def _read_in_chunks(self, einsum: Einsum, name: str) -> _Cut | None:
        """The chunks by which an Einsum reads along one of its ranks."""
        for read in einsum.reads():
            for d, index in enumerate(read.indices):
                match index:
                    case Op(op="floordiv", args=(Rank(name=by), Const() as steps)) if by == name:
                        if op("mod", rank(name), steps) in read.indices:
                            return _Cut(steps=steps, count=self.cascade.by_name[read.tensor].shape[d])
        return None

    def _places(self, tensor: str, d: int) -> Iterator[tuple[int, Expr]]:
        for i, einsum in enumerate(self.cascade.einsums):
            if einsum.target == tensor:
                yield i, einsum.coords[d]
            yield from ((i, r.indices[d]) for r in einsum.reads() if r.tensor == tensor)

    def _tensor(self, tensor: Tensor) -> bool:
        """Cuts the dimensions of a tensor all of whose users are at steps of chunks; gives whether there was one."""
        changed = False
        for d in range(len(tensor.shape)):
            if (tensor.name, d) in self.dims or d in tensor.iterative_dims:
                continue
            uses = [self._use(i, index) for i, index in self._places(tensor.name, d)]
            cuts = {cut for cut, _ in filter(None, uses) if cut is not None}
            if None in uses or len(cuts) != 1:
                continue
            (cut,) = cuts
            self.dims[tensor.name, d] = cut
            self.ranks |= {own: cut for _, own in filter(None, uses) if own is not None}
            changed = True
        return changed

    def _use(self, i: int, index: Expr) -> tuple[_Cut | None, _Rank | None] | None:
        """The chunks that an Einsum uses a dimension by, and the rank by which it does; None where it is in another way."""
        einsum = self.cascade.einsums[i]
        match index:
            case Rank(name=name) if self._may_cut(i, name):
                return self.ranks.get((i, name)), (i, name)
            case _:
                pair = split_index(index, einsum, self.lets)
                steps = None if pair is None else einsum.extent(pair[1])
                if pair is None or not isinstance(steps, Const):
                    return None
                return _Cut(steps=steps, count=einsum.extent(pair[0])), None

    def rewritten(self) -> Cascade:
        """The cascade with what was found."""
        names = Names(self.cascade)
        variables: dict[tuple[str, _Cut], tuple[Rank, Rank]] = {}
        for (_, name), cut in self.ranks.items():
            if (name, cut) not in variables:
                base = name.rstrip("'")
                variables[name, cut] = rank(names.rank(f"{base}1")), rank(names.rank(f"{base}0"))
        einsums = tuple(self._einsum(i, e, variables) for i, e in enumerate(self.cascade.einsums))
        tensors = tuple(replace(t, shape=self._shape(t), steps=self._steps(t)) for t in self.cascade.tensors)
        return replace(self.cascade, einsums=einsums, tensors=tensors)

    def _shape(self, tensor: Tensor) -> tuple[Expr, ...]:
        found: list[Expr] = []
        for d, extent in enumerate(tensor.shape):
            cut = self.dims.get((tensor.name, d))
            found += [extent] if cut is None else [cut.count, cut.steps]
        return tuple(found)

    def _steps(self, tensor: Tensor) -> tuple[Expr | None, ...]:
        found: list[Expr | None] = []
        for d, steps in enumerate(tensor.steps):
            found += [steps] if (tensor.name, d) not in self.dims else [None, None]
        return tuple(found)

    def _einsum(self, i: int, einsum: Einsum, variables: Mapping[tuple[str, _Cut], tuple[Rank, Rank]]) -> Einsum:
        cuts = {name: cut for (j, name), cut in self.ranks.items() if j == i}
        parts = {name: variables[name, cut] for name, cut in cuts.items()}
        whole = {n: op("add", op("mul", outer, cuts[n].steps), inner) for n, (outer, inner) in parts.items()}

        def indices(tensor: str, old: tuple[Expr, ...]) -> tuple[Expr, ...]:
            found: list[Expr] = []
            for d, index in enumerate(old):
                if (tensor, d) not in self.dims:
                    found.append(rewritten(index))
                elif isinstance(index, Rank):
                    found += parts[index.name]
                else:
                    pair = split_index(index, einsum, self.lets)
                    assert pair is not None
                    found += [rank(n) for n in pair]
            return tuple(found)

        def rewritten(expr: Expr) -> Expr:
            return substitute(transform(expr, rule), ranks=whole)

        def rule(node: Expr) -> Expr | None:
            match node:
                case Read(tensor=name, indices=old, dtype=dtype):
                    return Read(tensor=name, indices=indices(name, old), dtype=dtype)
                case Op(op="floordiv" | "mod" as kind, args=(Rank(name=name), Const() as steps)) if (
                    name in cuts and cuts[name].steps == steps
                ):
                    return parts[name][kind == "mod"]
                case _:
                    return None

        extents: list[RankExtent] = []
        for r in einsum.ranks:
            if r.name not in cuts:
                extents.append(r)
                continue
            outer, inner = parts[r.name]
            extents += [
                RankExtent(name=outer.name, extent=cuts[r.name].count),
                RankExtent(name=inner.name, extent=cuts[r.name].steps),
            ]
        return replace(
            einsum,
            coords=indices(einsum.target, einsum.coords),
            value=rewritten(einsum.value),
            ranks=tuple(extents),
            point_filter=tuple(map(rewritten, einsum.point_filter)),
            output_filter=tuple(map(rewritten, einsum.output_filter)),
        )

"""Which tensors sum to zero along a dimension, whatever the inputs: a small abstract interpretation over linear Einsums.

The fact "Σ over d of T is 0" holds for y − Σ_d y / D, and is kept by sums, by products with factors that are free of d, and by
reductions over other ranks: X[n, d] = Σ_k H[n, k]·WC[k, d] is centred where the columns of WC are (Pre-RMSNorm, Jiang et al.,
arXiv 2305.14858, section 3). Identities over the reals; requires that no point along d is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.cascade import Cascade, Einsum
from ...ir.expr import Cast, Const, Expr, Op, Rank, Read, Select, integer, op, ranks_of, reads_of, sizes_of, substitute, walk
from ...ir.index import equal
from ...ir.types import INDEX
from ..analysis.structure import Structure, is_widening


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """``core`` times a ratio of sizes."""

    core: Expr
    over: Expr = field(default_factory=lambda: integer(1))
    under: Expr = field(default_factory=lambda: integer(1))


class Centred:
    """Answers for one cascade; each tensor is looked at once."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.cascade = structure.cascade
        self._known: dict[tuple[str, int], bool] = {}

    def tensor(self, name: str, dim: int) -> bool:
        """Whether the elements of a tensor along a dimension provably sum to 0, at every point of the others."""
        key = (name, dim)
        if key not in self._known:
            self._known[key] = False  # a recurrence proves nothing of itself
            self._known[key] = self._tensor(name, dim)
        return self._known[key]

    def _tensor(self, name: str, dim: int) -> bool:
        i = self.structure.writer(name)
        if i is None or not self.structure.is_plain(i) or not self.structure.is_always(name):
            return False
        einsum = self.cascade.einsums[i]
        if einsum.reduction not in (None, "+") or _rounds(self.cascade, einsum):
            return False
        coord = einsum.coords[dim]
        assert isinstance(coord, Rank)
        shape = self.cascade.by_name[name].shape[dim]
        if not equal(einsum.extent(coord.name), shape, self.structure.lets):
            return False
        if any(coord.name in ranks_of(c) for c in einsum.point_filter):
            return False
        return self.value(einsum.value, coord.name, einsum)

    def value(self, expr: Expr, d: str, einsum: Einsum) -> bool:
        """Whether Σ over the rank ``d`` of ``einsum`` of an expression is 0, and no point along ``d`` is absent."""
        extents = {r.name: r.extent for r in einsum.ranks}
        return self.structure.always_present(expr, extents) and self._sums_to_zero(expr, d, einsum)

    def _sums_to_zero(self, expr: Expr, d: str, einsum: Einsum) -> bool:
        match expr:
            case Const(value=value):
                return value == 0
            case Read():
                return self._read(expr, d, einsum)
            case Op(op="sub", args=(a, b)) if d not in ranks_of(b) and _is_mean(self.cascade, b, a, d, einsum):
                return True
            case Op(op="add" | "sub", args=(a, b)):
                return self._sums_to_zero(a, d, einsum) and self._sums_to_zero(b, d, einsum)
            case Op(op="neg", args=(a,)):
                return self._sums_to_zero(a, d, einsum)
            case Op(op="mul", args=(a, b)):
                return any(
                    d not in ranks_of(factor) and self._sums_to_zero(rest, d, einsum) for factor, rest in ((a, b), (b, a))
                )
            case Op(op="div", args=(a, b)):
                return d not in ranks_of(b) and self._sums_to_zero(a, d, einsum)
            case Select(condition=c, then=a, otherwise=b):
                return d not in ranks_of(c) and self._sums_to_zero(a, d, einsum) and self._sums_to_zero(b, d, einsum)
            case Cast(value=a) if is_widening(expr):
                return self._sums_to_zero(a, d, einsum)
            case _:
                return False

    def _read(self, read: Read, d: str, einsum: Einsum) -> bool:
        """A read whose one dimension runs over all of ``d``."""
        dims = [k for k, index in enumerate(read.indices) if d in ranks_of(index)]
        if len(dims) != 1 or read.indices[dims[0]] != Rank(name=d, dtype=INDEX):
            return False
        whole = equal(einsum.extent(d), self.cascade.by_name[read.tensor].shape[dims[0]], self.structure.lets)
        return whole and self.tensor(read.tensor, dims[0])


def centres(cascade: Cascade) -> bool:
    """Whether an Einsum subtracts a mean anywhere: without that nothing is centred. Cheap, for a first look."""
    for einsum in cascade.einsums:
        for node in walk(einsum.value):
            match node:
                case Op(op="sub", args=(a, b)):
                    if any(d not in ranks_of(b) and _is_mean(cascade, b, a, d, einsum) for d in ranks_of(a)):
                        return True
    return False


def _is_mean(cascade: Cascade, mean: Expr, of: Expr, d: str, einsum: Einsum) -> bool:
    """Whether ``mean`` is (Σ over d of ``of``) / |d|, computed by one Einsum of its own."""
    outer = _scaled(mean)
    if not isinstance(outer.core, Read):
        return False
    read = outer.core
    writers = cascade.writers(read.tensor)
    if len(writers) != 1 or not all(isinstance(c, Rank) for c in writers[0].coords):
        return False
    (sums,) = writers
    if sums.reduction != "+" or len(sums.reduced) != 1 or sums.point_filter or sums.output_filter or sums.scatter:
        return False
    (e,) = sums.reduced
    lets = {let.name: let.value for let in cascade.lets}
    if _rounds(cascade, sums) or not equal(sums.extent(e), einsum.extent(d), lets):
        return False
    place = {c.name: x for c, x in zip(sums.coords, read.indices, strict=True) if isinstance(c, Rank)}
    inner, whole = _scaled(sums.value), _scaled(of)
    core = substitute(inner.core, ranks={**place, e: Rank(name=d, dtype=INDEX)})
    if _bare(core) != _bare(whole.core):
        return False
    # |d| · outer · inner = whole, as ratios of sizes
    left = _product(einsum.extent(d), outer.over, inner.over, whole.under)
    right = _product(outer.under, inner.under, whole.over)
    return equal(left, right, lets)


def _rounds(cascade: Cascade, einsum: Einsum) -> bool:
    """Whether the stored values are rounded to less than they were computed in."""
    tensor = cascade.by_name[einsum.target]
    return not tensor.value.is_float or (tensor.annotated and tensor.value.bits < einsum.value.dtype.bits)


def _scaled(expr: Expr) -> Scaled:
    """An expression without the sizes that it is multiplied and divided by."""
    match expr:
        case Op(op="mul", args=(a, b)):
            for size, rest in ((b, a), (a, b)):
                if (known := _size(size)) is not None:
                    inner = _scaled(rest)
                    return Scaled(core=inner.core, over=op("mul", inner.over, known), under=inner.under)
            for factor, rest in ((a, b), (b, a)):
                match factor:
                    case Op(op="div", args=(Const(value=one), divisor)) if one == 1 and (known := _size(divisor)) is not None:
                        inner = _scaled(rest)
                        return Scaled(core=inner.core, over=inner.over, under=op("mul", inner.under, known))
            return Scaled(core=expr)
        case Op(op="div", args=(a, b)) if (known := _size(b)) is not None:
            inner = _scaled(a)
            return Scaled(core=inner.core, over=inner.over, under=op("mul", inner.under, known))
        case Cast(value=a) if is_widening(expr):
            return _scaled(a)
        case _:
            return Scaled(core=expr)


def _bare(expr: Expr) -> Expr:
    """Without a conversion around it that loses nothing."""
    return _bare(expr.value) if isinstance(expr, Cast) and is_widening(expr) else expr


def _size(expr: Expr) -> Expr | None:
    """The integer expression over sizes that a factor is the value of, where it is one."""
    match expr:
        case Cast(value=a) if a.dtype == INDEX and not ranks_of(a) and not reads_of(a) and sizes_of(a):
            return a
        case Const(value=float(value)) if value.is_integer() and 0 < value < 2**31:
            return integer(int(value))
        case Op(op="mul", args=(a, b)):
            first, second = _size(a), _size(b)
            return None if first is None or second is None else op("mul", first, second)
        case _:
            return None


def _product(*factors: Expr) -> Expr:
    total: Expr = integer(1)
    for factor in factors:
        total = op("mul", total, factor)
    return total


def zero_sums(structure: Structure) -> Mapping[int, str]:
    """The Einsums that sum what is provably centred, outside any loop, and the rank along which it is."""
    centred = Centred(structure)
    found: dict[int, str] = {}
    for i in structure.straight:
        einsum = structure.cascade.einsums[i]
        if einsum.reduction != "+" or not structure.is_plain(i) or not einsum.value.dtype.is_float:
            continue
        for d in einsum.reduced:
            if not any(d in ranks_of(c) for c in einsum.point_filter) and centred.value(einsum.value, d, einsum):
                found[i] = d
                break
    return found

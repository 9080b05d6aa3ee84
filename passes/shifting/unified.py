"""One shift for all exponentials: no maximum is looked for, and the range is checked afterwards (FlashDecoding++).

Σ exp(u - φ) with one φ for everything (here 0) needs no maximum and no correction, so that the sums of a softmax take one pass
of plain additions (Hong et al., FlashDecoding++, arXiv 2311.01282, section 3). It holds while the sum of the exponentials
stays well inside the range of its type and every other sum is finite; NaN and infinities fail that test too. Rows that
fail are computed with their maximum (``fallback.py``). What readers see is shifted by the logarithm of the sum, which is
the maximum or up to log(N) more: they have the range that they had.

Requires: a cascade with a tolerance, whose maximum only shifts (``shifts.py``).
"""

from __future__ import annotations

from ...ir.cascade import Cascade
from ...ir.expr import Expr, op, real
from ...ir.types import DType
from ..analysis.structure import Structure
from ..construct import both
from ..names import Names
from ..online.defer import defer_explained
from ..rewriting import Rewriting
from .fallback import At, Builder, Replacement, with_fallback
from .shifts import Form, Shift, with_other_shifts

MADE_BY = "unify"

_EXPONENTS = {32: (-80, 100), 64: (-900, 900)}
"""Powers of two between which a sum of exponentials loses nothing: its largest term is normal and no sum overflows. By bits."""


def unified(cascade: Cascade) -> Rewriting:
    """``cascade`` without its maxima, as far as they only shift exponentials; refusals are among the decisions."""
    deferred, _ = defer_explained(Structure(cascade))
    best = _rewritten(deferred.cascade)
    return best if best.cascade != deferred.cascade else _rewritten(cascade)


def _rewritten(cascade: Cascade) -> Rewriting:
    def form(shift: Shift) -> Form | str:
        if cascade.tolerance is None:
            return "another shift is taken only under @tolerance"
        because = "what reads it and its sums is the same for every shift; rows whose sum leaves the range are done as written"
        return Form(cascade=_without_maximum(shift), chosen="no maximum: one shift for all rows", because=because)

    return with_other_shifts(cascade, form, made_by=MADE_BY, otherwise="the maximum stays")


def _without_maximum(shift: Shift) -> Cascade:
    cascade, names = shift.structure.cascade, Names(shift.structure.cascade)
    builder = Builder(shift, names, MADE_BY)
    sums = []
    for each in shift.sums:
        value = each.with_exponential(op(shift.function, each.argument))
        sums.append(builder.like(each.index, f"U{cascade.einsums[each.index].target}", value, "sum"))
    least, most = _EXPONENTS[shift.dtype.bits]

    def fits(at: At) -> Expr:
        total = at(sums[0])
        return both(op("ge", total, _power(least, total.dtype)), op("le", total, _power(most, total.dtype)))

    made = Replacement(
        sums=tuple(sums),
        fits=fits,
        shift=lambda at: op("log" if shift.function == "exp" else "log2", at(sums[0])),
        # Not 1 / sum: the logarithm was rounded, and the sums belong to what it was rounded to.
        scale=lambda at, moved: op(shift.function, op("neg", moved)),
    )
    return with_fallback(builder, made)


def _power(exponent: int, dtype: DType) -> Expr:
    return real(2.0**exponent, dtype)

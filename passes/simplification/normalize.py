"""Normal forms of layers: LayerNorm becomes RMSNorm where its mean is provably zero.

Identity: Σ_d x[d] = 0 where x is centred along d (``centred.py``), so that the mean is 0, x − 0 is x, and what is left is
RMSNorm (Jiang et al., Pre-RMSNorm, arXiv 2305.14858). It holds over the reals: the rounding errors that the mean as written
would have subtracted stay. Requires a verified cascade; guarantees what ``simplify`` does. Deferral, the other normal form, is
decided with the passes that it saves (``defer.py``, ``derive.py``).
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.cascade import Cascade, Einsum
from ...ir.expr import Const
from ...ir.printer import expr_to_source
from ...ir.tile import Decision
from ...ir.types import F32
from ..analysis.structure import Structure
from ..rewriting import Rewriting
from .centred import centres, zero_sums
from .restate import bound
from .simplify import simplify


def normalize(cascade: Cascade) -> Rewriting:
    """The cascade with the sums of centred tensors as zeros, and what follows from that."""
    if not centres(cascade):
        return Rewriting(cascade=cascade)
    decisions: list[Decision] = []
    einsums, tensors = list(cascade.einsums), dict(cascade.by_name)
    for i, d in zero_sums(Structure(cascade)).items():
        old = cascade.einsums[i]
        new = bound(cascade, old, _zero(old))
        if new is None:
            continue
        einsums[i] = new.einsum
        tensors[old.target] = new.target
        because = f"the sum over {d} of {expr_to_source(old.value)} is 0 whatever the inputs: it is centred along {d}"
        decisions.append(Decision(made_by="normalize:zero_mean", subject=old.target, chosen="0", because=because))
    if not decisions:
        return Rewriting(cascade=cascade)
    changed = replace(cascade, einsums=tuple(einsums), tensors=tuple(tensors[t.name] for t in cascade.tensors))
    cleaned = simplify(changed)
    return Rewriting(cascade=cleaned.cascade, decisions=(*decisions, *cleaned.decisions))


def _zero(einsum: Einsum) -> Einsum:
    """The Einsum with the value 0 at every point of its output."""
    return replace(
        einsum,
        value=Const(value=0.0, dtype=einsum.value.dtype if einsum.value.dtype.bits >= 32 else F32),
        ranks=tuple(r for r in einsum.ranks if r.name not in einsum.reduced),
        reduction=None,
        reduced=(),
        point_filter=(),
        accumulator=einsum.value.dtype if einsum.value.dtype.bits >= 32 else F32,
    )

"""Chunked forms of linear recurrences: t → (t1, t0), the steps of a chunk in parallel and one state update between chunks.

Where the state is a sum of outer products that a contraction reads, a chunk is matrix products (chunk_products.py); any other
scan runs in every chunk from the identity, and what the chunks before it carry corrects its readers (chunk_scan.py).

Requires: a verified cascade. Guarantees: an identity over the reals, as a cascade that prints and parses; a recurrence that is
no scan, or whose points may be absent, stays as it is, and a decision says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.cascade import Cascade
from ...ir.tile import Decision
from ..analysis.structure import Structure
from ..rewriting import Rewriting
from .chunk_products import add_products
from .chunk_scan import add_scan
from .chunks import Chunks
from .readout import Access, Products, accesses, products
from .recurrence import MADE_BY, SEQUENTIAL, Recurrence, recurrences

CHUNKS, PRODUCTS = "chunks of", "matrix products within, one state update between"
"""How decisions for chunks begin, and how a chunk is done where its state is a sum of outer products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The chunked form of one recurrence: as ``products``, or as a scan ``because`` it is none."""

    found: Recurrence
    reads: list[list[Access]]
    products: Products | None
    because: str = ""


def chunked(cascade: Cascade, *, chunk: int | None = None, on_gpu: bool = False) -> Rewriting | None:
    """``cascade`` with its recurrences in chunks of ``chunk`` steps (None: what suits each form); None where it has none.

    Where a recurrence has chunks that are products, those that have none stay as they are: they would add work and no
    parallelism. The decisions say for every recurrence which condition held or failed.
    """
    found = recurrences(cascade)
    if not found:
        return None
    decisions: list[Decision] = []
    plans = _chosen([p for each in found if (p := _plan(cascade, each, decisions)) is not None], decisions)
    if on_gpu:
        plans = _no_wider(cascade, plans, decisions)
    plans = _independent(cascade, plans, decisions)
    chunks = Chunks(cascade, chunk, on_gpu=on_gpu)
    for plan in plans:
        if plan.products is not None:
            steps = add_products(chunks, plan.found, plan.products)
            how = PRODUCTS
            because = (
                "its input is an outer product, and readers contract it: step j reaches step i weighed by Π a over j < l <= i"
            )
        else:
            steps = add_scan(chunks, plan.found, plan.reads)
            how, because = "local scans, then what the chunks carry", f"⊗ distributes over ⊕; {plan.because}"
        decisions.append(_decision(plan.found, f"{CHUNKS} {steps} steps: {how}", because))
    return Rewriting(cascade=chunks.finished() if plans else cascade, decisions=tuple(decisions))


def _decision(found: Recurrence, chosen: str, because: str) -> Decision:
    subject = f"the recurrence of {', '.join(found.names)} over {found.variable}"
    return Decision(made_by=MADE_BY, subject=subject, chosen=chosen, because=because)


def _plan(cascade: Cascade, found: Recurrence, decisions: list[Decision]) -> Plan | None:
    """How a recurrence could be cut into chunks; None, and a decision, where it cannot."""
    decisions.append(found.decision())
    if found.refusal is not None:
        return None
    reads: list[list[Access]] = []
    for state in found.states:
        each = accesses(cascade, found, state)
        if isinstance(each, str):
            decisions.append(_decision(found, SEQUENTIAL, each))
            return None
        reads.append(each)
    if (name := _absent(cascade, found, reads)) is not None:
        decisions.append(_decision(found, SEQUENTIAL, f"points of `{name}` may be absent"))
        return None
    form = products(cascade, found, reads[0])
    if isinstance(form, str):
        return Plan(found=found, reads=reads, products=None, because=form)
    if not form.columns:
        because = "its readers leave no rank of it, so that a chunk is no product of matrices"
        return Plan(found=found, reads=reads, products=form, because=because)
    return Plan(found=found, reads=reads, products=form)


def _absent(cascade: Cascade, found: Recurrence, reads: Sequence[Sequence[Access]]) -> str | None:
    """An Einsum of a recurrence or a reader of it that has absent points, which a sum would skip."""
    structure = Structure(cascade)
    members = [*found.members, *(s.start for s in found.states), *(a.einsum for each in reads for a in each)]
    for i in dict.fromkeys(members):
        einsum = cascade.einsums[i]
        if not structure.always_present(einsum.value, {r.name: r.extent for r in einsum.ranks}):
            return einsum.target
    return None


def _chosen(plans: list[Plan], decisions: list[Decision]) -> list[Plan]:
    """The forms that are worth making beside one another.

    A state without columns (a normaliser) is products only where it shares the weights of a state that has some.
    """
    wide = [p.products for p in plans if p.products is not None and p.products.columns]
    chosen: list[Plan] = []
    for plan in plans:
        form = plan.products
        if form is not None and (form.columns or any(_shares(form, other) for other in wide)):
            chosen.append(plan)
        elif wide:
            because = f"{plan.because}; other recurrences of this kernel are matrix products and take the most time"
            decisions.append(_decision(plan.found, SEQUENTIAL, because))
        else:
            chosen.append(Plan(found=plan.found, reads=plan.reads, products=None, because=plan.because))
    return chosen


def _no_wider(cascade: Cascade, plans: list[Plan], decisions: list[Decision]) -> list[Plan]:
    """The plans but scans whose readers sum over the state: chunks would store more for every step than the results have."""
    kept: list[Plan] = []
    for plan in plans:
        readers = (cascade.einsums[a.einsum] for each in plan.reads for a in each if a.variable is not None)
        summing = next((e for e in readers if e.reduction is not None), None) if plan.products is None else None
        if summing is None:
            kept.append(plan)
        else:
            because = f"`{summing.target}` sums over its entries, which chunks would store for every step"
            decisions.append(_decision(plan.found, SEQUENTIAL, because))
    return kept


def _independent(cascade: Cascade, plans: list[Plan], decisions: list[Decision]) -> list[Plan]:
    """The plans whose states no other recurrence among them reads: its steps need them where they are."""
    kept: list[Plan] = []
    for plan in plans:
        others = (p.found for p in plans if p is not plan)
        reader = next((o for o in others if _reads(cascade, o, plan.found)), None)
        if reader is None:
            kept.append(plan)
        else:
            because = f"the steps of {', '.join(reader.names)} read it"
            decisions.append(_decision(plan.found, SEQUENTIAL, because))
    return kept


def _reads(cascade: Cascade, reader: Recurrence, read: Recurrence) -> bool:
    members = (cascade.einsums[i] for i in reader.members)
    return any(r.tensor in read.names for einsum in members for r in einsum.reads())


def _shares(narrow: Products, wide: Products) -> bool:
    """Whether two states weigh the same keys and queries by the same decay."""
    asked = [q.query for q in narrow.queries] == [q.query for q in wide.queries]
    return asked and narrow.decay == wide.decay and narrow.key == wide.key

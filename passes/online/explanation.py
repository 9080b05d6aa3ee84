"""How a member of a chain is carried along, in words for ``kernel.explain()``."""

from __future__ import annotations

import sympy

from .chain import Chain, Member
from .closure import Closure
from .description import base_names, describe, formula
from .partition import Partition
from .ratio import Ratio


def explain_member(chain: Chain, member: Member, cut: Partition) -> tuple[str, str, str]:
    """(rule, what was chosen, the algebraic condition that held)."""
    vocabulary = chain.vocabulary
    shown = formula(chain.structure.cascade.einsums[member.index], member.value)
    over = f"running value over {cut.step.name}"
    match member.correction:
        case Ratio() as ratio:
            factor = _moved(chain, ratio)
            how, what = ("rescaled by", "ratio") if ratio.operator == "mul" else ("moved by", "difference")
            names = ", ".join(base_names(ratio.before, vocabulary))
            return (
                "ratio",
                f"{over}, {how} {factor}",
                f"{shown}: the {what} at two values of {names} is {factor}, whatever the data",
            )
        case Closure() as closure:
            further = [describe(s, vocabulary) for s in closure.states]
            names = ", ".join(base_names(closure.before, vocabulary))
            because = f"{shown}: at a new {names} it is a combination of itself and of the sums of {', '.join(further)}"
            return "closure", f"{over}, one of {len(further) + 1} states", because
        case _:
            return "state", over, f"{shown}: it depends on no other result of the pass"


def _moved(chain: Chain, ratio: Ratio) -> str:
    """The correction, with the bases before a tile as in the program and those after it primed."""
    shown: dict[sympy.Symbol, sympy.Symbol] = {}
    for before, after in zip(ratio.before, ratio.after, strict=True):
        name = describe(before, chain.vocabulary).strip("`")
        shown[before] = sympy.Symbol(name)
        shown[after] = sympy.Symbol(f"{name}'")
    return describe(ratio.term.xreplace(shown), chain.vocabulary)

"""How a member of a chain is carried along, in words for ``kernel.explain()``."""

from __future__ import annotations

from .chain import Chain, Member
from .closure import Closure
from .description import describe
from .partition import Partition
from .ratio import Ratio


def explain_member(chain: Chain, member: Member, cut: Partition) -> tuple[str, str, str]:
    """(rule, what was chosen, the algebraic condition that held)."""
    vocabulary = chain.vocabulary
    step = cut.step.name
    match member.correction:
        case Ratio(operator=operator):
            assert member.term is not None
            how = "rescaled by" if operator == "mul" else "moved by"
            text = (
                f"F(x, d) = {describe(member.term, vocabulary)}: the ratio at two values of d is "
                f"{describe_moved(chain, member.correction)}, whatever the data"
            )
            return "ratio", f"running value over {step}, {how} {describe_moved(chain, member.correction)}", text
        case Closure(states=states):
            assert member.term is not None
            further = ", ".join(describe(s, vocabulary) for s in states)
            count = len(states) + 1
            text = (
                f"F(x, d) = {describe(member.term, vocabulary)} at a new d is a combination of itself and of the sums of "
                f"{further}"
            )
            return "closure", f"running value over {step}, one of {count} states", text
        case _:
            return "state", f"running value over {step}", "it depends on no other result of the pass"


def describe_moved(chain: Chain, ratio: Ratio) -> str:
    """The correction with d before and d' after a tile."""
    import sympy

    names = dict(chain.vocabulary.meaning)
    primes = {}
    for before, after in zip(ratio.before, ratio.after, strict=True):
        shown = describe(before, chain.vocabulary).strip("`")
        primes[before] = sympy.Symbol(shown)
        primes[after] = sympy.Symbol(f"{shown}'")
    return describe(ratio.term.xreplace(primes), chain.vocabulary) if names else str(ratio.term)

"""Derived cascades beside the cascades as written: same results, same text after a round trip, no invariant violated."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.ir.verifier import verify
from einfall.passes.analysis.structure import Structure
from einfall.passes.online.chain import Chain, chains
from einfall.passes.online.derive import Derivation, derive
from einfall.passes.online.online import online_form
from einfall.passes.online.ratio import Refusal

Arrays = Mapping[str, np.ndarray]


def only(text: str) -> Cascade:
    (kernel,) = load(text, "test.ecs").values()
    return kernel


def passes(derivation: Derivation) -> dict[str, tuple[int, int]]:
    """Passes before and after, of the ranks with more than one."""
    return {name: (p.before, p.after) for name, p in derivation.passes.items() if p.before > 1}


def check_form(cascade: Cascade) -> None:
    """A derived cascade is valid, and its text lowers to it again."""
    verify(cascade)
    text = to_source(cascade)
    assert load(text, "derived.ecs")[cascade.name] == cascade, text


def check_equal(
    written: Cascade,
    derived: Cascade,
    arguments: Arrays,
    sizes: Mapping[str, int] | None = None,
    rtol: float = 1e-9,
    sums: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Equal results wherever the cascade as written is finite; returns what was derived. Rows (of the first dimension) in which
    one of the results ``sums`` is infinite or NaN are not finite as written, whatever is made of it."""
    expected = interpret(written, arguments, sizes=sizes)
    found = interpret(derived, arguments, sizes=sizes)
    for name, value in expected.items():
        known = np.isfinite(value)
        for other in sums:
            known[~np.isfinite(expected[other])] = False
        scale = np.abs(value[known]).max(initial=1.0)
        np.testing.assert_allclose(found[name][known], value[known], rtol=rtol, atol=rtol * scale, err_msg=name)
    return found


def derived(text: str, arguments: Arrays, *, tile: int = 4, sizes: Mapping[str, int] | None = None) -> Derivation:
    """The derivation of a program, checked on some arguments."""
    written = only(text)
    derivation = derive(written, tile=tile)
    check_form(derivation.cascade)
    check_equal(written, derivation.cascade, arguments, sizes)
    return derivation


def chain_of(text: str, rank: str) -> tuple[Chain | None, list[Refusal]]:
    """The first chain along a rank of a program, without deferral, and what was refused."""
    structure = Structure(only(text))
    ranks = [r for r in structure.ranks if r.name == rank]
    found, refusals = chains(structure, ranks[:1])
    return (found[0] if found else None), refusals


def online(text: str, rank: str, arguments: Arrays, *, tile: int = 4) -> Cascade:
    """The online form of the one chain along a rank, without deferral, checked on some arguments."""
    chain, refusals = chain_of(text, rank)
    assert chain is not None, refusals
    result, _ = online_form(chain, tile)
    check_form(result)
    check_equal(only(text), result, arguments)
    return result

"""The split form: parts of a long rank with states of their own, merged at the end, compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from einfall.compiler.samples import sample_arguments
from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.passes.derive import derive
from einfall.passes.split import Splitting, split

from .comparison import check_equal, check_form, only

ROOT = Path(__file__).parents[2]
KERNELS = {
    f"{path.parent.name}/{name}": kernel
    for path in sorted((ROOT / "examples").glob("*/*.ecs"))
    for name, kernel in load(path.read_text(), path.name).items()
}
ONLINE = [name for name, kernel in KERNELS.items() if derive(kernel).chains]

rng = np.random.default_rng(5)


def split_of(cascade: Cascade, *, most: int = 3, tile: int = 3, least: int = 3) -> Splitting:
    found = split(derive(cascade), most=most, least=least, tile=tile)
    assert found is not None
    check_form(found.cascade)
    return found


@pytest.mark.parametrize("name", ONLINE)
def test_every_derived_form_of_the_examples_computes_the_same_in_parts(name: str) -> None:
    kernel = KERNELS[name]
    form = split_of(kernel)
    for check in kernel.checks:
        values = dict(check.values)
        sizes = {n: int(v) for n, v in values.items() if n in kernel.sizes}
        scalars = {n: v for n, v in values.items() if n not in kernel.sizes}
        check_equal(kernel, form.cascade, sample_arguments(kernel, sizes, scalars=scalars), sizes, rtol=1e-8)

"""What is one loop nest and what lives in its tiles: the variants of attention, norms, siblings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import einfall
from einfall.compiler.samples import sample_arguments
from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.ir.dependence import schedule
from einfall.ir.expr import sizes_of
from einfall.ir.index import expand_lets
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.ir.target import Target
from einfall.ir.tile import Scope, TileProgram
from einfall.passes.online.derive import derive
from einfall.passes.pipeline import lower, prepare
from einfall.passes.tiling.assemble import assemble
from einfall.passes.tiling.grouping import form_groups

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Cascade:
    (path,) = EXAMPLES.glob(f"*/{name}.ecs")
    return load(path.read_text(), path.name)[name]


def held(program: TileProgram) -> list[set[str]]:
    """The free sizes of every buffer in memory that the kernel allocates."""
    lets = {let.name: let.value for let in program.cascade.lets}
    shapes = [b.shape for b in program.buffers if b.scope is Scope.WORKSPACE]
    return [{s for n in shape for s in sizes_of(expand_lets(n, lets))} for shape in shapes]


SCORES = {
    "attention": {"P", "M"},
    "causal_attention": {"P", "M"},
    "differential_attention": {"P", "M"},
    "document_mask_attention": {"T"},
    "evoformer_attention": {"I", "J"},
    "grouped_query_attention": {"P", "M"},
    "mla_attention": {"P", "M"},
    "paged_decode_attention": {"J", "S"},
    "relative_position_attention": {"P", "M"},
    "sink_attention": {"P", "M"},
    "softcap_attention": {"P", "M"},
    "tensor_attention": {"I", "J"},
    "linear_cross_entropy": {"B", "V"},
}


@pytest.mark.parametrize("name", SCORES)
def test_no_scores_in_memory(name: str) -> None:
    """Neither in the form that is chosen nor in the one-pass form."""
    written = example(name)
    derived = derive(prepare(written).cascade).cascade
    for program in (lower(written).program, assemble(derived, Target.parse("cpu"))):
        assert not any(sizes >= SCORES[name] for sizes in held(program))


@pytest.mark.parametrize(
    "name", ["layernorm", "rmsnorm", "batchnorm", "groupnorm", "softmax", "log_softmax", "label_smoothing"]
)
def test_rows_stay_where_they_are(name: str) -> None:
    written = example(name)
    assert held(lower(written).program) == []
    assert held(assemble(derive(written).cascade, Target.parse("cpu"))) == []


def groups(name: str) -> list[set[str]]:
    """The tensors of each group of the form as written."""
    cascade = prepare(example(name)).cascade
    found = form_groups(cascade, schedule(cascade), frozenset())
    return [{cascade.einsums[i].target for i in group.members} for group in found]


def test_sums_over_different_inputs_share_a_loop() -> None:
    assert groups("kl_divergence") == [{"GX", "GY", "EXP", "SX", "SY", "T", "D"}]


def test_siblings_that_would_lose_a_parallel_rank_stay_apart() -> None:
    """The norms of the queries and of the keys: in one loop over the heads, positions would run one after the other."""
    assert {"QQ"} in groups("qknorm_attention")


def test_products_that_are_wanted_whole_stay_apart() -> None:
    assert not any({"G", "A"} <= group for group in groups("swiglu"))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("differential_attention", {"H": 2, "P": 33, "M": 300, "E": 16, "F": 8}),
        ("document_mask_attention", {"H": 2, "T": 300, "E": 16, "F": 8}),
        ("tensor_attention", {"P": 17, "I": 5, "J": 150, "E": 16, "F": 8}),
        ("mla_attention", {"H": 2, "P": 17, "M": 300, "E": 16, "C": 24, "R": 8, "F": 8}),
    ],
)
def test_fused_variants_compute_the_same(name: str, sizes: dict[str, int]) -> None:
    """Ragged tiles, and two ranks walked as one."""
    cascade = example(name)
    arguments = sample_arguments(cascade, sizes)
    kernel = einfall.compile(to_source(cascade), cache=False)
    (expected,) = interpret(cascade, arguments).values()
    given = {n: np.asarray(v, cascade.by_name[n].value.storage) for n, v in arguments.items()}
    found = np.asarray(kernel(**given))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max(initial=1))

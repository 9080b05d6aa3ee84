"""Every example computes what its independent NumPy reference says, at the sizes of its check items."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy.special import logsumexp

import einfall

from .cases import EXAMPLES, Case, cases, example_files, inputs, kernel_of, result_types, sizes_no_array_determines
from .references import REFERENCES
from .references.dynamic_programming import every_path, hmm_forward, viterbi
from .references.registry import Array

CASES = list(cases())


def expected(case: Case, arguments: dict[str, Array]) -> list[Array]:
    """The reference's results in float64."""
    function = REFERENCES[case.kernel].function
    available: dict[str, object] = dict(case.sizes)
    for name, value in arguments.items():
        available[name] = value if value.dtype.kind in "ib" else value.astype(np.float64)
        if value.dtype.kind == "i":
            available[name] = value.astype(np.int64)
    wanted = function(**{name: available[name] for name in inspect.signature(function).parameters})
    return list(wanted) if isinstance(wanted, tuple) else [wanted]


@pytest.mark.parametrize("path", example_files(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_file_defines_the_kernel_of_its_name_and_has_a_reference(path):
    assert kernel_of(path).name.name == path.stem
    assert path.stem in REFERENCES
    assert sum(case.path == path for case in CASES) >= 2


def test_each_readme_lists_the_files_of_its_folder():
    for folder in sorted({path.parent for path in example_files()}):
        readme = (folder / "README.md").read_text()
        for path in folder.glob("*.ecs"):
            assert f"[{path.name}]({path.name})" in readme, f"{path.name} is missing from {folder.name}/README.md"


def test_references_name_existing_kernels():
    assert set(REFERENCES) == {path.stem for path in EXAMPLES.glob("*/*.ecs")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_has_the_declared_shapes(case):
    for (name, shape, _), value in zip(result_types(case), expected(case, inputs(case)), strict=True):
        assert np.shape(value) == shape, name
        assert not np.isnan(value).any(), name


def test_hidden_markov_references_agree_with_the_enumeration_of_all_paths():
    rng = np.random.default_rng(3)
    start, A, E = rng.standard_normal(3), rng.standard_normal((3, 3)), rng.standard_normal((2, 4, 3))
    paths = [every_path(start, A, emission) for emission in E]
    np.testing.assert_allclose(viterbi(start, A, E)[0], [scores.max() for scores in paths])
    np.testing.assert_allclose(hmm_forward(start, A, E), logsumexp(paths, axis=1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_interpreter_agrees_with_the_reference(case):
    arguments = inputs(case)
    given = {name: value if value.ndim else value.item() for name, value in arguments.items()}
    results = einfall.interpret(str(case.path), **sizes_no_array_determines(case), **given)
    results = results if isinstance(results, tuple) else (results,)
    for (name, shape, dtype), value, wanted in zip(result_types(case), results, expected(case, arguments), strict=True):
        assert np.shape(value) == shape, name
        # The interpreter works in float64; only the rounding to the declared result type may show.
        tolerance = 2e-6 if dtype is np.float32 else 8e-3 if dtype is not np.int32 else 0
        np.testing.assert_allclose(np.asarray(value, np.float64), wanted, rtol=tolerance, atol=tolerance, err_msg=name)

"""Which cases of the large matrices of compiled kernels belong to the fast suite.

A kernel takes seconds to compile, and these files compile one for every combination of types, shapes and forms. `make test`
takes every so many of each test's cases; `make test-all` takes all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

EVERY = {
    "backend/test_absence.py": 3,
    "backend/test_bf16_attention.py": 8,
    "backend/test_blocks.py": 7,
    "backend/test_byte_windows.py": 5,
    "backend/test_layouts.py": 5,
    "backend/test_masks.py": 8,
    "backend/test_microkernels.py": 14,
    "backend/test_numbers.py": 3,
    "backend/test_parts.py": 7,
    "backend/test_prepacked.py": 6,
    "backend/test_products.py": 7,
    "backend/test_recurrent_weights.py": 7,
    "backend/test_targets.py": 8,
    "backend/test_windows.py": 7,
    "codegen/test_dot.py": 5,
    "codegen/test_gemm.py": 7,
    "codegen/test_kernels.py": 7,
    "docs/test_language_reference.py::test_compiles_to_what_the_page_says": 4,
    "docs/test_language_reference.py::test_passes_its_checks": 4,
    "examples/test_compiled.py": 3,
    "ir/test_tile_printer.py": 8,
    "passes/test_along.py": 3,
    "passes/test_epilogue.py": 8,
    "passes/test_groups.py": 10,
    "passes/test_inline.py": 3,
    "passes/test_recurrence.py": 8,
    "passes/test_split.py": 4,
    "passes/test_unified.py": 4,
}
"""Of the cases of each parametrised test in a file, or of one of its tests, one in so many is fast."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Marks the other cases slow."""
    seen: Counter[str] = Counter()
    for item in items:
        file = f"{item.path.parent.name}/{item.path.name}"
        test = item.nodeid.partition("[")[0]
        every = EVERY.get(f"{file}::{test.rpartition('::')[2]}", EVERY.get(file))
        if every is None or not hasattr(item, "callspec"):
            continue
        if seen[test] % every:
            item.add_marker(pytest.mark.slow)
        seen[test] += 1

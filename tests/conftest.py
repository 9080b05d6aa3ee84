"""Which cases of the large matrices of compiled kernels belong to the fast suite.

A kernel takes seconds to compile, and these files compile one for every combination of types, shapes and forms. `make test`
takes every so many of each test's cases; `make test-all` takes all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

EVERY = {
    "backend/test_blocks.py": 3,
    "backend/test_layouts.py": 2,
    "backend/test_microkernels.py": 4,
    "backend/test_parts.py": 2,
    "backend/test_products.py": 2,
    "backend/test_recurrent_weights.py": 3,
    "backend/test_targets.py": 2,
    "backend/test_windows.py": 3,
    "codegen/test_dot.py": 3,
    "codegen/test_gemm.py": 3,
    "codegen/test_kernels.py": 2,
    "passes/test_epilogue.py": 3,
    "passes/test_groups.py": 3,
    "passes/test_recurrence.py": 2,
    "passes/test_split.py": 2,
    "passes/test_unified.py": 2,
}
"""Of the cases of each parametrised test in a file, one in so many is fast."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Marks the other cases slow."""
    seen: Counter[str] = Counter()
    for item in items:
        folder, name = item.path.parent.name, item.path.name
        every = EVERY.get(f"{folder}/{name}")
        if every is None or not hasattr(item, "callspec"):
            continue
        test = item.nodeid.partition("[")[0]
        if seen[test] % every:
            item.add_marker(pytest.mark.slow)
        seen[test] += 1

"""A process whose GPU is the emulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cuda_emulation import toolchain
from tests.cuda_emulation.device import Worker


@pytest.fixture(scope="package")
def gpu() -> Iterator[Worker]:
    if (reason := toolchain.why_not()) is not None:
        pytest.skip(reason)
    with Worker() as started:
        yield started

"""Tests of the equipment are skipped where it cannot work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import toolchain
from .device import Worker


@pytest.fixture(autouse=True)
def needs_compiler() -> None:
    if (reason := toolchain.why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="package")
def worker() -> Iterator[Worker]:
    """A process with the emulator as its CUDA device."""
    if (reason := toolchain.why_not()) is not None:
        pytest.skip(reason)
    with Worker() as started:
        yield started

"""What a benchmark is: a workload, its cost, and the contestants that compute it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import einfall as ef

EXAMPLES = Path(__file__).parents[1] / "examples"

Contestants = Mapping[str, Callable[[], object]]
"""By name: a call that computes the workload into memory that is there already, and returns the result."""

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table.

    ``flops`` counts the multiplications and additions that dominate (0 where the memory does), ``traffic`` the bytes of
    inputs and results, each once. ``make`` draws the inputs, compiles, and returns einfall's call first. ``tolerance``
    is the relative difference, in the Frobenius norm, up to which a peer's result counts as the same.
    """

    name: str
    make: Callable[[], Contestants]
    flops: float = 0.0
    traffic: float = 0.0
    dtype: str = "f32"
    tolerance: float = 1e-4
    quick: bool = False


def example(path: str, **sizes: int) -> ef.Kernel:
    """The kernel of a file under examples/, compiled for the host and these sizes."""
    return ef.compile(EXAMPLES / path, target="cpu", **sizes)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Seeded normal f32 values."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(scale)


def unfused(path: str, **sizes: int) -> ef.Kernel:
    """The same with the passes over the data that the program has: no online forms, no parts, no chunks."""
    return ef.compile(EXAMPLES / path, target="cpu", online=False, **sizes)


def with_torch(
    contestants: dict[str, Callable[[], object]],
    peer: Callable[[ModuleType], Any],
    compiled: Callable[[ModuleType], tuple[Callable[..., object], tuple[object, ...]]] | None = None,
) -> Contestants:
    """The contestants and PyTorch, where it is installed.

    ``peer`` takes the module and returns a call; ``compiled`` returns a function of tensors for `torch.compile`, and its
    arguments. Left out under ``--no-compile``, which saves the minutes that it takes.
    """
    if torch is not None:
        contestants["torch"] = peer(torch)
        if compiled is not None and not os.environ.get("EINFALL_BENCH_NO_COMPILE"):
            function, arguments = compiled(torch)
            fast = torch.compile(function)
            contestants["torch.compile"] = lambda: fast(*arguments)
    return contestants


def difference(value: object, reference: object) -> float:
    """The relative difference of two results in the Frobenius norm; the largest of them for several results."""
    if isinstance(value, tuple) or isinstance(reference, tuple):
        assert isinstance(value, tuple) and isinstance(reference, tuple) and len(value) == len(reference)
        return max(difference(v, r) for v, r in zip(value, reference, strict=True))
    a, b = _array(value), _array(reference)
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm((a - b).ravel()) / max(float(np.linalg.norm(b.ravel())), 1e-30))


def _array(value: object) -> np.ndarray:
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.float().numpy()
    return np.asarray(value, np.float32)

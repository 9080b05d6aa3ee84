"""What the report is about: every example as it is written, and the forms in 16 bits, or with a tolerance that permits tf32, of
those that tensor cores speed up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import einfall as ef
from einfall.compiler.explaining import explain
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.cascade import Cascade, Check
from einfall.ir.diagnostics import EinfallError
from einfall.ir.printer import to_source
from einfall.passes.pipeline import Lowered
from einfall.runtime.extents import check_sizes
from einfall.runtime.signature import Signature

EXAMPLES = Path(ef.__file__).parent / "examples"

ENOUGH, LARGE = 64 << 20, 4096
"""Bytes that a call moves at the sizes that its limits are told for, and the size up to which all of its sizes grow."""

TF32 = "tf32"

_NARROW = {
    "attention/attention.ecs": ("bf16", "f16", TF32),
    "attention/causal_attention.ecs": ("bf16",),
    "attention/decode_attention.ecs": ("bf16",),
    "attention/grouped_query_attention.ecs": ("bf16",),
    "convolution/conv2d.ecs": ("bf16", "f16", TF32),
    "convolution/conv2d_bias_relu.ecs": ("bf16",),
    "gemm/gemm.ecs": ("bf16", "f16", TF32),
    "gemm/gemm_bias.ecs": ("bf16",),
    "gemm/gemm_gelu.ecs": ("bf16",),
    "gemm/mlp.ecs": ("bf16",),
}
_WIDTHS = (64, 128)
"""Of attention: fixed where it is compiled for tensor cores, as it would be in use; other types than bf16 have the first."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A program to compile: its name in the report, its text, and sizes that are fixed."""

    name: str
    text: str
    path: Path
    fixed: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def cascade(self) -> Cascade:
        found = read_program(self.text).select(None)
        return specialise(found, {name: size for name, size in self.fixed.items() if name in found.sizes})


def subjects() -> Iterator[Subject]:
    for path in sorted(EXAMPLES.glob("*/*.ecs")):
        name = f"{path.parent.name}/{path.name}"
        text = path.read_text("utf-8")
        yield Subject(name=name.removesuffix(".ecs"), text=text, path=path)
        for dtype in _NARROW.get(name, ()):
            narrow = text.replace("\nkernel ", "\n@tolerance(1e-2)\nkernel ") if dtype == TF32 else text.replace("f32", dtype)
            label = f"{name.removesuffix('.ecs')} {dtype}"
            if path.parent.name != "attention":
                yield Subject(name=label, text=narrow, path=path)
                continue
            for width in _WIDTHS if dtype == "bf16" else _WIDTHS[:1]:
                yield Subject(name=f"{label} {width}", text=narrow, path=path, fixed={"E": width, "F": width})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Operations and bytes (inputs and results, each once) of a call of some sizes."""

    sizes: Mapping[str, int]
    flops: int
    traffic: int


def largest_check(cascade: Cascade) -> Check | None:
    """The check with the largest sizes; None for a program without one."""

    def points(check: Check) -> float:
        return math.prod(float(value) for name, value in check.values if name in cascade.sizes)

    return max(cascade.checks, key=points, default=None)


def cost(subject: Subject, form: Lowered) -> Cost | None:
    """The cost of a call that moves about `ENOUGH` bytes: the sizes of the largest check, doubled together, small ones
    first. None for a program without checks, or whose sizes cannot grow."""
    check, cascade = largest_check(read_program(subject.text).select(None)), subject.cascade  # fixed sizes end checks of others
    if check is None:
        return None
    explanation = explain(cascade, to_source(cascade), form)
    signature = Signature.of(cascade)
    sizes = {name: int(value) for name, value in check.values if name in cascade.sizes}
    found: Cost | None = None
    for _ in range(40):
        try:
            values, _shapes = check_sizes(signature, sizes)
            counts = explanation.at(**values)
        except (EinfallError, KeyError):
            break
        found = Cost(sizes=dict(sizes), flops=counts["flops"], traffic=counts["traffic"])
        growing = [name for name, size in sizes.items() if 0 < size < LARGE] or [name for name, size in sizes.items() if size]
        if found.traffic >= ENOUGH or not growing:
            break
        sizes |= {name: 2 * sizes[name] for name in growing}
    return found

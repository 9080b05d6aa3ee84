"""The named quantised formats: element, group, scale and zero point of each, once.

The values of a format's elements (code books, offsets) belong to its kernels; this table gives what type checking and
storage need. Groups run along the last dimension of the tensor.
"""

from __future__ import annotations

from .types import DTYPES, QuantType


def _format(name: str, element: str, group: int, scale: str | None, zero: str | None = None) -> QuantType:
    return QuantType(
        name=name,
        element=DTYPES[element],
        dimension=None,
        group=group,
        scale=None if scale is None else DTYPES[scale],
        zero=None if zero is None else DTYPES[zero],
    )


FORMATS: dict[str, QuantType] = {
    entry.name or "": entry
    for entry in (
        # ggml (llama.cpp): blocks of 32 with one f16 scale; the _1 forms have an f16 minimum.
        _format("q4_0", "i4", 32, "f16"),
        _format("q4_1", "u4", 32, "f16", "f16"),
        _format("q8_0", "i8", 32, "f16"),
        # QLoRA (Dettmers et al., 2023): the 16 quantiles of a normal distribution, blocks of 64.
        _format("nf4", "u4", 64, "f32"),
        # OCP Microscaling Formats 1.0: blocks of 32 with a power-of-two scale (E8M0, stored in 8 bits).
        _format("mxfp4", "f4_e2m1", 32, "u8"),
        _format("mxfp6", "f6_e3m2", 32, "u8"),
        _format("mxfp8", "f8_e4m3", 32, "u8"),
        _format("mxint8", "i8", 32, "u8"),
        # Binary-coded quantisation: a sum of n scaled bit planes (LUT-GEMM, Park et al., 2024), groups of 128.
        _format("bcq1", "i1", 128, "f32"),
        _format("bcq2", "u2", 128, "f32"),
        _format("bcq3", "u3", 128, "f32"),
        _format("bcq4", "u4", 128, "f32"),
    )
}
"""Quantised formats by their name in the language."""

"""3×3 convolutions of ResNet's four stages, one image: f32, and u8·i8 summed in i32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Field, constant, empty, integers, normal
from onnx_peer import node, session
from torch_peer import tensor, tensors, torch

STAGES = {"64×56²": (64, 56), "128×28²": (128, 28), "256×14²": (256, 14), "512×7²": (512, 7)}
FILE = "convolution/conv2d.ecs"


def cases() -> Iterator[Case]:
    """As many channels out as in."""
    for dtype, element in (("f32", 4.0), ("i8", 1.0)):
        for name, (channels, side) in STAGES.items():
            pixels = channels * side * side
            yield Case(
                name=f"conv 3×3 {'f32' if dtype == 'f32' else 'u8·i8→i32'} {name}",
                family="convolution",
                make=partial(_float if dtype == "f32" else _integer, channels, side),
                flops=2.0 * 9 * channels * pixels,
                reads=element * (pixels + 9 * channels * channels),
                writes=4.0 * pixels,
                dtype=dtype,
                goal=1.0,
                tolerance=1e-4 if dtype == "f32" else 1e-6,
                quick=name == "256×14²",
            )


def _program(dtypes: dict[str, str]) -> str:
    """conv2d.ecs with a constant weight and other types."""
    text = constant(FILE, "W")
    for name, dtype in dtypes.items():
        text = text.replace(f"{name}: f32", f"{name}: {dtype}", 1)
    return text


def _sizes(channels: int, side: int) -> dict[str, int]:
    return {"N": 1, "C": channels, "K": channels, "P": side, "Q": side}


def _float(channels: int, side: int, field: Field) -> None:
    x = normal(1, channels, side, side)
    w = normal(channels, channels, 3, 3, seed=1, scale=(9 * channels) ** -0.5)
    shape = x.shape

    field.kernel(_program({}), x, results=[empty(*shape)], bind={"W": w}, **_sizes(channels, side))

    @field.peer("torch")
    def eager():
        a, b = tensors(x, w)
        return lambda: torch.nn.functional.conv2d(a, b, padding=1)

    @field.peer("torch packed")
    def packed():
        a, b = tensors(x, w)
        one = [1, 1]
        weight = torch.ops.mkldnn._reorder_convolution_weight(b, one, one, one, 1, list(shape))
        convolve = torch.ops.mkldnn._convolution_pointwise
        return lambda: convolve(a, weight, None, one, one, one, 1, "none", [], "")

    @field.peer("onnxruntime")
    def onnx():
        nodes = [node("Conv", "x w", "y", pads=[1, 1, 1, 1])]
        return session(nodes, inputs={"x": x}, results={"y": empty(*shape)}, weights={"w": w})


def _integer(channels: int, side: int, field: Field) -> None:
    """Sums of at most 9 · 512 products of at most 15 · 15 are exact in f32, which is what oneDNN gives."""
    x = integers(1, channels, side, side, low=0, high=15, dtype=np.uint8)
    w = integers(channels, channels, 3, 3, low=-15, high=15, dtype=np.int8, seed=1)
    shape = x.shape

    program = _program({"I": "u8", "W": "i8", "O": "i32"})
    field.kernel(program, x, results=[empty(*shape, dtype="i32")], bind={"W": w}, **_sizes(channels, side))

    @field.peer("torch packed")
    def packed():
        one = [1, 1]
        a = tensor(x).contiguous(memory_format=torch.channels_last)
        scales, zeros = torch.ones(channels), torch.zeros(channels, dtype=torch.int32)
        weight = torch.ops.onednn.qconv_prepack(tensor(w), scales, 1.0, 0, one, one, one, 1, list(shape))
        convolve = torch.ops.onednn.qconv_pointwise
        return lambda: convolve(a, 1.0, 0, weight, scales, zeros, None, one, one, one, 1, 1.0, 0, torch.float32, "none", [], "")

    @field.peer("onnxruntime")
    def onnx():
        nodes = [node("ConvInteger", "x w", "y", pads=[1, 1, 1, 1])]
        return session(nodes, inputs={"x": x}, results={"y": empty(*shape, dtype="i32")}, weights={"w": w})

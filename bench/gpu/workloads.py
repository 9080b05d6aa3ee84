"""What is measured on a GPU: einfall's call and its peers' calls on the same tensors, operations, bytes, the goal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import einfall as ef

EXAMPLES = Path(ef.__file__).parent / "examples"

PRODUCT = "kernel gemm(A: {t}[M, K], B: {t}[N, K]) -> (C: {r}[M, N]) {{ C[m, n] = A[m, k] * B[n, k] }}"

Call = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the workloads run: PyTorch and its name of the device, einfall's target, and by what sizes are divided (more than 1
    in a rehearsal)."""

    torch: ModuleType
    device: str
    target: str
    shrink: int = 1

    def size(self, full: int) -> int:
        return max(16, full // self.shrink)

    def randn(self, *shape: int, dtype: object = None) -> object:
        made = self.torch.randn(*shape, device=self.device, dtype=self.torch.float32)
        return made if dtype is None else made.to(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A workload: einfall's call, its peers' calls by name, operations of a type, bytes, how far results may lie apart (of the
    largest one), and the ratio to the fastest peer that is demanded. The first peer is the reference."""

    own: Call
    peers: Mapping[str, Call]
    flops: float
    dtype: str
    traffic: float
    tolerance: float
    goal: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A name, the program and the sizes that are fixed, and what makes the tensors and calls: they exist one row at a time."""

    name: str
    program: str
    fixed: Mapping[str, int]
    make: Callable[[Machine, ef.Kernel], Work]


def workloads() -> Iterator[Workload]:
    for size in (4096, 8192):
        for t in ("bf16", "f16", "i8"):
            yield _product(t, size)
    for width in (64, 128):
        for length in (2048, 4096, 8192, 16384):
            for causal in (False, True):
                yield _attention(width, length, causal=causal)
    yield _decode(32768)
    for t in ("f32", "bf16"):
        for channels, side in ((64, 56), (256, 14)):
            yield _convolution(t, channels, side)
    for rows, columns in ((32768, 4096), (8192, 16384)):
        yield _rows("softmax", rows, columns)
        yield _rows("rmsnorm", rows, columns)
        yield _rows("layernorm", rows, columns)
    yield _cross_entropy(8192, 32768)


def _product(t: str, size: int) -> Workload:
    result = "i32" if t == "i8" else t

    def make(machine: Machine, kernel: ef.Kernel) -> Work:
        torch, n = machine.torch, machine.size(size)
        if t == "i8":
            a, b = (torch.randint(-128, 128, (n, n), device=machine.device, dtype=torch.int8) for _ in range(2))
            out = torch.empty(n, n, device=machine.device, dtype=torch.int32)
            peers = {"cuBLAS": lambda: torch._int_mm(a, b.T)}
        else:
            dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[t]
            a, b = (machine.randn(n, n, dtype=dtype) / 8 for _ in range(2))
            out = torch.empty(n, n, device=machine.device, dtype=dtype)
            peers = {"cuBLAS": lambda: torch.matmul(a, b.T)}
        return Work(
            own=lambda: kernel(a, b, out=out), peers=peers, flops=2.0 * n**3, dtype=t,
            traffic=sum(x.numel() * x.element_size() for x in (a, b, out)), tolerance=0.0 if t == "i8" else 2e-2, goal=0.6,
        )  # fmt: skip

    return Workload(name=f"gemm {t} {size}", program=PRODUCT.format(t=t, r=result), fixed={}, make=make)


def _attention(width: int, length: int, *, causal: bool) -> Workload:
    text = (EXAMPLES / f"attention/{'causal_' if causal else ''}attention.ecs").read_text("utf-8").replace("f32", "bf16")

    def make(machine: Machine, kernel: ef.Kernel) -> Work:
        torch, heads, n = machine.torch, 16, machine.size(length)
        # With a dimension for the batch: without one PyTorch's fused kernels are not taken.
        q, k, v = (machine.randn(1, heads, n, width, dtype=torch.bfloat16) for _ in range(3))
        out = torch.empty(heads, n, width, device=machine.device, dtype=torch.bfloat16)
        peers = dict(_fused(torch, q, k, v, causal=causal))
        return Work(
            own=lambda: kernel(q[0], k[0], v[0], out=out), peers=peers, dtype="bf16",
            flops=4.0 * heads * n * n * width * (0.5 if causal else 1.0), traffic=4.0 * 2 * q.numel(), tolerance=3e-2, goal=0.7,
        )  # fmt: skip

    name = f"attention bf16 D{width} {length}{' causal' if causal else ''}"
    return Workload(name=name, program=text, fixed={"E": width, "F": width}, make=make)


def _fused(torch: ModuleType, q: object, k: object, v: object, *, causal: bool) -> Iterator[tuple[str, Call]]:
    """PyTorch's attention by what it chooses itself, and by each of its fused kernels that takes these tensors."""
    attend = torch.nn.functional.scaled_dot_product_attention
    yield "SDPA", lambda: attend(q, k, v, is_causal=causal)[0]
    attention = getattr(torch.nn, "attention", None)
    if attention is None or not q.is_cuda:  # type: ignore[attr-defined]
        return
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION"):
        if (backend := getattr(attention.SDPBackend, name, None)) is None:
            continue

        def call(backend: object = backend) -> object:
            with attention.sdpa_kernel(backend):
                return attend(q, k, v, is_causal=causal)[0]

        yield name.replace("_", " ").lower(), call


def _decode(length: int) -> Workload:
    text = (EXAMPLES / "attention/attention.ecs").read_text("utf-8").replace("f32", "bf16")

    def make(machine: Machine, kernel: ef.Kernel) -> Work:
        torch, heads, width, n = machine.torch, 32, 128, machine.size(length)
        q = machine.randn(1, heads, 1, width, dtype=torch.bfloat16)
        k, v = (machine.randn(1, heads, n, width, dtype=torch.bfloat16) for _ in range(2))
        out = torch.empty(heads, 1, width, device=machine.device, dtype=torch.bfloat16)
        return Work(
            own=lambda: kernel(q[0], k[0], v[0], out=out), peers=dict(_fused(torch, q, k, v, causal=False)), dtype="bf16",
            flops=4.0 * heads * n * width, traffic=2.0 * 2 * k.numel(), tolerance=3e-2, goal=0.9,
        )  # fmt: skip

    return Workload(name=f"decode bf16 {length}", program=text, fixed={"E": 128, "F": 128}, make=make)


def _convolution(t: str, channels: int, side: int) -> Workload:
    """3 × 3, padded, of 32 images, as in ResNet."""
    text = (EXAMPLES / "convolution/conv2d.ecs").read_text("utf-8").replace("f32", t)

    def make(machine: Machine, kernel: ef.Kernel) -> Work:
        torch, c = machine.torch, machine.size(channels)
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[t]
        x = machine.randn(machine.size(32), c, side, side, dtype=dtype)
        w = machine.randn(c, c, 3, 3, dtype=dtype) / 8
        out = torch.empty_like(x)

        def library() -> object:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
                return torch.nn.functional.conv2d(x, w, padding=1)

        return Work(
            own=lambda: kernel(x, w, out=out), peers={"cuDNN": library}, flops=18.0 * c * x.numel(), dtype=t,
            traffic=sum(each.numel() * each.element_size() for each in (x, w, out)), tolerance=1e-4 if t == "f32" else 2e-2,
            goal=0.6,
        )  # fmt: skip

    return Workload(name=f"convolution {t} {channels} × {side}²", program=text, fixed={}, make=make)


def _rows(name: str, rows: int, columns: int) -> Workload:
    text = (EXAMPLES / f"norms/{name}.ecs").read_text("utf-8")

    def make(machine: Machine, kernel: ef.Kernel) -> Work:
        torch, functional = machine.torch, machine.torch.nn.functional
        x = machine.randn(machine.size(rows), machine.size(columns))
        n = x.shape[1]
        gain, bias = machine.randn(n), machine.randn(n)
        out = torch.empty_like(x)
        given, plain = {
            "softmax": ((x,), lambda: torch.softmax(x, -1)),
            "rmsnorm": ((x, gain), lambda: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain),
            "layernorm": ((x, gain, bias), lambda: functional.layer_norm(x, (n,), gain, bias, 1e-5)),
        }[name]
        peers = {"eager": plain, **_compiled(machine, plain)}
        return Work(
            own=lambda: kernel(*given, out=out), peers=peers, flops=8.0 * x.numel(), dtype="f32", traffic=8.0 * x.numel(),
            tolerance=1e-4, goal=1.0,
        )  # fmt: skip

    return Workload(name=f"{name} f32 {rows}×{columns}", program=text, fixed={}, make=make)


def _cross_entropy(rows: int, columns: int) -> Workload:
    text = (EXAMPLES / "losses/cross_entropy.ecs").read_text("utf-8")

    def make(machine: Machine, kernel: ef.Kernel) -> Work:
        torch = machine.torch
        x = machine.randn(machine.size(rows), machine.size(columns))
        target = torch.randint(0, x.shape[1], (x.shape[0],), device=machine.device)
        narrow, out = target.to(torch.int32), torch.empty(x.shape[0], device=machine.device)

        def plain() -> object:
            return torch.nn.functional.cross_entropy(x, target, reduction="none")

        peers = {"eager": plain, **_compiled(machine, plain)}
        return Work(
            own=lambda: kernel(x, narrow, out=out), peers=peers, flops=4.0 * x.numel(), dtype="f32", traffic=4.0 * x.numel(),
            tolerance=1e-4, goal=1.0,
        )  # fmt: skip

    return Workload(name=f"cross-entropy f32 {rows}×{columns}", program=text, fixed={}, make=make)


def _compiled(machine: Machine, plain: Call) -> dict[str, Call]:
    """The call through torch.compile, which writes Triton; not in a rehearsal, where it would only take time."""
    return {"torch.compile": machine.torch.compile(plain)} if machine.shrink == 1 else {}


def least(work: Work, peak: Mapping[str, float], bandwidth: float) -> float:
    """Seconds that the device needs at least, by its measured limits."""
    rate = peak.get(work.dtype, math.inf)
    return max(work.flops / rate, work.traffic / bandwidth)

"""What a kernel for a GPU consists of, for people: registers, shared memory, occupancy, and the instructions in its PTX."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..ir.target import Gpu
from ..ir.usage import Occupancy, Usage, occupancy

_ENTRY = re.compile(r"^\.visible \.entry (\w+)\(", re.MULTILINE)
_DECLARED = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\)')
_OPERATION = re.compile(r"(?:^|[{;])[ \t]*(?:@!?%?p\d*\s+)?([a-z][\w.:]*)(?=[\s;])", re.MULTILINE)

KINDS: Mapping[str, re.Pattern[str]] = {
    "wgmma": re.compile(r"wgmma\.mma_async"),
    "mma": re.compile(r"mma\.sync"),
    "dp4a": re.compile(r"dp4a"),
    "ldmatrix": re.compile(r"ldmatrix"),
    "cp.async": re.compile(r"cp\.async\.c[ag]"),
    "TMA": re.compile(r"cp\.async\.bulk"),
    "wide loads": re.compile(r"ld\.(?:global|shared)\.\S*v[248]"),
    "wide stores": re.compile(r"st\.(?:global|shared)\.\S*v[248]"),
    "shuffles": re.compile(r"shfl"),
    "barriers": re.compile(r"bar(?:rier)?\."),
    "atomics": re.compile(r"(?:atom|red)\."),
}
"""Kinds of instructions by how they begin in PTX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFigures:
    """Of one GPU kernel: its ``parameters`` as CUDA declares them, what it takes, how many of its blocks a multiprocessor holds
    (None where the launch is not known), how often its PTX has each kind of instruction, and which ones of tensor cores."""

    usage: Usage
    parameters: tuple[str, ...]
    occupancy: Occupancy | None
    instructions: Mapping[str, int]
    tensor_cores: Mapping[str, int]

    @property
    def spills(self) -> int:
        """Bytes of a thread that are written to and read from local memory because registers ran out."""
        return self.usage.spill_stores + self.usage.spill_loads

    def to_json(self) -> dict[str, object]:
        usage = self.usage
        return {
            "name": usage.kernel,
            "parameters": list(self.parameters),
            "threads": usage.threads,
            "registers": usage.registers,
            "static_shared_bytes": usage.shared,
            "dynamic_shared_bytes": usage.dynamic,
            "stack_bytes": usage.stack,
            "spill_bytes": self.spills,
            "occupancy": None if self.occupancy is None else asdict(self.occupancy),
            "instructions": dict(self.instructions),
            "tensor_core_instructions": dict(self.tensor_cores),
        }


def figures(usage: tuple[Usage, ...], gpu: Gpu, *, ptx: str, cuda: str) -> tuple[KernelFigures, ...]:
    """The figures of kernels, of their texts in PTX and CUDA C++ (empty where they are not known)."""
    parts = _ENTRY.split(ptx)
    bodies = dict(zip(parts[1::2], parts[2::2], strict=False))
    declared = {name: tuple(each.strip() for each in rest.split(",") if each.strip()) for name, rest in _DECLARED.findall(cuda)}
    found = []
    for each in usage:
        operations = Counter(_OPERATION.findall(bodies.get(each.kernel, "")))
        kinds = {
            kind: sum(n for name, n in operations.items() if begins.match(name))
            for kind, begins in KINDS.items()
        }  # fmt: skip
        cores = {name: n for name, n in operations.items() if KINDS["mma"].match(name) or KINDS["wgmma"].match(name)}
        found.append(
            KernelFigures(
                usage=each,
                parameters=declared.get(each.kernel, ()),
                occupancy=occupancy(each, gpu) if each.threads else None,
                instructions={kind: n for kind, n in kinds.items() if n},
                tensor_cores=cores,
            )
        )
    return tuple(found)

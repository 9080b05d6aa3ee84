"""The target record as TVM's compiler takes it."""

from __future__ import annotations

import platform

import tvm.target

from ..ir.target import Target

_ABI = {"apple-m1": "arm64-apple-macos"}
_HOST_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}


def to_tvm(target: Target) -> tvm.target.Target:
    """TVM's target. One for another architecture than the machine's own makes code that cannot be run here."""
    if target.gpu is not None:
        return tvm.target.Target(
            {
                "kind": "cuda",
                # wgmma, TMA and the like exist only in the architecture-specific form of sm_90
                "arch": "sm_90a" if target.mcpu == "sm_90" else target.mcpu,
                "max_shared_memory_per_block": target.gpu.shared_per_block,
                "max_threads_per_block": target.gpu.max_threads_per_block,
                "max_num_threads": target.gpu.max_threads_per_block,
                "thread_warp_size": target.gpu.warp,
                "registers_per_block": target.gpu.registers,
            },
            host="llvm",
        )
    options: dict[str, object] = {"kind": "llvm", "mcpu": target.mcpu, "num-cores": target.cores}
    if target.extra:
        options["mattr"] = [f"+{feature}" for feature in target.extra]
    machine = platform.machine().lower()
    if target.arch not in ("any", _HOST_NAMES.get(machine, machine)):
        options["mtriple"] = _ABI.get(target.mcpu, f"{target.arch}-linux-gnu")
    return tvm.target.Target(options)

"""A CPU as plans and code generation need it: its facts, with what is assumed where the description has none."""

from __future__ import annotations

from dataclasses import dataclass

from .target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts of one CPU. Caches are bytes for each core; ``threads`` is how many workers share one kernel."""

    target: Target

    @property
    def threads(self) -> int:
        return self.target.cores

    @property
    def vector_bits(self) -> int:
        return max(128, self.target.vector_bits)

    @property
    def vector_registers(self) -> int:
        return max(16, self.target.vector_registers)

    @property
    def has_fma(self) -> bool:
        return bool({"fma", "neon", "sve"} & set(self.target.features)) or self.target.arch in ("arm64", "aarch64")

    @property
    def l1_bytes(self) -> int:
        return self.target.l1d or 32 * 1024

    @property
    def l2_bytes(self) -> int:
        return self.target.l2 or 256 * 1024

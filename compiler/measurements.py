"""The measured limits of this machine as they are kept in the cache folder, one JSON file per processor."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..ir.target import Limits, Roof
from .paths import atomic_write, cache_dir

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What ``measure`` found: medians in operations and bytes per second.

    ``spread`` is the median over all rates of their interquartile range, relative to the rate: above 0.15 other work
    was in the way. ``when`` is the UTC time in ISO form.
    """

    roof: Roof
    spread: float
    when: str


def store(measurement: Measurement, key: str, cores: int) -> Path:
    """Keep a measurement of the processor ``key``, and return the file. An older one is replaced."""
    record = {"format": _FORMAT, "key": key, "cores": cores, **asdict(measurement)}
    path = _path(key, cores)
    atomic_write(path, json.dumps(record, indent=2).encode())
    return path


def stored(key: str, cores: int) -> Measurement | None:
    """The measurement of this processor with this number of cores; None if there is none that can be read."""
    try:
        record = json.loads(_path(key, cores).read_text("utf-8"))
        if (record["format"], record["key"], record["cores"]) != (_FORMAT, key, cores):
            return None
        roof = Roof(core=_limits(record["roof"]["core"]), chip=_limits(record["roof"]["chip"]))
        return Measurement(roof=roof, spread=float(record["spread"]), when=str(record["when"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # a damaged file is as good as none


def stored_roof(key: str, cores: int) -> Roof | None:
    """The limits alone."""
    found = stored(key, cores)
    return found.roof if found is not None else None


def _path(key: str, cores: int) -> Path:
    digest = hashlib.sha256(f"{key}|{cores}".encode()).hexdigest()[:16]
    return cache_dir() / "measurements" / f"{digest}.json"


def _limits(record: Mapping[str, Mapping[str, object]]) -> Limits:
    limits = Limits(ops=_rates(record["ops"]), read=_rates(record["read"]), copy=_rates(record["copy"]))
    if "f32" not in limits.ops or "dram" not in limits.read:
        raise ValueError("a measurement has at least the rate of f32 and the bandwidth of the DRAM")
    return limits


def _rates(record: Mapping[str, object]) -> dict[str, float]:
    rates: dict[str, float] = {}
    for name, rate in record.items():
        if not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"{name}: {rate!r} is no rate")
        rates[name] = float(rate)
    return rates

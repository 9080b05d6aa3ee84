"""Saved kernels: `.efk` files, zip archives with a manifest, the library, and the sources.

Reading trusts nothing: only the expected members, no larger than a limit, with the hashes of the manifest; plain JSON
and no pickles; names in the archive are never used as paths.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..ir.diagnostics import EinfallError, did_you_mean, error
from ..ir.layouts import packers
from ..ir.usage import Usage
from .calling import Code
from .devices import ARCHITECTURE, device_function, missing_driver, no_device
from .explanation import Explanation
from .launcher import adopt
from .signature import Json, Signature
from .threads import NO_POOL
from .tvm_runtime import load_functions, tvm_ffi, without_tvm

FORMAT = 6
"""The version of the file format. A reader refuses every other one."""

SUFFIX = ".efk"

_MANIFEST, _LIBRARY, _PROGRAM, _CUBIN = "manifest.json", "kernel.so", "kernel.ecs", "kernel.cubin"
_TEXTS = {
    "tile": "kernel.tile",
    "tir": "kernel.tir.py",
    "llvm": "kernel.ll",
    "asm": "kernel.s",
    "cuda": "kernel.cu",
    "ptx": "kernel.ptx",
}
_LARGEST_MEMBER = 1 << 28
_LARGEST_TEXT = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePart:
    """What of a kernel runs on a GPU: machine code for the architecture ``arch`` (``sm_90a``), and TVM's JSON about the kernels
    in it: their arguments and how they are launched. ``usage`` tells what they take."""

    arch: str
    cubin: bytes
    launches: str
    usage: tuple[Usage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One compiled kernel as data.

    ``target`` is its printed form, ``arch`` and ``features`` (LLVM's names) what the processor must be and have.
    ``versions`` name the tool chain. ``sources`` holds the program ("cascade") and what else was kept; ``library`` is
    the shared library; for a GPU, the part of it that runs on the host, and ``device`` is the other one.
    """

    signature: Signature
    explanation: Explanation
    target: str
    arch: str
    features: frozenset[str]
    library: bytes
    device: DevicePart | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The archive."""
        members = {_LIBRARY: self.library, _PROGRAM: self.sources.get("cascade", "").encode()}
        members |= {_TEXTS[kind]: text.encode() for kind, text in self.sources.items() if kind in _TEXTS}
        if self.device is not None:
            members[_CUBIN] = self.device.cubin
        manifest: dict[str, object] = {
            "format": FORMAT,
            "kernel": self.signature.name,
            "target": self.target,
            "arch": self.arch,
            "features": sorted(self.features),
            "versions": dict(self.versions),
            "signature": self.signature.to_json(),
            "explanation": self.explanation.to_json(),
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in members.items()},
        }
        if self.device is not None:
            device = self.device
            manifest["device"] = {
                "arch": device.arch,
                "launches": device.launches,
                "usage": [asdict(each) for each in device.usage],
            }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in {_MANIFEST: json.dumps(manifest, indent=1).encode(), **members}.items():
                # A fixed date: equal kernels give equal files.
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(content: bytes, where: str = "artifact") -> Artifact:
        """Raises EinfallError E1104 for anything but a sound archive, E1105 for one of another version, E1113 without TVM."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                manifest, members = _read_members(archive)
            return _from_manifest(manifest, members)
        except EinfallError:
            raise
        except _VersionError as failure:
            raise error("E1105", f"{where}: {failure}", help="compile the kernel again") from None
        except Exception as failure:  # a foreign file can fail in any way: zip, zlib, struct, JSON, Unicode …
            raise error(
                "E1104",
                f"{where} is no sound kernel file: {failure or type(failure).__name__}",
                help="compile the kernel again; the file may have been cut off or changed",
            ) from None

    def write(self, path: Path) -> Path:
        """Write the file, complete or not at all. Raises EinfallError E1107."""
        path = path.expanduser()
        if path.is_dir():
            raise error("E1107", f"{path} is a folder; a kernel is saved in a file", help=f"{path}/kernel{SUFFIX}")
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as failure:
            raise _unwritable(path, failure) from None
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.to_bytes())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except OSError as failure:
            Path(temporary).unlink(missing_ok=True)
            raise _unwritable(path, failure) from None
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return path

    @staticmethod
    def read(path: Path) -> Artifact:
        """Raises EinfallError E1101, E1102, E1104, E1105."""
        return Artifact.from_bytes(read_file(path), str(path))

    def check_host(self, arch: str, features: frozenset[str], where: str = "the kernel") -> None:
        """Raise EinfallError E1106 unless a processor of this architecture with these features can run the code."""
        if arch != self.arch:
            raise error("E1106", f"{where} was compiled for {self.arch}, this machine is {arch}")
        missing = sorted(self.features - features)
        if missing:
            raise error(
                "E1106",
                f"{where} was compiled for {self.target} and needs {', '.join(missing)}, which this machine lacks",
                help="compile it for this machine, or for one of the baselines such as cpu:x86-64-v3",
            )

    def load_code(self) -> Code:
        """The compiled code, from a private copy of the library that is gone once it is loaded."""
        with tempfile.TemporaryDirectory(prefix="einfall-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / _LIBRARY
            path.write_bytes(self.library)
            try:
                if self.device is not None:
                    return device_code(self.signature.name, lambda: tvm_ffi().load_module(str(path)), self.device)
                main, *pack = load_functions(path, ("main", *packers(len(self.signature.packed))))
                return Code(function=main, packers=tuple(pack), pool=adopt(path))
            except (OSError, RuntimeError, AttributeError, ValueError) as failure:
                first = str(failure).strip().partition("\n")[0]
                raise error("E1104", f"the library of `{self.signature.name}` cannot be loaded: {first}") from None


@lru_cache(maxsize=4)
def tool_versions(einfall: str) -> dict[str, str]:
    """The versions that decide whether a library can be loaded here."""
    found = {"einfall": einfall}
    for name in ("apache-tvm", "apache-tvm-ffi"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def read_file(path: Path) -> bytes:
    """A file's bytes. Raises EinfallError E1101 where there is none, E1102 where it cannot be read."""
    try:
        return path.expanduser().read_bytes()
    except FileNotFoundError:
        raise error("E1101", f"there is no file {path}", help=_neighbour(path)) from None
    except IsADirectoryError:
        raise error("E1102", f"{path} is a folder", help="name a file in it") from None
    except (OSError, ValueError, RuntimeError) as failure:
        reason = getattr(failure, "strerror", None) or str(failure)
        raise error("E1102", f"{path} cannot be read: {reason}") from None


def device_code(name: str, module: Callable[[], object], device: DevicePart) -> Code:
    """The code of a kernel on a GPU, ``module`` its host part; where there is no driver, a function that says so."""
    reason = missing_driver()
    if reason is None:
        function = device_function(module(), device.cubin, device.launches)
        return Code(function=function, pool=NO_POOL, device=device.arch)

    def refuse(*_: object) -> object:
        raise no_device(name, device.arch, reason)

    return Code(function=refuse, pool=NO_POOL, device=device.arch)


class _VersionError(Exception):
    pass


def _read_members(archive: zipfile.ZipFile) -> tuple[dict[str, Json], dict[str, bytes]]:
    expected = {_MANIFEST, _LIBRARY, _PROGRAM, _CUBIN, *_TEXTS.values()}
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) != len(names) or not {_MANIFEST, _LIBRARY, _PROGRAM} <= set(names) <= expected:
        raise ValueError("it does not hold what a kernel file holds")
    members: dict[str, bytes] = {}
    for info in infos:
        limit = _LARGEST_MEMBER if info.filename in (_LIBRARY, _CUBIN) else _LARGEST_TEXT
        if info.file_size > limit:
            raise ValueError(f"{info.filename} is too large")
        with archive.open(info) as file:  # what is declared is not what is there: read no more than the limit
            members[info.filename] = file.read(limit + 1)
        if len(members[info.filename]) > limit:
            raise ValueError(f"{info.filename} is too large")
    manifest = json.loads(members.pop(_MANIFEST))
    if not isinstance(manifest, dict):
        raise ValueError("the manifest is no object")
    return manifest, members


def _from_manifest(manifest: dict[str, Json], members: Mapping[str, bytes]) -> Artifact:
    if manifest.get("format") != FORMAT:
        raise _VersionError(f"the file has format {manifest.get('format')!r}, this einfall reads {FORMAT}")
    match manifest:
        case {
            "target": str(target),
            "arch": str(arch),
            "features": list(features),
            "versions": dict(versions),
            "signature": signature,
            "explanation": explanation,
            "sha256": dict(hashes),
        }:
            pass
        case _:
            raise ValueError("the manifest is incomplete")
    for name, content in members.items():
        if hashes.get(name) != hashlib.sha256(content).hexdigest():
            raise ValueError(f"{name} is not what the manifest says (its hash differs)")
    needed, here = versions.get("apache-tvm"), tool_versions("")["apache-tvm"]
    if needed != here:
        if importlib.util.find_spec("tvm") is None:
            raise without_tvm("No module named 'tvm'")
        raise _VersionError(f"it was compiled with TVM {needed}, here is TVM {here}")
    device: DevicePart | None = None
    match manifest.get("device"):
        case None if _CUBIN not in members:
            pass
        case {"arch": str(device_arch), "launches": str(launches), "usage": list(used)} if (
            _CUBIN in members and ARCHITECTURE.fullmatch(device_arch)
        ):
            usage = tuple(Usage(**_figures(each)) for each in used)
            device = DevicePart(arch=device_arch, cubin=members[_CUBIN], launches=launches, usage=usage)
        case _:
            raise ValueError("its device part is incomplete")
    texts = {kind: members[name].decode() for kind, name in _TEXTS.items() if name in members}
    return Artifact(
        signature=Signature.from_json(signature),
        explanation=Explanation.from_json(explanation),
        target=target,
        arch=arch,
        features=frozenset(str(f) for f in features),
        library=members[_LIBRARY],
        device=device,
        sources={"cascade": members[_PROGRAM].decode(), **texts},
        versions={str(k): str(v) for k, v in versions.items()},
    )


def _figures(found: Json) -> dict[str, Any]:
    """The fields of a :class:`Usage`, each of its type."""
    wanted = {field.name: str if field.name == "kernel" else int for field in fields(Usage)}
    if not isinstance(found, dict) or {name: type(value) for name, value in found.items()} != wanted:
        raise ValueError("what its kernels take is not told as it should be")
    return dict(found)


def _neighbour(path: Path) -> str | None:
    """A file beside ``path`` that may be meant."""
    try:
        names = [each.name for each in path.expanduser().parent.iterdir()]
    except (OSError, RuntimeError):
        return f"the folder {path.parent} does not exist"
    return did_you_mean(path.name, names)


def _unwritable(path: Path, failure: OSError) -> EinfallError:
    return error("E1107", f"{path} cannot be written: {failure.strerror or failure}")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

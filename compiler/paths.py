"""Where einfall keeps what it can make again: compiled kernels and measurements."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder, made if need be.

    ``EINFALL_CACHE_DIR``, else ``$XDG_CACHE_HOME/einfall``, else ``~/.cache/einfall``. Where that cannot be made or
    written to, a private folder under the system's temporary folder takes its place, with a warning.
    """
    wanted = _wanted()
    if _usable(wanted):
        return wanted
    fallback = Path(tempfile.gettempdir()) / f"einfall-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    warnings.warn(
        f"the cache folder {wanted} cannot be written to; using {fallback} (EINFALL_CACHE_DIR chooses another one)",
        RuntimeWarning,
        stacklevel=2,
    )
    if _usable(fallback, private=True):
        return fallback
    return Path(tempfile.mkdtemp(prefix="einfall-cache-"))


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that readers, and other writers, only ever see it whole. The folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _wanted() -> Path:
    if chosen := os.environ.get("EINFALL_CACHE_DIR"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification has relative paths ignored.
    if base and Path(base).is_absolute():
        return Path(base) / "einfall"
    try:
        return Path.home() / ".cache" / "einfall"
    except RuntimeError:  # no home folder
        return Path("/nonexistent/einfall")


def _usable(folder: Path, *, private: bool = False) -> bool:
    """Whether the folder is there, or can be made, and takes a new file; ``private``: and is only ours."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
        if private and hasattr(os, "getuid"):
            info = folder.lstat()
            if folder.is_symlink() or info.st_uid != os.getuid() or info.st_mode & 0o022:
                return False  # somebody else could plant libraries there
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            return True
    except OSError:
        return False

"""The cache folder, and writing into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from einfall.compiler.paths import atomic_write, cache_dir


def test_the_environment_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("EINFALL_CACHE_DIR", raising=False)
    assert cache_dir() == tmp_path / "xdg" / "einfall"
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path / "own" / "deep"))
    assert cache_dir() == tmp_path / "own" / "deep"
    assert cache_dir().is_dir()


def test_home_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EINFALL_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_dir() == tmp_path / ".cache" / "einfall"


def test_a_folder_that_cannot_be_made_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="cannot be written to"):
        folder = cache_dir()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0, "nobody else may put libraries there"


def test_a_fallback_that_others_may_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(RuntimeWarning):
        first = cache_dir()
    first.chmod(0o777)
    with pytest.warns(RuntimeWarning):
        second = cache_dir()
    assert second != first
    assert second.is_dir()


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")
    with pytest.raises(TypeError):
        atomic_write(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

"""The cache on disk: hits, misses, damage, limits, several processes, and life without a linker."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.compiler import building, cache, driver
from einfall.ir.diagnostics import error

DOUBLE = """
kernel double(X: f32[M]) -> (Y: f32[M]) {
    Y[m] = 2 * X[m]
}
"""

X = np.arange(5, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("EINFALL_CACHE", raising=False)
    driver._memory.clear()
    return tmp_path / "kernels"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that are generated anew."""
    found: list[str] = []
    original = building._generate

    def counted(program: object, goal: object) -> object:
        found.append(program.cascade.name)  # type: ignore[attr-defined]
        return original(program, goal)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "_generate", counted)
    return found


def fresh(text: str = DOUBLE, **options: object) -> ef.Kernel:
    """As in a new process: nothing in memory."""
    driver._memory.clear()
    return ef.compile(text, **options)  # type: ignore[arg-type]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.efk"))


def test_a_kernel_is_built_once(folder: Path, builds: list[str]) -> None:
    for _ in range(3):
        np.testing.assert_array_equal(fresh()(X), 2 * X)
    assert builds == ["double"]
    assert len(entries(folder)) == 1
    assert fresh().source("asm") and builds == ["double", "double"]  # texts are made when they are asked for


def test_layout_and_comments_do_not_matter(folder: Path, builds: list[str]) -> None:
    fresh()
    fresh("# a comment\n" + DOUBLE.replace("2 * X", "2*X"))
    assert builds == ["double"] and len(entries(folder)) == 1 and len(list(folder.glob("*.link"))) == 2


def test_what_matters(folder: Path, builds: list[str]) -> None:
    fresh()
    fresh(M=5)
    fresh(DOUBLE.replace("2 *", "3 *"))
    fresh(target="cpu:generic")
    assert len(builds) == 4 and len(entries(folder)) == 4


def test_in_memory(folder: Path, builds: list[str]) -> None:
    ef.compile(DOUBLE)
    cache.clear()
    ef.compile(DOUBLE)
    assert builds == ["double"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 5000])
def test_a_damaged_entry_is_a_miss(folder: Path, builds: list[str], content: bytes) -> None:
    fresh()
    (entry,) = entries(folder)
    good = entry.read_bytes()
    entry.write_bytes(content)
    np.testing.assert_array_equal(fresh()(X), 2 * X)
    assert len(builds) == 2 and entry.read_bytes() == good
    entry.write_bytes(good[:-100])
    np.testing.assert_array_equal(fresh()(X), 2 * X)
    assert len(builds) == 3


def test_a_damaged_link_is_a_miss(folder: Path, builds: list[str]) -> None:
    fresh()
    (link,) = folder.glob("*.link")
    for content in (b"../../etc/passwd", b"\xff", b""):
        link.write_bytes(content)
        np.testing.assert_array_equal(fresh()(X), 2 * X)
    assert builds == ["double"]  # the canonical text still finds the entry


def test_turned_off(folder: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(cache=False)
    monkeypatch.setenv("EINFALL_CACHE", "0")
    fresh()
    assert len(builds) == 2 and not folder.exists()


def test_without_a_linker(
    folder: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_linker(*_: object) -> bytes:
        raise error("E1111", "no C compiler")

    monkeypatch.setattr(building, "_library", no_linker)
    building._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="einfall"):
        for _ in range(2):
            np.testing.assert_array_equal(fresh()(X), 2 * X)
    assert len(builds) == 2 and entries(folder) == []
    assert len(caplog.records) == 1 and "not cached" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(blocker))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        np.testing.assert_array_equal(fresh()(X), 2 * X)


def test_the_least_recently_used_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [DOUBLE.replace("2 *", f"{n} *") for n in (2, 3, 4)]
    names = []
    for text in texts[:2]:
        before = set(entries(folder))
        fresh(text)
        names += list(set(entries(folder)) - before)
    past = time.time() - 1000
    for path in folder.iterdir():
        os.utime(path, (past, past))
    fresh(texts[0])  # used again
    monkeypatch.setenv("EINFALL_CACHE_LIMIT", str(sum(p.stat().st_size for p in folder.iterdir()) + 100))
    fresh(texts[2])
    assert names[0] in entries(folder) and names[1] not in entries(folder)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("200", 200), ("3k", 3 << 10), ("200M", 200 << 20), ("2 GB", 2 << 30), ("much", 1 << 30)):
        monkeypatch.setenv("EINFALL_CACHE_LIMIT", text)
        assert cache.limit() == expected


def test_info_and_clear(folder: Path) -> None:
    fresh()
    (folder / "notes.txt").write_text("mine")
    found = cache.info()
    assert found.folder == folder and found.kernels == 1 and found.enabled
    assert found.size == sum(p.stat().st_size for p in folder.iterdir()) - 4
    assert cache.clear() == 1
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_two_processes_at_once(folder: Path) -> None:
    code = f"import einfall, numpy as np; print(einfall.compile({DOUBLE!r})(np.ones(3, np.float32)).sum())"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate(timeout=300)[0].strip() for p in processes] == ["6.0", "6.0"]
    assert len(entries(folder)) == 1
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_a_kernel_from_the_cache_shows_its_own_form(folder: Path) -> None:
    path = Path(__file__).parents[2] / "examples/attention/attention.ecs"
    sizes = {"H": 16, "P": 2048, "M": 2048, "E": 64, "F": 64}
    one, written = (fresh(path.read_text("utf-8"), online=online, **sizes).source("tile") for online in (True, False))
    assert one != written
    assert fresh(path.read_text("utf-8"), online=False, **sizes).source("tile") == written

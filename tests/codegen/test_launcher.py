"""The native launcher by itself: every task once, errors, nested and concurrent launches, forks, OpenMP teams."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from einfall.codegen.launcher import launcher_object

from .loops import Task, covered

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    code = launcher_object().result()
    if code is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("launcher")
    (folder / "launcher.o").write_bytes(code)
    subprocess.run(["cc", "-shared", "-o", folder / "launcher.so", folder / "launcher.o"], check=True)
    return folder / "launcher.so"


@pytest.fixture
def launcher(library: Path) -> Iterator[ctypes.CDLL]:
    """The library; this thread's calls use 4 threads of the launcher's own."""
    found = ctypes.CDLL(str(library))
    found.einfall_use_openmp(0)
    found.einfall_use(4)
    yield found
    found.einfall_use(1)


@pytest.mark.parametrize("extent", [0, 1, 2, 3, 31, 64, 65, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3, 7, 64])
def test_every_iteration_once(launcher: ctypes.CDLL, extent: int, threads: int) -> None:
    for scale in (0, 30):  # a loop that may be short, and one that may not
        launcher.einfall_use(threads | scale << 16)
        for _ in range(2):
            assert covered(launcher, extent) == Counter(range(extent))


def test_a_given_number_of_tasks(launcher: ctypes.CDLL) -> None:
    assert covered(launcher, 10, num_task=3) == Counter(range(10))


def test_helpers_come_to_a_long_loop(launcher: ctypes.CDLL) -> None:
    launcher.einfall_use(2 | 30 << 16)
    threads: set[int] = set()
    both = threading.Event()

    def wait(_: int) -> None:
        threads.add(threading.get_ident())
        if len(threads) == 2:
            both.set()
        both.wait(10)

    covered(launcher, 8, wait=wait)
    assert len(threads) == 2
    assert launcher.einfall_last() == 1


def test_one_thread_calls_no_help(launcher: ctypes.CDLL) -> None:
    launcher.einfall_use(1 | 30 << 16)
    threads: set[int] = set()
    covered(launcher, 100, wait=lambda _: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}
    assert launcher.einfall_last() == 0


def test_an_error_ends_the_loop(launcher: ctypes.CDLL) -> None:
    for scale in (0, 30):
        launcher.einfall_use(4 | scale << 16)
        ran: list[int] = []

        def task(number: int, *_: object, ran: list[int] = ran) -> int:
            ran.append(number)
            return -1 if number == 3 else 0

        assert launcher.einfall_launch(Task(task), None, 0) == -1
        assert len(set(ran)) == len(ran)
        assert covered(launcher, 10) == Counter(range(10))


def test_nested_launches_run_on_their_thread(launcher: ctypes.CDLL) -> None:
    outer, inner = [], []

    def nested(number: int, *_: object) -> int:
        inner.append(threading.get_ident() == home[number])
        return 0

    home: dict[int, int] = {}
    callback = Task(nested)

    def wait(i: int) -> None:
        home[0] = threading.get_ident()
        outer.append(i)

    def task(number: int, *_: object) -> int:
        wait(number)
        return int(launcher.einfall_launch(callback, None, 0))

    launcher.einfall_use(1)
    assert launcher.einfall_launch(Task(task), None, 5) == 0
    assert outer == list(range(5)) and inner == [True] * 5


def test_concurrent_callers(launcher: ctypes.CDLL) -> None:
    wrong: list[object] = []

    def call() -> None:
        launcher.einfall_use(3 | 30 << 16)
        for extent in range(1, 150):
            found = covered(launcher, extent)
            if found != Counter(range(extent)):
                wrong.append((extent, found))

    callers = [threading.Thread(target=call) for _ in range(24)]  # more than the launcher serves at once
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


PROGRAM = """
import ctypes, os, signal, sys
from collections import Counter
sys.path.insert(0, {root!r})
from tests.codegen.loops import covered
launcher = ctypes.CDLL({library!r})
launcher.einfall_use(2 | 30 << 16)
"""


def run(library: Path, code: str) -> str:
    program = PROGRAM.format(root=str(ROOT), library=str(library)) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_has_workers_of_its_own(library: Path) -> None:
    code = """
covered(launcher, 100)
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = all(covered(launcher, 100) == Counter(range(100)) for _ in range(5))
    os._exit(0 if same and launcher.einfall_last() == 1 else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(library, code) == "0"


TORCH = """
import torch
torch.set_num_threads({threads})
torch.ones(1 << 20).add(1)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_team_of_pytorch(library: Path, when: str) -> None:
    pytest.importorskip("torch")
    code = TORCH.format(threads=2) if when == "before" else "covered(launcher, 100)\nprint(launcher.einfall_last())" + TORCH
    code = (
        code.format(threads=2)
        + """
print(covered(launcher, 100) == Counter(range(100)), launcher.einfall_last())
launcher.einfall_use_openmp(0)
print(covered(launcher, 100) == Counter(range(100)), launcher.einfall_last())
"""
    )
    expected = ["True 2", "True 1"] if when == "before" else ["1", "True 2", "True 1"]
    assert run(library, code).split("\n") == expected


def test_a_team_of_one_is_not_used(library: Path) -> None:
    pytest.importorskip("torch")
    code = TORCH.format(threads=1) + "print(covered(launcher, 100) == Counter(range(100)), launcher.einfall_last())"
    assert run(library, code) == "True 1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_team_after_a_fork(library: Path) -> None:
    pytest.importorskip("torch")
    code = (
        TORCH.format(threads=2)
        + """
covered(launcher, 100)
before = launcher.einfall_last()
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = covered(launcher, 100) == Counter(range(100))
    os._exit(0 if same and launcher.einfall_last() == 1 else 3)
print(before, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert run(library, code) == "2 0"

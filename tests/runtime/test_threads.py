"""The number of threads: defaults, limits, forks, and no change to the thread that calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from einfall.ir.diagnostics import EinfallError
from einfall.runtime.threads import available_threads, checked_threads, default_threads

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
sys.path.insert(0, {root!r})
import numpy as np
from tests.runtime.kernels import add_kernel
a = np.ones((64, 64), np.float32)
"""


def run(code: str, **environment: str) -> str:
    """The output of a process of its own: the pool of threads is made once per process."""
    program = PROGRAM.format(root=str(ROOT)) + code
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EINFALL_NUM_THREADS", raising=False)
    assert default_threads() == available_threads()
    monkeypatch.setenv("EINFALL_NUM_THREADS", "1")
    assert default_threads() == 1
    monkeypatch.setenv("EINFALL_NUM_THREADS", "100000")
    assert default_threads() == available_threads()
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("EINFALL_NUM_THREADS", wrong)
        with pytest.raises(EinfallError) as failure:
            default_threads()
        assert failure.value.code == "E1203"


def test_more_threads_than_cores() -> None:
    assert checked_threads(10**6) == available_threads()


@pytest.mark.skipif(available_threads() < 2, reason="needs two cores")
def test_threads_of_a_call() -> None:
    code = """
import tvm
count = tvm.get_global_func("runtime.NumThreads")
before = os.sched_getaffinity(0)
k = add_kernel()
found = [k.threads]
k(a, a); found.append(count())
k(a, a, threads=1); found.append(count())
k(a, a); found.append(count())
k.with_threads(1)(a, a); found.append(count())
print(*found, os.sched_getaffinity(0) == before)
"""
    assert run(code, EINFALL_NUM_THREADS="2") == "2 2 1 2 1 True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_a_call_does_not_hang() -> None:
    code = """
import signal
k = add_kernel()
expected = k(a, a)
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = all((k(a, a) == expected).all() for _ in range(3))
    os._exit(0 if same else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == "0"

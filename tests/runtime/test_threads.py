"""The number of threads: defaults, limits, forks, and no change to the thread that calls."""

from __future__ import annotations

import os
import shutil
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


COMPILED = """
import einfall as ef
program = '''kernel softmax(X: f32[M, N]) -> (Y: f32[M, N]) {
    G[m]    = X[m, n] :: max(n)
    E[m, n] = exp(X[m, n] - G[m])
    D[m]    = E[m, n]
    Y[m, n] = E[m, n] / D[m]
}'''
k = ef.compile(program)
x = np.random.default_rng(0).standard_normal((300, 500)).astype(np.float32)
"""

needs_linker = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@needs_linker
@pytest.mark.skipif(available_threads() < 2, reason="needs two cores")
def test_results_are_the_same_on_any_threads() -> None:
    code = """
first = k(x, threads=1)
pool = k._caller.pool
for openmp in (False, True):
    pool.use_openmp(openmp)
    for threads in (1, 2, None):
        for _ in range(3):
            assert np.array_equal(k(x, threads=threads), first)
        print(threads, pool.last_way())
"""
    lines = run(COMPILED + code).splitlines()
    assert lines[:3] == ["1 alone", "2 own", "None own"]
    assert lines[3] == "1 alone" and set(lines[4:]) <= {"2 own", "None own", "2 openmp", "None openmp"}


@needs_linker
def test_small_calls_stay_on_their_thread() -> None:
    code = """
y = x[:4, :8].copy()
for _ in range(5):
    k(y)
print(k._caller.pool.last_way())
"""
    assert run(COMPILED + code) == "alone"


@needs_linker
def test_calls_from_several_python_threads() -> None:
    code = """
import threading
expected = k(x, threads=1)
wrong = []
def call(threads):
    for _ in range(30):
        if not np.array_equal(k(x, threads=threads), expected):
            wrong.append(threads)
callers = [threading.Thread(target=call, args=(t,)) for t in (1, 2, None, 2, 1, None)]
for c in callers: c.start()
for c in callers: c.join()
print(wrong)
"""
    assert run(COMPILED + code) == "[]"


@needs_linker
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_compiled_kernel_after_a_fork() -> None:
    code = """
import signal
expected = k(x)
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if all(np.array_equal(k(x), expected) for _ in range(3)) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(k(x), expected))
"""
    assert run(COMPILED + code) == "0 True"

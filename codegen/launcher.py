"""The native code that starts a kernel's threads (`launcher.c`), as an object file to be linked into its library."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from tvm.support.cc import get_cc

SOURCE = Path(__file__).with_name("launcher.c")

_log = logging.getLogger("einfall")


@lru_cache(maxsize=1)
def launcher_object() -> Future[bytes | None]:
    """The object file, made once per process by the compiler that links kernels, in the background from the first call on.

    None where that fails: a kernel without it runs on TVM's threads.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="einfall-launcher")
    made = executor.submit(_compile)
    executor.shutdown(wait=False)
    return made


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=launcher_object.cache_clear)  # it would wait for a thread of the parent


def _compile() -> bytes | None:
    with tempfile.TemporaryDirectory(prefix="einfall-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "launcher.o"
        command = [get_cc() or "cc", "-x", "c", "-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread"]
        try:
            subprocess.run([*command, "-c", str(SOURCE), "-o", str(target)], check=True, capture_output=True, text=True)
            return target.read_bytes()
        except (OSError, subprocess.SubprocessError) as failure:
            reason = getattr(failure, "stderr", None) or str(failure)
            _log.warning("kernels run on TVM's threads, for launcher.c was not compiled: %s", reason.strip().partition("\n")[0])
            return None

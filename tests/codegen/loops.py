"""Loops for the launcher by itself, dealt out as TVM's generated code does it. Imports neither TVM nor PyTorch."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable


class Group(ctypes.Structure):
    _fields_ = (("sync_handle", ctypes.c_void_p), ("num_task", ctypes.c_int32))


Task = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(Group), ctypes.c_void_p)


def covered(
    launcher: ctypes.CDLL, extent: int, *, num_task: int = 0, wait: Callable[[int], object] | None = None
) -> Counter[int]:
    """How often each iteration of a loop of this extent ran, dealt out as TVM's generated code does it."""
    seen: list[int] = []

    def task(number: int, group: object, _: object) -> int:
        tasks = group.contents.num_task  # type: ignore[attr-defined]
        step = -(-extent // tasks)
        for i in range(min(number * step, extent), min((number + 1) * step, extent)):
            seen.append(i)
            if wait is not None:
                wait(i)
        return 0

    assert launcher.einfall_launch(Task(task), None, num_task) == 0
    return Counter(seen)

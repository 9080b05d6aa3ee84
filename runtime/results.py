"""How several results are returned."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import cast


def result_tuple(kernel: str, names: Sequence[str]) -> Callable[..., tuple[object, ...]]:
    """The class of the named tuple in which a kernel returns results of these names, in this order.

    Names that Python does not take as fields are rewritten: ``H'`` is ``H_prime``, others are numbered (``_0``).
    """
    fields = [name.replace("'", "_prime") for name in names]
    made = namedtuple(f"{kernel}_results".lstrip("_"), fields, rename=True)  # type: ignore[misc]
    return cast("Callable[..., tuple[object, ...]]", made)

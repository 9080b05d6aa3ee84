"""Where the threads of a block must meet: between what one writes and what another reads or writes of a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...ir.tile import Node, accesses, walk


@dataclass(kw_only=True)
class Order:
    """The tensors that the block's threads have read and written since they met last."""

    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    def conflicts(self, reads: Iterable[str], writes: Iterable[str]) -> bool:
        """Whether threads that read and write these must have met before."""
        reads, writes = set(reads), set(writes)
        return bool(self.written & (reads | writes) or self.read & writes)

    def met(self) -> None:
        """Notes a barrier."""
        self.read.clear()
        self.written.clear()

    def take(self, reads: Iterable[str], writes: Iterable[str]) -> None:
        """Notes accesses."""
        self.read.update(reads)
        self.written.update(writes)

    @contextmanager
    def perhaps(self, nodes: tuple[Node, ...]) -> Iterator[None]:
        """What is inside may be left out, with its barriers: what went before still counts after it."""
        read, written = set(self.read), set(self.written)
        yield
        self.take(read, written)
        self.around(nodes)

    def around(self, nodes: tuple[Node, ...]) -> None:
        """Notes all accesses of a loop's body: in each turn they follow those of the turn before."""
        for node in walk(nodes):
            self.take(*accesses(node))

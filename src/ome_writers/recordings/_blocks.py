"""Decoded parts of arrays, kept in memory of a bounded size for the threads that read frames."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from ._recording import Frame

BLOCK_MEMORY: Final = 128 << 20
"""Bytes of decoded blocks, those being decoded and what that takes included."""

WORKING_COPIES: Final = 2
"""What decoding takes besides the block itself, in blocks: the encoded bytes, and the chunks before they are joined."""


@dataclass(slots=True)
class _Block:
    nbytes: int
    pixels: Future[Frame] = field(default_factory=Future)


class BlockCache:
    """The blocks that were used last.

    Several threads may ask for the same block: one decodes it, the others wait for that.

    Parameters
    ----------
    limit : int
        Bytes that blocks may take. A block that needs more is decoded while no other is.
    """

    def __init__(self, limit: int = BLOCK_MEMORY) -> None:
        self._limit = limit
        self._blocks: OrderedDict[Hashable, _Block] = OrderedDict()  # the one used last is the last
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def largest(self) -> int:
        """Bytes of the largest block that can be decoded within the limit."""
        return self._limit // (1 + WORKING_COPIES)

    @property
    def exceptional(self) -> int:
        """Bytes of the largest block that is kept as a whole though it needs more than the limit, alone."""
        return 4 * self._limit

    @property
    def part(self) -> int:
        """Bytes of the parts in which blocks that are too large are kept: one stays while the next is decoded."""
        return self._limit // 6

    def get(self, key: Hashable, nbytes: int, decode: Callable[[], Frame], working: int | None = None) -> Frame:
        """Return a block, decoded if it is not at hand.

        Parameters
        ----------
        key : hashable
            What it is.
        nbytes : int
            Its size.
        decode : callable
            Returns it. What it raises is raised for all that wait for the block; it is decoded anew next time.
        working : int, optional
            Bytes that decoding takes besides.
        """
        with self._changed:
            block = self._blocks.get(key)
            is_new = block is None
            if block is None:
                block = self._blocks[key] = _Block(nbytes)
            self._blocks.move_to_end(key)
        if is_new:
            self._fill(key, block, decode, block.nbytes * WORKING_COPIES if working is None else working)
        return block.pixels.result()

    def _fill(self, key: Hashable, block: _Block, decode: Callable[[], Frame], working: int) -> None:
        kept = 0
        try:
            with self.room(working, kept=block.nbytes):
                kept = block.nbytes
                block.pixels.set_result(decode())
        except BaseException as error:
            with self._changed:
                self._blocks.pop(key, None)
                self._used -= kept
                self._changed.notify_all()
            block.pixels.set_exception(error)
            raise

    @contextmanager
    def room(self, nbytes: int, *, kept: int = 0) -> Iterator[None]:
        """Wait until there is room for work that takes some memory; it is given back at the end.

        Parameters
        ----------
        nbytes : int
            For the time of the work. What is more than there is at all counts as a little more than half of it, so that
            one such work is done at a time and blocks can stay.
        kept : int
            Of a block that stays.
        """
        if nbytes + kept > self._limit:
            nbytes = self._limit // 2 + 1
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)  # the block that is needed first gets room first
            while self._waiting[0] is not ticket or not self._make_room(nbytes + kept):
                self._changed.wait()
            self._waiting.popleft()
            self._used += nbytes + kept
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= nbytes
                self._changed.notify_all()

    def _make_room(self, nbytes: int) -> bool:
        """Forget blocks until there is room, or nothing else is in memory; return whether it came to that."""
        while self._used and self._used + nbytes > self._limit:
            if not self._drop_oldest():
                return False
        return True

    def _drop_oldest(self) -> bool:
        """Forget the complete block that was not used for the longest time; return whether there was one."""
        for key, block in self._blocks.items():
            if block.pixels.done():
                del self._blocks[key]
                self._used -= block.nbytes
                return True
        return False

    def clear(self) -> None:
        """Forget all complete blocks."""
        with self._changed:
            while self._drop_oldest():
                pass
            self._changed.notify_all()

"""Several slow readers at once, their results in order and few of them held."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pipelines.sources.entry import SourceEntry

Reader = Callable[[], Iterator[SourceEntry]]

_MOST_HELD = 8192  # entries of one reader that wait to be taken
_MOST_LETTERS = 8 << 20  # of what is said in them
_FULL_S = 0.01  # wait for room for letters
_END = object()


def in_order(parts: Iterable[SourceEntry | Reader], parallel: int) -> Iterator[SourceEntry]:
    """Yield entries and what readers give, in order; readers run ahead, so many at once."""
    running: deque[_Running] = deque()
    waiting: deque[SourceEntry | _Running] = deque()
    with ThreadPoolExecutor(parallel, thread_name_prefix="sources") as pool:
        try:
            for part in parts:
                if isinstance(part, SourceEntry):
                    waiting.append(part)
                else:
                    running.append(_Running(part, pool))
                    waiting.append(running[-1])
                while waiting and _is_due(waiting, len(running), parallel):
                    yield from _taken(waiting.popleft(), running)
            while waiting:
                yield from _taken(waiting.popleft(), running)
        finally:  # also where nobody wants the rest
            for each in running:
                each.stopped.set()


def num_letters(entry: SourceEntry) -> int:
    """Return how long the texts are that an entry holds."""
    return len(entry.caption) + len(entry.more_captions) + len(entry.metadata)


def _is_due(waiting: "deque[SourceEntry | _Running]", num_running: int, parallel: int) -> bool:
    first_is_there = isinstance(waiting[0], SourceEntry)
    return first_is_there or num_running >= parallel or len(waiting) > _MOST_HELD


def _taken(part: "SourceEntry | _Running", running: "deque[_Running]") -> Iterator[SourceEntry]:
    if isinstance(part, SourceEntry):
        yield part
        return
    yield from part.entries()
    running.popleft()


class _Running:
    """A reader in a thread, as far ahead as its queue is long."""

    def __init__(self, read: Reader, pool: ThreadPoolExecutor) -> None:
        self.stopped = threading.Event()
        self._found: queue.Queue[object] = queue.Queue(_MOST_HELD)
        self._put_letters = self._taken_letters = 0  # each is written by one thread
        self._done = pool.submit(self._fill, read)

    def entries(self) -> Iterator[SourceEntry]:
        """Yield what the reader gives; raises what it raises."""
        while isinstance(found := self._found.get(), SourceEntry):
            self._taken_letters += num_letters(found)
            yield found
        self._done.result()

    def _fill(self, read: Reader) -> None:
        try:
            for entry in read():
                if not self._put(entry):
                    return
                self._put_letters += num_letters(entry)
                while self._put_letters - self._taken_letters > _MOST_LETTERS:
                    if self.stopped.wait(_FULL_S):
                        return
        finally:
            self._put(_END)

    def _put(self, item: object) -> bool:
        """Add to the queue; return whether anybody still reads it."""
        while not self.stopped.is_set():
            try:
                self._found.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

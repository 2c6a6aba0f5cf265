"""Work on items in threads, a few ahead of who takes the results."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def worked(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[tuple[Item, Result]]:
    """Yield items with what work makes of them, in order; at most two a thread are held."""
    ahead: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            if len(ahead) >= 2 * threads:
                first, done = ahead.popleft()
                yield first, done.result()
        for first, done in ahead:
            yield first, done.result()

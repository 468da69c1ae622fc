"""Work ahead: many answers are waited for at once, and handed on in the order in which they were asked."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future
from typing import Any, TypeVar

_HEARTBEAT = 0.3  # seconds between looks at whether anybody still wants the result

Item = TypeVar("Item")
Result = TypeVar("Result")


class Ahead:
    """An event loop in a thread of its own: it works in notebooks too, where the caller's thread has a loop already.

    Args:
        tick: called now and then while results are waited for; raises to leave.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def map(
        self, items: Iterable[Item], start: Callable[[Item], Coroutine[Any, Any, Result]],
        weigh: Callable[[Item], int], limit: int,
    ) -> Iterator[tuple[Item, Result]]:  # fmt: skip
        """Yield (item, result) in order, taking items ahead until those in the making weigh ``limit``."""
        waiting: deque[tuple[Item, int, Future]] = deque()
        load = 0
        for item in items:
            weight = weigh(item)
            waiting.append((item, weight, asyncio.run_coroutine_threadsafe(start(item), self._loop)))
            load += weight
            while load >= limit:
                done, weight, future = waiting.popleft()
                load -= weight
                yield done, self.wait(future)
        for done, _, future in waiting:
            yield done, self.wait(future)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what ``work`` returns in the loop."""
        return self.wait(asyncio.run_coroutine_threadsafe(work, self._loop))

    def wait(self, future: Future) -> Any:
        """Return the future's result, looking up from the wait now and then."""
        while not futures.wait([future], timeout=_HEARTBEAT).done:
            self._tick()
        return future.result()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Drop what is in the making, run ``last`` in the loop and end the thread."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await last()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

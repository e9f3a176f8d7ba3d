"""Owns the event loop behind the plain API: one daemon thread for each process, started when it is first needed.

The plain API has no sockets of its own. A poll is held and a caller who leaves is noticed also while the consumer's thread computes.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

#: Seconds for the last connections at the exit of the process.
EXIT = 2.0


class Portal:
    """Runs coroutines in its thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="pilotlight", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine, which is cancelled if the wait is interrupted, as by Ctrl-C."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _end(self) -> None:
        """Ends what is held, so that no run is taken by a process that has ended."""
        if self.pid != os.getpid():
            return
        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(_cancel_all(), self.loop).result(EXIT)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(EXIT)


_portal: Portal | None = None
_lock = threading.Lock()


def portal() -> Portal:
    """The portal of this process. A forked child has none of its parent's threads, so it gets its own."""
    global _portal
    with _lock:
        if _portal is None or _portal.pid != os.getpid():
            _portal = Portal()
        return _portal


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

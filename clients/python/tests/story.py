"""Owns how asynchronous tests run, and what they wait with."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pilotlight

PATIENCE = 25.0


def story(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An asynchronous test, in a loop of its own, with an end."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(*args, **named), PATIENCE)

        asyncio.run(bounded(), debug=False)

    return run


async def until(what: str, condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Waits for a condition without stopping the loop, in which the clients live."""
    for _ in range(int(seconds * 100)):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


class Worker:
    """A worker whose runs a function handles, one after the other in each slot."""

    def __init__(
        self,
        pool: str,
        url: str,
        handle: Callable[[pilotlight.Run], Coroutine[Any, Any, Any]],
        slots: int = 1,
        is_guarded: bool = True,
        **options: Any,
    ) -> None:
        self.stop = asyncio.Event()
        self.retries: list[pilotlight.Retry] = []
        self.results: list[Any] = []
        self._handle = handle
        self._slots = slots
        self._is_guarded = is_guarded
        self._runs = pilotlight.wait(pool, broker=url, slots=slots, stop=self.stop, on_retry=self.retries.append, **options)
        self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        jobs = set()
        async for run in self._runs:
            job = asyncio.ensure_future(self._one(run))
            jobs.add(job)
            if self._slots == 1:
                # Asking for the next run would end this one.
                await job
        if jobs:
            await asyncio.wait(jobs)

    async def _one(self, run: pilotlight.Run) -> None:
        if self._is_guarded:
            async with run:
                self.results.append(await self._handle(run))
        else:
            self.results.append(await self._handle(run))

    async def __aenter__(self) -> Worker:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await self._task

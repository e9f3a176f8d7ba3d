"""Owns `wait`: the runs of some slots, as an asynchronous iterator."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import TracebackType
from typing import Any, NoReturn

from ._poll import Retry
from ._run import Run
from ._settings import DEFAULT_BROKER, MAX_METADATA, Ca, Pool, Token, check_header, pool_url, tls_context
from ._slot import Offer, PollSettings, Slot, poll_headers

#: Seconds for which polls stay held after a run was handed out: a consumer with free slots asks for the next run at once.
GRACE = 0.05

# Runs under way may outlive their iterator, and the loop itself keeps no task alive.
_background: set[asyncio.Task[None]] = set()
# Containers share process numbers, and perhaps a host name.
_process_salt = secrets.token_hex(2)
_slots_named = itertools.count(1)


def wait(
    pool: str | Pool,
    *,
    broker: str = DEFAULT_BROKER,
    slots: int = 1,
    controller: str | None = None,
    metadata: str | None = None,
    token: Token | None = None,
    ca: Ca | None = None,
    content_type: str = "application/octet-stream",
    early: bool = True,
    stop: asyncio.Event | None = None,
    on_retry: Callable[[Retry], None] | None = None,
) -> Runs:
    """Waits in a pool: `async for run in wait("my-app/v1/0.5/1"):`.

    `slots` runs at most are under way at once; a poll is held for each free slot while the consumer asks for a run. With one slot,
    asking for the next run ends one that was not answered. `controller` names the worker to operators; each of several slots adds
    its number. By default each slot has a name of its own: host, process number, four random digits and a count. `metadata`
    (printable ASCII, up to 1,024 characters) goes to whoever gets one of these slots. `content_type` is that of the replies, whose
    heads are sent when their runs come, so that a caller who leaves is noticed; with `early=False` a reply is opened by `reply`
    itself. When `stop` is set, no further run is taken, and the iteration ends after those under way. `on_retry` is told before
    each pause.

    The iteration survives whatever happens to the broker, and raises RefusedError if the broker says that polling again is useless.
    """
    if slots < 1:
        raise ValueError("slots is at least 1")
    if metadata is not None:
        check_header("metadata", metadata, MAX_METADATA)
    settings = PollSettings(
        url=pool_url(broker, pool),
        tls=tls_context(ca),
        token=token,
        headers=poll_headers(metadata),
        content_type=check_header("content_type", content_type),
        early=early,
        on_retry=on_retry,
    )
    return Runs(settings, [check_header("controller", name) for name in _names(controller, slots)], stop)


class Runs:
    """The runs that come, for one `async for`. As a context manager it withdraws its polls at the end of the block."""

    def __init__(self, settings: PollSettings, names: list[str], stop: asyncio.Event | None) -> None:
        self._settings = settings
        self._names = names
        self._stop = stop
        self._is_wanted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._arrived: asyncio.Queue[Offer | None] = asyncio.Queue()
        self._slots: list[Slot] = []
        self._main: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self._asking = 0
        self._grace: asyncio.TimerHandle | None = None
        self._last: Run | None = None

    async def __aiter__(self) -> AsyncGenerator[Run, None]:
        try:
            while True:
                try:
                    run = await self.__anext__()
                except StopAsyncIteration:
                    return
                yield run
        finally:
            await self.aclose()

    async def __anext__(self) -> Run:
        """The next run. May be called again after it was cancelled: no run is lost by that."""
        if self._is_closed:
            raise StopAsyncIteration
        if self._main is None:
            self._main = _in_background(self._serve())
        if len(self._names) == 1 and self._last is not None:
            self._last.done()
        self._last = None
        self._ask(1)
        try:
            run = None
            while run is None:
                arrived = await self._arrived.get()
                if arrived is None:
                    self._end_iteration()
                run = arrived.take()
        finally:
            self._ask(-1)
        self._last = run
        return run

    async def aclose(self) -> None:
        """Withdraws the polls. Runs under way can still be answered."""
        self._is_closed = True
        self._end()
        while not self._arrived.empty():
            arrived = self._arrived.get_nowait()
            if arrived is not None:
                arrived.decline()
        if len(self._names) == 1 and self._last is not None:
            self._last.done()
        if self._main is not None and not any(slot.is_busy for slot in self._slots):
            await asyncio.wait({self._main})

    def stop(self) -> None:
        """Takes no further run: the iteration ends after those under way."""
        self._end()

    async def __aenter__(self) -> Runs:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def _end_iteration(self) -> NoReturn:
        # Others who ask hear it too.
        self._arrived.put_nowait(None)
        self._is_closed = True
        raise StopAsyncIteration if self._error is None else self._error

    async def _serve(self) -> None:
        """Runs the slots to their end."""
        for number, name in enumerate(self._names):
            self._slots.append(Slot(number, name, self._settings, self._deliver))
        tasks = {asyncio.ensure_future(slot.serve(self._is_wanted, self._stopping)) for slot in self._slots}
        stop = asyncio.ensure_future(self._stop.wait()) if self._stop is not None else None
        try:
            await asyncio.wait(tasks | ({stop} if stop is not None else set()), return_when=asyncio.FIRST_COMPLETED)
            self._error = next((task.exception() for task in tasks if task.done()), None)
            self._end()
            if self._error is not None:
                self._arrived.put_nowait(None)
            await asyncio.wait(tasks)
        finally:
            for task in (*tasks, *([stop] if stop is not None else [])):
                task.cancel()
            self._arrived.put_nowait(None)

    def _deliver(self, offer: Offer) -> None:
        """Takes in a run that has arrived, perhaps after the consumer has left."""
        if self._is_closed:
            offer.decline()
        else:
            self._arrived.put_nowait(offer)

    def _ask(self, change: int) -> None:
        """Notes that a consumer asks, or no longer does. Polls are held on for a moment after that."""
        self._asking += change
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._asking:
            self._is_wanted.set()
        elif not self._stopping.is_set():
            self._grace = asyncio.get_running_loop().call_later(GRACE, self._unwanted)

    def _unwanted(self) -> None:
        self._is_wanted.clear()
        for slot in self._slots:
            slot.withdraw()

    def _end(self) -> None:
        """No slot takes another run."""
        self._stopping.set()
        # A slot that waits to be wanted sees that it is to stop.
        self._is_wanted.set()
        if self._grace is not None:
            self._grace.cancel()
        for slot in self._slots:
            slot.withdraw()


def _names(controller: str | None, slots: int) -> list[str]:
    """One name for each slot, because the broker lets a new poll of the same controller replace the old one."""
    if controller is None:
        process = f"{socket.gethostname()}-{os.getpid()}-{_process_salt}"
        return [f"{process}-{next(_slots_named)}" for _ in range(slots)]
    return [controller] if slots == 1 else [f"{controller}-{number}" for number in range(1, slots + 1)]


def _in_background(main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(main)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task

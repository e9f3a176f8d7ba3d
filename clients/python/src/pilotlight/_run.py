"""Owns a run: what came, and the one answer to it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Union

import httpx

from ._network import Http, Network
from ._reply import NETWORK_ERRORS, RESULTS, OpenReply, ReplyResult
from ._settings import check_header

logger = logging.getLogger("pilotlight")

Text = Union[str, bytes, bytearray, memoryview]
Body = Union[Text, Iterable[Text], AsyncIterable[Text], None]

#: Seconds for the response to a failure.
ERROR_TIMEOUT = 30.0
#: Statuses that a caller cannot be given: they have no body.
WITHOUT_BODY = (204, 205, 304)


class ReplyRoute:
    """Where a run's answer goes, and over which connection: that of its slot, as soon as that is `ready`, or another one."""

    def __init__(
        self,
        url: httpx.URL,
        http: Http,
        network: Network,
        connect: Callable[[], tuple[Http, Network]],
        early_head: dict[str, str] | None,
        content_type: str,
        ready: Awaitable[None],
    ) -> None:
        self._url = url
        self._http = http
        self._network = network
        self._connect = connect
        self.early_head = early_head
        self.content_type = content_type
        self._ready = ready

    def open(self, headers: dict[str, str], on_end: Callable[[], None]) -> OpenReply:
        """Opens the reply: its head is sent at once."""
        return OpenReply(self._http, self._network, self._url, headers, on_end, ready=self._ready)

    def replace(self, reply: OpenReply, headers: dict[str, str], on_end: Callable[[], None]) -> OpenReply:
        """Opens the reply anew with another head. The broker allows it until a reply has its first byte."""
        reply.give_way()
        http, network = self._connect()
        return OpenReply(http, network, self._url, headers, on_end, replaces=reply)

    async def post_error(self, content: bytes, content_type: str) -> ReplyResult:
        """Reports a failure over a connection of its own, because a reply may be open on the other one."""
        path, _, query = self._url.raw_path.partition(b"?")
        url = self._url.copy_with(raw_path=path.removesuffix(b"/reply") + b"/error?" + query)
        http, _ = self._connect()
        try:
            headers = {"content-type": content_type}
            response = await http.send("POST", url, headers=headers, content=content, read_timeout=ERROR_TIMEOUT)
            await response.aread()
        except NETWORK_ERRORS:
            return "lost"
        finally:
            await http.aclose()
        return RESULTS.get(response.status_code, "lost")


class Run:
    """One run. Answer it with `reply` or `fail`, or end it with `done`; `async with run:` does so for you.

    As a context manager it fails the run with the exception that leaves the block (which is logged, and goes no further), calls
    `done` if the block has not answered, and cancels the block when nobody waits for the answer any more.
    """

    def __init__(
        self, id: str, payload: bytes, content_type: str, controller: str, route: ReplyRoute | None, finished: asyncio.Event
    ) -> None:
        #: The name of the run, as its supervisor or the broker chose it.
        self.id = id
        #: Its bytes, unchanged.
        self.payload = payload
        #: Their media type.
        self.content_type = content_type
        #: The name under which this slot waited.
        self.controller = controller
        #: Set when nobody waits for the answer any more: the caller left, its time has passed, or the broker is gone.
        self.cancelled = asyncio.Event()
        self._on_cancelled: list[Callable[[], None]] = []
        self._finished = finished
        self._is_settled = False
        self._route = route
        self._open: OpenReply | None = None
        self._interrupt: _Interrupt | None = None
        if route is not None and route.early_head is not None:
            self._open = route.open(route.early_head, self._cancel)

    @property
    def wants_reply(self) -> bool:
        """Whether the caller waits for an answer."""
        return self._route is not None

    def text(self) -> str:
        """The payload as UTF-8 text."""
        return self.payload.decode()

    def json(self) -> Any:
        """The payload as JSON."""
        return json.loads(self.payload)

    async def reply(
        self,
        body: Body = None,
        *,
        status: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
    ) -> ReplyResult:
        """Answers the run with text, bytes, or an (async) iterable of either, each piece of which is sent as it comes.

        Waits until the broker has handed every byte to the caller's connection. An iterable is left where it is once the reply is
        over. If the iterable raises, the run fails with that exception, which is raised here again. `status` is 200 to 599 except 204,
        205 and 304. A reply with another status, type or encoding than `wait` announced is opened anew over another connection.
        """
        self._begin(status, content_type, content_encoding)
        try:
            if self._open is not None:
                await self._feed_all(body, self._open)
            return await self._end()
        except BaseException as error:
            await self._abandon(error)
            raise
        finally:
            self._finished.set()

    async def fail(self, error: BaseException | Text, *, content_type: str | None = None) -> ReplyResult:
        """Fails the run: an exception is sent as `Name: message`, text and bytes as they are. The caller gets 502 with it."""
        content = error_body(error, content_type)
        self._settle()
        try:
            return await self._post_error(*content)
        finally:
            self._break_off()
            self._finished.set()

    def done(self) -> None:
        """Ends the run without an answer, and frees its slot. A caller that waits is told that the reply broke. May be repeated."""
        if not self._is_settled:
            self._settle()
            self._break_off()
            self._finished.set()

    async def __aenter__(self) -> Run:
        self._interrupt = _Interrupt(self)
        self._interrupt.__enter__()
        self._interrupt.arm()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        interrupt, self._interrupt = self._interrupt, None
        was_ours = interrupt is not None and interrupt.__exit__(kind, error, trace)
        if isinstance(error, Exception):
            logger.error("the run %s failed", self.id, exc_info=error)
            if not self._is_settled:
                await self.fail(error)
        self.done()
        return was_ours or isinstance(error, Exception)

    # The steps of a reply, which the plain API takes one by one, because a stream is read in its consumer's own thread.

    def _begin(self, status: int | None, content_type: str | None, content_encoding: str | None) -> None:
        if status is not None and (not 200 <= status <= 599 or status in WITHOUT_BODY):
            raise ValueError(f"a reply's status is 200 to 599 except 204, 205 and 304, not {status}")
        route = self._route
        if route is None:
            self._settle()
            return
        headers = {"content-type": route.content_type if content_type is None else check_header("content_type", content_type)}
        if content_encoding is not None:
            headers["content-encoding"] = check_header("content_encoding", content_encoding)
        if status is not None and status != 200:
            headers["pilotlight-status"] = str(status)
        self._settle()
        if self._open is None:
            self._open = route.open(headers, self._cancel)
        elif headers != route.early_head and not self._open.is_over:
            self._open = route.replace(self._open, headers, self._cancel)

    async def _feed_all(self, body: Body, reply: OpenReply) -> None:
        """Feeds what comes until the reply is over, also while the next piece is awaited."""
        if body is None:
            return
        if isinstance(body, (str, bytes, bytearray, memoryview)):
            await reply.feed(encoded(body))
            return
        with _Interrupt(self) as interrupt:
            pieces = _pieces(body, interrupt)
            try:
                async for piece in pieces:
                    interrupt.is_armed = False
                    if not await reply.feed(piece):
                        break
            finally:
                interrupt.is_armed = False
                await pieces.aclose()

    async def _feed(self, piece: bytes) -> bool:
        return self._open is not None and await self._open.feed(piece)

    async def _end(self) -> ReplyResult:
        return "unwanted" if self._open is None else await self._open.finish()

    async def _abandon(self, error: BaseException) -> None:
        """The reply cannot be completed, because of an error in its stream or because its sender is cancelled."""
        if isinstance(error, Exception):
            await self._post_error(*error_body(error, None))
        self._break_off()

    async def _post_error(self, content: bytes, content_type: str) -> ReplyResult:
        if self._route is None:
            return "unwanted"
        result = await self._route.post_error(content, content_type)
        # The failure has replaced the reply.
        self._break_off()
        return result

    def _settle(self) -> None:
        if self._is_settled:
            raise TypeError(f"the run {self.id} has ended: it was answered, done() was called, or its one slot was asked for the next run")
        self._is_settled = True
        if self._interrupt is not None:
            # From here on the answer's own end is told by what `reply` returns.
            self._interrupt.is_armed = False

    async def _released(self) -> None:
        """Waits until the reply needs its connection no more. Before that a poll could take the connection's place."""
        if self._open is not None:
            await self._open.over()

    def _break_off(self) -> None:
        if self._open is not None:
            self._open.break_off()

    def _cancel(self) -> None:
        self.cancelled.set()
        for callback in self._on_cancelled:
            callback()


class _Interrupt:
    """A block that is cancelled with its run, as long as it is armed: then its task waits for something outside of this package."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._task = asyncio.current_task()
        self._cancelling = _cancelling(self._task)
        self._has_cancelled = False
        self.is_armed = False

    def __enter__(self) -> _Interrupt:
        self._run._on_cancelled.append(self._cancel)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Keeps back the cancellation that it has caused itself."""
        self._run._on_cancelled.remove(self._cancel)
        if not self._has_cancelled:
            return False
        is_ours = _uncancel(self._task) <= self._cancelling
        return is_ours and isinstance(error, asyncio.CancelledError)

    def arm(self) -> None:
        """From here on the block is cancelled; it is at once if the run is already."""
        self.is_armed = True
        if self._run.cancelled.is_set():
            self._cancel()

    def _cancel(self) -> None:
        if self.is_armed and not self._has_cancelled and self._task is not None:
            self._has_cancelled = True
            self._task.cancel()


# Before Python 3.11 a task does not count its cancellations.


def _cancelling(task: asyncio.Task[Any] | None) -> int:
    if sys.version_info >= (3, 11):
        return task.cancelling() if task is not None else 0
    return 0


def _uncancel(task: asyncio.Task[Any] | None) -> int:
    if sys.version_info >= (3, 11):
        return task.uncancel() if task is not None else 0
    return 0


async def _pieces(body: Iterable[Text] | AsyncIterable[Text], interrupt: _Interrupt) -> AsyncGenerator[bytes, None]:
    """The pieces of a stream, which is closed with this generator."""
    try:
        if isinstance(body, AsyncIterable):
            iterator = body.__aiter__()
            while True:
                interrupt.arm()
                try:
                    piece = await iterator.__anext__()
                except StopAsyncIteration:
                    return
                yield encoded(piece)
        else:
            for piece in body:
                yield encoded(piece)
    finally:
        if isinstance(body, AsyncGenerator):
            await body.aclose()
        elif isinstance(body, Generator):
            body.close()


def encoded(part: Text) -> bytes:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, (bytes, bytearray, memoryview)):
        return bytes(part)
    raise TypeError(f"a reply consists of text or bytes, not {type(part).__name__}")


def error_body(error: BaseException | Text, content_type: str | None) -> tuple[bytes, str]:
    if isinstance(error, BaseException):
        message = str(error)
        text = f"{type(error).__name__}: {message}" if message else type(error).__name__
        return text.encode(errors="replace"), content_type or "text/plain; charset=utf-8"
    default = "text/plain; charset=utf-8" if isinstance(error, str) else "application/octet-stream"
    return encoded(error), check_header("content_type", content_type or default)

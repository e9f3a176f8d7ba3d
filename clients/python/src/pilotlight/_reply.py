"""Owns one reply on its connection: it is opened early, fed piece by piece, and hears at once that nobody wants it any more.

The POST of the reply runs in a task of its own, and its body is a generator that takes the pieces from `feed`. It looks at the
socket before each piece and while it waits for one: an answer that comes before the end is the broker's refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

import httpcore
import httpx

from ._network import Http, Network

#: What became of a reply: `replied` (the broker handed every byte on), `gone` (nobody waits for it any more), `lost` (the connection
#: to the broker broke, or the broker refused it), `unwanted` (nobody asked for one).
ReplyResult = Literal["replied", "gone", "lost", "unwanted"]
RESULTS: dict[int, ReplyResult] = {200: "replied", 410: "gone"}

#: What httpcore raises when a connection fails.
NETWORK_ERRORS = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
#: Larger pieces are cut, so that an end is heard in between.
PIECE = 64 * 1024
#: How often a reply is opened: a connection or another reply may come in between.
ATTEMPTS = 3


class OpenReply:
    """A reply that is open as soon as its connection is `ready`. `on_end` is called if it ends before `finish`.

    One that replaces another has a connection of its own, and sends its first piece when the broker has ended the other one.
    """

    def __init__(
        self,
        http: Http,
        network: Network,
        url: httpx.URL,
        headers: dict[str, str],
        on_end: Callable[[], None],
        *,
        ready: Awaitable[None] | None = None,
        replaces: OpenReply | None = None,
    ) -> None:
        self._http = http
        self._network = network
        self._url = url
        self._headers = headers
        self._ready = ready
        self._replaces = replaces
        self._on_end = on_end
        self._piece: bytes | None = None
        self._is_finished = False
        self._is_cut = False
        self._gives_way = False
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self.has_sent = False
        self._task = asyncio.ensure_future(self._post())
        self._task.add_done_callback(self._ended)

    @property
    def is_over(self) -> bool:
        """The broker has ended it, or the connection is gone."""
        return self._task.done()

    async def over(self) -> None:
        """Waits for its end."""
        await asyncio.wait({self._task} if self._replaces is None else {self._task, self._replaces._task})

    async def feed(self, data: bytes) -> bool:
        """Sends a piece, and waits until the connection has taken it. False: the reply is over, so further ones are of no use."""
        for start in range(0, len(data), PIECE):
            self._piece = data[start : start + PIECE]
            self._wake.set()
            while self._piece is not None and not self.is_over:
                self._progress.clear()
                await self._progress.wait()
        return not self.is_over

    async def finish(self) -> ReplyResult:
        """Ends the reply cleanly, and waits for the broker's word that the caller's connection has taken it."""
        self._is_finished = True
        self._wake.set()
        return await self._result()

    def give_way(self) -> None:
        """Its end, which comes from the broker, means nothing any more."""
        self._gives_way = True

    def break_off(self) -> None:
        """Ends the connection, so that the caller hears that this is not the whole answer."""
        self._is_cut = True
        self._wake.set()

    async def _result(self) -> ReplyResult:
        # The broker's answer must not be lost with a consumer that is cancelled while it waits.
        return await asyncio.shield(self._task)

    async def _post(self) -> ReplyResult:
        if self._ready is not None:
            await self._ready
        if self._replaces is None:
            return await self._try()
        self._replaces._task.add_done_callback(lambda _: self._wake.set())
        try:
            return await self._try()
        finally:
            await self._http.aclose()

    async def _try(self) -> ReplyResult:
        result: ReplyResult = "lost"
        for _ in range(ATTEMPTS):
            try:
                # A caller may read slowly, so there is no time limit; the kernel notices a broker that is gone.
                response = await self._http.send("POST", self._url, headers=self._headers, content=self._body())
                await response.aread()
            except NETWORK_ERRORS:
                # A kept connection may have ended before the head was sent. A broker that had seen the head answers 410 now.
                result = "lost"
            else:
                result = RESULTS.get(response.status_code, "lost")
                # The head of the reply that this one replaces may have arrived later, and replaced this one.
                if result == "replied" or not self._is_waiting():
                    return result
            if self.has_sent or self._is_cut or self._gives_way:
                break
        return result

    def _is_waiting(self) -> bool:
        return self._replaces is not None and not self._replaces.is_over

    async def _body(self) -> AsyncIterator[bytes]:
        stream = self._network.stream
        assert stream is not None
        stream.on_heard(self._wake.set)
        try:
            while True:
                self._wake.clear()
                if self._is_cut:
                    stream.break_off()
                if stream.has_heard or self._is_cut:
                    # httpcore takes this for a write that failed, and reads the response that is already there.
                    raise httpcore.WriteError("the broker has ended the reply")
                if self._gives_way or self._is_waiting():
                    await self._wake.wait()
                elif self._piece is not None:
                    self.has_sent = True
                    yield self._piece
                    self._piece = None
                    self._progress.set()
                elif self._is_finished:
                    return
                else:
                    await self._wake.wait()
        finally:
            stream.on_heard(None)

    def _ended(self, task: asyncio.Task[ReplyResult]) -> None:
        self._progress.set()
        if not (self._is_finished or self._is_cut or self._gives_way):
            self._on_end()
        if not task.cancelled():
            # An error that nobody awaits would be reported when the task is collected.
            task.exception()

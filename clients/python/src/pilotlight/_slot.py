"""Owns one slot: a poll is held while a run is wanted, its run is handed over, and the slot waits until that run has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import httpx

from ._backoff import Backoff, retired
from ._network import Http, Network
from ._poll import Again, Arrived, Pause, Reason, Retry, poll_end
from ._reply import NETWORK_ERRORS
from ._run import ReplyRoute, Run
from ._settings import Token, bearer

logger = logging.getLogger("pilotlight")

#: No broker holds a poll longer than 299 s.
POLL_TIMEOUT = 315.0
#: How often one poll is sent on to another broker.
MAX_HOPS = 5
#: A poll that is answered "no run" sooner was not held: the next one waits, and each one longer, so that no loop gets busy.
HELD_AT_LEAST = 0.5


@dataclass(frozen=True)
class PollSettings:
    """What the slots of one `wait` have in common."""

    url: httpx.URL
    tls: ssl.SSLContext
    token: Token | None
    headers: dict[str, str]
    content_type: str
    early: bool
    on_retry: Callable[[Retry], None] | None


class Slot:
    """One slot. `deliver` gets its runs."""

    def __init__(self, number: int, controller: str, settings: PollSettings, deliver: Callable[[Offer], None]) -> None:
        self._number = number
        self._controller = controller
        self._settings = settings
        self._deliver = deliver
        self._url = settings.url
        self._backoff = Backoff()
        self._is_polling = False
        self._is_withdrawn = False
        #: A run is under way.
        self.is_busy = False
        self._network = Network()
        self._http = Http(self._network, settings.tls, max_connections=1)

    def withdraw(self) -> None:
        """Ends the poll under way. A run that has begun to arrive is read on."""
        self._is_withdrawn = True
        if self._is_polling:
            self._network.withdraw()

    async def serve(self, is_wanted: asyncio.Event, stopping: asyncio.Event) -> None:
        """Polls and hands over runs until `stopping` is set, and the last run has ended."""
        try:
            while not stopping.is_set():
                await is_wanted.wait()
                if stopping.is_set():
                    break
                offer = await self._next_offer(stopping)
                if offer is not None:
                    self.is_busy = True
                    self._deliver(offer)
                    await offer.ended()
                    self.is_busy = False
        finally:
            await self._http.aclose()

    async def _next_offer(self, stopping: asyncio.Event) -> Offer | None:
        began = time.monotonic()
        self._is_polling, self._is_withdrawn, self._network.is_withdrawn = True, False, False
        end: Pause | None = None
        failure: Exception | None = None
        try:
            offer = await self._poll()
            if offer is not None:
                return offer
            if time.monotonic() - began < HELD_AT_LEAST:
                end = Pause("unavailable", 204)
            else:
                self._backoff.reset()
        except _Paused as paused:
            end = paused.end
        except NETWORK_ERRORS as error:
            failure = error
        finally:
            self._is_polling = self._network.is_withdrawn = False
        # What failed was perhaps only the broker to which a drain had sent this slot.
        self._url = self._settings.url
        if (end is not None or failure is not None) and not self._is_withdrawn:
            await self._rest(end, failure, stopping)
        return None

    async def _poll(self) -> Offer | None:
        settings = self._settings
        headers = {**settings.headers, "pilotlight-controller": self._controller, **bearer(settings.token)}
        asked: set[httpx.URL] = set()
        for _ in range(MAX_HOPS + 1):
            response = await self._http.send("GET", self._url, headers=headers, read_timeout=POLL_TIMEOUT)
            # `aread` would close the connection after the last byte: that is the receipt, and not due yet.
            body = b"".join([part async for part in cast(httpx.AsyncByteStream, response.stream)])
            end = poll_end(self._url, response.status_code, response.headers, body)
            if isinstance(end, Arrived):
                self._backoff.reset()
                return Offer(self._controller, end, body, response, self._network, self._route(end))
            await response.aclose()
            if isinstance(end, Pause):
                raise _Paused(end)
            if isinstance(end, Again):
                return None
            asked.add(self._url)
            if end.url in asked:
                # Whoever sends a poll in a circle is not asked again at once.
                break
            self._url = end.url
        raise _Paused(Pause("unavailable", 307))

    def _route(self, arrived: Arrived) -> Callable[[Awaitable[None]], ReplyRoute] | None:
        if arrived.reply is None:
            return None
        url = self._url.copy_with(raw_path=arrived.reply.encode("ascii"))
        settings = self._settings
        early_head = {"content-type": settings.content_type} if settings.early else None
        return lambda ready: ReplyRoute(url, self._http, self._network, self._connect, early_head, settings.content_type, ready)

    def _connect(self) -> tuple[Http, Network]:
        network = Network()
        return Http(network, self._settings.tls), network

    async def _rest(self, end: Pause | None, failure: Exception | None, stopping: asyncio.Event) -> None:
        """Pauses, also if the consumer asks again meanwhile."""
        reason: Reason = "unreachable" if end is None else end.reason
        delay = retired() if reason == "retired" else self._backoff.next(None if end is None else end.retry_after)
        retry = Retry(self._number, reason, None if end is None else end.status, failure, delay)
        logger.info("slot %d: %s (%s), next poll in %.1f s", retry.slot, reason, retry.status or repr(failure), delay)
        if self._settings.on_retry is not None:
            self._settings.on_retry(retry)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopping.wait(), delay)


class Offer:
    """A run that was read, and not received yet: the end of its connection is the receipt, which is given when the run is taken."""

    def __init__(
        self,
        controller: str,
        arrived: Arrived,
        payload: bytes,
        response: httpx.Response,
        network: Network,
        route: Callable[[Awaitable[None]], ReplyRoute] | None,
    ) -> None:
        self._controller = controller
        self._arrived = arrived
        self._payload = payload
        self._response = response
        self._network = network
        self._route = route
        self._released: asyncio.Future[None] | None = None
        self._run: Run | None = None
        #: The run has ended.
        self.finished = asyncio.Event()

    def take(self) -> Run | None:
        """Gives the receipt, and opens the reply. None: the broker did not wait so long, and may have offered the run elsewhere.

        Nothing is awaited here: a consumer that is cancelled has either got the run, or not taken it.
        """
        stream = self._network.stream
        if stream is None or stream.is_reset:
            self.decline()
            return None
        if self._response.headers.get("connection", "").lower() == "close":
            stream.close()
        released = self._release()
        arrived = self._arrived
        route = self._route(released) if self._route is not None else None
        self._run = Run(arrived.run, self._payload, arrived.content_type, self._controller, route, self.finished)
        return self._run

    def decline(self) -> None:
        """Nobody takes the run: its connection is reset, which is no receipt."""
        if self._network.stream is not None:
            self._network.stream.reset()
        self._release()
        self.finished.set()

    async def ended(self) -> None:
        """Waits until the slot is free again."""
        await self.finished.wait()
        if self._run is not None:
            await self._run._released()
        if self._released is not None:
            await self._released

    def _release(self) -> asyncio.Future[None]:
        """Frees the connection's place in its pool."""
        if self._released is None:
            self._released = asyncio.ensure_future(self._response.aclose())
        return self._released


class _Paused(Exception):
    def __init__(self, end: Pause) -> None:
        self.end = end


def poll_headers(metadata: str | None) -> dict[str, str]:
    """What every poll of a `wait` carries."""
    return {} if metadata is None else {"pilotlight-metadata": metadata}

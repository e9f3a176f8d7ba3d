"""Owns the sockets: a backend for httpcore whose streams hear an answer that comes before the request has ended.

httpx reads a response only when the request's body has ended. A reply may stay open and silent for minutes, and the broker says
meanwhile that nobody wants it any more. So these streams read whatever comes at once, and tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, cast

import httpcore
import httpx

from ._settings import VERSION

USER_AGENT = f"pilotlight-python/{VERSION}"
#: Seconds.
CONNECT_TIMEOUT = 5.0
#: Unread bytes of a connection; reading stops above it.
READ_LIMIT = 256 * 1024
#: Seconds after which the kernel asks a silent peer whether it is there, between its questions, and how often it asks.
KEEPALIVE = (15, 5, 3)
#: A connection closed with this is reset: it counts as no receipt of what was not read.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _Wire(asyncio.Protocol):
    """The callbacks of one connection."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.is_at_end = False
        self.is_lost = False
        self.error: Exception | None = None
        self.has_heard = False
        self.on_heard: Callable[[], None] | None = None
        self.changed = asyncio.Event()
        self.is_writable = True
        self.is_tls = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > READ_LIMIT and self.transport is not None:
            self.transport.pause_reading()
        self._heard()

    def eof_received(self) -> bool:
        self.is_at_end = True
        self._heard()
        # TLS cannot be half open.
        return not self.is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_at_end = self.is_lost = True
        self.error = exc
        self._heard()

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        self.changed.set()

    def _heard(self) -> None:
        self.has_heard = True
        self.changed.set()
        if self.on_heard is not None:
            self.on_heard()


class Stream(httpcore.AsyncNetworkStream):
    """A connection. Once it has sent a request, closing it before the whole response was read resets it."""

    def __init__(self, wire: _Wire, network: Network) -> None:
        self._wire = wire
        self._network = network
        self._is_closed = False
        #: The response to the last request was read to its end.
        self.is_complete = True

    @property
    def is_reset(self) -> bool:
        """The connection has broken. A peer that has only ended its side has not given up."""
        return self._wire.error is not None

    @property
    def has_heard(self) -> bool:
        """Something came since the last write: bytes, or the end of the connection."""
        return self._wire.has_heard or self._wire.is_at_end

    def on_heard(self, callback: Callable[[], None] | None) -> None:
        """Calls back as soon as anything comes."""
        self._wire.on_heard = callback

    def reset(self) -> None:
        """Ends the connection at once, so that nothing that is unread counts as received."""
        transport = self._wire.transport
        self._is_closed = True
        if transport is None or self._wire.is_lost:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        wire = self._wire
        if not await self._until(lambda: bool(wire.buffer) or wire.is_at_end, timeout):
            raise httpcore.ReadTimeout
        if not wire.buffer:
            if wire.error is not None:
                raise httpcore.ReadError(str(wire.error)) from wire.error
            return b""
        data = bytes(wire.buffer[:max_bytes])
        del wire.buffer[:max_bytes]
        if wire.transport is not None and not self._is_closed and not wire.is_at_end:
            wire.transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        wire = self._wire
        if not buffer:
            return
        if wire.is_lost or self._is_closed or wire.transport is None:
            raise httpcore.WriteError("the connection is closed")
        if self.is_complete and self._network.is_withdrawn:
            self.reset()
            raise httpcore.WriteError("withdrawn")
        if self.is_complete:
            self.is_complete, wire.has_heard = False, False
        wire.transport.write(buffer)
        # A peer that answers while it takes no bytes will not take the rest of them.
        if not await self._until(lambda: wire.is_writable or self.has_heard, timeout):
            raise httpcore.WriteTimeout
        if not wire.is_writable or wire.is_lost:
            raise httpcore.WriteError("the peer has answered, or is gone")

    def close(self) -> None:
        """Ends the connection. After a whole response that says that it was read; before it, it is a reset."""
        transport = self._wire.transport
        if self._is_closed or transport is None:
            return
        if not self.is_complete or self._wire.buffer:
            self.reset()
            return
        self._is_closed = True
        self._end(transport)

    def break_off(self) -> None:
        """Ends a request in its middle. What was sent of it is read by the peer, which a reset might overtake."""
        transport = self._wire.transport
        if transport is None or self._is_closed or transport.get_write_buffer_size():
            self.reset()
            return
        self._is_closed = True
        self._end(transport)

    async def aclose(self) -> None:
        self.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        wire = self._wire
        assert wire.transport is not None
        start = asyncio.get_running_loop().start_tls(wire.transport, wire, ssl_context, server_hostname=server_hostname)
        try:
            secured = await asyncio.wait_for(start, timeout)
            if secured is None:
                raise ConnectionResetError("the connection is closed")
        except asyncio.TimeoutError as error:
            self.reset()
            raise httpcore.ConnectTimeout from error
        except (OSError, ssl.SSLError) as error:
            self.reset()
            raise httpcore.ConnectError(str(error)) from error
        wire.transport, wire.is_tls = secured, True
        secured.set_write_buffer_limits(high=1, low=0)
        return self

    def get_extra_info(self, info: str) -> Any:
        transport = self._wire.transport
        if transport is None:
            return None
        if info == "is_readable":
            return bool(self._wire.buffer) or self._wire.is_at_end
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return transport.get_extra_info(names.get(info, info))

    def _end(self, transport: asyncio.Transport) -> None:
        transport.close()
        # A TLS transport would wait for the peer's close_notify.
        if self._wire.is_tls:
            asyncio.get_running_loop().call_soon(transport.abort)

    async def _until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Waits for a condition that callbacks of the connection bring about; false when the time has passed."""
        if condition():
            return True

        async def wait() -> None:
            while not condition():
                self._wire.changed.clear()
                await self._wire.changed.wait()

        try:
            await asyncio.wait_for(wait(), timeout)
        except asyncio.TimeoutError:
            return condition()
        return True


class Network(httpcore.AsyncNetworkBackend):
    """Connects, and knows the last connection: that of the request under way, where one connection is used at a time."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        #: No request is begun, because the one under way was withdrawn before it was.
        self.is_withdrawn = False
        self._connecting: asyncio.Task[tuple[asyncio.Transport, _Wire]] | None = None

    def withdraw(self) -> None:
        """Ends a request that has not been answered yet, or not even been sent. A response that has begun is read on."""
        self.is_withdrawn = True
        if self._connecting is not None:
            self._connecting.cancel()
        elif self.stream is not None and not self.stream.has_heard:
            self.stream.reset()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        connect = loop.create_connection(_Wire, host, port, happy_eyeballs_delay=0.25)
        connecting = self._connecting = asyncio.create_task(connect)
        try:
            done, _ = await asyncio.wait({connecting}, timeout=timeout)
            if not done:
                raise httpcore.ConnectTimeout
            transport, wire = connecting.result()
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        except asyncio.CancelledError as error:
            if not connecting.cancelled():
                raise
            raise httpcore.ConnectError("withdrawn") from error
        finally:
            connecting.cancel()
            self._connecting = None
        _keep_alive(transport.get_extra_info("socket"))
        transport.set_write_buffer_limits(high=1, low=0)
        self.stream = Stream(wire, self)
        return self.stream

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _keep_alive(sock: Any) -> None:
    """A peer that vanished without a word is noticed in half a minute."""
    idle, interval, count = KEEPALIVE
    options = [(socket.SOL_SOCKET, "SO_KEEPALIVE", 1), (socket.IPPROTO_TCP, "TCP_KEEPIDLE", idle)]
    options += [(socket.IPPROTO_TCP, "TCP_KEEPINTVL", interval), (socket.IPPROTO_TCP, "TCP_KEEPCNT", count)]
    options.append((socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", (idle + interval * count) * 1000))
    for level, name, value in options:
        # Not every system has all of them.
        if hasattr(socket, name):
            sock.setsockopt(level, getattr(socket, name), value)


class Http:
    """Requests over such connections. httpx's client is not used: it logs URLs, and that of a reply contains its token. Proxies in the
    environment are not used either: between a worker and its broker they hide who lives. Errors are those of httpcore."""

    def __init__(self, network: Network, tls: ssl.SSLContext, max_connections: int | None = None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls, max_connections=max_connections, keepalive_expiry=60.0, network_backend=network
        )

    async def send(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes] | None = None,
        read_timeout: float | None = None,
    ) -> httpx.Response:
        """A response whose body is yet to be read."""
        request = httpx.Request(method, url, headers={"user-agent": USER_AGENT, **headers}, content=content)
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=cast(Any, request.stream),
                extensions={"timeout": {"connect": CONNECT_TIMEOUT, "read": read_timeout}},
            )
        )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_ResponseStream(response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._pool.aclose()


class _ResponseStream(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part
        self._response.extensions["network_stream"].is_complete = True

    async def aclose(self) -> None:
        await self._response.aclose()

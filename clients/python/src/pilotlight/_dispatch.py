"""Owns dispatches: a run is posted to a pool, and the response is an outcome, perhaps with the worker's answer as it comes."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, TypeVar, Union

import httpcore
import httpx

from ._errors import ReplyBrokenError
from ._network import Http, Network
from ._outcomes import Answered, Ended, Unknown, Unreachable, ended
from ._reply import NETWORK_ERRORS
from ._settings import (
    DEFAULT_BROKER,
    Ca,
    Duration,
    Pool,
    Token,
    bearer,
    check_header,
    duration_text,
    pool_url,
    tls_context,
)

#: The proofs that a dispatch can demand.
Proof = Literal["written", "acked", "received"]

Self = TypeVar("Self", bound="_Readable")


class ReplyStream:
    """The bytes of an answer, each piece as it comes. Read it to its end, or close it: then the worker hears that its caller left."""

    def __init__(self, response: httpx.Response) -> None:
        self._source = _Source(response)
        # The generator does not know this object: in a circle they would hold the worker until the garbage is collected.
        self._pieces = _read(self._source)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def read(self) -> bytes:
        """The rest of it."""
        return b"".join([piece async for piece in self])

    async def aclose(self) -> None:
        """Reads no more. The caller has left, if there was more to come."""
        await self._pieces.aclose()
        await self._source.aclose()


class _Source:
    """Where an answer comes from: its response, and the connections that end with it. It is closed when nobody can read it any more."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.owner: Http | None = None
        self._loop = asyncio.get_running_loop()
        self._is_closed = False

    async def aclose(self) -> None:
        self._is_closed = True
        await _close(self.response, self.owner)

    def __del__(self) -> None:
        # A generator that has begun closes it by itself; here it is one that nobody has asked for a piece.
        if self._is_closed or self._loop.is_closed():
            return
        loop, response, owner = self._loop, self.response, self.owner
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: loop.create_task(_close(response, owner)))


async def _read(source: _Source) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in source.response.aiter_bytes():
            yield piece
    except NETWORK_ERRORS as error:
        raise ReplyBrokenError("the reply broke off before its end") from error
    finally:
        await source.aclose()


async def _close(response: httpx.Response, owner: Http | None) -> None:
    await response.aclose()
    if owner is not None:
        await owner.aclose()


class _Readable(Answered[ReplyStream]):
    async def bytes(self) -> builtins.bytes:
        """The whole answer; raises ReplyBrokenError if it ended early."""
        return await self.body.read()

    async def text(self) -> str:
        """The whole answer as text."""
        return (await self.body.read()).decode()

    async def json(self) -> Any:
        """The whole answer as JSON."""
        return json.loads(await self.body.read())

    def __aiter__(self) -> AsyncIterator[builtins.bytes]:
        return self.body.__aiter__()

    async def aclose(self) -> None:
        """Leaves the rest of the answer."""
        await self.body.aclose()

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()


@dataclass(frozen=True)
class Replied(_Readable):
    """The worker's answer."""

    outcome: Literal["replied"] = "replied"


@dataclass(frozen=True)
class WorkerError(_Readable):
    """The worker says that the run has failed; the body is what it says."""

    outcome: Literal["worker_error"] = "worker_error"


#: What became of a dispatch.
Outcome = Union[Ended, Replied, WorkerError]


class Dispatcher:
    """Dispatches over kept connections. Close it, or use it as a context manager."""

    def __init__(self, *, broker: str = DEFAULT_BROKER, token: Token | None = None, ca: Ca | None = None) -> None:
        self._broker = broker
        self._token = token
        self._http = Http(Network(), tls_context(ca))

    async def dispatch(
        self,
        pool: str | Pool,
        payload: str | bytes,
        *,
        reply: Duration | None = None,
        wait: Duration | None = None,
        redeliver: bool = False,
        proof: Proof | None = None,
        run: str | None = None,
        content_type: str | None = None,
    ) -> Outcome:
        """Posts a run; see `dispatch`."""
        url = pool_url(self._broker, pool).copy_merge_params(_query(reply, wait, redeliver, proof))
        headers = _headers(run, content_type or _type_of(payload)) | bearer(self._token)
        content = payload.encode() if isinstance(payload, str) else payload
        try:
            response = await self._http.send("POST", url, headers=headers, content=content)
            if response.headers.get("pilotlight-outcome") in ("replied", "worker_error"):
                return _answered(response)
            body = await response.aread()
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            return Unreachable(error)
        except NETWORK_ERRORS as error:
            return Unknown(f"the connection to the broker ended: {str(error) or type(error).__name__}", run or "")
        return ended(response.status_code, response.headers, body, run or "", reply is not None)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Dispatcher:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()


async def dispatch(
    pool: str | Pool,
    payload: str | bytes,
    *,
    broker: str = DEFAULT_BROKER,
    token: Token | None = None,
    ca: Ca | None = None,
    reply: Duration | None = None,
    wait: Duration | None = None,
    redeliver: bool = False,
    proof: Proof | None = None,
    run: str | None = None,
    content_type: str | None = None,
) -> Outcome:
    """Posts a run to a pool, and returns what became of it; nothing but misuse raises.

    With `reply` (at most so long until its first byte) the worker's answer comes back: `Replied`, to be read or closed. `wait` waits
    for a controller to come. `redeliver` allows offering the run to a second controller although the first may have it. `run` names
    the run: the same name is not delivered twice within a minute. Use a `Dispatcher` for many dispatches.
    """
    dispatcher = Dispatcher(broker=broker, token=token, ca=ca)
    try:
        outcome = await dispatcher.dispatch(
            pool, payload, reply=reply, wait=wait, redeliver=redeliver, proof=proof, run=run, content_type=content_type
        )
    except BaseException:
        await dispatcher.aclose()
        raise
    if isinstance(outcome, (Replied, WorkerError)):
        outcome.body._source.owner = dispatcher._http
    else:
        await dispatcher.aclose()
    return outcome


def _answered(response: httpx.Response) -> Outcome:
    headers = response.headers
    kind = Replied if headers["pilotlight-outcome"] == "replied" else WorkerError
    return kind(
        run=headers.get("pilotlight-run", ""),
        controller=headers.get("pilotlight-controller", ""),
        status=response.status_code,
        content_type=headers.get("content-type", ""),
        body=ReplyStream(response),
        metadata=headers.get("pilotlight-metadata"),
    )


def _query(reply: Duration | None, wait: Duration | None, redeliver: bool, proof: Proof | None) -> dict[str, str]:
    query = {}
    if reply is not None:
        query["reply"] = duration_text("reply", reply)
    if wait is not None:
        query["wait"] = duration_text("wait", wait)
    if redeliver:
        query["redeliver"] = "true"
    if proof is not None:
        query["proof"] = proof
    return query


def _headers(run: str | None, content_type: str) -> dict[str, str]:
    headers = {"content-type": check_header("content_type", content_type)}
    if run is not None:
        headers["pilotlight-run"] = check_header("run", run)
    return headers


def _type_of(payload: str | bytes) -> str:
    return "text/plain; charset=utf-8" if isinstance(payload, str) else "application/octet-stream"

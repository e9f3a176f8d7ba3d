"""The plain API, for threads: the names of `pilotlight` without `await`. Everything in it may be used from any thread."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, TypeVar, Union

from . import _dispatch, _run, _runs
from ._outcomes import Answered, Ended
from ._poll import Retry
from ._portal import portal
from ._reply import ReplyResult
from ._run import Text, encoded, error_body, logger
from ._settings import DEFAULT_BROKER, Ca, Duration, Pool, Token

Body = Union[Text, Iterable[Text], None]
Self = TypeVar("Self", bound="_Readable")


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
    stop: threading.Event | None = None,
    on_retry: Callable[[Retry], None] | None = None,
) -> Runs:
    """Waits in a pool: `for run in wait("my-app/v1/0.5/1"):`, as `pilotlight.wait` does. `on_retry` is called in another thread."""
    inner = portal().call(
        _make(
            lambda: _runs.wait(
                pool,
                broker=broker,
                slots=slots,
                controller=controller,
                metadata=metadata,
                token=token,
                ca=ca,
                content_type=content_type,
                early=early,
                on_retry=on_retry,
            )
        )
    )
    if stop is not None:
        # An event of threads calls nobody back.
        threading.Thread(target=_watch, args=(stop, inner), name="pilotlight-stop", daemon=True).start()
    return Runs(inner)


class Runs:
    """The runs that come, for one `for`. As a context manager it withdraws its polls at the end of the block."""

    def __init__(self, inner: _runs.Runs) -> None:
        self._inner = inner

    def __iter__(self) -> Generator[Run, None, None]:
        try:
            while True:
                try:
                    run = self.__next__()
                except StopIteration:
                    return
                yield run
        finally:
            self.close()

    def __next__(self) -> Run:
        """The next run."""
        try:
            return portal().call(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Withdraws the polls. Runs under way can still be answered."""
        portal().call(self._inner.aclose())

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def _next(self) -> Run:
        return Run(await self._inner.__anext__())


class Run:
    """One run, as `pilotlight.Run`. As a context manager it fails the run with the exception that leaves the block (which is logged,
    and goes no further), and calls `done` if the block has not answered."""

    def __init__(self, inner: _run.Run) -> None:
        self._inner = inner
        self.id = inner.id
        self.payload = inner.payload
        self.content_type = inner.content_type
        self.controller = inner.controller
        self.wants_reply = inner.wants_reply
        #: Set when nobody waits for the answer any more: the caller left, its time has passed, or the broker is gone.
        self.cancelled = threading.Event()
        inner._on_cancelled.append(self.cancelled.set)
        if inner.cancelled.is_set():
            self.cancelled.set()

    def text(self) -> str:
        """The payload as UTF-8 text."""
        return self._inner.text()

    def json(self) -> Any:
        """The payload as JSON."""
        return self._inner.json()

    def reply(
        self,
        body: Body = None,
        *,
        status: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
    ) -> ReplyResult:
        """Answers the run, as `pilotlight.Run.reply`. An iterable is read in this thread; it is left at its next piece once the
        reply is over."""
        inner, call = self._inner, portal().call
        if body is None or isinstance(body, (str, bytes, bytearray, memoryview)):
            return call(inner.reply(body, status=status, content_type=content_type, content_encoding=content_encoding))
        call(_make(lambda: inner._begin(status, content_type, content_encoding)))
        try:
            if self.wants_reply:
                for piece in body:
                    if not call(inner._feed(encoded(piece))):
                        break
            return call(inner._end())
        except BaseException as error:
            call(inner._abandon(error))
            raise
        finally:
            if isinstance(body, Generator):
                body.close()
            call(_make(inner._finished.set))

    def fail(self, error: BaseException | Text, *, content_type: str | None = None) -> ReplyResult:
        """Fails the run, as `pilotlight.Run.fail`."""
        error_body(error, content_type)
        return portal().call(self._inner.fail(error, content_type=content_type))

    def done(self) -> None:
        """Ends the run without an answer, and frees its slot."""
        portal().call(_make(self._inner.done))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if isinstance(error, Exception):
            logger.error("the run %s failed", self.id, exc_info=error)
            if not self._inner._is_settled:
                self.fail(error)
        self.done()
        return isinstance(error, Exception)


class ReplyStream:
    """The bytes of an answer, each piece as it comes. Read it to its end, or close it: then the worker hears that its caller left."""

    def __init__(self, inner: _dispatch.ReplyStream) -> None:
        self._inner = inner
        self._pieces: AsyncIterator[bytes] = inner.__aiter__()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return portal().call(_next_piece(self._pieces))
        except StopAsyncIteration:
            raise StopIteration from None

    def read(self) -> bytes:
        """The rest of it."""
        return b"".join(self)

    def close(self) -> None:
        """Reads no more. The caller has left, if there was more to come."""
        portal().call(self._inner.aclose())


class _Readable(Answered[ReplyStream]):
    def bytes(self) -> builtins.bytes:
        """The whole answer; raises ReplyBrokenError if it ended early."""
        return self.body.read()

    def text(self) -> str:
        """The whole answer as text."""
        return self.body.read().decode()

    def json(self) -> Any:
        """The whole answer as JSON."""
        return json.loads(self.body.read())

    def __iter__(self) -> Iterator[builtins.bytes]:
        return iter(self.body)

    def close(self) -> None:
        """Leaves the rest of the answer."""
        self.body.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


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
        self._inner = portal().call(_make(lambda: _dispatch.Dispatcher(broker=broker, token=token, ca=ca)))

    def dispatch(
        self,
        pool: str | Pool,
        payload: str | bytes,
        *,
        reply: Duration | None = None,
        wait: Duration | None = None,
        redeliver: bool = False,
        proof: _dispatch.Proof | None = None,
        run: str | None = None,
        content_type: str | None = None,
    ) -> Outcome:
        """Posts a run; see `dispatch`."""
        terms = _Terms(reply, wait, redeliver, proof, run, content_type)
        return _plain(portal().call(self._inner.dispatch(pool, payload, **vars(terms))))

    def close(self) -> None:
        """Closes the connections."""
        portal().call(self._inner.aclose())

    def __enter__(self) -> Dispatcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def dispatch(
    pool: str | Pool,
    payload: str | bytes,
    *,
    broker: str = DEFAULT_BROKER,
    token: Token | None = None,
    ca: Ca | None = None,
    reply: Duration | None = None,
    wait: Duration | None = None,
    redeliver: bool = False,
    proof: _dispatch.Proof | None = None,
    run: str | None = None,
    content_type: str | None = None,
) -> Outcome:
    """Posts a run to a pool, and returns what became of it, as `pilotlight.dispatch` does."""
    terms = _Terms(reply, wait, redeliver, proof, run, content_type)
    return _plain(portal().call(_dispatch.dispatch(pool, payload, broker=broker, token=token, ca=ca, **vars(terms))))


@dataclass
class _Terms:
    reply: Duration | None
    wait: Duration | None
    redeliver: bool
    proof: _dispatch.Proof | None
    run: str | None
    content_type: str | None


def _plain(outcome: _dispatch.Outcome) -> Outcome:
    if isinstance(outcome, (_dispatch.Replied, _dispatch.WorkerError)):
        kind = Replied if isinstance(outcome, _dispatch.Replied) else WorkerError
        return kind(outcome.run, outcome.controller, outcome.status, outcome.content_type, ReplyStream(outcome.body), outcome.metadata)
    return outcome


async def _make(function: Callable[[], Any]) -> Any:
    """Calls a function in the loop's thread."""
    return function()


async def _next_piece(pieces: AsyncIterator[bytes]) -> bytes:
    return await pieces.__anext__()


def _watch(stop: threading.Event, inner: _runs.Runs) -> None:
    stop.wait()
    portal().loop.call_soon_threadsafe(inner.stop)

"""Owns the tests of replies: whole, token by token, failed, cancelled, broken, late and refused."""

from __future__ import annotations

import asyncio
import gc
import functools
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import pilotlight
from broker import Broker
from pilotlight import Duplicate, Limited, Replied, ReplyBroken, ReplyBrokenError, ReplyTimeout, Run, WorkerError, _network
from story import Worker, story, until

EVERY_BYTE = bytes(range(256)) * 4096
#: A worker of its own process, which says "token" and then nothing any more; without a word if the payload says so.
MUTE_WORKER = """
import asyncio, sys, pilotlight

async def tokens(run):
    if run.text() != "silent":
        yield "token"
    # By then the reply has been opened, which it is while this worker thinks.
    await asyncio.sleep(0.3)
    print("working", flush=True)
    await asyncio.sleep(60)

async def main():
    async for run in pilotlight.wait(sys.argv[2], broker=sys.argv[1]):
        await run.reply(tokens(run))

asyncio.run(main())
"""


async def ask(broker: Broker, pool: str, payload: str | bytes = b"x", **options: Any) -> pilotlight.Outcome:
    return await pilotlight.dispatch(pool, payload, broker=broker.url, **({"reply": "20s", "wait": "10s"} | options))


async def replied(broker: Broker, pool: str, payload: str | bytes = b"x", **options: Any) -> Replied:
    outcome = await ask(broker, pool, payload, **options)
    assert isinstance(outcome, Replied), outcome
    return outcome


@story
async def test_a_whole_reply_comes_back_unchanged(broker: Broker, pool: str) -> None:
    async def echo(run: Run) -> str:
        assert run.wants_reply
        return await run.reply(run.payload)

    async with Worker(pool, broker.url, echo, controller="echo", content_type="application/x-echo") as worker:
        for payload in (b"", b"short", EVERY_BYTE, "héllo"):
            outcome = await replied(broker, pool, payload)
            assert (outcome.outcome, outcome.status, outcome.content_type) == ("replied", 200, "application/x-echo")
            assert outcome.controller == "echo"
            assert await outcome.bytes() == (payload.encode() if isinstance(payload, str) else payload)
    assert worker.results == ["replied"] * 4


@pytest.mark.parametrize("early", [True, False])
def test_each_reply_chooses_its_status_type_and_encoding(broker: Broker, pool: str, early: bool) -> None:
    compressed = zlib.compress(b"hello")

    @story
    async def choose() -> None:
        async def reply(run: Run) -> str:
            status = int(run.text())
            if status == 201:
                return await run.reply(compressed, status=201, content_encoding="deflate")
            return await run.reply('{"no": 1}', status=status, content_type="application/json")

        async with Worker(pool, broker.url, reply, early=early) as worker:
            for status in (404, 201, 599, 201, 200):
                outcome = await replied(broker, pool, str(status))
                if status == 201:
                    assert (outcome.status, await outcome.text()) == (201, "hello")
                else:
                    assert (outcome.status, outcome.content_type, await outcome.json()) == (status, "application/json", {"no": 1})
        assert worker.results == ["replied"] * 5

    choose()


@story
async def test_tokens_pass_one_by_one(broker: Broker, pool: str) -> None:
    """The next token is made only when the caller has read the one before it."""
    may_go = asyncio.Semaphore(0)

    async def tokens() -> AsyncIterator[str]:
        for number in range(20):
            await may_go.acquire()
            yield f"data: {number}\n\n"

    async with Worker(pool, broker.url, lambda run: run.reply(tokens()), content_type="text/event-stream") as worker:
        may_go.release()
        outcome = await replied(broker, pool)
        assert outcome.content_type == "text/event-stream"
        got = []
        async for piece in outcome:
            got.append(piece)
            may_go.release()
    assert got == [f"data: {number}\n\n".encode() for number in range(20)]
    assert worker.results == ["replied"]


@story
async def test_a_slow_caller_slows_its_worker(broker: Broker, pool: str) -> None:
    made = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(256):
            made += 1
            yield bytes(65536)

    async with Worker(pool, broker.url, lambda run: run.reply(flood())) as worker:
        outcome = await replied(broker, pool)
        before = -1
        while made != before:
            before = made
            await asyncio.sleep(0.2)
        assert made < 192, "the worker has been held back"
        assert len(await outcome.bytes()) == 256 * 65536
    assert worker.results == ["replied"]


@story
async def test_the_next_poll_uses_the_connection_of_the_reply(
    broker: Broker, pool: str, deployment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = []
    connect = _network.Network.connect_tcp

    async def noted(self: _network.Network, *args: Any, **named: Any) -> Any:
        stream = await connect(self, *args, **named)
        ports.append(stream.get_extra_info("client_addr")[1])
        return stream

    async with Worker(pool, broker.url, lambda run: run.reply("x")):
        await until("a waiter", lambda: broker.waiters(deployment) == 1)
        monkeypatch.setattr(_network.Network, "connect_tcp", noted)
        async with httpx.AsyncClient() as caller:
            for _ in range(5):
                response = await caller.post(f"{broker.url}/v1/pools/{pool}?reply=20s&wait=10s", content=b"x")
                assert (response.text, response.headers["pilotlight-proof"]) == ("x", "replied")
        await until("a waiter", lambda: broker.waiters(deployment) == 1)
    assert len(ports) == 5, "one connection for each run: its reply, and the poll after it"


@story
async def test_a_worker_hears_that_its_caller_left_while_it_thinks(broker: Broker, pool: str) -> None:
    thinking = asyncio.Event()
    ends: list[str] = []

    async def think(run: Run) -> str:
        thinking.set()
        if run.text() == "block":
            async with run:
                try:
                    await asyncio.sleep(60)
                finally:
                    ends.append("block is cancelled" if run.cancelled.is_set() else "?")
            return "went on"
        if run.text() == "event":
            await run.cancelled.wait()
            ends.append("event")
            return await run.reply("too late")
        return await run.reply(endless(run.text()))

    async def endless(kind: str) -> AsyncIterator[str]:
        try:
            if kind == "later":
                yield "first"
            await asyncio.sleep(60)
        finally:
            ends.append("stream is closed")

    async with Worker(pool, broker.url, think, is_guarded=False) as worker:
        for number, payload in enumerate(("block", "event", "stream", "later")):
            thinking.clear()
            call = asyncio.ensure_future(ask(broker, pool, payload))
            await thinking.wait()
            if payload == "later":
                outcome = await call
                assert isinstance(outcome, Replied)
                async for _ in outcome:
                    break
                await outcome.aclose()
            call.cancel()
            await asyncio.wait({call})
            await until("the worker hears it", functools.partial(lambda count: len(ends) == count, number + 1))
    assert ends == ["block is cancelled", "event", "stream is closed", "stream is closed"]
    assert worker.results == ["went on", "gone", "gone", "gone"]


@story
async def test_a_reply_that_is_let_go_frees_its_worker(broker: Broker, pool: str) -> None:
    """Without a word to it, and before the garbage is collected."""

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "more "
            await asyncio.sleep(0.01)

    async def let_go(begins: bool, dispatcher: pilotlight.Dispatcher | None) -> None:
        outcome = await (dispatcher.dispatch(pool, b"x", reply="20s", wait="10s") if dispatcher else ask(broker, pool))
        assert isinstance(outcome, Replied)
        if begins:
            async for _ in outcome:
                break

    gc.collect()
    gc.disable()
    try:
        async with Worker(pool, broker.url, lambda run: run.reply(endless())) as worker:
            async with pilotlight.Dispatcher(broker=broker.url) as dispatcher:
                for count, (begins, over) in enumerate([(True, None), (False, None), (True, dispatcher), (False, dispatcher)], 1):
                    await let_go(begins, over)
                    await until("the worker is free", lambda: len(worker.results) == count, 5)
        assert worker.results == ["gone"] * 4
    finally:
        gc.enable()


@story
async def test_a_failure_reaches_the_caller(broker: Broker, pool: str) -> None:
    async def fail(run: Run) -> str:
        kind = run.text()
        if kind == "raise":
            raise ValueError("no such model")
        if kind == "stream":
            return await run.reply(broken("before"))
        if kind == "later":
            return await run.reply(broken("after"))
        return await run.fail('{"why": 1}', content_type="application/json")

    read = asyncio.Event()

    async def broken(when: str) -> AsyncIterator[str]:
        if when == "after":
            yield "so far"
            await read.wait()
        raise KeyError("inner")

    async with Worker(pool, broker.url, fail) as worker:
        for payload, content, kind in (
            ("raise", b"ValueError: no such model", "text/plain; charset=utf-8"),
            ("stream", b"KeyError: 'inner'", "text/plain; charset=utf-8"),
            ("fail", b'{"why": 1}', "application/json"),
        ):
            outcome = await ask(broker, pool, payload)
            assert isinstance(outcome, WorkerError)
            assert (outcome.outcome, outcome.status, outcome.content_type) == ("worker_error", 502, kind)
            assert await outcome.bytes() == content
        outcome = await replied(broker, pool, "later")
        got = []
        with pytest.raises(ReplyBrokenError):
            async for piece in outcome:
                got.append(piece)
                read.set()
        assert got == [b"so far"]
    assert worker.results == ["replied"]


@story
async def test_done_without_an_answer_breaks_the_reply(broker: Broker, pool: str) -> None:
    async def leave(run: Run) -> None:
        run.done()

    async with Worker(pool, broker.url, leave):
        assert isinstance(await ask(broker, pool), ReplyBroken)


@pytest.mark.parametrize("payload", ["silent", "speaking"])
def test_the_caller_of_a_killed_worker_is_told_at_once(broker: Broker, pool: str, payload: str) -> None:
    command = [sys.executable, "-c", MUTE_WORKER, broker.url, pool]

    @story
    async def kill() -> None:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            call = asyncio.ensure_future(ask(broker, pool, payload))
            assert await asyncio.to_thread(worker.stdout.readline) == b"working\n"
            os.kill(worker.pid, signal.SIGKILL)
            outcome = await call
            if payload == "silent":
                assert isinstance(outcome, ReplyBroken)
            else:
                assert isinstance(outcome, Replied)
                with pytest.raises(ReplyBrokenError):
                    await outcome.bytes()

    kill()


@story
async def test_a_reply_that_comes_too_late_is_gone(brokers: Callable[..., Broker], pool: str) -> None:
    broker = brokers("--proof-timeout", "500ms")

    async def dawdle(run: Run) -> str:
        await run.cancelled.wait()
        return await run.reply("late")

    async with Worker(pool, broker.url, dawdle, is_guarded=False) as worker:
        outcome = await ask(broker, pool, reply=1.5, run="slow")
        assert isinstance(outcome, ReplyTimeout) and outcome.run == "slow"
    assert worker.results == ["gone"]


@story
async def test_a_run_that_was_dispatched_before_is_a_duplicate(broker: Broker, pool: str) -> None:
    release = asyncio.Event()

    async def hold(run: Run) -> str:
        await release.wait()
        return await run.reply("done")

    async with Worker(pool, broker.url, hold):
        name = f"{pool} once"
        first = asyncio.ensure_future(replied(broker, pool, run=name))
        await until("it is open", lambda: broker.metric("pilotlight_replies_open") >= 1)
        assert await ask(broker, pool, run=name) == Duplicate(run=name, state="open", ended=None)
        release.set()
        assert await (await first).text() == "done"
        again = await ask(broker, pool, run=name)
        assert isinstance(again, Duplicate) and again.ended == "replied"


@story
async def test_a_limit_is_told_apart(brokers: Callable[..., Broker], pool: str) -> None:
    broker = brokers("--max-replies", "1")

    async def hold(run: Run) -> None:
        await run.cancelled.wait()

    async with Worker(pool, broker.url, hold):
        first = asyncio.ensure_future(ask(broker, pool))
        await until("it is open", lambda: broker.metric("pilotlight_replies_open") >= 1)
        second = await ask(broker, pool)
        assert isinstance(second, Limited) and second.retry_after is not None
        first.cancel()


@story
async def test_a_drain_lets_an_open_reply_finish(brokers: Callable[..., Broker], pool: str) -> None:
    broker = brokers("--drain-window", "5s")
    release = asyncio.Event()

    async def tokens() -> AsyncIterator[str]:
        yield "before "
        await release.wait()
        yield "after"

    async with Worker(pool, broker.url, lambda run: run.reply(tokens())) as worker:
        outcome = await replied(broker, pool)
        pieces = outcome.__aiter__()
        assert await pieces.__anext__() == b"before "
        broker.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        release.set()
        assert b"".join([piece async for piece in pieces]) == b"after"
        await until("the reply has ended", lambda: worker.results)
    assert worker.results == ["replied"]


@story
async def test_a_killed_broker_cancels_the_run_and_the_worker_comes_back(brokers: Callable[..., Broker], pool: str) -> None:
    broker = brokers()
    started = asyncio.Event()

    async def work(run: Run) -> str:
        if run.text() == "quick":
            return await run.reply("done")
        started.set()
        await run.cancelled.wait()
        return await run.reply("for nobody")

    async with Worker(pool, broker.url, work, is_guarded=False) as worker:
        call = asyncio.ensure_future(ask(broker, pool))
        await started.wait()
        await asyncio.to_thread(broker.stop)
        assert isinstance(await call, pilotlight.Unknown)
        await until("the worker has heard it", lambda: worker.results)
        await asyncio.to_thread(broker.start)
        assert await (await replied(broker, pool, "quick")).text() == "done"
    assert worker.results == ["lost", "replied"]


@story
async def test_replies_pass_through_tls(brokers: Callable[..., Broker], certificate: tuple[Path, Path], pool: str) -> None:
    cert, key = certificate
    broker = brokers("--tls-cert", str(cert), "--tls-key", str(key), scheme="https")
    thinking = asyncio.Event()

    async def work(run: Run) -> str:
        if run.payload == b"think":
            thinking.set()
            await run.cancelled.wait()
        return await run.reply(run.payload)

    async with Worker(pool, broker.url, work, ca=cert, is_guarded=False) as worker:
        for _ in range(3):
            assert await (await replied(broker, pool, EVERY_BYTE[:3000], ca=cert)).bytes() == EVERY_BYTE[:3000]
        call = asyncio.ensure_future(ask(broker, pool, "think", ca=cert))
        await thinking.wait()
        await asyncio.sleep(0.1)
        call.cancel()
        await until("the worker hears it", lambda: len(worker.results) == 4)
    assert worker.results == ["replied"] * 3 + ["gone"]


@story
async def test_misuse_is_an_error_in_the_worker(broker: Broker, pool: str) -> None:
    async def misuse(run: Run) -> str:
        for status in (204, 205, 304, 199, 600):
            with pytest.raises(ValueError):
                await run.reply(status=status)
        with pytest.raises(ValueError):
            await run.reply(content_type="text/plain\r\nx: y")
        result = await run.reply("fine")
        for again in (run.reply("x"), run.fail("x")):
            with pytest.raises(TypeError):
                await again
        run.done()
        return result

    async with Worker(pool, broker.url, misuse) as worker:
        assert await (await replied(broker, pool)).text() == "fine"
    assert worker.results == ["replied"]


@story
async def test_a_run_with_an_odd_name_is_answered(broker: Broker, pool: str) -> None:
    async with Worker(pool, broker.url, lambda run: run.reply(run.id)):
        for name in ("a/b?c#d %41 u", "100%", "a//b/../c"):
            outcome = await replied(broker, pool, run=name)
            assert (outcome.run, await outcome.text()) == (name, name)

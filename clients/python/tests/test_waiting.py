"""Owns the tests of polls: how runs arrive, what ends a wait, and what a worker survives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pilotlight
import pilotlight.blocking
from broker import Broker, free_port
from pilotlight import Delivered, Miss, Refused, RefusedError, Run, Unreachable
from story import Worker, story, until

EVERY_BYTE = bytes(range(256)) * 4096


async def payload_of(run: Run) -> bytes:
    run.done()
    return run.payload


@story
async def test_a_run_arrives_unchanged_and_its_receipt_is_proved(broker: Broker, pool: str, deployment: str) -> None:
    async with pilotlight.wait(pool, broker=broker.url, controller="worker 7") as runs:
        cases: list[tuple[bytes | str, str | None]] = [(b"", None), (EVERY_BYTE, "application/x-bytes; a=1"), ("héllo", None)]
        for number, (payload, kind) in enumerate(cases):
            coming = asyncio.ensure_future(runs.__anext__())
            await until("a waiter", lambda: broker.waiters(deployment) == 1)
            outcome = await pilotlight.dispatch(pool, payload, broker=broker.url, run=f"{pool} {number}", content_type=kind)
            run = await coming
            assert outcome == Delivered(run=f"{pool} {number}", controller="worker 7", proof="received", offers=1)
            assert (run.id, run.controller, run.wants_reply) == (outcome.run, "worker 7", False)
            assert run.payload == (payload.encode() if isinstance(payload, str) else payload)
            default = "text/plain; charset=utf-8" if isinstance(payload, str) else "application/octet-stream"
            assert run.content_type == (kind or default)
            assert await run.reply("nobody asked") == "unwanted"


@story
async def test_each_slot_takes_one_run_at_a_time(broker: Broker, pool: str, deployment: str) -> None:
    release = asyncio.Event()

    async def hold(run: Run) -> str:
        await release.wait()
        return run.controller

    async with Worker(pool, broker.url, hold, slots=3, controller="w") as worker:
        await until("three waiters", lambda: broker.waiters(deployment) == 3)
        outcomes = await asyncio.gather(*(pilotlight.dispatch(pool, str(n), broker=broker.url) for n in range(3)))
        assert {outcome.controller for outcome in outcomes if isinstance(outcome, Delivered)} == {"w-1", "w-2", "w-3"}
        missed = await pilotlight.dispatch(pool, "4", broker=broker.url)
        assert isinstance(missed, Miss) and missed.reason == "all_taken"
        release.set()
        await until("three waiters again", lambda: broker.waiters(deployment) == 3)
    assert sorted(worker.results) == ["w-1", "w-2", "w-3"]


@story
async def test_two_waits_of_one_process_do_not_evict_each_other(broker: Broker, pool: str, deployment: str) -> None:
    async with Worker(pool, broker.url, payload_of) as first, Worker(pool, broker.url, payload_of, slots=2) as second:
        await until("three waiters", lambda: broker.waiters(deployment) == 3)
        outcomes = [await pilotlight.dispatch(pool, b"x", broker=broker.url, wait="5s") for _ in range(3)]
        names = {outcome.controller for outcome in outcomes if isinstance(outcome, Delivered)}
        assert all(re.fullmatch(rf".+-{os.getpid()}-[0-9a-f]{{4}}-\d+", name) for name in names)
        assert first.retries == second.retries == []


@story
async def test_a_consumer_that_does_not_ask_holds_no_poll(broker: Broker, pool: str, deployment: str) -> None:
    async with pilotlight.wait(pool, broker=broker.url, slots=2) as runs:
        coming = asyncio.ensure_future(runs.__anext__())
        await until("two waiters", lambda: broker.waiters(deployment) == 2)
        await pilotlight.dispatch(pool, "1", broker=broker.url)
        await coming
        await until("no waiter", lambda: broker.waiters(deployment) == 0)
        coming = asyncio.ensure_future(runs.__anext__())
        await until("the free slot waits", lambda: broker.waiters(deployment) == 1)
        await pilotlight.dispatch(pool, "2", broker=broker.url)
        assert (await coming).text() == "2"


@story
async def test_leaving_the_loop_withdraws_the_polls(broker: Broker, pool: str, deployment: str) -> None:
    async def first() -> str:
        async for run in pilotlight.wait(pool, broker=broker.url, slots=3):
            return run.text()
        raise AssertionError("no run")

    got = asyncio.ensure_future(first())
    await until("three waiters", lambda: broker.waiters(deployment) == 3)
    await pilotlight.dispatch(pool, "x", broker=broker.url)
    assert await got == "x"
    await until("no waiter", lambda: broker.waiters(deployment) == 0)
    assert isinstance(await pilotlight.dispatch(pool, "x", broker=broker.url), Miss)


@story
async def test_runs_are_delivered_once_each_while_polls_are_withdrawn(broker: Broker, pool: str) -> None:
    """A poll that is withdrawn while its run arrives is either read, or no receipt."""
    got: list[str] = []
    done = asyncio.Event()

    async def impatient() -> None:
        while not done.is_set():
            async with pilotlight.wait(pool, broker=broker.url) as runs:
                for _ in range(3):
                    try:
                        got.append((await asyncio.wait_for(runs.__anext__(), random.uniform(0.002, 0.04))).id)
                    except asyncio.TimeoutError:
                        break

    worker = asyncio.ensure_future(impatient())
    received = []
    async with pilotlight.Dispatcher(broker=broker.url) as dispatcher:
        end = asyncio.get_running_loop().time() + 3
        for number in range(200):
            if asyncio.get_running_loop().time() > end:
                break
            outcome = await dispatcher.dispatch(pool, b"x" * 2000, run=f"{pool}-{number}", wait="100ms")
            if isinstance(outcome, Delivered):
                received.append(outcome.run)
    done.set()
    await worker
    assert len(set(got)) == len(got) and len(received) > 5
    assert not set(received) - set(got)


@story
async def test_a_worker_that_is_late_to_take_its_run_gets_it(broker: Broker, pool: str, deployment: str) -> None:
    """The broker ends its side of the connection first then."""
    async with pilotlight.wait(pool, broker=broker.url) as runs:
        coming = asyncio.ensure_future(runs.__anext__())
        await until("a waiter", lambda: broker.waiters(deployment) == 1)
        call = asyncio.ensure_future(asyncio.to_thread(pilotlight.blocking.dispatch, pool, "x", broker=broker.url))
        await asyncio.sleep(0)
        time.sleep(0.3)  # The loop itself stands still.
        assert (await coming).text() == "x"
        assert isinstance(await call, Delivered)


@story
async def test_stop_ends_the_wait_after_the_run_under_way(broker: Broker, pool: str, deployment: str) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def hold(run: Run) -> str:
        started.set()
        await release.wait()
        return run.text()

    async with Worker(pool, broker.url, hold, slots=2) as worker:
        await until("two waiters", lambda: broker.waiters(deployment) == 2)
        await pilotlight.dispatch(pool, "last", broker=broker.url)
        await started.wait()
        worker.stop.set()
        await until("no waiter", lambda: broker.waiters(deployment) == 0)
        assert not worker._task.done()
        release.set()
    assert worker.results == ["last"]


@story
async def test_a_poll_is_held_again_after_each_timeout(brokers: Callable[..., Broker], pool: str, deployment: str) -> None:
    broker = brokers("--connection-timeout", "1s")
    async with Worker(pool, broker.url, payload_of) as worker:
        await until("three polls", lambda: broker.metric('pilotlight_polls_total{end="expired"}') >= 2)
        outcome = await pilotlight.dispatch(pool, b"x", broker=broker.url, wait="1s")
        assert isinstance(outcome, Delivered)
    assert worker.retries == [] and worker.results == [b"x"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_comes_back_after_a_restart(brokers: Callable[..., Broker], pool: str, deployment: str, number: int) -> None:
    broker = brokers("--drain-window", "500ms")

    @story
    async def survive() -> None:
        async with Worker(pool, broker.url, payload_of, slots=2) as worker:
            for payload in (b"before", b"after"):
                await until("two waiters", lambda: broker.waiters(deployment) == 2)
                assert isinstance(await pilotlight.dispatch(pool, payload, broker=broker.url), Delivered)
                if payload == b"before":
                    await until("the run has come", lambda: worker.results)
                    await asyncio.to_thread(broker.end, number)
                    await until("the broker is missed", lambda: any(retry.reason == "unreachable" for retry in worker.retries))
                    await asyncio.to_thread(broker.start)
        assert worker.results == [b"before", b"after"]
        # A broker that is about to end answers "no run" at once.
        assert {retry.reason for retry in worker.retries} <= {"unreachable", "unavailable"}
        assert all(0.05 <= retry.delay <= 5 for retry in worker.retries)

    survive()


@story
async def test_a_drain_is_survived_without_a_busy_loop(brokers: Callable[..., Broker], pool: str, deployment: str) -> None:
    broker = brokers()
    async with Worker(pool, broker.url, payload_of, slots=2) as worker:
        await until("two waiters", lambda: broker.waiters(deployment) == 2)
        await asyncio.to_thread(broker.ask, "/drain", "POST")
        await until("both are sent away", lambda: broker.metric('pilotlight_polls_total{end="drained"}') >= 2)
        outcome = await pilotlight.dispatch(pool, b"x", broker=broker.url)
        assert isinstance(outcome, Miss) and outcome.reason == "draining"
        await asyncio.sleep(0.5)
        connections = broker.metric('pilotlight_connections_accepted_total{listener="public"}')
        assert connections <= 6, "the polls of a draining broker are held"
    assert worker.results == []


@story
async def test_a_retired_pool_is_left_alone(broker: Broker, pool: str, deployment: str) -> None:
    async with Worker(pool, broker.url, payload_of) as worker:
        await until("a waiter", lambda: broker.waiters(deployment) == 1)
        await asyncio.to_thread(broker.ask, f"/retire?deployment={deployment}", "POST")
        await until("it is told", lambda: worker.retries)
        (retry,) = worker.retries
        assert (retry.reason, retry.status) == ("retired", 410) and 30 <= retry.delay <= 60


@story
async def test_a_refusal_that_no_attempt_can_change_is_raised(brokers: Callable[..., Broker], pool: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of at least so many bytes, for HS256\n")
    broker = brokers("--token-secret-file", str(secret), "--require-token")
    for refused, status in ((pool, 401), ("app/v1/much/1", 400)):
        with pytest.raises(RefusedError) as error:
            async for _ in pilotlight.wait(refused, broker=broker.url, token="none of them"):
                raise AssertionError("a run")
        assert error.value.status in (status, 400) and error.value.problem is not None
        assert str(error.value.problem["detail"]) in str(error.value)


@story
async def test_a_dispatch_says_what_became_of_it(broker: Broker, pool: str, deployment: str) -> None:
    dispatch = pilotlight.dispatch
    assert await dispatch(pool, "x", broker=broker.url, run="a") == Miss(reason="no_pool", run="a")
    refused = await dispatch("app/v1/much/1", "x", broker=broker.url)
    assert isinstance(refused, Refused) and refused.status == 400 and refused.problem is not None
    assert isinstance(await dispatch(pool, "x", broker=f"http://127.0.0.1:{free_port()}"), Unreachable)
    async with Worker(pool, broker.url, payload_of):
        first = await dispatch(pool, "x", broker=broker.url, run="named", wait=5)
        assert isinstance(first, Delivered)
        assert await dispatch(pool, "x", broker=broker.url, run="named") == first
        other = await dispatch(pool, "y", broker=broker.url, run="named")
        assert isinstance(other, Refused) and other.status == 422


@story
async def test_tls_is_checked_against_the_given_authority(
    brokers: Callable[..., Broker], certificate: tuple[Path, Path], pool: str
) -> None:
    cert, key = certificate
    broker = brokers("--tls-cert", str(cert), "--tls-key", str(key), scheme="https")
    assert isinstance(await pilotlight.dispatch(pool, "x", broker=broker.url), Unreachable)
    async with Worker(pool, broker.url, payload_of, ca=cert) as worker:
        for authority in (cert, str(cert), cert.read_text()):
            outcome = await pilotlight.dispatch(pool, EVERY_BYTE, broker=broker.url, ca=authority, wait="5s")
            assert isinstance(outcome, Delivered) and outcome.proof == "received"
    assert worker.results == [EVERY_BYTE] * 3


@pytest.mark.parametrize("answer", ["204 No Content", "307 Temporary Redirect\r\nlocation: /v1/pools/a/v1/1/1\r\ncontent-length: 0"])
def test_a_server_that_never_holds_a_poll_is_asked_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("pilotlight._backoff.random.uniform", lambda least, most: most)
    polls = 0

    async def at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal polls
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                polls += 1
                writer.write(f"HTTP/1.1 {answer}\r\n\r\n".encode())
        writer.close()

    @story
    async def poll() -> None:
        server = await asyncio.start_server(at_once, "127.0.0.1", 0, family=socket.AF_INET)
        async with Worker("a/v1/1/1", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", payload_of) as worker:
            await until("four pauses", lambda: len(worker.retries) == 4)
        assert [retry.delay for retry in worker.retries] == [0.1, 0.2, 0.4, 0.8]
        assert polls == 4
        server.close()

    poll()


@story
async def test_a_silent_end_of_a_dispatch_is_unknown(pool: str) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, family=socket.AF_INET)
    port = server.sockets[0].getsockname()[1]
    outcome = await pilotlight.dispatch(pool, "x", broker=f"http://127.0.0.1:{port}", run="r")
    assert isinstance(outcome, pilotlight.Unknown) and outcome.run == "r"
    server.close()

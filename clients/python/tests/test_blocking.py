"""Owns the tests of the plain API, which has no event loop to be seen."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from broker import Broker, until
from pilotlight import Delivered, Miss, ReplyBroken, ReplyBrokenError, Unreachable, blocking


class Worker:
    """A worker in a thread, whose runs a function handles."""

    def __init__(self, pool: str, url: str, handle: Callable[[blocking.Run], Any], slots: int = 1) -> None:
        self._slots = slots
        self.stop = threading.Event()
        self.results: queue.Queue[Any] = queue.Queue()
        self._handle = handle
        self._runs = blocking.wait(pool, broker=url, stop=self.stop, slots=slots)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        with ThreadPoolExecutor() as threads:
            for run in self._runs:
                job = threads.submit(self._one, run)
                if self._slots == 1:
                    # Asking for the next run would end this one.
                    job.result()

    def _one(self, run: blocking.Run) -> None:
        with run:
            self.results.put(self._handle(run))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def ask(broker: Broker, pool: str, payload: str = "x") -> blocking.Outcome:
    return blocking.dispatch(pool, payload, broker=broker.url, reply="20s", wait="10s")


def test_runs_and_replies_pass(broker: Broker, pool: str, deployment: str) -> None:
    def work(run: blocking.Run) -> Any:
        if not run.wants_reply:
            return run.text()
        if run.text() == "tokens":
            return run.reply(f"{number} " for number in range(5))
        if run.text() == "status":
            return run.reply(b"{}", status=404, content_type="application/json")
        return run.reply(run.payload.upper())

    with Worker(pool, broker.url, work, slots=2) as worker, blocking.Dispatcher(broker=broker.url) as dispatcher:
        outcome = dispatcher.dispatch(pool, "plain", wait=5)
        assert isinstance(outcome, Delivered) and outcome.proof == "received"
        assert worker.results.get(timeout=5) == "plain"
        for payload, content in (("x", b"X"), ("tokens", b"0 1 2 3 4 "), ("status", b"{}")):
            outcome = dispatcher.dispatch(pool, payload, reply=20, wait=5)
            assert isinstance(outcome, blocking.Replied)
            assert outcome.bytes() == content
            assert outcome.status == (404 if payload == "status" else 200)
            assert worker.results.get(timeout=5) == "replied"
    until("no waiter", lambda: broker.waiters(deployment) == 0)
    assert isinstance(blocking.dispatch(pool, "x", broker=broker.url), Miss)
    assert isinstance(blocking.dispatch(pool, "x", broker="http://127.0.0.1:1"), Unreachable)


def test_a_failure_reaches_the_caller(broker: Broker, pool: str) -> None:
    def fail(run: blocking.Run) -> Any:
        if run.text() == "raise":
            raise ValueError("no such model")
        if run.text() == "later":
            return run.reply(broken())
        return run.done()

    def broken() -> Iterator[str]:
        yield "so far"
        raise KeyError("inner")

    with Worker(pool, broker.url, fail):
        outcome = ask(broker, pool, "raise")
        assert isinstance(outcome, blocking.WorkerError) and outcome.text() == "ValueError: no such model"
        outcome = ask(broker, pool, "later")
        assert isinstance(outcome, blocking.Replied)
        with pytest.raises(ReplyBrokenError):
            outcome.bytes()
        assert isinstance(ask(broker, pool, "done"), ReplyBroken)


def test_tokens_pass_one_by_one_until_the_caller_leaves(broker: Broker, pool: str) -> None:
    may_go, has_left = threading.Semaphore(1), threading.Event()

    def endless() -> Iterator[bytes]:
        while not has_left.is_set():
            if may_go.acquire(timeout=0.05):
                yield b"token"
        for _ in range(500):
            time.sleep(0.01)
            yield b"token"

    with Worker(pool, broker.url, lambda run: run.reply(endless())) as worker:
        outcome = ask(broker, pool)
        assert isinstance(outcome, blocking.Replied)
        for _, piece in zip(range(10), outcome, strict=False):
            assert piece == b"token"
            may_go.release()
        outcome.close()
        has_left.set()
        assert worker.results.get(timeout=10) == "gone"


def test_a_caller_that_leaves_is_noticed_while_the_thread_computes(broker: Broker, pool: str) -> None:
    started = threading.Event()

    def compute(run: blocking.Run) -> bool:
        started.set()
        return run.cancelled.wait(20)

    def leave() -> None:
        command = "import sys; from pilotlight.blocking import dispatch; dispatch(sys.argv[2], '', broker=sys.argv[1], reply=60, wait=5)"
        with subprocess.Popen([sys.executable, "-c", command, broker.url, pool]) as caller:
            assert started.wait(10)
            caller.kill()

    with Worker(pool, broker.url, compute) as worker:
        leave()
        assert worker.results.get(timeout=10) is True


def test_leaving_the_loop_withdraws_the_poll_and_so_does_the_end_of_the_process(broker: Broker, pool: str, deployment: str) -> None:
    def first() -> str:
        for run in blocking.wait(pool, broker=broker.url):
            return run.text()
        return "none"

    with ThreadPoolExecutor() as threads:
        got = threads.submit(first)
        assert isinstance(blocking.dispatch(pool, "one", broker=broker.url, wait="5s"), Delivered)
        assert got.result(5) == "one"
    until("no waiter", lambda: broker.waiters(deployment) == 0)
    command = """
import signal, sys
from pilotlight import blocking
# A process in the background of a shell ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
for run in blocking.wait(sys.argv[2], broker=sys.argv[1]): pass
"""
    with subprocess.Popen([sys.executable, "-c", command, broker.url, pool], stderr=subprocess.PIPE) as worker:
        broker.wait_for_waiters(deployment, 1)
        worker.send_signal(2)
        _, said = worker.communicate(timeout=10)
        assert said.strip().endswith(b"KeyboardInterrupt") and b"Task was destroyed" not in said
    until("no waiter", lambda: broker.waiters(deployment) == 0)


def test_a_forked_child_has_a_loop_of_its_own(broker: Broker, pool: str) -> None:
    command = """
import os, sys
from pilotlight import blocking
blocking.dispatch(sys.argv[2], "x", broker=sys.argv[1])
child = os.fork()
outcome = blocking.dispatch(sys.argv[2], "x", broker=sys.argv[1])
if child:
    assert os.waitpid(child, 0)[1] == 0
assert outcome.outcome == "miss"
"""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", command, broker.url, pool], check=True, timeout=20)
    assert time.monotonic() - begun < 10

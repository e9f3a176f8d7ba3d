"""Owns the broker under test: the real binary (PILOTLIGHT), on ports of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")

BINARY = os.environ.get("PILOTLIGHT") or str(Path(__file__).parents[3] / "target/debug/pilotlight")


def free_port() -> int:
    """A port that is chosen here, because the broker must use it again after a restart."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def until(what: str, condition: Callable[[], Value], seconds: float = 20.0) -> Value:
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Broker:
    """A process, which can be restarted on the same ports."""

    def __init__(self, *flags: str, scheme: str = "http") -> None:
        self.port, self.ops = free_port(), free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.flags = flags
        self.start()

    def start(self) -> None:
        listen = ["--listen", f"127.0.0.1:{self.port}", "--ops-listen", f"127.0.0.1:{self.ops}"]
        environment = {**os.environ, "RUST_LOG": "warn"}
        self.process = subprocess.Popen([BINARY, *listen, *self.flags], stdout=subprocess.DEVNULL, env=environment)
        until("the broker is ready", lambda: self._is_ready())

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(30)

    def stop(self) -> None:
        self.end(signal.SIGKILL)

    def ask(self, path: str, method: str = "GET") -> bytes:
        """A request of an operator."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.ops}{path}", method=method)
        with urllib.request.urlopen(request, timeout=5) as response:
            content: bytes = response.read()
            return content

    def waiters(self, deployment: str) -> int:
        count: int = json.loads(self.ask(f"/pools?deployment={deployment}"))["waiters"]
        return count

    def wait_for_waiters(self, deployment: str, count: int) -> None:
        until(f"{count} waiters of {deployment}", lambda: self.waiters(deployment) == count)

    def run(self, name: str) -> Any:
        """What operators are told of a run."""
        return json.loads(self.ask(f"/runs/{name}"))

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics").decode().splitlines()
        return float(next((line for line in lines if line.startswith(f"{name} ")), "0").split(" ")[-1])

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, "the broker has ended"
        try:
            self.ask("/readyz")
        except OSError:
            return False
        return True

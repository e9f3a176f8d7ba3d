"""Owns what the tests share: a broker for all that do not end it, and pools of their own."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import Broker

# On a busy machine a worker may read late, which is not what these tests are about.
PATIENT = ("--proof-timeout", "5s", "--dispatch-budget", "15s")
# The processes that tests start import the package from its source, too.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A broker that no test ends."""
    shared = Broker(*PATIENT)
    yield shared
    shared.stop()


@pytest.fixture
def brokers() -> Iterator[Callable[..., Broker]]:
    """Starts brokers that end with their test."""
    started: list[Broker] = []

    def start(*flags: str, scheme: str = "http") -> Broker:
        patience = () if "--proof-timeout" in flags else PATIENT
        started.append(Broker(*patience, *flags, scheme=scheme))
        return started[-1]

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def deployment() -> str:
    """A deployment that no other test uses."""
    return f"app-{next(_numbers)}"


@pytest.fixture
def pool(deployment: str) -> str:
    """Its pool."""
    return f"{deployment}/v1/0.5/1"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*new, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key

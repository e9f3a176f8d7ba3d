"""Owns the settings of both sides: where the broker is, the names of pools, durations, credentials."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Union
from urllib.parse import quote

import httpx

VERSION = "0.1.0"
DEFAULT_BROKER = "http://127.0.0.1:7070"
MAX_METADATA = 1024

#: A bearer token, or a function that returns the one to send now.
Token = Union[str, Callable[[], str]]
#: Authorities that are trusted: a path, PEM text, or a whole context (for client certificates).
Ca = Union[str, os.PathLike[str], ssl.SSLContext]
#: A duration as the broker writes it (`"30s"`), in seconds, or a timedelta.
Duration = Union[str, float, timedelta]


@dataclass(frozen=True)
class Pool:
    """A pool by its four parts, which may contain any character."""

    deployment: str
    version: str
    cpu: str | float
    memory: str | float

    def __str__(self) -> str:
        parts = (self.deployment, self.version, _number(self.cpu), _number(self.memory))
        return "/".join(quote(part, safe="") for part in parts)


def pool_url(broker: str, pool: str | Pool) -> httpx.URL:
    """The one URL of a pool, for polls and dispatches."""
    path = str(pool)
    segments = path.split("/")
    is_odd = len(segments) != 4 or any(segment in ("", ".", "..") for segment in segments)
    if is_odd or any(not "!" <= sign <= "~" or sign in "?#" for sign in path):
        raise ValueError(f"a pool is deployment/version/cpu/memory, percent-encoded, not {path!r}; Pool(…) encodes its parts")
    base = httpx.URL(broker)
    if base.scheme not in ("http", "https") or not base.host:
        raise ValueError(f"a broker is a URL such as {DEFAULT_BROKER}, not {broker!r}")
    if base.path not in ("", "/") or base.query or base.fragment:
        raise ValueError(f"a broker is an origin, without a path: {broker!r}")
    return base.copy_with(raw_path=b"/v1/pools/" + path.encode())


def duration_text(what: str, value: Duration) -> str:
    """A duration as the broker reads it."""
    if isinstance(value, str):
        return value
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not 0 <= seconds < 1e9:
        raise ValueError(f"{what} is a duration in seconds, not {value!r}")
    return f"{round(seconds * 1000)}ms"


def bearer(token: Token | None) -> dict[str, str]:
    """The header that carries the token."""
    if token is None:
        return {}
    text = token if isinstance(token, str) else token()
    return {"authorization": f"Bearer {text}"}


def check_header(what: str, value: str, max_length: int = 1024) -> str:
    """A value that a header can carry: printable ASCII."""
    if len(value) > max_length or any(not " " <= sign <= "~" for sign in value):
        raise ValueError(f"{what} is printable ASCII of at most {max_length} characters")
    return value


def tls_context(ca: Ca | None) -> ssl.SSLContext:
    """What the broker's certificate is checked against: the system's authorities, unless others are given."""
    if isinstance(ca, ssl.SSLContext):
        return ca
    return _tls_context(None if ca is None else os.fspath(ca))


@lru_cache(maxsize=16)
def _tls_context(ca: str | None) -> ssl.SSLContext:
    if ca is None:
        return ssl.create_default_context()
    if "-----BEGIN" in ca:
        return ssl.create_default_context(cadata=ca)
    return ssl.create_default_context(cafile=ca)


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else repr(value).removesuffix(".0")

"""Owns what a response to a poll means. It has no socket and no clock, so each case is one line of a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

import httpx

from ._errors import RefusedError

#: How the types of the broker's problem documents begin.
PROBLEM = "urn:pilotlight:problem:"
#: Why a slot pauses.
Reason = Literal["retired", "limited", "unavailable", "unreachable"]


@dataclass(frozen=True)
class Retry:
    """A pause of one slot before its next poll, as `on_retry` gets it."""

    slot: int
    reason: Reason
    #: The status of the broker's response, if there was one.
    status: int | None
    #: The error of the connection, if there was no response.
    error: Exception | None
    #: Seconds.
    delay: float


@dataclass(frozen=True)
class Arrived:
    """A run, and the target for its reply, if somebody waits for one."""

    run: str
    content_type: str
    reply: str | None


@dataclass(frozen=True)
class Again:
    """No run came in time."""


@dataclass(frozen=True)
class Elsewhere:
    """Another broker takes the poll."""

    url: httpx.URL


@dataclass(frozen=True)
class Pause:
    """Not now."""

    reason: Reason
    status: int
    retry_after: float | None = None


PollEnd = Union[Arrived, Again, Elsewhere, Pause]


def poll_end(url: httpx.URL, status: int, headers: Mapping[str, str], body: bytes) -> PollEnd:
    """What to do after this response; raises RefusedError where another attempt would be of no use."""
    if status == 200 and "pilotlight-run" in headers:
        reply = headers.get("pilotlight-reply")
        # A target elsewhere would hand the answer to a stranger.
        target = reply if reply is not None and reply.startswith("/v1/runs/") else None
        return Arrived(headers["pilotlight-run"], headers.get("content-type", "application/octet-stream"), target)
    if status == 204:
        return Again()
    if status in (307, 308) and "location" in headers:
        location = url.join(headers["location"])
        if location.scheme != "http" or url.scheme == "http":
            return Elsewhere(location)
    if status == 410:
        return Pause("retired", status)
    if status == 429:
        return Pause("limited", status, retry_after(headers))
    problem = problem_of(body)
    # A proxy's refusal may pass, for instance while the broker behind it restarts. The broker's own says what to change.
    is_final = 400 <= status < 500 and status != 408 and str((problem or {}).get("type")).startswith(PROBLEM)
    if is_final:
        raise RefusedError(status, problem, detail_of(problem))
    return Pause("unavailable", status, retry_after(headers))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After. Its other form, a date, is for the clocks of browsers."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def problem_of(body: bytes) -> dict[str, Any] | None:
    """A JSON object, such as a problem document."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def detail_of(problem: Mapping[str, Any] | None) -> str:
    """The fault and its remedy in a problem document, or what else it says."""
    parts = [str(problem[name]) for name in ("title", "detail") if name in problem] if problem else []
    return ": ".join(parts)

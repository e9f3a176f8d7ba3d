"""Owns what became of a dispatch: one dataclass for each outcome, told apart by `outcome`, and how a response is read as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, Union

from ._poll import detail_of, problem_of, retry_after

Stream = TypeVar("Stream")


@dataclass(frozen=True)
class Delivered:
    """A controller has the run (without `reply`)."""

    run: str
    controller: str
    #: How much is known of it: `written`, `acked`, `received` or `hop`.
    proof: str
    offers: int
    #: What the waiter said with its poll.
    metadata: str | None = None
    outcome: Literal["delivered"] = "delivered"


@dataclass(frozen=True)
class Miss:
    """No controller has the run: start it cold, or try again."""

    #: Why, in the broker's words, which may grow.
    reason: str
    run: str
    #: Seconds, if the broker named them.
    retry_after: float | None = None
    outcome: Literal["miss"] = "miss"


@dataclass(frozen=True)
class Unknown:
    """Somebody may have the run: do not simply send it again."""

    detail: str
    run: str
    reason: str | None = None
    outcome: Literal["unknown"] = "unknown"


@dataclass(frozen=True)
class Duplicate:
    """The same run was dispatched before."""

    run: str
    #: `open` while that dispatch lasts.
    state: str | None
    #: How it ended, if it has.
    ended: str | None
    outcome: Literal["duplicate"] = "duplicate"


@dataclass(frozen=True)
class Limited:
    """The broker takes no more at the moment: nobody has the run."""

    detail: str
    #: Seconds, if the broker named them.
    retry_after: float | None = None
    outcome: Literal["limited"] = "limited"


@dataclass(frozen=True)
class Refused:
    """The broker refuses the request: nobody has the run."""

    status: int
    detail: str
    #: The problem document (RFC 9457), if there was one.
    problem: dict[str, Any] | None = None
    outcome: Literal["refused"] = "refused"


@dataclass(frozen=True)
class ReplyTimeout:
    """A worker has the run, and its reply did not begin in time."""

    run: str
    detail: str
    outcome: Literal["reply_timeout"] = "reply_timeout"


@dataclass(frozen=True)
class ReplyBroken:
    """A worker had the run, and left before its reply began."""

    run: str
    detail: str
    outcome: Literal["reply_broken"] = "reply_broken"


@dataclass(frozen=True)
class Unreachable:
    """The broker could not be reached: nobody has the run."""

    error: Exception
    outcome: Literal["unreachable"] = "unreachable"


@dataclass(frozen=True)
class Answered(Generic[Stream]):
    """What `Replied` and `WorkerError` have in common."""

    run: str
    controller: str
    #: 502 for an error, otherwise 200 or what the worker chose.
    status: int
    content_type: str
    #: The answer's bytes as they come.
    body: Stream = field(repr=False)
    metadata: str | None = None


#: Outcomes without a body to read.
Ended = Union[Delivered, Miss, Unknown, Duplicate, Limited, Refused, ReplyTimeout, ReplyBroken, Unreachable]


def ended(status: int, headers: Mapping[str, str], body: bytes, run: str, wants_reply: bool) -> Ended:
    """The outcome that a whole response stands for. `run` is the name that was sent, if any."""
    document = problem_of(body)
    run = str((document or {}).get("run") or headers.get("pilotlight-run") or run)
    outcome = headers.get("pilotlight-outcome")
    detail = detail_of(document) or f"the broker answered {status}"
    if outcome is None:
        return _without_outcome(status, headers, document, run, detail, wants_reply)
    if outcome == "miss":
        return Miss(_reason(document), run, retry_after(headers))
    if outcome == "duplicate":
        known = document or {}
        return Duplicate(run, _text(known.get("state")), _text(known.get("outcome")))
    if outcome == "limited":
        return Limited(detail, retry_after(headers))
    if outcome == "refused":
        return Refused(status, detail, document)
    if outcome == "reply_timeout":
        return ReplyTimeout(run, detail)
    if outcome == "reply_broken":
        return ReplyBroken(run, detail)
    # An outcome that a newer broker may have says nothing of where the run is.
    reason = _text((document or {}).get("reason"))
    return Unknown(reason or detail if outcome == "unknown" else f"the outcome is {outcome}", run, reason)


def _without_outcome(
    status: int, headers: Mapping[str, str], document: dict[str, Any] | None, run: str, detail: str, wants_reply: bool
) -> Ended:
    delivered = (document or {}).get("delivered")
    if status == 429:
        return Limited(detail, retry_after(headers))
    if status == 200 and document is not None and delivered is True and not wants_reply:
        metadata = _text(document.get("metadata"))
        return Delivered(run, str(document.get("controller", "")), str(document.get("proof", "")), int(document.get("offers", 1)), metadata)
    if delivered is False:
        reason = _reason(document)
        return Unknown("one waiter may have the run", run, reason) if reason == "unknown" else Miss(reason, run, retry_after(headers))
    if 400 <= status < 500:
        return Refused(status, detail, document)
    return Unknown(detail, run)


def _reason(document: dict[str, Any] | None) -> str:
    return str((document or {}).get("reason", ""))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None

"""Owns the tests of what needs no broker: what responses mean, how pools and durations are written, how long pauses are."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from pilotlight import (
    Delivered,
    Duplicate,
    Limited,
    Miss,
    Pool,
    Refused,
    RefusedError,
    ReplyBroken,
    ReplyTimeout,
    Unknown,
)
from pilotlight._backoff import Backoff, retired
from pilotlight._outcomes import ended
from pilotlight._poll import Again, Arrived, Elsewhere, Pause, poll_end
from pilotlight._settings import check_header, duration_text, pool_url

HERE = httpx.URL("https://a.example/v1/pools/a/b/1/1")
TYPE = {"content-type": "text/plain"}
RUN = {"pilotlight-run": "r"}


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, RUN, Arrived("r", "application/octet-stream", None)),
        (
            200,
            RUN | TYPE | {"pilotlight-reply": "/v1/runs/r/reply?token=t"},
            Arrived("r", "text/plain", "/v1/runs/r/reply?token=t"),
        ),
        (200, RUN | {"pilotlight-reply": "//elsewhere/v1/runs/r/reply"}, Arrived("r", "application/octet-stream", None)),
        (204, {}, Again()),
        (307, {"location": "https://b.example/x"}, Elsewhere(httpx.URL("https://b.example/x"))),
        (307, {"location": "/x"}, Elsewhere(httpx.URL("https://a.example/x"))),
        (410, {}, Pause("retired", 410)),
        (429, {"retry-after": "7"}, Pause("limited", 429, 7.0)),
        (503, {"retry-after": "Thu, 01 Jan"}, Pause("unavailable", 503)),
        (500, {}, Pause("unavailable", 500)),
        (307, {"location": "http://b.example/x"}, Pause("unavailable", 307)),
        *[(status, {}, Pause("unavailable", status)) for status in (200, 301, 400, 401, 403, 404, 408)],
    ],
)
def test_a_response_to_a_poll_has_one_meaning(status: int, headers: dict[str, str], expected: object) -> None:
    assert poll_end(HERE, status, headers, b"") == expected


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_only_the_broker_itself_refuses_for_good(status: int) -> None:
    with pytest.raises(RefusedError) as error:
        poll_end(HERE, status, {}, b'{"type": "urn:pilotlight:problem:t", "title": "T", "detail": "D"}')
    assert (error.value.status, str(error.value)) == (status, f"{status}: T: D")
    for body in (b'{"type": "about:blank", "title": "T"}', b'{"title": "T"}', b'{"type": 1}', b"[]", b"<html>"):
        assert poll_end(HERE, status, {}, body) == Pause("unavailable", status)


def outcome(name: str) -> dict[str, str]:
    return {"pilotlight-outcome": name}


@pytest.mark.parametrize(
    ("status", "headers", "document", "expected"),
    [
        (
            503,
            outcome("miss") | {"retry-after": "1"},
            {"delivered": False, "reason": "no_pool", "run": "r"},
            Miss("no_pool", "r", 1.0),
        ),
        (503, outcome("miss"), {"reason": "a_new_one"}, Miss("a_new_one", "sent")),
        (504, outcome("unknown"), {"delivered": False, "reason": "unknown"}, Unknown("unknown", "sent", "unknown")),
        (504, outcome("reply_timeout"), {"title": "late", "run": "r"}, ReplyTimeout("r", "late")),
        (502, outcome("reply_broken"), {"title": "broken"}, ReplyBroken("sent", "broken")),
        (409, outcome("duplicate"), {"state": "open"}, Duplicate("sent", "open", None)),
        (409, outcome("duplicate"), {"outcome": "replied"}, Duplicate("sent", None, "replied")),
        (429, outcome("limited") | {"retry-after": "3"}, {"title": "many"}, Limited("many", 3.0)),
        (400, outcome("refused"), {"title": "bad"}, Refused(400, "bad", {"title": "bad"})),
        (200, outcome("a new one"), {}, Unknown("the outcome is a new one", "sent")),
        (404, {}, None, Refused(404, "the broker answered 404")),
        (429, {}, None, Limited("the broker answered 429")),
        (502, {}, None, Unknown("the broker answered 502", "sent")),
        (200, {}, {"delivered": True, "run": "r"}, Unknown("the broker answered 200", "r")),
    ],
)
def test_each_outcome_of_a_reply_is_told_apart(status: int, headers: dict[str, str], document: Any, expected: object) -> None:
    body = b"" if document is None else json.dumps(document).encode()
    assert ended(status, headers, body, "sent", True) == expected


def test_a_delivery_carries_what_is_known_of_it() -> None:
    document = {"delivered": True, "proof": "received", "offers": 2, "controller": "c", "run": "r", "metadata": "m"}
    assert ended(200, {}, json.dumps(document).encode(), "", False) == Delivered("r", "c", "received", 2, "m")
    missed = {"delivered": False, "reason": "unknown", "run": "r"}
    assert isinstance(ended(200, {}, json.dumps(missed).encode(), "", False), Unknown)


def test_a_pool_is_four_encoded_segments() -> None:
    assert str(Pool("my/app", "v 1", 0.5, 1.0)) == "my%2Fapp/v%201/0.5/1"
    url = pool_url("http://127.0.0.1:7070/", Pool("my/app", "é", "2", 1))
    assert url.raw_path == b"/v1/pools/my%2Fapp/%C3%A9/2/1"
    for odd in ("a/b/c", "a/b/c/d/e", "a//1/1", "a/../1/1", "a/b/1/1?x=y", "a/b/1/1#x", "a/b /1/1"):
        with pytest.raises(ValueError):
            pool_url("http://127.0.0.1:7070", odd)
    for broker in ("127.0.0.1:7070", "ftp://x", "http://x/path", "http://x?y"):
        with pytest.raises(ValueError):
            pool_url(broker, "a/b/1/1")


def test_a_duration_is_text_or_seconds() -> None:
    assert duration_text("reply", "30s") == "30s"
    assert duration_text("reply", 0.25) == "250ms"
    assert duration_text("reply", timedelta(minutes=1)) == "60000ms"
    for odd in (-1, True, float("nan"), float("inf")):
        with pytest.raises(ValueError):
            duration_text("reply", odd)


def test_a_header_takes_no_other_lines() -> None:
    for odd in ("a\r\nb", "é", "x" * 1025):
        with pytest.raises(ValueError):
            check_header("metadata", odd)


def test_pauses_grow_are_spread_and_begin_anew() -> None:
    backoff = Backoff()
    pauses = [[Backoff().next() for _ in range(100)], [backoff.next() for _ in range(100)]]
    assert max(pauses[0]) <= 0.1 and min(pauses[0]) >= 0.05
    assert max(pauses[1]) <= 5 and max(pauses[1][50:]) > 2.5 and min(pauses[1][50:]) < 2.5
    backoff.reset()
    assert backoff.next() <= 0.1
    assert 7 < backoff.next(7.0) < 8 and backoff.next(1e9) < 70
    assert 30 <= retired() <= 60

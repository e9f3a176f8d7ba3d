"""Owns the exceptions that this package raises."""

from __future__ import annotations

from typing import Any


class PilotlightError(Exception):
    """The base of this package's exceptions."""


class RefusedError(PilotlightError):
    """The broker refuses the polls: the pool, the token or the address is wrong, so that trying again is of no use."""

    def __init__(self, status: int, problem: dict[str, Any] | None, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        #: The status of the broker's response.
        self.status = status
        #: The problem document (RFC 9457) of the response.
        self.problem = problem


class ReplyBrokenError(PilotlightError):
    """A worker's reply ended before its end: its bytes so far are not the whole answer."""

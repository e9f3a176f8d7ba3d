"""Owns the pauses between attempts: exponential, with full jitter, so that a crowd does not come back at once."""

from __future__ import annotations

import random

SHORTEST = 0.1
LONGEST = 5.0
#: A pool that was retired is polled again only after so many seconds: a new deployment may have taken its name.
RETIRED = (30.0, 60.0)
#: A Retry-After is obeyed up to so many seconds.
MOST_OBEYED = 60.0


class Backoff:
    """The next pause of one slot, in seconds."""

    def __init__(self) -> None:
        self._attempts = 0

    def reset(self) -> None:
        """The broker has given a run or held a poll: the next failure begins with the shortest pause again."""
        self._attempts = 0

    def next(self, at_least: float | None = None) -> float:
        """A random part of a span that doubles with each failure; never less than the broker asked for."""
        span = min(LONGEST, SHORTEST * 2.0**self._attempts)
        self._attempts = min(self._attempts + 1, 16)
        # A pause of nothing would make a busy loop of a broker that refuses at once.
        pause = random.uniform(SHORTEST / 2, max(span, SHORTEST))
        return pause if at_least is None else min(at_least, MOST_OBEYED) + pause


def retired() -> float:
    """How long to stay away from a pool that was retired."""
    return random.uniform(*RETIRED)

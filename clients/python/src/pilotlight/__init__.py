"""Warm workers, and dispatches to them, over a pilotlight broker. This is the asyncio API; `pilotlight.blocking` is the plain one."""

from ._dispatch import Dispatcher, Outcome, Replied, ReplyStream, WorkerError, dispatch
from ._errors import PilotlightError, RefusedError, ReplyBrokenError
from ._outcomes import Delivered, Duplicate, Limited, Miss, Refused, ReplyBroken, ReplyTimeout, Unknown, Unreachable
from ._poll import Retry
from ._reply import ReplyResult
from ._run import Run
from ._runs import Runs, wait
from ._settings import VERSION as __version__
from ._settings import Pool

__all__ = [
    "Delivered",
    "Dispatcher",
    "Duplicate",
    "Limited",
    "Miss",
    "Outcome",
    "PilotlightError",
    "Pool",
    "Refused",
    "RefusedError",
    "Replied",
    "ReplyBroken",
    "ReplyBrokenError",
    "ReplyResult",
    "ReplyStream",
    "ReplyTimeout",
    "Retry",
    "Run",
    "Runs",
    "Unknown",
    "Unreachable",
    "WorkerError",
    "__version__",
    "dispatch",
    "wait",
]

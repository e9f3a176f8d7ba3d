"""Owns the work of the controllers under test: it says on the standard output which run it got, and when it is done."""

import asyncio
import hashlib
import json
import os


async def work(run, payload):
    """Work on a payload that begins with "slow" ends when the file named by RELEASE exists."""
    digest = hashlib.sha256(payload).hexdigest()
    say({"started": run["run"], "contentType": run["contentType"], "size": len(payload), "hash": digest})
    while payload.startswith(b"slow") and not os.path.exists(os.environ["RELEASE"]):
        await asyncio.sleep(0.01)
    say({"done": run["run"]})


def say(line):
    print(json.dumps(line), flush=True)

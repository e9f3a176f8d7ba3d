"""Owns the function for Python. The stock runtime client and the plain server call the same handler."""

import time


def handler(event, context):
    if "milliseconds" in event:
        time.sleep(event["milliseconds"] / 1000)
    return {"hello": event["name"]}

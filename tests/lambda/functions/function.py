"""Owns the function for Python: it does what an event asks for, and records every invocation."""

import json
import os
import time


def record(event, context):
    line = json.dumps({"id": context.aws_request_id, "name": event.get("name"), "pid": os.getpid()})
    with open(os.environ["INVOCATIONS"], "a") as file:
        file.write(line + "\n")


def hello(event, _):
    return {"hello": event.get("name"), "pid": os.getpid()}


def error(event, _):
    raise ValueError(event.get("message", "it has failed"))


def sleep(event, context):
    time.sleep(event["milliseconds"] / 1000)
    return hello(event, context)


def meet(event, context):
    """Returns when as many invocations are at this place: they are open at the same time."""
    place = event["place"]
    open(os.path.join(place, context.aws_request_id), "w").close()
    for _ in range(2_000):
        if len(os.listdir(place)) >= event["people"]:
            return {"pid": os.getpid()}
        time.sleep(0.01)
    raise TimeoutError(f"only {len(os.listdir(place))} came")


def print_lines(event, _):
    for number in range(1, event["lines"] + 1):
        print(f"line {number}")
    return event["lines"]


def describe(_, context):
    client = context.client_context
    return {
        "id": context.aws_request_id,
        "arn": context.invoked_function_arn,
        "name": context.function_name,
        "version": context.function_version,
        "memory": int(context.memory_limit_in_mb),
        "remaining": context.get_remaining_time_in_millis(),
        "client": client and {"custom": client.custom},
        "trace": os.environ.get("_X_AMZN_TRACE_ID"),
    }


ACTIONS = {
    "hello": hello,
    "echo": lambda event, _: event["payload"],
    "bytes": lambda event, _: "x" * (event["bytes"] - len('""')),
    "error": error,
    "crash": lambda *_: os._exit(3),
    "sleep": sleep,
    "meet": meet,
    "print": print_lines,
    "context": describe,
}


def handler(event, context):
    record(event, context)
    return ACTIONS[event.get("do", "hello")](event, context)

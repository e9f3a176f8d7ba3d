"""Owns a function for AWS Lambda, without a word of pilotlight."""


def handler(event, context):
    if not event.get("numbers"):
        raise ValueError("there are no numbers")
    return {"total": sum(event["numbers"])}

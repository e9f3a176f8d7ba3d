"""Owns a caller with boto3: it reads invocations as lines of JSON, and writes how each ended."""

import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# All else are boto3's own settings.
patience = Config(read_timeout=float(sys.argv[2])) if len(sys.argv) > 2 else None
credentials = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
lambda_client = boto3.client("lambda", endpoint_url=sys.argv[1], region_name="us-east-1", config=patience, **credentials)
writing = Lock()


def outcome(response):
    if "EventStream" in response:
        events = [{name: told(member) for name, member in event.items()} for event in response["EventStream"]]
        return {"status": response["StatusCode"], "events": events, "version": response.get("ExecutedVersion")}
    return {
        "status": response["StatusCode"],
        "payload": response["Payload"].read().decode(),
        "functionError": response.get("FunctionError"),
        "version": response.get("ExecutedVersion"),
        "log": response.get("LogResult"),
        "requestId": response["ResponseMetadata"].get("RequestId"),
    }


def told(member):
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in member.items()}


def invoke(request):
    arguments = request["arguments"]
    if "ClientContext" in arguments:
        arguments["ClientContext"] = base64.b64encode(arguments["ClientContext"].encode()).decode()
    call = lambda_client.invoke_with_response_stream if request["streaming"] else lambda_client.invoke
    try:
        return outcome(call(**arguments))
    except ClientError as error:
        answer = error.response
        metadata = answer["ResponseMetadata"]
        fields = {"exception": type(error).__name__, "status": metadata["HTTPStatusCode"], "message": answer["Error"]["Message"]}
        return {**fields, "code": answer["Error"]["Code"], "retryAfter": metadata["HTTPHeaders"].get("retry-after")}
    except (BotoCoreError, OSError) as error:
        return {"exception": type(error).__name__, "message": str(error)}


def serve(line):
    request = json.loads(line)
    answer = json.dumps({"id": request["id"], **invoke(request)})
    with writing:
        print(answer, flush=True)


with ThreadPoolExecutor(32) as threads:
    for answer in [threads.submit(serve, line) for line in sys.stdin]:
        answer.result()

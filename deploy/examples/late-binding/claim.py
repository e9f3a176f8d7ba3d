"""Claims a warm sandbox, makes it somebody's, and goes there.

    POOL_URL=http://127.0.0.1:7070/v1/pools/sandbox/v1/0.5/1 python3 claim.py --identity alice -- 'echo I am $USER'

With a command it runs that in the sandbox, ends the sandbox, and exits with the command's code. Without one it prints where the
sandbox is and the token for it, as JSON. It needs Python 3.10 and nothing else.
"""

import argparse
import http.client
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request
import uuid

ATTEMPTS = 5


def ask(method, url, body=None, **headers):
    """The answer as JSON."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def claim(pool_url, name, claim):
    """The claimed sandbox: its name, where it is, and the token for it."""
    for attempt in range(ATTEMPTS):
        try:
            # The same name again within a minute gets the same sandbox, so an answer that was lost costs no second one.
            answer = ask("POST", f"{pool_url}?wait=2s", json.dumps(claim).encode(), pilotlight_run=name)
            break
        except urllib.error.HTTPError as error:
            sys.exit(f"the broker refuses it: {error.read().decode(errors='replace')}")
        except (OSError, http.client.HTTPException):
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(0.2 * 2**attempt)
    if not answer["delivered"]:
        sys.exit(f"no sandbox: {answer['reason']}")
    return answer["controller"], json.loads(answer["metadata"])


def main():
    parser = argparse.ArgumentParser(description="Claims a warm sandbox.")
    parser.add_argument("--identity", required=True, help="whose it becomes")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--file", action="append", default=[], metavar="PATH", help="is written into the workspace")
    parser.add_argument("--name", default=f"claim-{uuid.uuid4()}", help="the same name again gets the same sandbox")
    parser.add_argument("command", nargs="*")
    args = parser.parse_args()
    wanted = {
        "identity": args.identity,
        "environment": dict(pair.split("=", 1) for pair in args.env),
        "files": {pathlib.Path(path).name: pathlib.Path(path).read_text() for path in args.file},
    }
    sandbox, metadata = claim(os.environ["POOL_URL"], args.name, wanted)
    print(f"claimed {sandbox}", file=sys.stderr)
    if not args.command:
        print(json.dumps(metadata))
        return
    authorization = f"Bearer {metadata['token']}"
    try:
        command = " ".join(args.command).encode()
        done = ask("POST", metadata["url"], command, authorization=authorization)
        sys.stdout.write(done["output"])
    finally:
        ask("DELETE", metadata["url"], authorization=authorization)
    sys.exit(done["code"])


if __name__ == "__main__":
    main()

"""A warm sandbox: it waits for an owner, and gets its identity, environment and files by the claim.

It needs Python 3.10 and nothing else. Its settings are environment variables: POOL_URL, and those below.
"""

import hmac
import http.client
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

POOL_URL = os.environ["POOL_URL"]
NAME = os.environ.get("NAME", socket.gethostname())
# Where owners reach it; by default the address from which it reaches the broker.
ADDRESS = os.environ.get("ADDRESS", "")
PORT = int(os.environ.get("PORT", "8080"))
WORKSPACE = pathlib.Path(os.environ.get("WORKSPACE", "/workspace")).resolve()
# It ends when its owner has said nothing for so many seconds, also if no owner comes after the claim.
IDLE = float(os.environ.get("IDLE", "300"))

# Made anew for each owner, and known to nobody else: the broker returns it to the claimer alone.
TOKEN = secrets.token_urlsafe(32)


class Owner:
    """What the claim has made of the sandbox, and what its owner does."""

    def __init__(self):
        self.identity = ""
        self.environment = {}
        self.is_bound = threading.Event()
        self.has_left = threading.Event()
        self.requests = 0
        self.last_seen = 0.0
        self.lock = threading.Lock()

    def bind(self, claim):
        """Becomes the sandbox of this claim."""
        self.identity = str(claim["identity"])
        self.environment = {str(name): str(value) for name, value in claim.get("environment", {}).items()}
        for name, text in claim.get("files", {}).items():
            path = (WORKSPACE / name).resolve()
            if not path.is_relative_to(WORKSPACE):
                raise ValueError("a file is outside of the workspace")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.last_seen = time.monotonic()
        self.is_bound.set()

    def run(self, command):
        """Runs a shell command. The sandbox's own environment is not passed on."""
        base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(WORKSPACE), "USER": self.identity}
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=WORKSPACE,
            env=base | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return {"code": done.returncode, "output": done.stdout.decode(errors="replace")}

    def leave(self):
        self.has_left.set()
        return {"identity": self.identity}

    def is_idle(self):
        with self.lock:
            return self.requests == 0 and time.monotonic() - self.last_seen > IDLE

    def count(self, change):
        with self.lock:
            self.requests += change
            self.last_seen = time.monotonic()


OWNER = Owner()


class Handler(BaseHTTPRequestHandler):
    """What the owner can ask for: GET (who am I), POST (run a shell command), DELETE (end the sandbox)."""

    def answer(self, handle):
        given = self.headers.get("authorization", "")
        # The owner may be here before the files are written.
        if not hmac.compare_digest(given.encode(), f"Bearer {TOKEN}".encode()) or not OWNER.is_bound.wait(5):
            self.send_error(403)
            return
        OWNER.count(1)
        try:
            body = json.dumps(handle()).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        finally:
            OWNER.count(-1)

    def do_GET(self):
        self.answer(lambda: {"identity": OWNER.identity, "sandbox": NAME})

    def do_POST(self):
        length = int(self.headers.get("content-length", "0"))
        self.answer(lambda: OWNER.run(self.rfile.read(length).decode()))

    def do_DELETE(self):
        self.answer(OWNER.leave)

    def log_message(self, *_):
        """Requests are their owner's business."""


def poll():
    """Waits once. Returns a status and, with 200, the claim."""
    url = urlsplit(POOL_URL)
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=75)
    try:
        connection.connect()
        address = ADDRESS or connection.sock.getsockname()[0]
        metadata = json.dumps({"url": f"http://{address}:{PORT}", "token": TOKEN})
        headers = {"pilotlight-controller": NAME, "pilotlight-metadata": metadata}
        connection.request("GET", f"{url.path}?timeout=30s", headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        # At once: this is what proves to the broker that the claim was read.
        connection.close()


def wait_for_claim():
    """Waits until somebody claims this sandbox, through restarts of the broker."""
    pause = 0.1
    while True:
        try:
            status, body = poll()
        except (OSError, http.client.HTTPException) as error:
            status, body = type(error).__name__, b""
        if status == 200:
            return json.loads(body)
        if status == 204:
            pause = 0.1
            continue
        if status == 410:
            # An operator has retired this version.
            pause = 600
        print(f"the broker answers {status}: waiting", file=sys.stderr)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, 5)


def empty_workspace():
    """Removes what another owner has left."""
    WORKSPACE.mkdir(parents=True, exist_ok=True)
    for path in WORKSPACE.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def main():
    # As the first process of a container it would ignore the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    empty_workspace()
    # Everything that takes long is done here, before anybody waits for it. Then the sandbox is warm.
    server = ThreadingHTTPServer(("", PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    OWNER.bind(wait_for_claim())
    print(f"bound to {OWNER.identity}", file=sys.stderr)
    while not OWNER.has_left.wait(1) and not OWNER.is_idle():
        pass
    # The answer to a DELETE is still under way. Then Kubernetes or Compose starts the next one, with another token.
    time.sleep(0.2)


if __name__ == "__main__":
    main()

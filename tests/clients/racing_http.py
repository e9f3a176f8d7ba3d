"""Owns a controller that polls with Python's http.client and aborts at a given time, or reads to the end.

stdin: {url, after, stall}, one per line: `after` ms after the start of the poll it sleeps for `stall` ms, and then an exception
ends the poll at whatever statement it is. Without `after` it reads from its socket until EOF, whatever length was announced.
stdout: {url, run}: the name of the run, if the application has read all of it.
"""

import contextlib
import http.client
import json
import signal
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

TLS = ssl.create_default_context()
# No certificate contains the addresses of the rounds.
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE


class Abort(BaseException):
    pass


def name_of(payload):
    return payload.split(b" ", 1)[0].decode()


def poll(url, after, stall):
    def abort(*_):
        time.sleep(stall / 1000)
        raise Abort

    signal.signal(signal.SIGALRM, abort)
    kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[url.scheme]
    connection = kind(url.hostname, url.port, **({"context": TLS} if url.scheme == "https" else {}))
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, max(after, 0.001) / 1000)
            connection.request("GET", f"{url.path}?{url.query}")
            answer = connection.getresponse()
            payload = answer.read()
            return name_of(payload) if answer.status == 200 else None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (Abort, OSError, http.client.HTTPException):
        return None
    finally:
        # If the exception came while the socket changed its owner, one of the owners has closed it already.
        with contextlib.suppress(OSError):
            connection.close()


def read_to_the_end(url):
    stream = socket.create_connection((url.hostname, url.port))
    if url.scheme == "https":
        stream = TLS.wrap_socket(stream)
    with stream:
        stream.sendall(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
        seen = b"".join(iter(lambda: stream.recv(65536), b""))
    return name_of(seen.split(b"\r\n\r\n", 1)[1])


for line in sys.stdin:
    asked = json.loads(line)
    url = urlsplit(asked["url"])
    run = poll(url, asked["after"], asked["stall"]) if "after" in asked else read_to_the_end(url)
    print(json.dumps({"url": asked["url"], "run": run}), flush=True)

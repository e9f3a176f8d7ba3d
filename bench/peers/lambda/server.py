"""Owns the plain server for Python: http.server, in as many processes as its argument says, around the same handler."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from hello import handler


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body go out at once; otherwise each answer is two small packets, and the second waits for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps(handler(event, None)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# Each process serves one connection at a time, so that as many callers as processes have one each.
server = HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
else:
    print("listening", flush=True)
server.serve_forever()

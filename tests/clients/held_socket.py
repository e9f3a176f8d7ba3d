"""Owns listening sockets like a service manager: they stay open while it starts one broker after the other with them.

usage: held_socket.py LISTEN_PORT OPS_PORT BROKER [ARGUMENT...]
stdin: start | end SIGNAL, one a line; stdout says in JSON what came of it. The end of stdin ends all.
"""

import json
import os
import signal
import socket
import sys


def start():
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Descriptors from 3 on, and a variable that names the process they are for. The lowest come first, so none is overwritten.
    for place, listener in enumerate(sockets, 3):
        os.dup2(listener.fileno(), place)
        os.set_inheritable(place, True)
    handed = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "listen:ops-listen"}
    try:
        os.execve(command[0], command, os.environ | handed)
    finally:
        os._exit(127)


def end(name):
    os.kill(broker, signal.Signals[name])
    return os.waitstatus_to_exitcode(os.waitpid(broker, 0)[1])


sockets = [socket.create_server(("127.0.0.1", int(port)), backlog=4096) for port in sys.argv[1:3]]
command = sys.argv[3:]
broker = None

for line in sys.stdin:
    match line.split():
        case ["start"]:
            broker = start()
            said = {"started": broker}
        case ["end", name]:
            said = {"ended": end(name)}
            broker = None
    print(json.dumps(said), flush=True)

if broker:
    end("SIGKILL")

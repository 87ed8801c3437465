"""One connection to a port of the sandbox itself, between standard input and output.

A program of its own, run in the sandbox: ``main([PORT])``.
"""

from __future__ import annotations

import os
import select
import socket
import sys

_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_CHUNK = 65536
_CONNECT_S = 10


def connect(port: int) -> socket.socket:
    """Connect to a port of this machine, which is the sandbox.

    Raises:
        OSError: nobody listens there.
    """
    failure: OSError = OSError(f"nobody listens on port {port}")
    for family, host in _LOOPBACK:
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            failure = error
            continue
        try:
            made.settimeout(_CONNECT_S)
            made.connect((host, port))
            made.settimeout(None)
        except OSError as error:
            made.close()
            failure = error
        else:
            return made
    raise failure


def relay(sock: socket.socket, source: int, sink: int) -> None:
    """Copy both ways until the connection's other end is closed."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(source, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == source:
                data = os.read(source, _CHUNK)
                if not data:
                    poll.unregister(source)
                    sock.shutdown(socket.SHUT_WR)
                else:
                    sock.sendall(data)
                continue
            data = sock.recv(_CHUNK)
            if not data:
                return
            view = memoryview(data)
            while view:
                view = view[os.write(sink, view) :]


def main(arguments: list[str]) -> None:
    """Relay one connection, and end with status 1 if there is none."""
    try:
        with connect(int(arguments[0])) as sock:
            relay(sock, 0, 1)
    except OSError as error:
        sys.exit(f"port {arguments[0]}: {error.strerror or error}")

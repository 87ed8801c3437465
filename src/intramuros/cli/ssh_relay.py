"""Carry one SSH connection to a worker's socket: a client's ``ProxyCommand``.

Run as a file (``python -I -S ssh_relay.py SOCKET``) with the standard library only, so that it
costs a connection little.
"""

import os
import select
import socket
import sys

_CHUNK = 65536


def dial(path: str) -> socket.socket:
    """Connect to a socket, however long its path is.

    Raises:
        OSError: nobody listens there, or this user may not.
    """
    folder, _, name = path.rpartition("/")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made.connect(f"/proc/self/fd/{directory}/{name}")
    except OSError:
        made.close()
        raise
    finally:
        os.close(directory)
    return made


def carry(sock: socket.socket, source: int, sink: int) -> None:
    """Copy both ways until the worker closes."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(source, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == source:
                data = os.read(source, _CHUNK)
                if data:
                    sock.sendall(data)
                else:
                    poll.unregister(source)
                    sock.shutdown(socket.SHUT_WR)
                continue
            data = sock.recv(_CHUNK)
            if not data:
                return
            view = memoryview(data)
            while view:
                view = view[os.write(sink, view) :]


def main(arguments: list[str]) -> int:
    """Carry one connection; status 1 if there is none."""
    try:
        with dial(arguments[0]) as sock:
            carry(sock, 0, 1)
    except OSError as error:
        sys.stderr.write(f"cannot reach the worker at {arguments[0]}: {error.strerror or error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

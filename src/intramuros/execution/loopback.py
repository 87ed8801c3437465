"""Addresses of this machine alone."""

import ipaddress
from pathlib import Path

from intramuros.kernel.errors import OperatorError


def doorstep(text: str | None, sock: Path) -> tuple[str, int] | Path | None:
    """Return where people are let in: ``unix`` stands for a socket; None is nowhere.

    Raises:
        OperatorError: it is no address, or others than this machine reach it.
    """
    if text is None:
        return None
    return sock if text == "unix" else loopback(text, "ssh_listen")


def local_port(text: str | None, setting: str) -> tuple[str, int] | None:
    """Return an address of this machine alone; None is none.

    Raises:
        OperatorError: as :func:`loopback` does.
    """
    return None if text is None else loopback(text, setting)


def loopback(text: str, setting: str) -> tuple[str, int]:
    """Return the host and port of an address of this machine alone.

    Raises:
        OperatorError: it is none: a worker has no port that others reach.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit() or int(port) > 65_535 or not host:
        raise OperatorError(f"{setting} {text!r} is no address", "write 127.0.0.1:PORT")
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise OperatorError(
            f"{setting} {text!r} could be reached from other machines",
            "use 127.0.0.1 or [::1], and a tunnel of your own to get there",
        )
    return host, int(port)


def is_local(host: str) -> bool:
    """Tell whether a name or an address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

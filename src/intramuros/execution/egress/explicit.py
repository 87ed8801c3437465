"""What a program asks of a proxy that it knows of: a tunnel to a name, or a whole URL. Pure.

Nothing is gained by asking this way: a tunnel is judged like a connection to the name, a URL like a
request to it. Names only; an address is nothing that a policy could speak of.
"""

import re
from dataclasses import dataclass
from typing import Final

from intramuros.execution.egress.http1 import Place, Refused, check_raw
from intramuros.execution.egress.names import canonical

_AUTHORITY: Final = re.compile(rb"([A-Za-z0-9._-]{1,254})(?::([0-9]{1,5}))?")
_SCHEME: Final = b"http://"
# A tunnel has no body: its bytes are the tunnel's.
_BODY: Final = (b"content-length:", b"transfer-encoding:")


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a program wants to reach, and whether by a tunnel."""

    place: Place
    tunnel: bool


def read_asked(raw: bytes) -> Asked:
    """Return what a request's head asks for; a URL's head is read again as a request to its host.

    Raises:
        Refused: says which rule.
    """
    check_raw(raw)
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise Refused("malformed", "the request cannot be read")
    method, target, _ = parts
    if method == b"CONNECT":
        _check_tunnel(target, lines)
        return Asked(_place(target, None, "https"), True)
    if target[: len(_SCHEME)].lower() != _SCHEME:
        raise Refused("absolute_form", "a proxy is asked with CONNECT or a whole http URL")
    rest = target[len(_SCHEME) :]
    place = _place(re.split(rb"[/?#]", rest, maxsplit=1)[0], 80, "http")
    if place.port == 443:
        raise Refused("wrong_scheme", "port 443 is for TLS, and port 80 is not")
    return Asked(place, False)


def _place(authority: bytes, port: int | None, scheme: str) -> Place:
    read = _AUTHORITY.fullmatch(authority)
    if read is None or (read[2] is None and port is None):
        raise Refused("malformed_name", "only a name and a port can be asked for")
    name = canonical(read[1].decode("ascii"))
    number = int(read[2]) if read[2] is not None else port
    if name is None or number is None or not 0 < number < 65_536:
        raise Refused("malformed_name", "only a name and a port can be asked for")
    return Place(name, number, scheme)


def _check_tunnel(target: bytes, lines: list[bytes]) -> None:
    lower = [line.lower() for line in lines]
    hosts = [line[5:].strip() for line in lower if line.startswith(b"host:")]
    bare = target.lower().rpartition(b":")[0]
    if len(hosts) > 1 or any(host not in (target.lower(), bare) for host in hosts):
        raise Refused("host_mismatch", "Host is not whom the tunnel is for", 421)
    if any(line.startswith(_BODY) for line in lower):
        raise Refused("malformed", "a tunnel has no body")

"""A company's proxy between the worker and the internet: what sandboxes ask for goes through it.

Each connection is a tunnel (``CONNECT``) to the host's name, so the proxy's own rules see the name,
and TLS is still between worker and host. Resolution stays ours as far as it can: a host whose
address the worker can find out is refused if that is not public, as without a proxy. Where workers
cannot resolve public names at all, ``resolves`` leaves that to the proxy, and with it the judgement
of addresses. Hosts that the operator calls internal are dialled directly.
"""

import base64
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio

from intramuros.execution.egress.http1 import Place
from intramuros.execution.egress.leg import GONE, Leg
from intramuros.execution.egress.nested import within
from intramuros.kernel.errors import OperatorError

_DEFAULT_PORTS: Final = {"http": 3128, "https": 443}
_MAX_ANSWER_BYTES: Final = 16 * 1024
_MAX_CREDENTIALS_BYTES: Final = 4096
_NEEDS_CREDENTIALS: Final = 407


class NotLet(Exception):
    """The proxy does not let us through; ``rule`` says why, in the words of records."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True)
class CompanyProxy:
    """Where the proxy is, and how it knows us."""

    host: str
    port: int
    tls: bool = False
    """Whether the proxy itself is spoken to in TLS, verified against its name."""
    authorization: str | None = field(default=None, repr=False)
    """Value of ``Proxy-Authorization``."""
    resolves: bool = False
    """Whether names that the worker cannot resolve are left to the proxy."""


def read_company(url: str, credentials: Path | None, *, resolves: bool) -> CompanyProxy:
    """Return the proxy of the operator's settings.

    Args:
        url: ``http://host[:port]`` or ``https://host[:port]``, without credentials.
        credentials: a file of ``user:password``.

    Raises:
        OperatorError: one of them has another form, or the file cannot be read.
    """
    fix = "write http://host:port, and name a file with egress_proxy_credentials_file"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise OperatorError("egress_proxy is no address", fix) from None
    usual = _DEFAULT_PORTS.get(parts.scheme)
    if parts.username is not None or parts.password is not None:
        raise OperatorError("egress_proxy holds credentials", fix)
    if usual is None or not parts.hostname or parts.path.strip("/") or parts.query:
        raise OperatorError("egress_proxy is no address of a proxy", fix)
    known = None if credentials is None else _basic(credentials)
    return CompanyProxy(parts.hostname, port or usual, parts.scheme == "https", known, resolves)


async def tunnel(proxy: CompanyProxy, leg: Leg, place: Place, context: ssl.SSLContext) -> Leg:
    """Ask a proxy that was dialled for a tunnel and return what leads to the place.

    Raises:
        NotLet: it refuses, or speaks otherwise than a proxy does.
        ssl.SSLError: its certificate is not to be trusted.
    """
    if proxy.tls:
        await leg.secure(context, name=proxy.host)
        leg = within(leg)
    lines = [f"CONNECT {place.name}:{place.port} HTTP/1.1", f"Host: {place.name}:{place.port}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
        await leg.send("\r\n".join([*lines, "", ""]).encode("ascii"))
        while (end := leg.held.find(b"\r\n\r\n")) < 0:
            if len(leg.held) > _MAX_ANSWER_BYTES:
                raise NotLet("proxy_failed", "the company's proxy gives no answer")
            await leg.peek()
    except anyio.EndOfStream:
        raise NotLet("proxy_failed", "the company's proxy hung up") from None
    except GONE as error:
        raise NotLet("proxy_failed", "the company's proxy broke off") from error
    status = read_status(leg.held[:end])
    if status == _NEEDS_CREDENTIALS:
        raise NotLet("proxy_credentials", "the company's proxy does not accept the worker")
    if not 200 <= status <= 299:
        raise NotLet("proxy_refused", f"the company's proxy does not let this pass ({status})")
    leg.held = leg.held[end + 4 :]
    return leg


def read_status(head: bytes) -> int:
    """Return the status of a proxy's answer.

    Raises:
        NotLet: it is no answer of HTTP.
    """
    version, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    status = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not status.isdigit() or rest[3:4].strip():
        raise NotLet("proxy_failed", "the company's proxy does not speak HTTP")
    return int(status)


def _basic(file: Path) -> str:
    fix = "write user:password, and nothing else, into it"
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_CREDENTIALS_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"cannot read {file} ({error.strerror})", fix) from error
    known = raw.strip()
    if len(raw) > _MAX_CREDENTIALS_BYTES or b":" not in known or len(known.splitlines()) != 1:
        raise OperatorError(f"{file} holds no credentials of a proxy", fix)
    return "Basic " + base64.b64encode(known).decode("ascii")

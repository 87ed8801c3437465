"""A company's proxy on the way out: a tunnel through it by HTTP's ``CONNECT`` (RFC 9110, 9.3.6).

The proxy learns the host's name and port and sees TLS pass by. What it answers is bounded and read
strictly; what it is told beside the name is only what makes it let us through.
"""

import base64
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import anyio

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.wire import (
    ConnectFailed,
    LineTooLong,
    Wire,
    connect_tcp,
    connect_tls,
    explained,
    start_tls,
)

_DEFAULT_PORTS: Final = {"http": 3128, "https": 443}
_MAX_LINE_BYTES: Final = 8 * 1024
_MAX_LINES: Final = 100
_MAX_CREDENTIALS_BYTES: Final = 4096
# Some proxies answer as servers do.
_NEEDS_CREDENTIALS: Final = (401, 407)


@dataclass(frozen=True)
class ForwardProxy:
    """Where the proxy is, and how it knows us.

    Args:
        tls: whether the proxy itself is spoken to in TLS, verified against its name.
        authorization: the value of ``Proxy-Authorization``.
    """

    host: str
    port: int
    tls: bool = False
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def read_proxy(url: str, name: str, credentials: str | None = None) -> ForwardProxy:
    """Return the proxy that an operator names.

    Args:
        url: ``http://host[:port]`` or ``https://host[:port]``; a user and a password may stand in
            it, as in the environment's variables.
        name: of the setting, for errors, which never show its value: it may hold a secret.
        credentials: ``user:password``, instead.

    Raises:
        OperatorError: it has another form.
    """
    fix = "write http://host:port"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise OperatorError(f"{name} is no address", fix) from None
    usual = _DEFAULT_PORTS.get(parts.scheme)
    if usual is None or not parts.hostname or parts.path.strip("/") or parts.query:
        raise OperatorError(f"{name} is no address of a proxy", fix)
    if credentials is None and parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    known = None
    if credentials is not None:
        known = "Basic " + base64.b64encode(credentials.encode()).decode()
    return ForwardProxy(parts.hostname, port or usual, parts.scheme == "https", known)


def read_credentials(file: Path) -> str:
    """Return what a file of ``user:password`` holds.

    Raises:
        OperatorError: it cannot be read, or holds something else.
    """
    fix = "write user:password, and nothing else, into it"
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_CREDENTIALS_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"cannot read {file} ({error.strerror})", fix) from error
    try:
        known = raw.decode().strip()
    except UnicodeDecodeError:
        known = ""
    if len(raw) > _MAX_CREDENTIALS_BYTES or ":" not in known or len(known.splitlines()) != 1:
        raise OperatorError(f"{file} holds no credentials of a proxy", fix)
    return known


def is_exempt(host: str, exempt: str) -> bool:
    """Tell whether ``NO_PROXY`` names a host: itself, a domain above it, or ``*``."""
    names = [name.strip().lower().removeprefix("*").lstrip(".") for name in exempt.split(",")]
    if "*" in (name.strip() for name in exempt.split(",")):
        return True
    host = host.lower().rstrip(".")
    return any(name and (host == name or host.endswith(f".{name}")) for name in names)


async def connect_through(
    proxy: ForwardProxy,
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    proxy_context: ssl.SSLContext,
    timeout_s: float,
) -> Wire:
    """Connect to a host through a proxy and do the TLS handshake with the host.

    Args:
        context: client settings for the host, whose certificate must carry its name.
        proxy_context: the same for a proxy that is spoken to in TLS.
        timeout_s: for everything together, in seconds.

    Raises:
        ConnectFailed: says which step failed; the reason begins with ``proxy_`` if it was the
            proxy's.
    """
    with anyio.move_on_after(timeout_s):
        wire = await _reach(proxy, proxy_context, timeout_s)
        try:
            await _ask(wire, proxy, host, port)
            with explained(host, port, timeout_s):
                return await start_tls(wire, context, host)
        except BaseException:
            wire.abort()
            raise
    raise ConnectFailed("timeout", f"no answer within {timeout_s:g} s through the proxy {proxy}")


async def _reach(proxy: ForwardProxy, context: ssl.SSLContext, timeout_s: float) -> Wire:
    try:
        if proxy.tls:
            return await connect_tls(
                proxy.host, proxy.port, context, server_name=proxy.host, timeout_s=timeout_s
            )
        with explained(proxy.host, proxy.port, timeout_s):
            return await connect_tcp(proxy.host, proxy.port)
    except ConnectFailed as error:
        raise ConnectFailed(f"proxy_{error.reason}", f"the proxy {proxy}: {error}") from error


async def _ask(wire: Wire, proxy: ForwardProxy, host: str, port: int) -> None:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
        await wire.send("\r\n".join([*lines, "", ""]).encode("ascii"))
        status = read_status(await wire.read_line(_MAX_LINE_BYTES))
        for _ in range(_MAX_LINES):
            if not (await wire.read_line(_MAX_LINE_BYTES)).strip(b"\r"):
                break
        else:
            raise LineTooLong
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        raise ConnectFailed("proxy_failed", f"the proxy {proxy} hung up") from None
    except LineTooLong:
        raise ConnectFailed("proxy_failed", f"the proxy {proxy} gives no answer") from None
    if status in _NEEDS_CREDENTIALS:
        raise ConnectFailed("proxy_credentials", f"the proxy {proxy} does not accept us")
    if not 200 <= status <= 299:
        raise ConnectFailed("proxy_refused", f"the proxy {proxy} does not let {place} ({status})")
    if wire.readable:
        raise ConnectFailed("proxy_failed", f"the proxy {proxy} says more than it was asked")


def read_status(line: bytes) -> int:
    """Return the status of an answer's first line.

    Raises:
        ConnectFailed: it is no answer of HTTP.
    """
    version, _, rest = line.rstrip(b"\r").partition(b" ")
    status = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not status.isdigit() or rest[3:4].strip():
        raise ConnectFailed("proxy_failed", "the proxy does not speak HTTP")
    return int(status)

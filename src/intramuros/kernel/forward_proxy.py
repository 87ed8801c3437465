"""A company's proxy on the way out: a tunnel through it by HTTP's ``CONNECT`` (RFC 9110, 9.3.6).

The proxy learns the host's name and port and sees TLS pass by. What it answers is bounded and read
strictly; what it is told beside the name is only what makes it let us through.

Which proxy that is an operator says in a setting, or the environment in ``HTTPS_PROXY`` and
``NO_PROXY``.
"""

import base64
import ipaddress
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import anyio
from anyio.abc import ByteStream

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.wire import (
    ConnectFailed,
    Wire,
    connect_tcp,
    connect_tls,
    explained,
    start_tls,
)

_DEFAULT_PORTS: Final = {"http": 3128, "https": 443}
_MAX_ANSWER_BYTES: Final = 16 * 1024
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

    def secrets(self) -> tuple[str, ...]:
        """Return what nobody else is to see: the credentials as they are sent, and as they are."""
        encoded = (self.authorization or "").partition(" ")[2]
        return (encoded, base64.b64decode(encoded).decode()) if encoded else ()


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


def configured_proxy(url: str, name: str, credentials: Path | None) -> ForwardProxy:
    """Return the proxy of a setting, which may be seen by others of the same machine.

    Args:
        url: as for :func:`read_proxy`, without a user or a password.
        name: of the setting; its file's has ``_credentials_file`` behind it.
        credentials: a file of ``user:password``.

    Raises:
        OperatorError: one of them has another form, or the file cannot be read.
    """
    proxy = read_proxy(url, name, None if credentials is None else read_credentials(credentials))
    if "@" in url:
        raise OperatorError(
            f"{name} holds credentials",
            f"write http://host:port, and name a file with {name}_credentials_file",
        )
    return proxy


def environments_proxy(env: Mapping[str, str]) -> Callable[[str], ForwardProxy | None]:
    """Return which proxy the environment's variables put before a host that is spoken to in TLS.

    Raises:
        OperatorError: ``HTTPS_PROXY`` has another form.
    """
    known = {name.lower(): value for name, value in env.items()}
    if not known.get("https_proxy"):
        return lambda _host: None
    usual = read_proxy(known["https_proxy"], "the variable HTTPS_PROXY")
    return lambda host: None if is_exempt(host, known.get("no_proxy", "")) else usual


def is_exempt(host: str, exempt: str) -> bool:
    """Tell whether ``NO_PROXY`` names a host: itself, a domain or network around it, or ``*``."""
    host = host.lower().rstrip(".").strip("[]")
    return any(_covers(name.strip().lower(), host) for name in exempt.split(","))


def _covers(name: str, host: str) -> bool:
    if name == "*":
        return True
    name = name.removeprefix("*").lstrip(".").strip("[]")
    if not name:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return host == name or host.endswith(f".{name}")


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
            if await ask_tunnel(wire, proxy, host, port):
                raise ConnectFailed("proxy_failed", f"the proxy {proxy} says more than asked")
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
        # "proxy_refused" is a proxy that answers, and says no.
        reason = "away" if error.reason == "refused" else error.reason
        raise ConnectFailed(f"proxy_{reason}", f"the proxy {proxy}: {error}") from error


async def ask_tunnel(stream: ByteStream, proxy: ForwardProxy, host: str, port: int) -> bytes:
    """Ask a proxy that was dialled for a tunnel, which the stream is from then on.

    The caller sees to the time that it may take.

    Returns:
        what came behind the answer, which is the tunnel's already.

    Raises:
        ConnectFailed: it refuses, or speaks otherwise than a proxy does.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    said = b""
    try:
        await stream.send("\r\n".join([*lines, "", ""]).encode("ascii"))
        while (end := said.find(b"\r\n\r\n")) < 0:
            if len(said) > _MAX_ANSWER_BYTES:
                raise ConnectFailed("proxy_failed", f"the proxy {proxy} gives no answer")
            said += await stream.receive(_MAX_ANSWER_BYTES)
    except anyio.EndOfStream:
        raise ConnectFailed("proxy_failed", f"the proxy {proxy} hung up") from None
    except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
        raise ConnectFailed("proxy_failed", f"the proxy {proxy} broke off") from error
    status = read_status(said[:end].partition(b"\r\n")[0])
    if status in _NEEDS_CREDENTIALS:
        raise ConnectFailed("proxy_credentials", f"the proxy {proxy} does not accept us ({status})")
    if not 200 <= status <= 299:
        raise ConnectFailed("proxy_refused", f"the proxy {proxy} does not let {place} ({status})")
    return said[end + 4 :]


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

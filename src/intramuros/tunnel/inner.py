"""The gateway's end of the inner TLS: its certificate, reloaded when the files change."""

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock
from intramuros.tunnel.bound_sessions import session_key
from intramuros.tunnel.certs import private_bytes

log = logger("gateway")

# Looking at two files costs microseconds; once a second is soon enough for a renewal.
RECHECK_S: Final = 1.0
ALPN: Final = "http/1.1"
# A certificate lives for months and is renewed once or twice before; more keys than these are old.
MAX_SESSION_KEYS: Final = 4
# How long a goodbye may wait for the caller's own, which nobody needs.
GOODBYE_S: Final = 0.1


class HandshakeFailed(Exception):
    """The caller and we could not agree on TLS, or it asked for another host."""


class ServerIdentity:
    """Certificate and key for the inner TLS 1.3.

    Args:
        cert_file: PEM chain.
        key_file: PEM private key.
        clock: for the interval between looks at the files.
        check: called with the certificate's PEM before it is used; raises OperatorError to refuse.
    """

    def __init__(
        self, cert_file: Path, key_file: Path, clock: Clock, check: Callable[[bytes], None]
    ) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._clock = clock
        self._check = check
        self._names: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()
        self._stamp = self._read_stamp()
        self._session_keys: tuple[bytes, ...] = ()
        self._context = self._load()
        self._looked_s = clock.monotonic()

    async def accept(self, stream: ByteStream, host: str, timeout_s: float) -> TLSStream:
        """Do the server's half of the handshake for one host.

        Raises:
            HandshakeFailed: no TLS 1.3, a client that distrusts us, another server name or
                protocol, or a deadline missed.
        """
        try:
            with anyio.fail_after(timeout_s):
                tls = await TLSStream.wrap(
                    stream,
                    server_side=True,
                    ssl_context=self._current(),
                    standard_compatible=False,
                )
        except ssl.SSLError as error:
            raise HandshakeFailed(error.reason or str(error)) from error
        except TimeoutError as error:
            raise HandshakeFailed(f"not done within {timeout_s:g} s") from error
        except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise HandshakeFailed("the caller hung up") from error
        if self._names.get(tls.extra(TLSAttribute.ssl_object)) != host:  # noqa: S610  not Django's
            raise HandshakeFailed("the TLS server name differs from the requested host")
        if tls.extra(TLSAttribute.alpn_protocol) != ALPN:  # noqa: S610  anyio's, not Django's
            raise HandshakeFailed(f"the caller did not ask for {ALPN} (ALPN)")
        return tls

    @property
    def session_keys(self) -> tuple[bytes, ...]:
        """What follows from the private key for ids of MCP sessions; the newest first.

        Those of keys that were replaced while this process ran are kept, so that a new certificate
        ends no session.
        """
        return self._session_keys

    def _current(self) -> ssl.SSLContext:
        """Return the context, made anew if the files changed and are good."""
        now_s = self._clock.monotonic()
        if now_s - self._looked_s >= RECHECK_S:
            self._looked_s = now_s
            try:
                stamp = self._read_stamp()
                if stamp != self._stamp:
                    self._stamp = stamp
                    self._context = self._load()
                    log.info("certificate_reloaded", file=str(self._cert_file))
            except OperatorError as error:
                # Half-written files: keep serving with the old pair and look again.
                log.warning("certificate_not_reloaded", reason=str(error))
        return self._context

    def _read_stamp(self) -> tuple[int, ...]:
        try:
            stats = [path.stat() for path in (self._cert_file, self._key_file)]
        except OSError as error:
            raise OperatorError(
                f"cannot read the server certificate ({error})",
                "run `intramuros gateway init`, or correct tls.cert_file and tls.key_file",
            ) from error
        return tuple(n for stat in stats for n in (stat.st_mtime_ns, stat.st_size, stat.st_ino))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols([ALPN])
        context.num_tickets = 0
        context.sni_callback = self._on_name
        try:
            pem = self._cert_file.read_bytes()
            context.load_cert_chain(self._cert_file, self._key_file)
            key = session_key(private_bytes(self._key_file.read_bytes()))
        except (OSError, ValueError) as error:
            detail = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise OperatorError(
                f"{self._cert_file} and {self._key_file} do not load ({detail})",
                "give a certificate and its own private key in PEM, readable by this user",
            ) from error
        self._check(pem)
        older = (known for known in self._session_keys if known != key)
        self._session_keys = (key, *older)[:MAX_SESSION_KEYS]
        return context

    def _on_name(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        if name is None or not isinstance(connection, ssl.SSLObject):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        self._names[connection] = name
        return None


async def say_goodbye(stream: TLSStream) -> None:
    """Announce the end of an inner connection (close_notify), without waiting for an answer.

    To be called only where every request that was read has been answered: the caller takes it as
    a promise that what it sent meanwhile was not read, and sends that again elsewhere.
    """
    with anyio.move_on_after(GOODBYE_S), suppress(ssl.SSLError, *_GONE):
        await stream.unwrap()


_GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

"""Set a gateway up: tunnel, CA, certificate and token in one directory, again and again the same.

``init`` may be repeated over its own output without a new tunnel, CA or token (contract 18, R329,
R330). If it fails, what it created in this run is taken back: files are removed, the certificate
and the tunnel are archived. Only a crash in between leaves files, and the next run continues there.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import anyio
from anthropic import AnthropicError, APIConnectionError, APIStatusError, AsyncAnthropic
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.protocol.tickets import TicketError, VerifyingKey
from intramuros.tunnel.certs import (
    SERVER_VALIDITY,
    BadCertificate,
    KeyPair,
    check_issued_by,
    check_server_certificate,
    expires_at,
    make_ca,
    make_server_certificate,
    write_private,
)

log = logger("setup")

T = TypeVar("T")

TUNNEL_ID: Final = "tunnel-id"
TUNNEL_DOMAIN: Final = "tunnel-domain"
TUNNEL_TOKEN: Final = "tunnel-token"  # noqa: S105  a file's name
CONTROL_KEY: Final = "control.pub"
CA_CERT: Final = "ca.crt"
CA_KEY: Final = "ca.key"
TLS_CERT: Final = "tls.crt"
TLS_KEY: Final = "tls.key"
# Taking back must end even if the network is gone.
ROLLBACK_S: Final = 10.0


@dataclass(frozen=True)
class Prepared:
    """What ``init`` left in the output."""

    tunnel_id: str
    domain: str
    created_tunnel: bool
    created_ca: bool
    issued_certificate: bool


@dataclass(frozen=True)
class InitOptions:
    """What to set up."""

    output: Path
    tunnel_id: str | None = None
    """An existing tunnel; otherwise the one in the output, otherwise a new one."""
    display_name: str | None = None
    cert_validity: timedelta = SERVER_VALIDITY
    save: Callable[[Prepared], Awaitable[None]] | None = None
    """Keeps the files elsewhere; if it fails, all is taken back."""


async def init(client: AsyncAnthropic, options: InitOptions, now: datetime) -> Prepared:
    """Create or attach a tunnel, register a CA, issue a certificate, fetch the token.

    Args:
        client: the official SDK, with a credential that may manage tunnels.
        options: what to set up.
        now: the time of issue.

    Raises:
        OperatorError: the API refused or is away, or the output cannot be written; nothing that
            this run created is left.
    """
    output = _Output(options.output, create=True)
    async with _Undo() as undo:
        tunnel_id, domain, created = await _tunnel(client, options, output, undo)
        other = output.read(TUNNEL_ID) not in (None, tunnel_id)
        output.write(TUNNEL_ID, tunnel_id.encode(), undo)
        output.write(TUNNEL_DOMAIN, domain.encode(), undo)
        ca, new_ca = _ca(output, tunnel_id, undo, now, replace=other)
        await _register(client, tunnel_id, ca, undo)
        issued = _issue(output, ca, domain, options.cert_validity, now, undo)
        token = await _api(client.beta.tunnels.reveal_token(tunnel_id), "read the tunnel's token")
        output.write(TUNNEL_TOKEN, token.tunnel_token.encode(), undo)
        output.write(CONTROL_KEY, _control_key(token.model_extra), undo)
        made = Prepared(tunnel_id, domain, created, new_ca, issued)
        if options.save is not None:
            await options.save(made)
    return made


def renew(
    output_dir: Path,
    now: datetime,
    *,
    validity: timedelta = SERVER_VALIDITY,
    renew_before: timedelta = timedelta(0),
) -> bool:
    """Issue a new server certificate from the stored CA, without the API (R334, R335).

    Args:
        output_dir: where ``init`` wrote.
        now: the time of issue.
        validity: of the new certificate.
        renew_before: do nothing while more validity than this is left; zero always renews.

    Returns:
        Whether a certificate was issued.

    Raises:
        OperatorError: the directory was not made by ``init``, or cannot be written.
    """
    output = _Output(output_dir, create=False)
    ca, domain = output.pair(CA_CERT, CA_KEY), output.read(TUNNEL_DOMAIN)
    if ca is None or domain is None:
        raise OperatorError(f"{output_dir} holds no CA", "run `intramuros gateway init` first")
    current = output.pair(TLS_CERT, TLS_KEY)
    if renew_before and current and expires_at(current.cert_pem) - now > renew_before:
        return False
    pair = make_server_certificate(ca, [f"*.{domain}"], now, validity)
    output.write_pair(pair, None)
    return True


Archive = Callable[[], Awaitable[object]]


class _Undo:
    """What to take back if the block fails, last first."""

    def __init__(self) -> None:
        self._files: list[tuple[Path, bytes | None]] = []
        self._remote: list[tuple[str, Archive]] = []

    def file(self, path: Path) -> None:
        """Remember a file's content, or that there was none."""
        self._files.append((path, path.read_bytes() if path.exists() else None))

    def remote(self, what: str, archive: Archive) -> None:
        """Remember how to archive what was created."""
        self._remote.append((what, archive))

    async def __aenter__(self) -> "_Undo":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            return
        for path, before in reversed(self._files):
            if before is None:
                path.unlink(missing_ok=True)
            else:
                write_private(path, before)
        with anyio.move_on_after(ROLLBACK_S, shield=True):
            for what, archive in reversed(self._remote):
                try:
                    await archive()
                except AnthropicError as failed:
                    log.error("rollback_failed", what=what, reason=str(failed))


class _Output:
    """The directory of files."""

    def __init__(self, directory: Path, *, create: bool) -> None:
        self._directory = directory
        if not create:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Find out before anything is created elsewhere.
            probe = directory / ".probe"
            write_private(probe, b"")
            probe.unlink()
        except OSError as error:
            raise OperatorError(
                f"cannot write to {directory} ({error.strerror})", "choose another output"
            ) from error

    def read(self, name: str) -> str | None:
        path = self._directory / name
        try:
            return path.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"cannot read {path} ({error})", "check the file") from error

    def pair(self, cert: str, key: str) -> KeyPair | None:
        cert_text, key_text = self.read(cert), self.read(key)
        if cert_text is None or key_text is None:
            return None
        return KeyPair(f"{cert_text}\n".encode(), f"{key_text}\n".encode())

    def write(self, name: str, data: bytes, undo: _Undo | None) -> None:
        path = self._directory / name
        if undo is not None:
            undo.file(path)
        try:
            write_private(path, data)
        except OSError as error:
            raise OperatorError(
                f"cannot write {path} ({error.strerror})", "free the disk or choose another output"
            ) from error

    def write_pair(self, pair: KeyPair, undo: _Undo | None) -> None:
        # The gateway keeps its old pair until both files fit together.
        self.write(TLS_KEY, pair.key_pem, undo)
        self.write(TLS_CERT, pair.cert_pem, undo)


async def _tunnel(
    client: AsyncAnthropic, options: InitOptions, output: _Output, undo: _Undo
) -> tuple[str, str, bool]:
    """Return id and domain of the tunnel, and whether it is new."""
    tunnels = client.beta.tunnels
    known = options.tunnel_id or output.read(TUNNEL_ID)
    if known is not None:
        tunnel = await _api(tunnels.retrieve(known), f"find tunnel {known}")
        if tunnel.archived_at is not None:
            raise OperatorError(
                f"tunnel {known} is archived", "choose an empty output, or another tunnel id"
            )
        return tunnel.id, tunnel.domain, False
    tunnel = await _api(tunnels.create(display_name=options.display_name), "create a tunnel")
    undo.remote(f"tunnel {tunnel.id}", lambda: tunnels.archive(tunnel.id))
    return tunnel.id, tunnel.domain, True


def _ca(
    output: _Output, tunnel_id: str, undo: _Undo, now: datetime, *, replace: bool
) -> tuple[KeyPair, bool]:
    """Return the tunnel's CA, and whether it is new."""
    stored = output.pair(CA_CERT, CA_KEY)
    if stored is not None and not replace:
        return stored, False
    ca = make_ca(f"Intramuros {tunnel_id}", now)
    output.write(CA_KEY, ca.key_pem, undo)
    output.write(CA_CERT, ca.cert_pem, undo)
    return ca, True


async def _register(client: AsyncAnthropic, tunnel_id: str, ca: KeyPair, undo: _Undo) -> None:
    """Register the CA unless it is registered already."""
    certificates = client.beta.tunnels.certificates
    der = _der(ca.cert_pem)
    page = await _api(certificates.list(tunnel_id), "list the tunnel's certificates")
    if any(known.fingerprint == hashlib.sha256(der).hexdigest() for known in page.data):
        return
    made = await _api(
        certificates.create(tunnel_id, ca_certificate_pem=ca.cert_pem.decode()),
        "register the CA",
    )
    undo.remote(
        f"certificate {made.id}", lambda: certificates.archive(made.id, tunnel_id=tunnel_id)
    )


def _issue(
    output: _Output,
    ca: KeyPair,
    domain: str,
    validity: timedelta,
    now: datetime,
    undo: _Undo,
) -> bool:
    """Write a server certificate unless the stored one is good; return whether it was written."""
    wildcard = f"*.{domain}"
    stored = output.pair(TLS_CERT, TLS_KEY)
    if stored is not None:
        try:
            check_server_certificate(stored.cert_pem, [wildcard], now)
            check_issued_by(_der(stored.cert_pem), [ca.cert_pem])
            return False
        except BadCertificate:
            # Expired, or from another CA: a new one takes its place.
            pass
    output.write_pair(make_server_certificate(ca, [wildcard], now, validity), undo)
    return True


def _control_key(extra: Mapping[str, object] | None) -> bytes:
    """Return the control plane's public key, which our servers send beside the token."""
    pem = (extra or {}).get("control_key")
    try:
        VerifyingKey(str(pem).encode())
    except TicketError as error:
        raise OperatorError(
            "the API does not say by which key its calls are known",
            "update the server, then run `intramuros gateway init` again",
        ) from error
    return str(pem).encode()


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


async def _api(call: Awaitable[T], what: str) -> T:
    """Await an SDK call; say in one line what failed."""
    try:
        return await call
    except APIStatusError as error:
        raise OperatorError(
            f"cannot {what}: the API answered {error.status_code}", error.message
        ) from error
    except APIConnectionError as error:
        raise OperatorError(
            f"cannot {what}: the API at {error.request.url.netloc.decode()} is unreachable",
            "check the URL (--url, INTRAMUROS_URL) and that the server runs",
        ) from error

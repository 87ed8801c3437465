"""The worker's own certificate authority, which sandboxes trust and nobody else has reason to.

Its key stays in a file of the worker's (mode 0600) and never enters a sandbox; sandboxes get the
certificate, in one bundle with the system's. Where the operator's list of hosts is finite the
authority is confined to those names (RFC 5280 4.2.1.10), so that even its stolen key would be
good for nothing else. It vouches for no address in any case.
"""

import os
import ssl
from collections import OrderedDict
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from intramuros.execution.egress.policy import Hosts
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import Clock

CA_VALIDITY: Final = timedelta(days=365)
LEAF_VALIDITY: Final = timedelta(days=7)
# A leaf is made anew while a connection that began with the old one can still resume.
_RENEW: Final = timedelta(days=1)
# Clocks differ, and a sandbox may have been given another one.
_BACKDATE: Final = timedelta(hours=1)
# One TLS context takes about 60 KiB.
MAX_LEAVES: Final = 256
_MAX_COMMON_NAME: Final = 64
_MAX_BUNDLE_BYTES: Final = 16 * 1024 * 1024
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)


class Authority:
    """Mints a certificate for each name that a sandbox calls, and keeps the newest used ones."""

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock
        # One key for all leaves: it lives and dies with this process, and so do they.
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: OrderedDict[str, tuple[datetime, ssl.SSLContext]] = OrderedDict()

    @property
    def pem(self) -> bytes:
        """Return the authority's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, name: str) -> ssl.SSLContext:
        """Return what to serve TLS with as this host; takes about a millisecond the first time."""
        now = self._clock.now()
        kept = self._contexts.get(name)
        if kept is not None and kept[0] - _RENEW > now:
            self._contexts.move_to_end(name)
            return kept[1]
        until = min(now + LEAF_VALIDITY, self._certificate.not_valid_after_utc)
        context = _server_context(self._mint(name, now, until), self._leaf_key)
        self._contexts[name] = (until, context)
        self._contexts.move_to_end(name)
        if len(self._contexts) > MAX_LEAVES:
            self._contexts.popitem(last=False)
        return context

    def _mint(self, name: str, now: datetime, until: datetime) -> x509.Certificate:
        public = self._leaf_key.public_key()
        subject_key = x509.SubjectKeyIdentifier.from_public_key
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - _BACKDATE, self._certificate.not_valid_before_utc))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(subject_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )


def open_authority(directory: Path, allowed: Hosts, clock: Clock) -> Authority:
    """Return the worker's authority, made now if there is none that will do.

    Args:
        directory: made with mode 0700; holds ``ca.pem``, ``ca.key`` and ``ca-bundle.pem``.
        allowed: what the operator allows; confines the authority when it is finite.

    Raises:
        OperatorError: the directory cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = _load(directory, allowed, clock.now())
        certificate, key = found or _make(allowed, clock.now())
        if found is None:
            _write(directory / "ca.key", _key_pem(key), 0o600)
            pem = certificate.public_bytes(serialization.Encoding.PEM)
            _write(directory / "ca.pem", pem, 0o644)
        authority = Authority(certificate, key, clock)
        _write(bundle_path(directory), _system_bundle() + authority.pem, 0o644)
    except OSError as error:
        raise OperatorError(
            f"cannot use the egress directory {directory} ({error.strerror})",
            "let this user write the worker's state directory",
        ) from error
    return authority


def bundle_path(directory: Path) -> Path:
    """Return the file of certificates that sandboxes are to trust."""
    return directory / "ca-bundle.pem"


def _load(
    directory: Path, allowed: Hosts, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """Return the stored pair, or None if it is missing, broken, old or of another extent."""
    try:
        key_file = directory / "ca.key"
        if key_file.stat().st_mode & 0o077:
            return None
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        confined = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except (FileNotFoundError, ValueError, TypeError, x509.ExtensionNotFound):
        return None
    whole = isinstance(key, ec.EllipticCurvePrivateKey) and (
        key.public_key() == certificate.public_key()
        and confined == _constraints(allowed)
        and certificate.not_valid_after_utc - CA_VALIDITY / 4 > now
    )
    return (certificate, key) if whole and isinstance(key, ec.EllipticCurvePrivateKey) else None


def _make(allowed: Hosts, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named("Intramuros egress")
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + CA_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(_constraints(allowed), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _constraints(allowed: Hosts) -> x509.NameConstraints:
    addresses = [x509.IPAddress(ip_network(text)) for text in ("0.0.0.0/0", "::/0")]
    if allowed.every:
        return x509.NameConstraints(None, addresses)
    # A permitted name covers what is below it too: the closest that the format can say.
    names = sorted(allowed.exact | allowed.below) or ["invalid"]
    return x509.NameConstraints([x509.DNSName(name) for name in names], addresses)


def _server_context(leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Nothing is resumed, so no ticket is worth its write.
    context.num_tickets = 0
    # The library reads files only; this one is never on a disk.
    fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, leaf.public_bytes(serialization.Encoding.PEM) + _key_pem(key))
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MAX_COMMON_NAME])])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _system_bundle() -> bytes:
    for name in (ssl.get_default_verify_paths().cafile, *_SYSTEM_BUNDLES):
        try:
            with Path(name or "").open("rb") as file:
                return file.read(_MAX_BUNDLE_BYTES).rstrip() + b"\n"
        except OSError:
            continue
    return b""


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a whole file or none of it."""
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(fd, mode)
        os.fsync(fd)
    draft.replace(path)

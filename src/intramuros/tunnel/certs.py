"""Certificates of a tunnel: the CA that is registered, the gateway's certificate, and checks.

The rules are those of the product (contract 16, R309, R313; contract 18, R331, R335). The server
key is ECDSA P-256 where the product's is RSA-4096: a signature takes 0.03 ms instead of 4.5 ms.
"""

import ipaddress
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

E = TypeVar("E", bound=x509.ExtensionType)

CA_VALIDITY: Final = timedelta(days=5 * 365)
SERVER_VALIDITY: Final = timedelta(days=90)
# Clocks differ; a certificate made now must already be valid next door.
_BACKDATE: Final = timedelta(minutes=5)
# Some verifiers refuse common names over 64 characters (RFC 5280, ub-common-name).
_MAX_COMMON_NAME: Final = 64


class BadCertificate(ValueError):
    """The certificate cannot serve; ``check`` names the rule that it breaks."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    cert_pem: bytes
    key_pem: bytes


def private_bytes(key_pem: bytes) -> bytes:
    """Return a private key in one spelling, however its file has it.

    Raises:
        ValueError: it is no private key, or one with a passphrase.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("no private key that can be read") from error
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def make_ca(common_name: str, now: datetime) -> KeyPair:
    """Make a CA that a tunnel accepts: ECDSA P-256, five years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    public = key.public_key()
    certificate = (
        _builder(name, name, public, now, CA_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def make_server_certificate(
    ca: KeyPair, names: Sequence[str], now: datetime, validity: timedelta = SERVER_VALIDITY
) -> KeyPair:
    """Make a server certificate signed directly by the CA.

    Args:
        ca: certificate and key of the CA.
        names: DNS names or IP addresses that it is good for; a tunnel's is ``*.<domain>``.
        now: the time of issue.
        validity: how long it is good.
    """
    ca_cert = x509.load_pem_x509_certificate(ca.cert_pem)
    ca_key = serialization.load_pem_private_key(ca.key_pem, password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise BadCertificate("ca_key", "the CA's key must be ECDSA or RSA")
    key = ec.generate_private_key(ec.SECP256R1())
    ca_ski = ca_cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(_name(names[0]), ca_cert.subject, key.public_key(), now, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_ski), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def make_self_signed_edge(names: Sequence[str], now: datetime) -> tuple[bytes, KeyPair]:
    """Make an outer CA and the edge's own certificate, for an edge on one's own machine.

    Returns:
        The CA's certificate, to be trusted by gateways and control, and the edge's pair. The CA's
        key is thrown away: nothing else can be signed with it.
    """
    ca = make_ca("Intramuros edge", now)
    return ca.cert_pem, make_server_certificate(ca, names, now, CA_VALIDITY)


def check_server_certificate(pem: bytes, hosts: Sequence[str], now: datetime) -> None:
    """Check that a certificate can serve the hosts (R313).

    Args:
        pem: the certificate, first in its file.
        hosts: full route names, or a wildcard such as ``*.<domain>``.
        now: the time.

    Raises:
        BadCertificate: says which check failed.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        extensions = certificate.extensions
    except ValueError as error:
        raise BadCertificate("parse", f"this is no PEM certificate ({error})") from error
    _check_time(certificate, now)
    _check_strength(certificate)
    names = _dns_names(extensions)
    for host in hosts:
        if host not in names and f"*.{host.partition('.')[2]}" not in names:
            found = ", ".join(sorted(names)) or "none"
            raise BadCertificate("san", f"no subject alternative name covers {host}; found {found}")
    if _find(extensions, x509.AuthorityKeyIdentifier) is None:
        raise BadCertificate("aki", "the certificate has no authority key identifier")
    usage = _find(extensions, x509.ExtendedKeyUsage)
    if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise BadCertificate("eku", "the extended key usage does not allow serverAuth")


def check_issued_by(cert_der: bytes, ca_pems: Sequence[bytes]) -> None:
    """Check that a certificate is signed directly by one of the CAs, key identifiers included.

    Raises:
        BadCertificate: it is not, or an intermediate is in between.
    """
    certificate = x509.load_der_x509_certificate(cert_der)
    aki = _find(certificate.extensions, x509.AuthorityKeyIdentifier)
    for pem in ca_pems:
        ca = x509.load_pem_x509_certificate(pem)
        ski = _find(ca.extensions, x509.SubjectKeyIdentifier)
        if aki is None or ski is None or aki.key_identifier != ski.digest:
            continue
        try:
            certificate.verify_directly_issued_by(ca)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return
    raise BadCertificate("issuer", "not signed directly by a CA registered on this tunnel")


def expires_at(pem: bytes) -> datetime:
    """Return when a certificate ends."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all, and make it durable."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    validity: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + validity)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_MAX_COMMON_NAME])])


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _check_time(certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise BadCertificate("not_yet_valid", f"valid from {certificate.not_valid_before_utc}")
    if now >= certificate.not_valid_after_utc:
        raise BadCertificate("expired", f"expired at {certificate.not_valid_after_utc}")


def _check_strength(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        strong = key.key_size >= 2048
    else:
        strong = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256
    if not strong:
        raise BadCertificate("key", "the key must be RSA of 2048 bits or ECDSA P-256, or more")
    digest = certificate.signature_hash_algorithm
    if digest is None or digest.digest_size < 32:
        raise BadCertificate("signature", "the signature must use SHA-256 or stronger")


def _dns_names(extensions: x509.Extensions) -> set[str]:
    names = _find(extensions, x509.SubjectAlternativeName)
    return set(names.get_values_for_type(x509.DNSName)) if names is not None else set()


def _find(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None

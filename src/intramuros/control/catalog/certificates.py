"""The certificate authorities that a tunnel trusts (contract-2 R308 to R312, Q29)."""

import hashlib
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import CERTIFICATE, TUNNEL
from intramuros.control.catalog.service import Resource
from intramuros.control.catalog.tunnels import MAX_ACTIVE_CERTIFICATES, active_certificates
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros

MIN_RSA_BITS: Final = 2048
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})


def create(tx: Tx, actor: Actor, tunnel_id: str, pem: str) -> Resource:
    """Register an authority on a tunnel.

    Raises:
        NotFound: no such tunnel here.
        InvalidRequest: the tunnel is archived or full, or the certificate is unfit, with why.
        Conflict: the same certificate is active already.
    """
    tunnel = service.get(tx, actor.workspace_id, TUNNEL, tunnel_id)
    service.check_active(TUNNEL, tunnel)
    body = inspect(pem, actor.clock.now())
    active = active_certificates(tx, tunnel)
    if any(other.body["fingerprint"] == body["fingerprint"] for other in active):
        raise Conflict(f"this certificate is registered on {tunnel.id!r} already")
    if len(active) >= MAX_ACTIVE_CERTIFICATES:
        raise InvalidRequest(
            f"a tunnel has at most {MAX_ACTIVE_CERTIFICATES} active certificates; archive one first"
        )
    return service.create(tx, actor, CERTIFICATE, body, parent_id=tunnel.id)


def get(tx: Tx, workspace_id: str, tunnel_id: str, certificate_id: str) -> Resource:
    """Return a certificate of this tunnel.

    Raises:
        NotFound: no such tunnel or certificate here.
    """
    tunnel = service.get(tx, workspace_id, TUNNEL, tunnel_id)
    certificate = service.get(tx, workspace_id, CERTIFICATE, certificate_id)
    if certificate.parent_id != tunnel.id:
        raise NotFound(f"no certificate {certificate_id!r} of tunnel {tunnel.id!r}")
    return certificate


def archive(tx: Tx, actor: Actor, tunnel_id: str, certificate_id: str) -> Resource:
    """Stop trusting an authority, the last one included (R312); a repeat changes nothing.

    Raises:
        NotFound: no such tunnel or certificate here.
    """
    certificate = get(tx, actor.workspace_id, tunnel_id, certificate_id)
    return service.archive(tx, actor, certificate)


def present(certificate: Resource) -> dict[str, Any]:
    """Return the certificate as answers show it."""
    archived_us, expires_us = certificate.archived_us, certificate.body["expires_us"]
    return {
        "id": certificate.id,
        "type": "tunnel_certificate",
        "tunnel_id": certificate.parent_id,
        "fingerprint": certificate.body["fingerprint"],
        "created_at": rfc3339(from_micros(certificate.created_us)),
        "expires_at": rfc3339(from_micros(expires_us)),
        "archived_at": None if archived_us is None else rfc3339(from_micros(archived_us)),
    }


def inspect(pem: str, now: datetime) -> dict[str, Any]:
    """Return what is stored of an authority: its fingerprint, expiry and canonical PEM. Pure.

    Raises:
        InvalidRequest: not exactly one certificate, or it breaks a rule of R309, which is named.
    """
    certificate = _parse(pem)
    try:
        problem = _problem(certificate, now)
    except (ValueError, x509.DuplicateExtension) as error:
        raise InvalidRequest(f"ca_certificate_pem: malformed extension ({error})") from error
    if problem is not None:
        raise InvalidRequest(f"ca_certificate_pem: {problem}")
    der = certificate.public_bytes(Encoding.DER)
    return {
        "fingerprint": hashlib.sha256(der).hexdigest(),
        "expires_us": to_micros(certificate.not_valid_after_utc),
        "pem": certificate.public_bytes(Encoding.PEM).decode(),
    }


def _parse(pem: str) -> x509.Certificate:
    if "PRIVATE KEY" in pem:
        raise InvalidRequest("ca_certificate_pem: holds a private key; send the certificate alone")
    if pem.count("-----BEGIN ") != 1:
        raise InvalidRequest("ca_certificate_pem: must hold exactly one certificate")
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, x509.InvalidVersion) as error:
        raise InvalidRequest("ca_certificate_pem: is no X.509 certificate in PEM") from error


def _problem(certificate: x509.Certificate, now: datetime) -> str | None:
    """Return the first rule that the certificate breaks, or None."""
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        return "is not valid now: check its dates and this server's clock"
    return _extension_problem(certificate.extensions) or _strength_problem(certificate)


def _extension_problem(extensions: x509.Extensions) -> str | None:
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound as error:
        return f"lacks the extension {error.oid._name}"
    if not constraints.critical or not constraints.value.ca:
        return "needs a critical basicConstraints extension with CA true"
    if not usage.value.key_cert_sign:
        return "needs keyCertSign in its key usage"
    return None


def _strength_problem(certificate: x509.Certificate) -> str | None:
    try:
        key = certificate.public_key()
        algorithm = certificate.signature_hash_algorithm
    except Exception as error:  # noqa: BLE001  the library raises several kinds for foreign keys
        return f"has a key or signature that is not supported ({type(error).__name__})"
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            return f"RSA keys need at least {MIN_RSA_BITS} bits"
    elif not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)):
        return "needs an RSA or an ECDSA (P-256, P-384, P-521) key"
    if algorithm is None or algorithm.name not in _HASHES:
        return "needs a signature over SHA-256 or stronger"
    return None

"""Certificate authorities for tests, good and bad."""

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def authority(
    *,
    key: Any = None,
    ca: bool = True,
    critical: bool = True,
    usage: bool = True,
    sign: bool = True,
    identified: bool = True,
    algorithm: hashes.HashAlgorithm | None = None,
    since: datetime = NOW,
    days: int = 3650,
    edwards: bool = False,
) -> str:
    """Return the PEM of a self-signed certificate; each argument can break one rule."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(since + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=critical)
    )
    if usage:
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=sign,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    if identified:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    # Edwards keys hash by themselves and take no algorithm.
    certificate = builder.sign(key, None if edwards else algorithm or hashes.SHA256())
    return certificate.public_bytes(Encoding.PEM).decode()

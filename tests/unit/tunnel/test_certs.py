import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from intramuros.tunnel.certs import (
    BadCertificate,
    check_issued_by,
    check_server_certificate,
    expires_at,
    make_ca,
    make_self_signed_edge,
    make_server_certificate,
    private_bytes,
    write_private,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOMAIN = "k3v9.tunnel.example"
CA = make_ca("test", NOW)
SERVER = make_server_certificate(CA, [f"*.{DOMAIN}"], NOW)


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def odd_certificate(*drop: type[x509.ExtensionType], **changes: object) -> bytes:
    """Make a server certificate with one thing wrong."""
    key = changes.get("key") or ec.generate_private_key(ec.SECP256R1())
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    usage = changes.get("usage", ExtendedKeyUsageOID.SERVER_AUTH)
    assert isinstance(usage, x509.ObjectIdentifier)
    extensions: list[x509.ExtensionType] = [
        x509.SubjectAlternativeName([x509.DNSName(f"*.{DOMAIN}")]),
        x509.AuthorityKeyIdentifier(b"1" * 20, None, None),
        x509.ExtendedKeyUsage([usage]),
    ]
    for extension in extensions:
        if type(extension) not in drop:
            builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def check_of(pem: bytes, host: str = f"docs.{DOMAIN}", at: datetime = NOW) -> str:
    with pytest.raises(BadCertificate) as caught:
        check_server_certificate(pem, [host], at)
    return caught.value.check


@pytest.mark.rule("R309")
def test_the_ca_follows_the_registration_rules() -> None:
    """Contract 16, R309."""
    certificate = x509.load_pem_x509_certificate(CA.cert_pem)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert basic.critical
    assert basic.value.ca
    assert usage.value.key_cert_sign
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert expires_at(CA.cert_pem) == NOW + timedelta(days=5 * 365)
    assert len(CA.cert_pem) < 8 * 1024


@pytest.mark.rule("R313")
def test_the_server_certificate_follows_the_rules() -> None:
    """Contract 16, R313."""
    check_server_certificate(SERVER.cert_pem, [f"docs.{DOMAIN}", f"*.{DOMAIN}"], NOW)
    check_issued_by(der(SERVER.cert_pem), [make_ca("other", NOW).cert_pem, CA.cert_pem])
    assert expires_at(SERVER.cert_pem) == NOW + timedelta(days=90)


@pytest.mark.rule("R313")
def test_t20_each_failing_check_has_its_name() -> None:
    assert check_of(b"nonsense") == "parse"
    assert check_of(SERVER.cert_pem, at=NOW + timedelta(days=91)) == "expired"
    assert check_of(SERVER.cert_pem, at=NOW - timedelta(days=1)) == "not_yet_valid"
    for host in (DOMAIN, f"a.docs.{DOMAIN}", "docs.other.example"):
        assert check_of(SERVER.cert_pem, host) == "san"
    assert check_of(odd_certificate(x509.SubjectAlternativeName)) == "san"
    assert check_of(odd_certificate(x509.AuthorityKeyIdentifier)) == "aki"
    assert check_of(odd_certificate(usage=ExtendedKeyUsageOID.CLIENT_AUTH)) == "eku"
    assert check_of(odd_certificate(key=ec.generate_private_key(ec.SECP192R1()))) == "key"
    assert check_of(odd_certificate(key=rsa.generate_private_key(65537, 1024))) == "key"
    check_server_certificate(odd_certificate(x509.ExtendedKeyUsage), [f"docs.{DOMAIN}"], NOW)


@pytest.mark.rule("R313")
def test_t20_only_direct_issue_counts() -> None:
    stranger = make_ca("stranger", NOW)
    foreign = make_server_certificate(stranger, [f"*.{DOMAIN}"], NOW)
    for pem in (foreign.cert_pem, odd_certificate(), odd_certificate(x509.AuthorityKeyIdentifier)):
        with pytest.raises(BadCertificate) as caught:
            check_issued_by(der(pem), [CA.cert_pem])
        assert caught.value.check == "issuer"


def test_the_edge_gets_its_own_authority() -> None:
    ca_pem, pair = make_self_signed_edge(["127.0.0.1", "localhost"], NOW)
    check_issued_by(der(pair.cert_pem), [ca_pem])
    names = x509.load_pem_x509_certificate(pair.cert_pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_private_files_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "below" / "key"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["key"]
    (tmp_path / "directory" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_private(tmp_path / "directory", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["below", "directory"]


def test_a_private_key_has_one_spelling() -> None:
    key = serialization.load_pem_private_key(SERVER.key_pem, None)
    old = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    assert old != SERVER.key_pem
    assert private_bytes(old) == private_bytes(SERVER.key_pem) != private_bytes(CA.key_pem)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    for nothing in (b"", SERVER.cert_pem, locked):
        with pytest.raises(ValueError):
            private_bytes(nothing)

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as elliptic
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from intramuros.execution.ssh.authority import Authority
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.ssh import HOST_NAME, MAX_LIFETIME_S, Permit, public_line

KEY = Ed25519PrivateKey.generate()


def read(certificate: bytes) -> SSHCertificate:
    found = load_ssh_public_identity(certificate)
    assert isinstance(found, SSHCertificate)
    found.verify_cert_signature()
    return found


def test_it_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    first = Authority.opened(tmp_path / "ssh")
    assert Authority.opened(tmp_path / "ssh").public_line == first.public_line
    assert (tmp_path / "ssh/ca").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ssh").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in (tmp_path / "ssh").iterdir()) == ["ca", "ca.pub"]
    assert (tmp_path / "ssh/ca.pub").read_text() == f"{first.public_line}\n"


def test_a_certificate_is_for_one_session_and_minutes(tmp_path: Path) -> None:
    authority = Authority.opened(tmp_path)
    made = read(authority.certify(KEY.public_key(), Permit("sesn_1", "root", 300), 1_000_000.0))
    assert made.type is SSHCertificateType.USER
    assert made.valid_principals == [b"sesn_1"]
    assert made.key_id == b"root"
    assert (made.valid_after, made.valid_before) == (999_940, 1_000_300)
    assert made.critical_options == {}
    assert made.extensions == {b"permit-port-forwarding": b"", b"permit-pty": b""}
    assert public_line(made.signature_key()) == authority.public_line  # type: ignore[arg-type]
    again = read(authority.certify(KEY.public_key(), Permit("sesn_1", "root", 300), 1_000_000.0))
    assert made.serial != again.serial


@pytest.mark.parametrize("lifetime_s", [0, -1, MAX_LIFETIME_S + 1])
def test_none_lasts_for_ever_or_not_at_all(tmp_path: Path, lifetime_s: int) -> None:
    with pytest.raises(ValueError, match="1 to 3600"):
        Authority.opened(tmp_path).certify(KEY.public_key(), Permit("s", "x", lifetime_s), 0.0)


def test_a_host_s_certificate_lets_nobody_in(tmp_path: Path) -> None:
    made = read(Authority.opened(tmp_path).certify_host(KEY.public_key()))
    assert made.type is SSHCertificateType.HOST
    assert made.valid_principals == [HOST_NAME.encode()]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot read.*--state-dir"):
        Authority.loaded(tmp_path / "nowhere")
    (tmp_path / "ca").write_text("no key")
    with pytest.raises(OperatorError, match="no key"):
        Authority.loaded(tmp_path)
    other = elliptic(SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (tmp_path / "ca").write_bytes(pem)
    with pytest.raises(OperatorError, match="ed25519"):
        Authority.loaded(tmp_path)
    Authority.opened(tmp_path / "fine")
    (tmp_path / "fine/ca").chmod(0o640)
    with pytest.raises(OperatorError, match="others may read"):
        Authority.loaded(tmp_path / "fine")
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="cannot use"):
        Authority.opened(tmp_path / "file" / "ssh")

from base64 import b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    load_ssh_public_identity,
)
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.ssh import (
    MAX_LIFETIME_S,
    REVOCABLE,
    Permit,
    PublicKey,
    certify,
    is_revocable,
    public_line,
    read_public_key,
)

AUTHORITY = Ed25519PrivateKey.generate()
KEYS: list[PublicKey] = [
    Ed25519PrivateKey.generate().public_key(),
    ec.generate_private_key(ec.SECP256R1()).public_key(),
    rsa.generate_private_key(65537, 2048).public_key(),
]


@pytest.mark.parametrize("key", KEYS)
def test_a_certificate_is_for_one_key_one_session_and_minutes(key: PublicKey) -> None:
    line = certify(AUTHORITY, key, Permit("sesn_1", "ada", 300), 7, 1_000_000.0)
    made = load_ssh_public_identity(line)
    assert isinstance(made, SSHCertificate)
    made.verify_cert_signature()
    assert made.valid_principals == [b"sesn_1"]
    assert (made.valid_after, made.valid_before, made.serial) == (999_940, 1_000_300, 7)
    assert (made.key_id, made.critical_options) == (b"ada", {})
    shown = made.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert shown == public_line(key)


@pytest.mark.parametrize("lifetime_s", [0, -1, MAX_LIFETIME_S + 1])
def test_none_lasts_for_ever_or_not_at_all(lifetime_s: int) -> None:
    with pytest.raises(ValueError, match="1 to 3600"):
        certify(AUTHORITY, KEYS[0], Permit("s", "x", lifetime_s), 1, 0.0)


def test_keys_are_read_with_and_without_a_comment() -> None:
    for key in KEYS:
        line = public_line(key)
        assert public_line(read_public_key(line)) == line
        assert public_line(read_public_key(f"{line} ada@home of hers")) == line


def test_what_nobody_should_use_is_refused() -> None:
    small = public_line(rsa.generate_private_key(65537, 1024).public_key())
    with pytest.raises(ValueError, match="2048 bits"):
        read_public_key(small)
    line = "ssh-dss AAAAB3NzaC1kc3MAAACBAJ"
    certificate = certify(AUTHORITY, KEYS[0], Permit("s", "x", 60), 1, 1e6).decode()
    good = public_line(KEYS[0])
    for text in (line, certificate, f"{good}\n{good}", f"restrict {good}", "", "ssh-ed25519"):
        with pytest.raises(ValueError, match="public key"):
            read_public_key(text)


@given(st.text(max_size=200) | st.text(max_size=200).map(lambda text: f"ssh-ed25519 {text}"))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"public key|codec"):
        read_public_key(text)


def test_a_certificate_says_whether_it_can_be_taken_back() -> None:
    for revocable in (False, True):
        line = certify(AUTHORITY, KEYS[0], Permit("s", "x", 9, revocable), 1, 1000.0)
        made = load_ssh_public_identity(line)
        assert isinstance(made, SSHCertificate)
        assert (REVOCABLE in made.extensions) is revocable
        assert is_revocable(b64decode(line.split()[1])) is revocable
        # It asks nothing of those who do not know it.
        assert made.critical_options == {}

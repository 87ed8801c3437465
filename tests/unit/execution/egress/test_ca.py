import contextlib
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from intramuros.execution.egress.ca import (
    CA_VALIDITY,
    LEAF_VALIDITY,
    MAX_LEAVES,
    bundle_path,
    open_authority,
)
from intramuros.execution.egress.policy import ANY, Hosts, parse_hosts
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock, SystemClock

LISTED = parse_hosts(["api.test", "*.wild.test"])


def shake(server: ssl.SSLContext, trusted: bytes, name: str) -> ssl.SSLObject:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=trusted.decode())
    ends = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
    inside = client.wrap_bio(*ends[0], server_hostname=name)
    outside = server.wrap_bio(*ends[1], server_side=True)
    for _ in range(4):
        for side in (inside, outside):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            ends[1][0].write(ends[0][1].read())
            ends[0][0].write(ends[1][1].read())
    return inside


def test_a_name_gets_a_certificate_that_the_sandbox_trusts(tmp_path: Path) -> None:
    authority = open_authority(tmp_path / "egress", LISTED, SystemClock())
    for name in ("api.test", "a.b.wild.test"):
        done = shake(authority.context(name), authority.pem, name)
        assert done.version() in ("TLSv1.3", "TLSv1.2")
        assert done.getpeercert()


def test_another_workers_authority_is_not_trusted(tmp_path: Path) -> None:
    mine = open_authority(tmp_path / "a", LISTED, SystemClock())
    theirs = open_authority(tmp_path / "b", LISTED, SystemClock())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(theirs.context("api.test"), mine.pem, "api.test")


def test_a_finite_list_confines_the_authority(tmp_path: Path) -> None:
    confined = open_authority(tmp_path / "a", LISTED, SystemClock())
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shake(confined.context("bank.test"), confined.pem, "bank.test")
    free = open_authority(tmp_path / "b", ANY, SystemClock())
    assert shake(free.context("bank.test"), free.pem, "bank.test").getpeercert()
    nothing = open_authority(tmp_path / "c", Hosts(), SystemClock())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(nothing.context("api.test"), nothing.pem, "api.test")


def test_the_key_is_the_owners_alone_and_not_in_the_bundle(tmp_path: Path) -> None:
    authority = open_authority(tmp_path / "egress", ANY, SystemClock())
    key = tmp_path / "egress" / "ca.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "egress").stat().st_mode & 0o777 == 0o700
    bundle = bundle_path(tmp_path / "egress").read_bytes()
    assert bundle.endswith(authority.pem)
    assert b"PRIVATE KEY" not in bundle
    assert bundle.count(b"BEGIN CERTIFICATE") >= 1
    assert not list((tmp_path / "egress").glob("*.draft"))


def test_it_is_the_same_after_a_restart_and_another_for_another_list(tmp_path: Path) -> None:
    clock = SystemClock()
    first = open_authority(tmp_path, LISTED, clock).pem
    assert open_authority(tmp_path, LISTED, clock).pem == first
    assert open_authority(tmp_path, ANY, clock).pem != first


@pytest.mark.parametrize("harm", ["key", "certificate", "mode", "mixed", "gone"])
def test_one_that_is_harmed_is_made_anew(tmp_path: Path, harm: str) -> None:
    clock = SystemClock()
    first = open_authority(tmp_path, LISTED, clock).pem
    if harm == "key":
        (tmp_path / "ca.key").write_bytes(b"junk")
    elif harm == "certificate":
        (tmp_path / "ca.pem").write_bytes(b"junk")
    elif harm == "mode":
        (tmp_path / "ca.key").chmod(0o644)
    elif harm == "gone":
        (tmp_path / "ca.pem").unlink()
    else:
        open_authority(tmp_path / "other", LISTED, clock)
        (tmp_path / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
        (tmp_path / "ca.key").chmod(0o600)
    second = open_authority(tmp_path, LISTED, clock)
    assert second.pem != first
    assert shake(second.context("api.test"), second.pem, "api.test").getpeercert()
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600


def test_an_old_one_is_replaced_in_time(tmp_path: Path) -> None:
    clock = ManualClock()
    first = open_authority(tmp_path, LISTED, clock).pem
    clock.advance((CA_VALIDITY * 0.8).total_seconds())
    second = x509.load_pem_x509_certificate(open_authority(tmp_path, LISTED, clock).pem)
    assert second != x509.load_pem_x509_certificate(first)
    assert second.not_valid_after_utc > clock.now() + timedelta(days=300)


def test_leaves_are_kept_and_bounded_and_renewed(tmp_path: Path) -> None:
    clock = ManualClock()
    authority = open_authority(tmp_path, ANY, clock)
    first = authority.context("api.test")
    assert authority.context("api.test") is first
    clock.advance(LEAF_VALIDITY.total_seconds())
    renewed = authority.context("api.test")
    assert renewed is not first
    for number in range(MAX_LEAVES):
        authority.context(f"n{number}.test")
    assert authority.context("api.test") is not renewed


def test_a_directory_that_cannot_be_used_is_the_operators_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OperatorError):
        open_authority(tmp_path / "file" / "egress", ANY, SystemClock())

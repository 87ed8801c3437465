from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from intramuros.control.catalog import certificates, service
from intramuros.control.catalog.kinds import TUNNEL
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.protocol.resources.tunnels import TunnelCertificate
from tests.authorities import NOW, authority

GOOD = authority()


@pytest.mark.rule("R309")
def test_good_authorities_pass() -> None:
    for key in (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
    ):
        certificates.inspect(authority(key=key, algorithm=hashes.SHA512()), NOW)
    body = certificates.inspect(GOOD + "\n\n", NOW)
    assert len(body["fingerprint"]) == 64
    assert body["fingerprint"] == body["fingerprint"].lower()
    assert body["pem"] == GOOD


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ca": False}, "CA true"),
        ({"critical": False}, "critical"),
        ({"usage": False}, "keyUsage"),
        ({"sign": False}, "keyCertSign"),
        ({"identified": False}, "subjectKeyIdentifier"),
        ({"since": NOW + timedelta(days=1)}, "not valid now"),
        ({"since": NOW - timedelta(days=2), "days": 1}, "not valid now"),
    ],
)
@pytest.mark.rule("R309")
def test_t21_each_rule_is_enforced_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        certificates.inspect(authority(**wrong), NOW)


@pytest.mark.rule("R309")
def test_t21_weak_or_foreign_keys_are_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.raises(InvalidRequest, match="2048"):
        certificates.inspect(authority(key=weak), NOW)
    with pytest.raises(InvalidRequest, match="P-256"):
        small = ec.generate_private_key(ec.SECP224R1())
        certificates.inspect(authority(key=small), NOW)


@pytest.mark.rule("R309")
def test_keys_of_other_kinds_are_refused() -> None:
    pem = authority(key=ed25519.Ed25519PrivateKey.generate(), edwards=True)
    with pytest.raises(InvalidRequest, match="RSA or an ECDSA"):
        certificates.inspect(pem, NOW)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        ("", "exactly one"),
        ("hello", "exactly one"),
        (GOOD + GOOD, "exactly one"),
        (GOOD.replace("CERTIFICATE", "PUBLIC KEY"), "no X.509"),
        (GOOD[:200] + GOOD[-60:], "no X.509"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "private key"),
        (GOOD + "-----BEGIN EC PRIVATE KEY-----\nAA\n-----END EC PRIVATE KEY-----", "private key"),
    ],
)
@pytest.mark.rule("R308")
def test_t21_anything_but_one_certificate_is_refused(pem: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        certificates.inspect(pem, NOW)


@given(
    at=st.integers(min_value=0, max_value=len(GOOD) - 1),
    text=st.text(max_size=8),
    cut=st.integers(min_value=0, max_value=40),
)
def test_damaged_certificates_never_fail_otherwise(at: int, text: str, cut: int) -> None:
    try:
        certificates.inspect(GOOD[:at] + text + GOOD[at + cut :], NOW)
    except InvalidRequest:
        return


@pytest.mark.rule("R310", "R312")
def test_t18_a_tunnel_trusts_two_at_most_and_none_twice(tx: Tx, actor: Actor) -> None:
    tunnel = service.create(tx, actor, TUNNEL, {"domain": "x"})
    first = certificates.create(tx, actor, tunnel.id, GOOD)
    TunnelCertificate.model_validate(certificates.present(first))
    with pytest.raises(Conflict):
        certificates.create(tx, actor, tunnel.id, GOOD)
    second = certificates.create(tx, actor, tunnel.id, authority())
    with pytest.raises(InvalidRequest, match="at most 2"):
        certificates.create(tx, actor, tunnel.id, authority())
    for one in (first, second):
        archived = certificates.archive(tx, actor, tunnel.id, one.id)
        assert certificates.archive(tx, actor, tunnel.id, one.id) == archived
    certificates.create(tx, actor, tunnel.id, GOOD)


def test_certificates_are_found_under_their_own_tunnel_only(tx: Tx, actor: Actor) -> None:
    tx.execute(insert(workspaces).values(id="wrkspc_other", name="Other", created_us=0))
    mine = service.create(tx, actor, TUNNEL, {"domain": "x"})
    other = service.create(tx, actor, TUNNEL, {"domain": "y"})
    made = certificates.create(tx, actor, mine.id, GOOD)
    for workspace, tunnel in (("wrkspc_test", other.id), ("wrkspc_other", mine.id)):
        with pytest.raises(NotFound):
            certificates.get(tx, workspace, tunnel, made.id)


def test_an_archived_tunnel_takes_no_certificate(tx: Tx, actor: Actor) -> None:
    tunnel = service.create(tx, actor, TUNNEL, {"domain": "x"})
    service.archive(tx, actor, tunnel)
    with pytest.raises(InvalidRequest, match="archived"):
        certificates.create(tx, actor, tunnel.id, GOOD)

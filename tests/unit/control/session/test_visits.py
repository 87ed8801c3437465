import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificate,
    load_ssh_public_identity,
)
from sqlalchemy import select, update

from intramuros.control.identity import keys
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import DEFAULT_SCOPES, CredentialKind, Principal
from intramuros.control.session.visits import Visits, fingerprint
from intramuros.control.store.tables import audit, sessions
from intramuros.control.store.tables import credentials as secrets
from intramuros.kernel.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    OperatorError,
    PermissionDenied,
)
from intramuros.protocol.resources.ssh import SshCertificateRequest, SshRevokeRequest
from intramuros.protocol.ssh import REVOCABLE, public_line
from tests.fakes.world import World

MINE = public_line(Ed25519PrivateKey.generate().public_key())


def private(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.fixture
def caller(world: World) -> Principal:
    """Somebody with a key that works, which the world's own is not."""
    actor = Actor(world.clock, world.ids, world.workspace_id, "boss")
    shown, _ = keys.create(world.tx, actor, "k", DEFAULT_SCOPES)
    return replace(world.api, credential_id=shown["id"])


@pytest.fixture
def visits(world: World) -> Visits:
    return Visits(world.clock, world.ids, world.sessions, private(Ed25519PrivateKey.generate()))


def asked(key: str = MINE, ttl_s: int = 300) -> SshCertificateRequest:
    return SshCertificateRequest(public_key=key, ttl_s=ttl_s)


def test_a_certificate_names_one_session_and_who_asked(
    world: World, visits: Visits, caller: Principal
) -> None:
    session_id = world.create()
    person = replace(caller, service_account_id="svac_1")
    shown = visits.certify(world.tx, person, session_id, asked(f"{MINE} ada@home"))
    made = load_ssh_public_identity(shown["certificate"].encode())
    assert isinstance(made, SSHCertificate)
    made.verify_cert_signature()
    assert made.valid_principals == [session_id.encode()]
    assert made.key_id.decode() == shown["key_id"]
    assert shown["key_id"].startswith(f"svac_1 by {caller.credential_id} at ")
    assert REVOCABLE in made.extensions
    assert public_line(made.signature_key()) == visits.public_line  # type: ignore[arg-type]
    now = world.clock.now().timestamp()
    assert made.valid_before == int(now) + 300
    line = world.tx.scalar(select(audit.c.line).where(audit.c.kind == "ssh.certify"))
    fields = json.loads(line or "{}")["fields"]
    assert fields["serial"] == shown["serial"] == str(made.serial)
    assert (fields["who"], fields["session_id"]) == ("svac_1", session_id)
    assert fields["key"] == fingerprint(MINE)
    assert fields["key"].startswith("SHA256:")


def test_each_has_a_serial_of_its_own(world: World, visits: Visits, caller: Principal) -> None:
    session_id = world.create()
    serials = {visits.certify(world.tx, caller, session_id, asked())["serial"] for _ in range(9)}
    assert len(serials) == 9


def test_nobody_enters_what_is_over_or_not_theirs(world: World, visits: Visits) -> None:
    session_id = world.create()
    with pytest.raises(NotFound):
        visits.certify(world.tx, replace(world.api, workspace_id="other"), session_id, asked())
    with pytest.raises(NotFound):
        visits.certify(world.tx, world.api, "sesn_none", asked())
    with pytest.raises(PermissionDenied):
        visits.certify(world.tx, replace(world.api, restricted=True), session_id, asked())
    with pytest.raises(InvalidRequest, match="public_key"):
        visits.certify(world.tx, world.api, session_id, asked("ssh-ed25519 AAAA"))
    for change in ({"status": "terminated"}, {"status": "idle", "archived_us": 1}):
        world.tx.execute(update(sessions).where(sessions.c.id == session_id).values(change))
        with pytest.raises(Conflict, match="is over"):
            visits.certify(world.tx, world.api, session_id, asked())
    kinds = list(world.tx.execute(select(audit.c.kind)).scalars())
    assert "ssh.certify" not in kinds


def test_another_kind_of_authority_is_refused(world: World) -> None:
    key = private(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(OperatorError, match="ed25519"):
        Visits(world.clock, world.ids, world.sessions, key)


def test_none_outlives_the_credential_that_asked_for_it(
    world: World, visits: Visits, caller: Principal
) -> None:
    session_id = world.create()
    for left_s, good_s in ((40.5, 40), (0.5, 1), (4000, 300)):
        ends_us = world.now_us + int(left_s * 1_000_000)
        changed = update(secrets).where(secrets.c.id == caller.credential_id)
        world.tx.execute(changed.values(expires_us=ends_us))
        shown = visits.certify(world.tx, caller, session_id, asked())
        made = load_ssh_public_identity(shown["certificate"].encode())
        assert isinstance(made, SSHCertificate)
        assert made.valid_before == int(world.clock.now().timestamp()) + good_s


def test_what_was_given_can_be_seen_and_taken_back(
    world: World, visits: Visits, caller: Principal
) -> None:
    session_id = world.create()
    one = visits.certify(world.tx, caller, session_id, asked())
    world.clock.advance(1)
    two = visits.certify(world.tx, caller, session_id, asked())
    shown = visits.find(world.tx, caller, session_id)
    assert [entry["serial"] for entry in shown] == [two["serial"], one["serial"]]
    assert shown[1] == {
        **{key: one[key] for key in ("session_id", "serial", "key_id", "expires_at")},
        "type": "ssh_certificate",
        "key": fingerprint(MINE),
        "created_at": shown[1]["created_at"],
        "revoked_at": None,
        "revoked_why": None,
    }
    worker = world.worker
    none = visits.revocations(world.tx, worker)
    assert (none.authority, none.serials) == (fingerprint(visits.public_line), frozenset())
    only = SshRevokeRequest(serial=one["serial"])
    after = visits.revoke(world.tx, caller, session_id, only)
    assert [entry["revoked_why"] for entry in after] == [None, "asked"]
    assert visits.revocations(world.tx, worker).serials == {int(one["serial"])}
    for absent in ("1", str(2**63)):
        with pytest.raises(NotFound):
            visits.revoke(world.tx, caller, session_id, SshRevokeRequest(serial=absent))
    visits.revoke(world.tx, caller, session_id, SshRevokeRequest())
    assert len(visits.revocations(world.tx, worker).serials) == 2


def test_nobody_sees_or_ends_what_is_of_another_workspace(
    world: World, visits: Visits, caller: Principal
) -> None:
    session_id = world.create()
    serial = visits.certify(world.tx, caller, session_id, asked())["serial"]
    stranger = replace(caller, workspace_id="other")
    with pytest.raises(NotFound):
        visits.find(world.tx, stranger, session_id)
    with pytest.raises(NotFound):
        visits.revoke(world.tx, stranger, session_id, SshRevokeRequest())
    elsewhere = world.create()
    with pytest.raises(NotFound):
        visits.revoke(world.tx, caller, elsewhere, SshRevokeRequest(serial=serial))
    visits.revoke(world.tx, caller, session_id, SshRevokeRequest())
    pool = Principal(CredentialKind.POOL_KEY, "poolkey_1", world.workspace_id)
    away = replace(world.worker, environment_id=world.environment_ids["cloud"])
    for other in (pool, away, replace(world.worker, environment_id=None)):
        assert visits.revocations(world.tx, other).serials == frozenset()

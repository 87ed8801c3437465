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

from intramuros.control.session.visits import Visits, fingerprint
from intramuros.control.store.tables import audit, sessions
from intramuros.kernel.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    OperatorError,
    PermissionDenied,
)
from intramuros.protocol.resources.ssh import SshCertificateRequest
from intramuros.protocol.ssh import public_line
from tests.fakes.world import World

MINE = public_line(Ed25519PrivateKey.generate().public_key())


def private(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.fixture
def visits(world: World) -> Visits:
    return Visits(world.clock, world.ids, world.sessions, private(Ed25519PrivateKey.generate()))


def asked(key: str = MINE, ttl_s: int = 300) -> SshCertificateRequest:
    return SshCertificateRequest(public_key=key, ttl_s=ttl_s)


def test_a_certificate_names_one_session_and_who_asked(world: World, visits: Visits) -> None:
    session_id = world.create()
    person = replace(world.api, user_id="user_1")
    shown = visits.certify(world.tx, person, session_id, asked(f"{MINE} ada@home"))
    made = load_ssh_public_identity(shown["certificate"].encode())
    assert isinstance(made, SSHCertificate)
    made.verify_cert_signature()
    assert made.valid_principals == [session_id.encode()]
    assert made.key_id.decode() == shown["key_id"]
    assert shown["key_id"].startswith(f"user_1 by {world.api.credential_id} at ")
    assert public_line(made.signature_key()) == visits.public_line  # type: ignore[arg-type]
    now = world.clock.now().timestamp()
    assert made.valid_before == int(now) + 300
    line = world.tx.scalar(select(audit.c.line).where(audit.c.kind == "ssh.certify"))
    fields = json.loads(line or "{}")["fields"]
    assert fields["serial"] == shown["serial"] == str(made.serial)
    assert (fields["who"], fields["session_id"]) == ("user_1", session_id)
    assert fields["key"] == fingerprint(MINE)
    assert fields["key"].startswith("SHA256:")


def test_each_has_a_serial_of_its_own(world: World, visits: Visits) -> None:
    session_id = world.create()
    serials = {visits.certify(world.tx, world.api, session_id, asked())["serial"] for _ in range(9)}
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

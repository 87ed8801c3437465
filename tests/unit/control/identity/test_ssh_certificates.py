import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import delete, insert, select, update

from intramuros.control.catalog import service_accounts, workspace_users, workspaces
from intramuros.control.identity import (
    admin_keys,
    audit,
    credentials,
    groups,
    keys,
    people,
    ssh_certificates,
)
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Principal, Scope
from intramuros.control.identity.ssh_certificates import Issued
from intramuros.control.store.db import Tx
from intramuros.control.store.records import Draft
from intramuros.control.store.ssh_tables import ssh_certificates as table
from intramuros.control.store.tables import credentials as secrets
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import PermissionDenied, RateLimited
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.federation import ServiceAccountCreate
from intramuros.protocol.resources.organization import KeyUpdate, WorkspaceCreate
from intramuros.protocol.ssh import STAY_S
from tests.fakes.world import World

SCOPES = (Scope.DEVELOPER, Scope.INFERENCE)


class Hall:
    """A session, and people with certificates for it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tx, self.clock = world.tx, world.clock
        self.actor = Actor(world.clock, world.ids, world.workspace_id, "boss")
        keys.create(self.tx, self.actor, "boss", list(Scope))
        self.serials = 0

    @property
    def now_us(self) -> int:
        return to_micros(self.clock.now())

    def caller(self, principal_id: str | None = None, kind: str = "api_key") -> Principal:
        """Somebody with a new credential."""
        made, _ = credentials.mint(
            self.tx,
            self.world.ids,
            self.clock,
            kind=kind,
            workspace_id=self.actor.workspace_id,
            name="k",
            scopes=SCOPES,
            principal_id=principal_id,
        )
        person = principal_id is not None and principal_id.startswith("user_")
        return Principal(
            CredentialKind(kind),
            made,
            self.actor.workspace_id,
            frozenset(SCOPES),
            user_id=principal_id if person else None,
            service_account_id=None if person else principal_id,
        )

    def keep(self, caller: Principal, session_id: str, lifetime_s: int = 300) -> int:
        """Remember a certificate; return its serial."""
        row = self.world.sessions.get(self.tx, self.world.api, session_id)
        row = self.tx.execute(select(sessions).where(sessions.c.id == row.id)).one()
        self.serials += 1
        ends_us = self.now_us + lifetime_s * 1_000_000
        issued = Issued(self.serials, f"k{self.serials}", "SHA256:x", ends_us)
        ssh_certificates.keep(self.tx, self.clock, caller, row, issued)
        return self.serials

    def whys(self) -> dict[int, str]:
        """Why each was revoked that was."""
        rows = self.tx.execute(select(table).where(table.c.revoked_us.is_not(None)))
        return {row.serial: row.revoked_why for row in rows}

    def told(self) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in audit.read_lines(self.tx)]
        return [line["fields"] for line in lines if line["kind"] == "ssh.revoke"]


@pytest.fixture
def hall(world: World) -> Hall:
    return Hall(world)


@pytest.fixture
def world(tx: Tx, clock: ManualClock, ids: IdFactory) -> World:
    return World(tx, clock, ids, "wrkspc_test")


Act = Callable[[Hall, Principal], object]


def _switched_off(hall: Hall, caller: Principal) -> None:
    off = KeyUpdate.model_validate({"status": "inactive"})
    on = KeyUpdate.model_validate({"status": "active"})
    admin_keys.change(hall.tx, hall.actor, caller.credential_id, off)
    # What was revoked stays so.
    admin_keys.change(hall.tx, hall.actor, caller.credential_id, on)


def _archived_key(hall: Hall, caller: Principal) -> None:
    gone = KeyUpdate.model_validate({"status": "archived"})
    admin_keys.change(hall.tx, hall.actor, caller.credential_id, gone)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda hall, by: keys.revoke(hall.tx, hall.actor, by.credential_id), "credential"),
        (_switched_off, "credential"),
        (_archived_key, "credential"),
    ],
    ids=["revoked", "switched off and on", "archived"],
)
def test_a_certificate_goes_with_the_key_that_asked_for_it(hall: Hall, act: Act, why: str) -> None:
    caller, other = hall.caller(), hall.caller()
    session_id = hall.world.create()
    mine, also = hall.keep(caller, session_id), hall.keep(caller, session_id)
    hall.keep(other, session_id)
    act(hall, caller)
    assert hall.whys() == {mine: why, also: why}
    [first, second] = hall.told()
    assert (first["serial"], first["why"], first["session_id"]) == (str(mine), why, session_id)
    assert second["serial"] == str(also)
    assert ssh_certificates.revoked(hall.tx, hall.world.environment_id) == {mine, also}


def _removed(hall: Hall, caller: Principal) -> None:
    people.remove(hall.tx, hall.actor, str(caller.user_id))


def _demoted(hall: Hall, caller: Principal) -> None:
    people.change_role(hall.tx, hall.actor, str(caller.user_id), "user")


def _signed_out(hall: Hall, caller: Principal) -> None:
    people.sign_out(hall.tx, hall.actor, str(caller.user_id))


@pytest.mark.parametrize(
    ("kind", "act", "why"),
    [
        ("api_key", _removed, "credential"),
        ("api_key", _demoted, "role"),
        ("api_key", _signed_out, None),
        ("federated_token", _signed_out, "credential"),
    ],
)
def test_a_certificate_goes_with_its_person(
    hall: Hall, kind: str, act: Act, why: str | None
) -> None:
    ada = str(people.add(hall.tx, hall.actor, "ada@x.test", "Ada", "developer").id)
    bob = str(people.add(hall.tx, hall.actor, "bob@x.test", "Bob", "developer").id)
    session_id = hall.world.create()
    caller = hall.caller(ada, kind)
    mine = hall.keep(caller, session_id)
    hall.keep(hall.caller(bob), session_id)
    act(hall, caller)
    assert hall.whys() == ({} if why is None else {mine: why})


@pytest.mark.parametrize("how", ["out of the group", "roles of the group", "the group"])
def test_a_certificate_goes_with_a_group_s_role(hall: Hall, how: str) -> None:
    ada = str(people.add(hall.tx, hall.actor, "ada@x.test", "Ada", "user").id)
    group_id = groups.create(hall.tx, hall.actor, "G")["id"]
    groups.set_roles(hall.tx, hall.actor, group_id, ["rbac_role_developer"])
    groups.add_member(hall.tx, hall.actor, group_id, ada)
    serial = hall.keep(hall.caller(ada), hall.world.create())
    assert hall.whys() == {}
    if how == "out of the group":
        groups.remove_member(hall.tx, hall.actor, group_id, ada)
    elif how == "the group":
        groups.remove(hall.tx, hall.actor, group_id)
    else:
        groups.set_roles(hall.tx, hall.actor, group_id, ["rbac_role_model_user"])
    assert hall.whys() == {serial: "role"}


@pytest.mark.parametrize("how", ["leaves", "restricted", "archived"])
def test_a_certificate_goes_with_a_role_in_its_workspace(hall: Hall, how: str) -> None:
    there = workspaces.create(
        hall.tx, hall.actor, WorkspaceCreate.model_validate({"name": "There"})
    )["id"]
    world = World(hall.tx, hall.clock, hall.world.ids, there)
    inner = Hall(world)
    ada = str(people.add(hall.tx, hall.actor, "ada@x.test", "Ada", "user").id)
    role = "workspace_developer"
    workspace_users.add(hall.tx, hall.actor, there, ada, role)
    serial = inner.keep(inner.caller(ada), world.create())
    if how == "leaves":
        workspace_users.remove(hall.tx, hall.actor, there, ada)
    elif how == "restricted":
        barred = "workspace_restricted_developer"
        workspace_users.change(hall.tx, hall.actor, there, ada, barred)
    else:
        workspaces.archive(hall.tx, hall.actor, there)
    assert hall.whys() == {serial: "credential" if how == "archived" else "role"}


def test_a_certificate_goes_with_its_service_account(hall: Hall) -> None:
    wanted = ServiceAccountCreate.model_validate(
        {"name": "robot", "organization_role": "developer"}
    )
    account = service_accounts.create(hall.tx, hall.actor, wanted).id
    serial = hall.keep(hall.caller(account, "federated_token"), hall.world.create())
    service_accounts.archive(hall.tx, hall.actor, account)
    assert hall.whys() == {serial: "credential"}


@pytest.mark.parametrize("how", ["archived", "deleted", "terminated"])
def test_a_certificate_goes_with_its_session(hall: Hall, how: str) -> None:
    world = hall.world
    session_id, other = world.create(), world.create()
    caller = hall.caller()
    serial = hall.keep(caller, session_id)
    hall.keep(caller, other)
    if how == "archived":
        world.sessions.archive(hall.tx, world.api, session_id)
    elif how == "deleted":
        world.sessions.delete(hall.tx, world.api, session_id)
    else:
        held = world.journal.hold(hall.tx, session_id)
        world.journal.append(hall.tx, held, [Draft("session.status_terminated")])
    assert hall.whys() == {serial: "session_over"}
    assert ssh_certificates.revoked(hall.tx, world.environment_id) == {serial}


def test_what_is_asked_to_go_goes_once(hall: Hall) -> None:
    caller, session_id = hall.caller(), hall.world.create()
    one, two = hall.keep(caller, session_id), hall.keep(caller, session_id)
    other = hall.keep(caller, hall.world.create())
    ssh_certificates.withdraw(hall.tx, hall.clock, caller, session_id, one)
    assert hall.whys() == {one: "asked"}
    ssh_certificates.withdraw(hall.tx, hall.clock, caller, session_id, other)
    hall.clock.advance(1)
    ssh_certificates.withdraw(hall.tx, hall.clock, caller, session_id)
    ssh_certificates.withdraw(hall.tx, hall.clock, caller, session_id)
    assert hall.whys() == {one: "asked", two: "asked"}
    assert [line["by"] for line in hall.told()] == [caller.credential_id] * 2
    found = ssh_certificates.of_session(hall.tx, session_id, 10)
    assert [row.serial for row in found] == [two, one]
    assert found[1].revoked_us < found[0].revoked_us


def test_each_environment_has_a_list_of_its_own_and_the_pool_one_of_all_cloud(hall: Hall) -> None:
    world, caller = hall.world, hall.caller()
    here, cloud = world.create(), world.create("cloud")
    mine, hosted = hall.keep(caller, here), hall.keep(caller, cloud)
    for session_id in (here, cloud):
        ssh_certificates.withdraw(hall.tx, hall.clock, caller, session_id)
    assert ssh_certificates.revoked(hall.tx, world.environment_id) == {mine}
    assert ssh_certificates.revoked(hall.tx, world.environment_ids["cloud"]) == {hosted}
    assert ssh_certificates.revoked(hall.tx, None) == {hosted}
    assert ssh_certificates.revoked(hall.tx, "") == frozenset()


def test_it_stays_on_the_list_while_somebody_may_be_in_by_it(hall: Hall) -> None:
    caller, session_id = hall.caller(), hall.world.create()
    serial = hall.keep(caller, session_id, 300)
    hall.clock.advance(300 + STAY_S - 1)
    assert not ssh_certificates.needs_care(hall.tx, hall.now_us)
    # Long over, and whoever came by it in time is still to go.
    keys.revoke(hall.tx, hall.actor, caller.credential_id)
    assert hall.whys() == {serial: "credential"}
    assert ssh_certificates.care(hall.tx, hall.clock) == (0, 0)
    hall.clock.advance(1)
    assert ssh_certificates.needs_care(hall.tx, hall.now_us)
    assert ssh_certificates.care(hall.tx, hall.clock) == (1, 0)
    assert ssh_certificates.of_session(hall.tx, session_id, 10) == []
    assert not ssh_certificates.needs_care(hall.tx, hall.now_us)


def test_what_nobody_said_is_found_all_the_same(hall: Hall) -> None:
    caller, session_id = hall.caller(), hall.world.create()
    one, two = hall.keep(caller, session_id), hall.keep(hall.caller(), hall.world.create())
    assert not ssh_certificates.needs_care(hall.tx, hall.now_us)
    hall.tx.execute(delete(secrets).where(secrets.c.id == caller.credential_id))
    gone = update(sessions).where(sessions.c.id != session_id).values(archived_us=1)
    hall.tx.execute(gone)
    assert ssh_certificates.needs_care(hall.tx, hall.now_us)
    assert ssh_certificates.care(hall.tx, hall.clock) == (0, 2)
    assert hall.whys() == {one: "credential", two: "session_over"}
    assert not ssh_certificates.needs_care(hall.tx, hall.now_us)


def test_who_lost_what_it_takes_meanwhile_gets_none(hall: Hall) -> None:
    caller, session_id = hall.caller(), hall.world.create()
    keys.revoke(hall.tx, hall.actor, caller.credential_id)
    with pytest.raises(PermissionDenied):
        hall.keep(caller, session_id)
    assert ssh_certificates.ends_us(hall.tx, replace(caller, credential_id="none")) is None


def test_lists_stay_short_enough_for_their_readers(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, world = hall.caller(), hall.world
    monkeypatch.setattr(ssh_certificates, "MAX_OF_ENVIRONMENT", 2)
    monkeypatch.setattr(ssh_certificates, "MAX_OF_CLOUD", 1)
    for environment, room in (("self_hosted", 2), ("cloud", 1)):
        session_id = world.create(environment)
        for _ in range(room):
            hall.keep(caller, session_id)
        with pytest.raises(RateLimited):
            hall.keep(caller, session_id)


def test_nobody_uses_up_what_is_everybody_s(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = hall.caller(), hall.caller()
    monkeypatch.setattr(ssh_certificates, "MAX_OF_CREDENTIAL", 1)
    session_id = hall.world.create()
    hall.keep(one, session_id)
    with pytest.raises(RateLimited):
        hall.keep(one, session_id)
    hall.keep(other, session_id)


def test_a_row_is_of_an_existing_workspace(hall: Hall) -> None:
    row = {"session_id": "s", "environment_id": "e", "environment_kind": "cloud", "key_id": "k"}
    more = {"key": "f", "credential_id": "c", "created_us": 1, "expires_us": 1, "forget_us": 1}
    values = {**row, **more, "serial": 2**63 - 1, "workspace_id": hall.actor.workspace_id}
    hall.tx.execute(insert(table).values(values))
    found = ssh_certificates.find(hall.tx, "s", 2**63 - 1)
    assert found is not None
    assert ssh_certificates.find(hall.tx, "other", 2**63 - 1) is None

from sqlalchemy import insert

from intramuros.control.identity import groups, people, standing
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import ALL_SCOPES, Scope
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import user_workspaces, workspaces
from intramuros.kernel.timing import ManualClock, to_micros


def join(tx: Tx, clock: ManualClock, user_id: str, role: str) -> None:
    now_us = to_micros(clock.now()) + 1
    tx.execute(insert(workspaces).values(id="wrkspc_two", name="Two", created_us=now_us))
    tx.execute(
        insert(user_workspaces).values(
            workspace_id="wrkspc_two", user_id=user_id, role=role, created_us=now_us
        )
    )


def test_scopes_are_narrowed_never_widened(tx: Tx, actor: Actor, ada: str) -> None:
    assert standing.narrow(tx, ada, "wrkspc_test", [Scope.INFERENCE]) == ({Scope.INFERENCE}, False)
    allowed = standing.narrow(tx, ada, "wrkspc_test", ALL_SCOPES)
    assert allowed == ({Scope.INFERENCE, Scope.DEVELOPER}, False)


def test_who_left_may_nothing(tx: Tx, actor: Actor, ada: str, boss: str) -> None:
    people.remove(tx, actor, ada)
    assert standing.find(tx, ada, "wrkspc_test") is None
    assert standing.narrow(tx, ada, "wrkspc_test", ALL_SCOPES) is None
    assert standing.narrow(tx, "user_nobody", "wrkspc_test", ALL_SCOPES) is None


def test_groups_add_where_somebody_belongs(
    tx: Tx, actor: Actor, clock: ManualClock, ada: str
) -> None:
    group = groups.create(tx, actor, "G")["id"]
    groups.set_roles(tx, actor, group, ["rbac_role_tunnel_manager"])
    groups.add_member(tx, actor, group, ada)
    home = standing.narrow(tx, ada, "wrkspc_test", ALL_SCOPES)
    assert home == ({Scope.INFERENCE, Scope.DEVELOPER, Scope.MANAGE_TUNNELS}, False)
    assert standing.narrow(tx, ada, "wrkspc_two", ALL_SCOPES) == (frozenset(), False)
    join(tx, clock, ada, "workspace_restricted_developer")
    there = standing.narrow(tx, ada, "wrkspc_two", ALL_SCOPES)
    assert there == ({Scope.INFERENCE, Scope.DEVELOPER, Scope.MANAGE_TUNNELS}, True)


def test_an_administrator_is_never_restricted(
    tx: Tx, actor: Actor, clock: ManualClock, boss: str
) -> None:
    join(tx, clock, boss, "workspace_restricted_developer")
    assert standing.narrow(tx, boss, "wrkspc_two", ALL_SCOPES) == (set(ALL_SCOPES), False)


def test_only_ids_of_users_are_users() -> None:
    assert standing.is_user("user_1")
    assert not standing.is_user("svac_1")
    assert not standing.is_user(None)

from typing import get_args

import pytest

from intramuros.control.identity import roles
from intramuros.control.identity.principal import ALL_SCOPES, Scope
from intramuros.control.identity.roles import Standing
from intramuros.protocol.resources.people import AssignableRole, WorkspaceRole

ADMINISTRATOR = frozenset({roles.ADMINISTRATOR.id})


@pytest.mark.parametrize("role", get_args(AssignableRole))
@pytest.mark.parametrize("workspace_role", [None, *get_args(WorkspaceRole)])
@pytest.mark.parametrize("default", [True, False])
def test_only_administrators_administer(
    role: str, workspace_role: str | None, default: bool
) -> None:
    standing = Standing(role, workspace_role, default, ADMINISTRATOR)
    assert Scope.ORG_ADMIN not in roles.ceiling(standing)


def test_administrators_may_everything_everywhere() -> None:
    for default in (True, False):
        assert roles.ceiling(Standing("admin", None, default)) == set(ALL_SCOPES)
        assert roles.implied("admin", default=default) == "workspace_admin"


def test_nobody_may_anything_where_they_do_not_belong() -> None:
    groups = frozenset(roles.BY_ID)
    for role in get_args(AssignableRole):
        assert roles.ceiling(Standing(role, None, default=False, group_roles=groups)) == set()


def test_unknown_roles_allow_nothing() -> None:
    assert roles.ceiling(Standing("owner", None, default=True)) == set()
    assert roles.ceiling(Standing("user", "workspace_owner", default=False)) == set()
    assert roles.given(["rbac_role_no"]) == set()


def test_billing_members_belong_everywhere_and_do_nothing_there() -> None:
    assert roles.implied("billing", default=False) == "workspace_billing"
    assert roles.ceiling(Standing("billing", None, default=False)) == set()
    assert roles.implied("developer", default=False) is None
    assert roles.implied("managed", default=True) == "workspace_user"

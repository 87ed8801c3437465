import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.people import (
    GroupCreate,
    InviteCreate,
    UserMemberAdd,
    UserUpdate,
    check_label,
)


def test_labels_lose_the_blanks_around_them() -> None:
    assert check_label("  Blue team ") == "Blue team"
    assert GroupCreate(name="x" * 255).name == "x" * 255


@pytest.mark.parametrize("name", ["", "   ", "a\tb", "a\u2029b", "\u2066a", "a\u200f\u202b"])
def test_labels_that_break_out_of_their_line(name: str) -> None:
    with pytest.raises(ValidationError):
        GroupCreate(name=name)


@pytest.mark.parametrize("role", ["admin", "owner", "primary_owner", "membership_admin", "", None])
def test_R364_roles_that_the_api_cannot_give(role: str) -> None:
    with pytest.raises(ValidationError):
        InviteCreate.model_validate({"email": "a@x.test", "role": role})
    with pytest.raises(ValidationError):
        UserUpdate.model_validate({"role": role})


def test_R364_billing_is_never_given_in_a_workspace() -> None:
    with pytest.raises(ValidationError):
        UserMemberAdd.model_validate({"user_id": "u", "workspace_role": "workspace_billing"})

import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.compliance import ActivityQuery, SettingsUpdate


@pytest.mark.parametrize("state", ["enabled", {"type": "enabled"}])
def test_R373_a_state_is_a_word_or_an_object(state: object) -> None:
    assert SettingsUpdate.model_validate({"state": state}).state.type == "enabled"


@pytest.mark.parametrize(
    "state", ["on", "", None, True, 1, [], {}, {"type": "enabled", "since": 1}]
)
def test_other_states_are_refused(state: object) -> None:
    with pytest.raises(ValidationError):
        SettingsUpdate.model_validate({"state": state})


def test_times_are_dotted_or_bracketed() -> None:
    query = ActivityQuery.model_validate(
        {"created_at.gte": "a", "created_at[lt]": "b", "created_at.lt": "c"}
    )
    assert query.bounds() == [
        ("gte", "created_at.gte", "a"),
        ("lt", "created_at.lt", "c"),
        ("lt", "created_at[lt]", "b"),
    ]
    assert ActivityQuery().bounds() == []

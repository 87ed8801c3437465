import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.organization import KeyUpdate, WorkspaceCreate, WorkspaceUpdate


def test_tags_may_be_removed_but_never_reserved() -> None:
    assert WorkspaceUpdate.model_validate({"tags": {"a": None}}).tags == {"a": None}
    for model in (WorkspaceCreate, WorkspaceUpdate):
        with pytest.raises(ValidationError, match="may not start"):
            model.model_validate({"name": "w", "tags": {"Anthropic-x": "1"}})


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"display_color": "red"},
        {"data_residency": {"workspace_geo": "us"}},
        {"data_residency": {"allowed_inference_geos": []}},
        {"archived": True},
    ],
)
def test_what_cannot_be_configured_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WorkspaceUpdate.model_validate(bad)


def test_a_key_cannot_be_made_to_have_expired() -> None:
    with pytest.raises(ValidationError):
        KeyUpdate.model_validate({"status": "expired"})

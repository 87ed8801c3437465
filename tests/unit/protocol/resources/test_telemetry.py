from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.telemetry import (
    MAX_CONTENT_BYTES,
    DestinationCreate,
    DestinationUpdate,
)

BODY: Any = {"endpoint_url": "https://c.example", "workspaces": {"type": "all"}}


def test_a_destination_needs_an_address_and_what_it_covers() -> None:
    made = DestinationCreate.model_validate(BODY)
    assert (made.headers, made.traces.enabled, made.display_name) == ({}, True, None)
    for name in BODY:
        with pytest.raises(ValidationError):
            DestinationCreate.model_validate({k: v for k, v in BODY.items() if k != name})


@pytest.mark.parametrize(
    "bad",
    [
        {"workspaces": {"type": "all", "workspace_ids": []}},
        {"workspaces": {"type": "include", "workspace_ids": ["w"] * 101}},
        {"workspaces": {"type": "some"}},
        {"traces": None},
        {"traces": {"enabled": None}},
        {"traces": {"enabled": "yes"}},
        {"traces": {"max_content_bytes": 0}},
        {"traces": {"max_content_bytes": MAX_CONTENT_BYTES + 1}},
        {"traces": {"content_mode": "everything"}},
        {"headers": {"a": None}},
        {"headers": None},
        {"display_name": "x" * 256},
        {"state": {"type": "enabled"}},
    ],
)
def test_what_cannot_be_registered_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DestinationCreate.model_validate({**BODY, **bad})


def test_R380_an_update_tells_null_from_nothing_and_shows_no_value() -> None:
    update = DestinationUpdate.model_validate({"headers": {"a": None, "b": "hidden-value"}})
    assert update.sent("headers")
    assert not update.sent("endpoint_url")
    assert "hidden-value" not in repr(update)
    with pytest.raises(ValidationError) as refused:
        DestinationUpdate.model_validate({"headers": {"a": ["hidden-value"]}})
    assert "hidden-value" not in str(refused.value)

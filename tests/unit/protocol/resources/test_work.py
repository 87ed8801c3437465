import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.work import WorkStop, WorkUpdate


def test_a_stop_may_be_empty() -> None:
    assert WorkStop.model_validate_json("{}").force is None
    assert WorkStop.model_validate({"force": True}).force is True
    with pytest.raises(ValidationError):
        WorkStop.model_validate({"force": "yes"})


def test_9_39_metadata_is_a_required_patch() -> None:
    assert WorkUpdate.model_validate({"metadata": {"a": None}}).metadata == {"a": None}
    for body in ({}, {"metadata": None}, {"metadata": {"a": 1}}, {"metadata": {}, "state": "x"}):
        with pytest.raises(ValidationError):
            WorkUpdate.model_validate(body)

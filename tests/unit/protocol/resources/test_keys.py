import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.keys import ApiKeyCreate


def test_a_plain_key_administers_nothing() -> None:
    assert ApiKeyCreate.model_validate({}).scopes == ["workspace:developer", "workspace:inference"]


def test_scopes_are_known_ones() -> None:
    for bad in ([], ["root"], None):
        with pytest.raises(ValidationError):
            ApiKeyCreate.model_validate({"scopes": bad})

from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.control.model.providers import Provider


def provider(**members: Any) -> Provider:
    return Provider(**{"id": "house", "kind": "openai", "base_url": "http://h:1/v1", **members})


@pytest.mark.parametrize(
    "members",
    [
        {"base_url": "ftp://h"},
        {"base_url": "http://"},
        {"base_url": "http://me:pw@h/v1"},
        {"base_url": "http://h/v1?key=1"},
        {"key": "sk-in-clear"},
        {"key_env": "K", "key_file": "/k"},
        {"key_env": "no name"},
        {"kind": "other"},
        {"id": ""},
    ],
)
def test_what_is_no_provider_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        provider(**members)

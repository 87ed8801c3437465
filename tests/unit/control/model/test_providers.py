from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from intramuros.control.model.providers import Provider

ANY: TypeAdapter[Provider] = TypeAdapter(Provider)
PLAIN = {"id": "house", "kind": "openai", "base_url": "http://h:1/v1"}
BEDROCK = {"id": "aws", "kind": "bedrock", "region": "eu-west-1"}
VERTEX = {"id": "gcp", "kind": "vertex", "region": "global", "project": "p-1"}


@pytest.mark.parametrize("members", [PLAIN, BEDROCK, VERTEX, {"id": "a", "kind": "anthropic"}])
def test_every_kind_has_a_declaration(members: dict[str, Any]) -> None:
    assert ANY.validate_python(members).kind == members["kind"]


@pytest.mark.parametrize(
    "members",
    [
        {**BEDROCK, "profile": "p", "key_env": "K"},
        {**BEDROCK, "region": "eu/../west"},
        {**VERTEX, "project": "p/q"},
        {**VERTEX, "key_env": "K"},
        {**PLAIN, "usage": "guessed"},
        {"base_url": "ftp://h"},
        {"base_url": "http://"},
        {"base_url": "http://me:pw@h/v1"},
        {"base_url": "http://h/v1?key=1"},
        {"key": "sk-in-clear"},
        {"key_env": "K", "key_file": "/k"},
        {"key_env": "no name"},
        {**PLAIN, "kind": "other"},
        {"id": ""},
    ],
)
def test_what_is_no_provider_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ANY.validate_python({**({} if "kind" in members else PLAIN), **members})

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.control.model.providers import MAX_KEY_BYTES, Provider
from intramuros.kernel.errors import OperatorError


def provider(**members: Any) -> Provider:
    return Provider(**{"id": "house", "kind": "openai", "base_url": "http://h:1/v1", **members})


def test_keys_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-file\n")
    assert provider().key({}) is None
    assert provider(key_env="K").key({"K": " k-env "}) == "k-env"
    assert provider(key_file=tmp_path / "key").key({}) == "k-file"


def test_a_key_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    for members in ({"key_env": "K"}, {"key_file": tmp_path / "none"}):
        with pytest.raises(OperatorError, match="key"):
            provider(**members).key({})
    (tmp_path / "long").write_text("k" * (MAX_KEY_BYTES + 1))
    with pytest.raises(OperatorError, match="too long"):
        provider(key_file=tmp_path / "long").key({})
    (tmp_path / "bad").write_bytes(b"secret\xff")
    with pytest.raises(OperatorError) as caught:
        provider(key_file=tmp_path / "bad").key({})
    assert "secret" not in str(caught.value)


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

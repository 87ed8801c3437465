from pathlib import Path
from typing import Any

import pytest

from intramuros.control.model.keys import MAX_KEY_BYTES, checked_key, provider_key
from intramuros.control.model.providers import ChatProvider
from intramuros.kernel.errors import OperatorError


def provider(**members: Any) -> ChatProvider:
    return ChatProvider(**{"id": "house", "kind": "openai", "base_url": "http://h:1/v1", **members})


def test_keys_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-file\n")
    assert provider_key(provider(), {}) is None
    assert provider_key(provider(key_env="K"), {"K": " k-env "}) == "k-env"
    assert provider_key(provider(key_file=tmp_path / "key"), {}) == "k-file"


def test_a_key_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    for members in ({"key_env": "K"}, {"key_file": tmp_path / "none"}):
        with pytest.raises(OperatorError, match="key"):
            provider_key(provider(**members), {})
    (tmp_path / "long").write_text("k" * (MAX_KEY_BYTES + 1))
    with pytest.raises(OperatorError, match="too long"):
        provider_key(provider(key_file=tmp_path / "long"), {})
    (tmp_path / "bad").write_bytes(b"secret\xff")
    with pytest.raises(OperatorError) as caught:
        provider_key(provider(key_file=tmp_path / "bad"), {})
    assert "secret" not in str(caught.value)


def test_keys_are_trimmed_or_refused_unseen() -> None:
    assert checked_key(" abc\n", "KEY") == "abc"
    assert checked_key("  ", "KEY") is checked_key(None, "KEY") is None
    with pytest.raises(OperatorError, match="character") as caught:
        checked_key("two\nlines-0123", "KEY")
    assert "0123" not in str(caught.value)

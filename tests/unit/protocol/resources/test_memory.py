import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from intramuros.protocol.resources.memory import (
    MAX_PATH_BYTES,
    MemoryCreate,
    MemoryStoreCreate,
    MemoryStoreParam,
    MemoryUpdate,
    check_path,
    check_prefix,
    slug,
)


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("User Preferences", "user-preferences"),
        ("  Team A / B!! ", "team-a-b"),
        ("v2.0_final", "v2-0-final"),
        ("Größe", "gr-e"),
        ("日本", ""),
        ("-", ""),
    ],
)
def test_c11_11_R144_a_store_is_mounted_under_its_name(name: str, directory: str) -> None:
    assert slug(name) == directory


@given(st.text(max_size=40))
def test_R150_an_accepted_path_is_safe_below_any_directory(text: str) -> None:
    try:
        path = check_path(text)
    except ValueError:
        return
    assert path.startswith("/")
    assert not {"", ".", ".."} & set(path[1:].split("/"))
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert unicodedata.is_normalized("NFC", path)
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in path)


@pytest.mark.parametrize("prefix", ["", "a/", "/a", "//", "/a//", "/../", "/" + "s/" * 21])
def test_R159_prefixes_are_checked(prefix: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_prefix(prefix)
    assert check_prefix("/") == "/"
    assert check_prefix("/a/b/") == "/a/b/"


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (MemoryStoreCreate, {}),
        (MemoryStoreCreate, {"name": "n", "description": 1}),
        (MemoryCreate, {"path": "/a"}),
        (MemoryCreate, {"path": "/a", "content": None}),
        (MemoryCreate, {"path": "/a", "content": "é" * 51_201}),
        (MemoryUpdate, {"precondition": {"type": "etag", "content_sha256": "0" * 64}}),
        (MemoryUpdate, {"precondition": {"type": "content_sha256", "content_sha256": "0" * 63}}),
        (MemoryStoreParam, {"type": "memory_store"}),
        (MemoryStoreParam, {"type": "memory_store", "memory_store_id": "m", "access": "write"}),
        (
            MemoryStoreParam,
            {"type": "memory_store", "memory_store_id": "m", "instructions": "i" * 4097},
        ),
    ],
)
def test_bodies_are_checked(model: Any, body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(body)

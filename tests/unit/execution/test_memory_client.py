from types import SimpleNamespace

import pytest

from intramuros.execution.client import Away
from intramuros.execution.memory_client import Memory, read_memory


def test_a_malformed_memory_is_no_memory() -> None:
    raw = SimpleNamespace(id="mem_1", path="/a", content_sha256="0", content=None)
    assert read_memory(raw) == Memory("mem_1", "/a", "0")
    for member in ("id", "path", "content_sha256"):
        with pytest.raises(Away):
            read_memory(SimpleNamespace(**{**vars(raw), member: None}))

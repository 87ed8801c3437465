import sys
from pathlib import Path

import pytest

from intramuros.control.model.base import ModelRequest
from intramuros.control.model.catalogue import load_catalogue, shipped_catalogue
from intramuros.control.model.hosts import connect
from intramuros.kernel.errors import OperatorError
from tests.fakes.chat_server import FakeChat

pytestmark = pytest.mark.anyio

FILE = """
providers: [{{id: house, kind: openai, base_url: "{url}/v1", key_env: HOUSE_KEY,
             limit_parameter: max_tokens}}]
models:
  - {{id: house-7b, aliases: [house], display_name: H, provider: house,
      upstream_model: org/House-7B, features: [pdf_input]}}
"""
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://x.test/i.png"}}


async def test_a_provider_is_asked_under_its_own_names(tmp_path: Path) -> None:
    fake = FakeChat.saying([{"type": "text", "text": "hello"}])
    async with fake.running() as url:
        (tmp_path / "models").write_text(FILE.format(url=url))
        known = load_catalogue(tmp_path / "models")
        (host,) = connect(known, {"HOUSE_KEY": "k-1"}).values()
        await host.run(
            ModelRequest("house", [{"role": "user", "content": [IMAGE]}]), lambda _: None
        )
        await host.aclose()
    (sent,) = fake.bodies
    assert (sent["model"], sent["max_tokens"]) == ("org/House-7B", 16_384)
    assert "cannot see" in sent["messages"][0]["content"]
    assert fake.headers[0]["authorization"] == "Bearer k-1"


def test_missing_keys_and_libraries_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").write_text(FILE.format(url="http://127.0.0.1:1"))
    known = load_catalogue(tmp_path / "models")
    with pytest.raises(OperatorError, match="no key"):
        connect(known, {})
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "intramuros.control.model.openai", raising=False)
    with pytest.raises(OperatorError, match="needs the openai library"):
        connect(known, {"HOUSE_KEY": "k"})


def test_without_providers_nothing_is_connected() -> None:
    assert connect(shipped_catalogue(), {}) == {}

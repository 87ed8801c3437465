from pathlib import Path

import pytest

from intramuros.control.model.base import ModelError, ModelRequest
from intramuros.control.model.registry import Models
from tests.fakes.messages_server import FakeMessages

pytestmark = pytest.mark.anyio

SAID = [{"role": "user", "content": [{"type": "text", "text": "go"}]}]


async def test_ids_choose_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("steps: [{text: from the script}]")
    fake = FakeMessages.saying([{"type": "text", "text": "from the provider"}])
    async with fake.running() as base_url:
        models = Models(base_url=base_url, scripts=tmp_path)
        replies = [
            (await models.run(ModelRequest(name, SAID), lambda _: None)).content[0]["text"]
            for name in ("scripted/one", "claude-x")
        ]
        await models.aclose()
    assert replies == ["from the script", "from the provider"]
    assert [body["model"] for body in fake.bodies] == ["claude-x"]


async def test_without_a_provider_the_error_says_what_to_set() -> None:
    models = Models()
    with pytest.raises(ModelError, match="ANTHROPIC_UPSTREAM_API_KEY") as caught:
        await models.run(ModelRequest("claude-x", SAID), lambda _: None)
    assert not caught.value.retryable
    await models.aclose()


async def test_effort_goes_only_to_models_that_take_it() -> None:
    fake = FakeMessages.saying([{"type": "text", "text": "hello"}])
    async with fake.running() as base_url:
        models = Models(base_url=base_url)
        for name in ("claude-haiku-4-5", "claude-opus-5", "some-model-of-yours"):
            await models.run(ModelRequest(name, SAID, effort="high"), lambda _: None)
        await models.aclose()
    assert ["output_config" in body for body in fake.bodies] == [False, True, True]

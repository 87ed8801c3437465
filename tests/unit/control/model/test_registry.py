from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from intramuros.control.model.base import Delta, ModelError, ModelReply, ModelRequest, TextDelta
from intramuros.control.model.catalogue import load_catalogue
from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.model.registry import Models
from tests.fakes.chat_server import FakeChat
from tests.fakes.messages_server import FakeMessages, Fault

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


TEXT = [{"type": "text", "text": "hello there"}]
FILE = """
providers: [{{id: house, kind: openai, base_url: "{url}/v1"}}]
models:
  - id: house-7b
    aliases: [house]
    display_name: House
    provider: house
    max_tokens: 100
    effort: {{default: low, levels: [low]}}
    fallback: [broken, claude-x]
    prices: {{standard: {{input: "1000", output: "0", cache_read: "0", cache_write_5m: "0",
                           cache_write_1h: "0"}}}}
  - {{id: broken, display_name: B, provider: house, upstream_model: org/broken}}
  - id: claude-x
    display_name: X
    prices: {{standard: {{input: "2000", output: "0", cache_read: "0", cache_write_5m: "0",
                        cache_write_1h: "0"}}}}
"""


@dataclass
class Pair:
    """A house model that falls back to the Messages provider."""

    models: Models
    house: FakeChat
    other: FakeMessages
    deltas: list[Delta] = field(default_factory=list)

    async def ask(self, model: str = "house", **members: object) -> ModelReply:
        request = ModelRequest(model, SAID, **members)  # type: ignore[arg-type]  test brevity
        return await self.models.run(request, self.deltas.append)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    house, other = FakeChat.saying(TEXT), FakeMessages.saying(TEXT)
    async with house.running() as url, other.running() as base_url:
        (tmp_path / "models").write_text(FILE.format(url=url))
        models = Models(base_url=base_url, known=load_catalogue(tmp_path / "models"))
        yield Pair(models, house, other)
        await models.aclose()


async def test_a_pin_that_a_provider_cannot_keep_is_not_ignored(pair: Pair) -> None:
    with pytest.raises(ModelError, match="cannot be pinned to 'us'"):
        await pair.ask("broken", inference_geo="us")
    assert pair.house.bodies == []
    reply = await pair.ask(inference_geo="us")
    assert reply.model == "claude-x", "the one in its place can be"
    assert pair.other.bodies[0]["inference_geo"] == "us"
    await pair.ask("broken", inference_geo="global")
    assert len(pair.house.bodies) == 1


REFUSED = Fault("status", status=401)


async def test_the_catalogue_names_the_provider_and_the_price(pair: Pair) -> None:
    reply = await pair.ask(effort="high", max_tokens=500)
    assert (reply.model, reply.cost) == (None, 11 * UNITS_PER_CENT // 10)
    (sent,) = pair.house.bodies
    assert (sent["model"], sent["max_completion_tokens"]) == ("house-7b", 100)
    assert "reasoning_effort" not in sent, "the entry knows only the level low"
    await pair.ask(effort="low")
    assert pair.house.bodies[1]["reasoning_effort"] == "low"
    assert not pair.other.bodies


async def test_the_next_model_answers_for_one_that_fails_for_good(pair: Pair) -> None:
    pair.house.faults = [REFUSED, REFUSED]
    reply = await pair.ask()
    assert (reply.model, reply.cost) == ("claude-x", 11 * 2 * UNITS_PER_CENT // 10)
    assert [body["model"] for body in pair.house.bodies] == ["house-7b", "org/broken"]
    assert [body["model"] for body in pair.other.bodies] == ["claude-x"]


async def test_what_may_pass_is_tried_again_first(pair: Pair) -> None:
    pair.house.faults = [Fault("status")]
    with pytest.raises(ModelError) as caught:
        await pair.ask()
    assert caught.value.retryable
    assert len(pair.house.bodies) == 1
    pair.house.faults = [Fault("status"), Fault("status")]
    assert (await pair.ask(last_try=True)).model == "claude-x"


async def test_a_conversation_that_is_too_long_is_not_passed_on(pair: Pair) -> None:
    pair.house.faults = [Fault("status", status=413)]
    with pytest.raises(ModelError) as caught:
        await pair.ask(last_try=True)
    assert caught.value.too_long
    assert len(pair.house.bodies) == 1


async def test_when_all_fail_the_first_ones_error_is_told(pair: Pair) -> None:
    pair.house.faults = [Fault("status", status=401, message="first"), REFUSED]
    pair.other.faults = [REFUSED]
    with pytest.raises(ModelError, match="first"):
        await pair.ask()
    assert len(pair.other.bodies) == 1


async def test_a_preview_that_began_is_not_begun_again(pair: Pair) -> None:
    pair.house.faults = [Fault("cut", at=2), REFUSED]
    reply = await pair.ask(last_try=True)
    assert reply.model == "claude-x"
    assert [d.text for d in pair.deltas if isinstance(d, TextDelta)] == ["hello"]


async def test_thoughts_that_nobody_signed_do_not_reach_who_checks_them(pair: Pair) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    said = [*SAID, {"role": "assistant", "content": [thought, *TEXT]}, *SAID]
    await pair.models.run(ModelRequest("claude-x", said), lambda _: None)
    assert pair.other.bodies[0]["messages"][1]["content"] == TEXT

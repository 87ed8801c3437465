"""Models through the official SDK."""

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.host import Server
from tests.wire.structure import check

pytestmark = pytest.mark.anyio


def test_models_are_listed_newest_first_over_pages(client: Anthropic) -> None:
    ids = [model.id for model in client.models.list(limit=5)]
    assert len(ids) > 15
    assert len(set(ids)) == len(ids)
    assert ids.index("claude-opus-5") < ids.index("claude-opus-4-5-20251101")
    assert "scripted/answer" in ids
    assert "claude-mythos-preview" not in ids
    for model in client.beta.models.list(limit=1000):
        check(model)
    for page_model in client.models.list():
        check(page_model)


async def test_the_async_client_pages_both_ways(async_client: AsyncAnthropic) -> None:
    first = await async_client.beta.models.list(limit=3)
    assert first.has_more
    second = await first.get_next_page()
    assert second.first_id != first.first_id
    assert second.first_id is not None
    back = await async_client.models.list(limit=2, before_id=second.first_id)
    assert [model.id for model in back.data] == [model.id for model in first.data[1:]]
    raw = await async_client.models.with_raw_response.list(limit=1)
    assert raw.http_response.json()["has_more"] is True


def test_the_lifecycle_filters(client: Anthropic) -> None:
    retired = client.models.list(lifecycle=["retired"])
    assert [model.id for model in retired] == ["claude-mythos-preview"]
    assert {m.lifecycle for m in client.models.list(lifecycle=["active"])} == {"active"}


def test_an_alias_finds_its_model_and_a_name_may_hold_a_slash(client: Anthropic) -> None:
    model = client.models.retrieve("claude-haiku-4-5")
    check(model)
    assert model.id == "claude-haiku-4-5-20251001"
    assert model.capabilities is not None
    assert not model.capabilities.effort.supported
    assert client.beta.models.retrieve("scripted/answer").display_name.startswith("Script answer")


def test_wrong_requests_are_explained(client: Anthropic, server: Server) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nobody")
    for wrong in ({"limit": 0}, {"limit": 1001}, {"after_id": "nobody"}):
        with pytest.raises(anthropic.BadRequestError, match=next(iter(wrong))):
            client.models.list(**wrong)
    with pytest.raises(anthropic.BadRequestError, match="lifecycle"):
        client.models.list(lifecycle=["young"])  # type: ignore[list-item]
    made = httpx2.post(
        f"{server.base_url}/x/keys",
        headers={"x-api-key": server.api_key},
        json={"scopes": ["workspace:manage_tunnels"]},
    ).json()
    narrow = Anthropic(base_url=server.base_url, api_key=made["key"], max_retries=0)
    with narrow, pytest.raises(anthropic.PermissionDeniedError, match="workspace:inference"):
        narrow.models.list()


def test_c5_4_an_agents_effort_is_resolved_when_it_is_saved(client: Anthropic) -> None:
    for model in ("claude-opus-5", "claude-haiku-4-5", "a-model-of-somebody-else"):
        made = client.beta.agents.create(name="A", model=model)
        assert made.model.effort is not None
        assert made.model.effort.type == "high"


def test_c5_5_what_a_model_lacks_is_refused(client: Anthropic) -> None:
    agent = client.beta.agents.create(name="A", model="claude-opus-5")
    lacking = (
        ({"id": "claude-haiku-4-5", "effort": "low"}, "model.effort"),
        ({"id": "claude-opus-4-6", "effort": "xhigh"}, "model.effort"),
        ({"id": "claude-opus-4-7", "speed": "fast"}, "model.speed"),
    )
    for model, named in lacking:
        with pytest.raises(anthropic.BadRequestError, match=named):
            client.beta.agents.create(name="A", model=model)  # type: ignore[arg-type]
        with pytest.raises(anthropic.BadRequestError, match=named):
            client.beta.agents.update(agent.id, model=model)  # type: ignore[arg-type]

"""A dream that reads more than its model can at once, over HTTP to a provider."""

from pathlib import Path

import pytest
from anthropic import Anthropic
from anyio import to_thread

from tests.fakes.messages_server import FakeMessages
from tests.wire.host import Server, running
from tests.wire.memory import paths, write
from tests.wire.site import Site
from tests.wire.structure import check
from tests.wire.test_dreams import ended, inputs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


async def test_a_dream_of_many_parts_forgets_between_them_and_counts_what_it_used(
    tmp_path: Path,
) -> None:
    """A model with a small window gets small parts; each begins a conversation of its own."""
    (tmp_path / "models.yaml").write_text(
        "models: [{id: small, display_name: Small, max_input_tokens: 2000}]"
    )
    fake = FakeMessages.saying([{"type": "text", "text": "Nothing to change."}])
    async with fake.running() as base_url:
        with running(
            tmp_path / "data",
            model_base_url=base_url,
            model_api_key="sk-fake",
            models_file=str(tmp_path / "models.yaml"),
        ) as server:
            await to_thread.run_sync(_many_parts, server, fake)


def _many_parts(server: Server, fake: FakeMessages) -> None:
    with Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as client:
        store = client.beta.memory_stores.create(name="s").id
        for number in range(12):
            write(client, store, f"/{number:02}.md", f"memory {number} " * 40)
        with Site(server, client) as site:
            talk = site.session().id
        done = ended(
            client,
            client.beta.dreams.create(inputs=inputs(store, talk), model="small"),
        )
        assert (done.status, done.error) == ("completed", None)
        events = list(client.beta.sessions.events.list(str(done.session_id), limit=1000))
        for event in events:
            check(event, nullable=False)
        types = [event.type for event in events]
        parts = types.count("user.message")
        assert parts >= 4
        assert types.count("agent.thread_context_compacted") == parts - 1
        assert [len(body["messages"]) for body in fake.bodies] == [1] * parts
        told = [body["messages"][0]["content"][0]["text"] for body in fake.bodies]
        assert all(len(text) < 3000 for text in told)
        shown = [f'"/{number:02}.md"' for number in range(12)]
        assert all(sum(path in text for text in told) == 1 for path in shown)
        assert "Look through it once more" in told[-1]
        assert done.usage.model_dump() == {
            "input_tokens": 11 * parts,
            "output_tokens": 7 * parts,
            "cache_creation_input_tokens": 3 * parts,
            "cache_read_input_tokens": 5 * parts,
        }
        output = done.outputs[0].memory_store_id
        assert paths(client, output) == paths(client, store)

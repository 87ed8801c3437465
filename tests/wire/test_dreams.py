"""Dreams through the official SDK: a real server, real sessions, a scripted model."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types.beta import BetaDream

from intramuros.protocol.envelope import DREAMING_BETA
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.memory import paths, write
from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

FINAL = ("completed", "failed", "canceled")


@pytest.fixture
def talk(site: Site) -> str:
    """A session in which something was said."""
    session = site.session()
    site.api.beta.sessions.events.send(session.id, events=[MESSAGE])
    site.wait(session.id, "session.status_idle")
    return session.id


@pytest.fixture
def notes(client: Anthropic, store: str) -> str:
    """A store that holds something."""
    write(client, store, "/notes.md", "The answer is between 40 and 44.")
    write(client, store, "/stale.md", "The answer is unknown.")
    write(client, store, "/right.md", "Water is wet.")
    return store


def inputs(store: str, *session_ids: str) -> Any:
    return [
        {"type": "memory_store", "memory_store_id": store},
        {"type": "sessions", "session_ids": list(session_ids)},
    ]


def begin(
    client: Anthropic, store: str, *session_ids: str, script: str = "dream", **more: Any
) -> BetaDream:
    dream = client.beta.dreams.create(
        inputs=inputs(store, *session_ids), model=f"scripted/{script}", **more
    )
    check(dream)
    return dream


def ended(client: Anthropic, dream: BetaDream, seconds: float = 30) -> BetaDream:
    """Return the dream once its status is final."""

    def look() -> BetaDream | None:
        found = client.beta.dreams.retrieve(dream.id)
        check(found)
        return found if found.status in FINAL else None

    return until(look, seconds)


def stopped(client: Anthropic, dream: BetaDream) -> None:
    """Wait until the dream's session is archived, and nothing acts any more."""
    session_id = ended(client, dream).session_id
    assert session_id is not None
    until(lambda: client.beta.sessions.retrieve(session_id).archived_at)


def running_dream(client: Anthropic, dream: BetaDream) -> BetaDream:
    """Return the dream once it has written something."""

    def look() -> BetaDream | None:
        found = client.beta.dreams.retrieve(dream.id)
        if found.outputs and "/partial.md" in paths(client, found.outputs[0].memory_store_id):
            return found
        return None

    return until(look)


def content(client: Anthropic, store: str, path: str) -> str:
    memories = client.beta.memory_stores.memories
    found = next(m for m in memories.list(store, view="full") if m.path == path)
    assert found.type == "memory"
    return found.content or ""


def test_R241_R243_a_dream_makes_a_better_copy_with_its_sources(
    client: Anthropic, notes: str, talk: str
) -> None:
    dream = begin(client, notes, talk, instructions="Keep answers.")
    assert (dream.type, dream.status, dream.outputs, dream.session_id) == (
        "dream", "pending", [], None,
    )  # fmt: skip
    assert (dream.ended_at, dream.archived_at, dream.error) == (None, None, None)
    assert dream.id.startswith("drm_")
    assert dream.instructions == "Keep answers."
    assert dream.output_behavior.type == "create_new"
    assert dream.usage.model_dump() == dict.fromkeys(dream.usage.model_dump(), 0)
    done = ended(client, dream)
    assert (done.status, done.error) == ("completed", None)
    assert done.ended_at is not None
    (output,) = done.outputs
    assert output.memory_store_id != notes
    assert paths(client, notes) == ["/notes.md", "/right.md", "/stale.md"]
    assert paths(client, output.memory_store_id) == ["/answers.md", "/notes.md", "/right.md"]
    assert content(client, output.memory_store_id, "/right.md") == "Water is wet."
    text = content(client, output.memory_store_id, "/answers.md")
    said = next(e for e in client.beta.sessions.events.list(talk) if e.type == "agent.message")
    original = next(
        m for m in client.beta.memory_stores.memories.list(notes) if m.path == "/notes.md"
    )
    assert original.type == "memory"
    assert text == (
        "# Answers\n\n- The answer is forty-two. [^1][^2]\n\n"
        f"[^1]: session {talk}, event {said.id}, {said.processed_at:%Y-%m-%d}\n"
        f"[^2]: memory /notes.md of {notes}, version {original.memory_version_id}\n"
    )


def test_R248_Q39_its_session_is_an_ordinary_one_archived_at_the_end(
    client: Anthropic, notes: str, talk: str
) -> None:
    dream = ended(client, begin(client, notes, talk))
    assert dream.session_id is not None
    session = client.beta.sessions.retrieve(dream.session_id)
    check(session, nullable=False)
    assert session.archived_at is not None
    assert session.status == "terminated"
    assert session.metadata == {"dream_id": dream.id}
    assert dream.session_id not in [s.id for s in client.beta.sessions.list()]
    assert dream.session_id in [s.id for s in client.beta.sessions.list(include_archived=True)]
    events = list(client.beta.sessions.events.list(dream.session_id))
    for event in events:
        check(event, nullable=False)
    uses = [e.name for e in events if e.type == "agent.custom_tool_use"]
    assert uses == ["write_memory", "delete_memory"]
    answers = [e for e in events if e.type == "user.custom_tool_result"]
    assert [e.is_error for e in answers] == [False, False]
    agent = client.beta.agents.retrieve(session.agent.id)
    assert agent.archived_at is not None
    place = client.beta.environments.retrieve(session.environment_id)
    assert place.archived_at is not None
    again = ended(client, begin(client, notes, talk))
    assert again.session_id is not None
    assert client.beta.sessions.retrieve(again.session_id).agent.id == session.agent.id


def test_what_changed_can_be_read_as_a_diff(client: Anthropic, notes: str, talk: str) -> None:
    dream = ended(client, begin(client, notes, talk))
    (file,) = list(client.beta.files.list(scope_id=dream.session_id))
    assert (file.filename, file.mime_type, file.downloadable) == (
        "dream-report.md", "text/markdown", True,
    )  # fmt: skip
    text = client.beta.files.download(file.id).read().decode()
    assert f"# Dream {dream.id}" in text
    for row in ("| added | 1 |", "| changed | 0 |", "| deleted | 1 |", "| unchanged | 2 |"):
        assert row in text
    assert "+- The answer is forty-two. [^1][^2]" in text
    assert "-The answer is unknown." in text
    assert "Reason: It said the answer was unknown." in text


def test_R164_its_writes_name_its_session(client: Anthropic, notes: str, talk: str) -> None:
    dream = ended(client, begin(client, notes, talk))
    versions = client.beta.memory_stores.memory_versions
    made = list(versions.list(dream.outputs[0].memory_store_id))
    assert {v.created_by.type for v in made} == {"session_actor"}
    by_session = versions.list(dream.outputs[0].memory_store_id, session_id=str(dream.session_id))
    assert len(list(by_session)) == len(made)
    # The copy of three, one written, one deleted: each once.
    assert sorted(f"{v.operation} {v.path}" for v in made) == [
        "created /answers.md",
        "created /notes.md",
        "created /right.md",
        "created /stale.md",
        "deleted /stale.md",
    ]


def test_R239_D08_update_existing_writes_into_the_input(
    client: Anthropic, notes: str, talk: str
) -> None:
    behavior: Any = {"type": "update_existing", "memory_store_id": notes}
    dream = begin(client, notes, talk, output_behavior=behavior)
    assert dream.output_behavior.model_dump() == behavior
    done = ended(client, dream)
    assert done.status == "completed"
    assert [o.memory_store_id for o in done.outputs] == [notes]
    assert paths(client, notes) == ["/answers.md", "/notes.md", "/right.md"]
    other = client.beta.memory_stores.create(name="Other").id
    with pytest.raises(anthropic.BadRequestError, match="among the inputs"):
        begin(client, other, talk, output_behavior=behavior)


def test_R240_one_update_of_a_store_at_a_time(client: Anthropic, notes: str, talk: str) -> None:
    behavior: Any = {"type": "update_existing", "memory_store_id": notes}
    dream = begin(client, notes, talk, script="daydream", output_behavior=behavior)
    with pytest.raises(anthropic.ConflictError, match=dream.id):
        begin(client, notes, talk, output_behavior=behavior)
    running_dream(client, dream)
    beside = begin(client, notes, talk)  # reads it only
    client.beta.dreams.cancel(dream.id)
    stopped(client, dream)
    ended(client, beside)
    again = begin(client, notes, talk, output_behavior=behavior)
    assert ended(client, again).status == "completed"


def test_R240_who_may_not_write_stores_may_not_have_one_updated(
    server: Server, client: Anthropic, notes: str, talk: str
) -> None:
    made = httpx2.post(
        f"{server.base_url}/x/keys",
        headers={"x-api-key": server.api_key},
        json={"name": "k", "scopes": ["workspace:inference"]},
    ).json()
    behavior: Any = {"type": "update_existing", "memory_store_id": notes}
    with (
        Anthropic(base_url=server.base_url, api_key=made["key"], max_retries=0) as weak,
        pytest.raises(anthropic.PermissionDeniedError),
    ):
        begin(weak, notes, talk, output_behavior=behavior)
    assert list(client.beta.dreams.list(statuses=["pending", "running"])) == []


def test_R236_inputs_are_one_store_and_up_to_a_hundred_sessions(
    client: Anthropic, store: str, talk: str
) -> None:
    create = client.beta.dreams.create
    memory, sessions = inputs(store, talk)
    refused: list[Any] = [
        [],
        [memory],
        [sessions],
        [memory, memory, sessions],
        [memory, {"type": "sessions", "session_ids": []}],
        [memory, {"type": "sessions", "session_ids": [talk, talk]}],
        [memory, {"type": "sessions", "session_ids": [f"sesn_{n}" for n in range(101)]}],
        [memory, {"type": "files", "session_ids": [talk]}],
    ]
    for wrong in refused:
        with pytest.raises(anthropic.BadRequestError, match="inputs"):
            create(inputs=wrong, model="m")
    for missing in (inputs(store, talk, "sesn_none"), inputs("memstore_none", talk)):
        with pytest.raises(anthropic.NotFoundError):
            create(inputs=missing, model="m")
    dream = create(inputs=[sessions, memory], model="scripted/dream")
    check(dream)
    assert [i.model_dump() for i in dream.inputs] == [sessions, memory]
    client.beta.dreams.cancel(dream.id)
    client.beta.memory_stores.archive(store)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        begin(client, store, talk)


def test_R236_sessions_are_listed_in_sorted_order(
    client: Anthropic, site: Site, store: str, talk: str
) -> None:
    other = site.session().id
    dream = begin(client, store, *sorted([talk, other], reverse=True))
    listed = dream.inputs[1]
    assert listed.type == "sessions"
    assert listed.session_ids == sorted([talk, other])


def test_R237_D07_the_model_is_always_an_object(client: Anthropic, store: str, talk: str) -> None:
    create = client.beta.dreams.create
    for sent in ("scripted/dream", {"id": "scripted/dream"},
                 {"id": "scripted/dream", "speed": "standard"},
                 {"id": "scripted/dream", "speed": None}):  # fmt: skip
        dream = create(inputs=inputs(store, talk), model=sent)  # type: ignore[arg-type]
        check(dream)
        assert dream.model.model_dump() == {"id": "scripted/dream", "speed": "standard"}
        client.beta.dreams.cancel(dream.id)
    for wrong in ("", "m" * 257, {"id": ""}, {"id": "m" * 257}, {"id": "m", "speed": "fast"}):
        with pytest.raises(anthropic.BadRequestError, match="model"):
            create(inputs=inputs(store, talk), model=wrong)  # type: ignore[arg-type]
    longest = create(inputs=inputs(store, talk), model="m" * 256)
    client.beta.dreams.cancel(longest.id)


def test_R238_instructions_are_bounded(client: Anthropic, store: str, talk: str) -> None:
    for wrong in ("", "i" * 4097):
        with pytest.raises(anthropic.BadRequestError, match="instructions"):
            begin(client, store, talk, instructions=wrong)
    for right in (None, "i", "i" * 4096):
        dream = begin(client, store, talk, instructions=right)
        assert dream.instructions == right
        client.beta.dreams.cancel(dream.id)


def test_R242_R244_R243_a_canceled_dream_stays_so_and_keeps_what_it_wrote(
    client: Anthropic, notes: str, talk: str
) -> None:
    dream = running_dream(client, begin(client, notes, talk, script="daydream"))
    assert dream.status == "running"
    canceled = client.beta.dreams.cancel(dream.id)
    check(canceled)
    assert (canceled.status, canceled.error) == ("canceled", None)
    assert canceled.ended_at is not None
    assert client.beta.dreams.cancel(dream.id) == canceled
    stopped(client, dream)
    assert client.beta.dreams.retrieve(dream.id).status == "canceled"
    kept = paths(client, dream.outputs[0].memory_store_id)
    assert kept == ["/notes.md", "/partial.md", "/right.md", "/stale.md"]
    assert paths(client, notes) == ["/notes.md", "/right.md", "/stale.md"]
    (file,) = list(client.beta.files.list(scope_id=dream.session_id))
    assert "canceled" in client.beta.files.download(file.id).read().decode()


def test_R244_an_ended_dream_cannot_be_canceled(client: Anthropic, notes: str, talk: str) -> None:
    completed = ended(client, begin(client, notes, talk))
    failed = ended(client, begin(client, notes, talk, script="no-such-script"))
    assert [completed.status, failed.status] == ["completed", "failed"]
    for dream in (completed, failed):
        with pytest.raises(anthropic.BadRequestError, match="cannot be canceled"):
            client.beta.dreams.cancel(dream.id)
        assert client.beta.dreams.retrieve(dream.id).status == dream.status


def test_R245_only_ended_dreams_are_archived(client: Anthropic, notes: str, talk: str) -> None:
    dream = begin(client, notes, talk, script="daydream")
    with pytest.raises(anthropic.BadRequestError, match="cancel it first"):
        client.beta.dreams.archive(dream.id)
    client.beta.dreams.cancel(dream.id)
    archived = client.beta.dreams.archive(dream.id)
    check(archived)
    assert (archived.status, archived.archived_at is not None) == ("canceled", True)
    assert client.beta.dreams.archive(dream.id) == archived
    assert client.beta.dreams.retrieve(dream.id).archived_at == archived.archived_at
    for status in (None, ["canceled"]):
        shown = client.beta.dreams.list(**({"statuses": status} if status else {}))  # type: ignore[arg-type]
        assert dream.id not in [d.id for d in shown]
    assert dream.id in [d.id for d in client.beta.dreams.list(include_archived=True)]


async def test_R246_dreams_are_listed_newest_first(
    async_client: AsyncAnthropic, client: Anthropic, store: str, talk: str
) -> None:
    dreams = async_client.beta.dreams
    made = []
    for _ in range(3):
        made.append(await dreams.create(inputs=inputs(store, talk), model="scripted/dream"))
        await dreams.cancel(made[-1].id)
    await dreams.archive(made[1].id)
    since = {"created_at_gt": made[0].created_at}
    seen = [d.id async for d in dreams.list(limit=1, **since)]  # type: ignore[arg-type]
    assert seen == [made[2].id]
    everything = dreams.list(
        limit=2, include_archived=True, created_at_lt=made[2].created_at,
        statuses=["canceled", "failed"],
    )  # fmt: skip
    found = [d async for d in everything]
    assert [d.id for d in found][:2] == [made[1].id, made[0].id]
    assert {d.status for d in found} <= {"canceled", "failed"}
    for dream in found:
        check(dream)
    none = dreams.list(statuses=["running"], created_at_gt=made[0].created_at)
    assert [d.id async for d in none] == []
    for limit in (0, 101):
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            await dreams.list(limit=limit)
    with pytest.raises(anthropic.BadRequestError):
        await dreams.list(statuses=["dreaming"])  # type: ignore[list-item]
    first = await dreams.list(limit=1, include_archived=True)
    assert first.next_page is not None
    with pytest.raises(anthropic.BadRequestError, match="page"):
        await dreams.list(limit=1, page=first.next_page)
    raw = await dreams.with_raw_response.list(limit=1)
    assert raw.http_response.json()["data"][0]["type"] == "dream"
    async with dreams.with_streaming_response.retrieve(made[0].id) as streamed:
        assert (await streamed.json())["id"] == made[0].id  # type: ignore[index]


def test_R247_R248_an_archived_input_store_fails_the_dream(
    client: Anthropic, notes: str, talk: str
) -> None:
    dream = running_dream(client, begin(client, notes, talk, script="daydream"))
    client.beta.memory_stores.archive(notes)
    failed = ended(client, dream)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.type == "input_memory_store_unavailable"
    assert "archived" in failed.error.message
    stopped(client, dream)
    assert "/partial.md" in paths(client, dream.outputs[0].memory_store_id)


def test_R247_a_deleted_input_fails_the_dream(
    client: Anthropic, site: Site, notes: str, talk: str
) -> None:
    first = running_dream(client, begin(client, notes, talk, script="daydream"))
    client.beta.sessions.delete(talk)
    failed = ended(client, first)
    assert failed.error is not None
    assert failed.error.type == "input_session_unavailable"
    assert talk in failed.error.message
    other = site.session().id
    second = running_dream(client, begin(client, notes, other, script="daydream"))
    client.beta.memory_stores.delete(notes)
    failed = ended(client, second)
    assert failed.error is not None
    assert failed.error.type == "input_memory_store_unavailable"


def test_R247_a_model_that_fails_is_an_internal_error(
    client: Anthropic, notes: str, talk: str
) -> None:
    failed = ended(client, begin(client, notes, talk, script="no-such-script"))
    assert failed.error is not None
    assert failed.error.type == "internal_error"
    assert "no-such-script" in failed.error.message
    assert paths(client, failed.outputs[0].memory_store_id) == paths(client, notes)
    stopped(client, failed)


def test_a_source_that_was_never_shown_is_refused(client: Anthropic, notes: str, talk: str) -> None:
    dream = ended(client, begin(client, notes, talk, script="stray"))
    assert dream.session_id is not None
    events = client.beta.sessions.events.list(dream.session_id)
    results = [e for e in events if e.type == "user.custom_tool_result"]
    assert results
    for result in results:
        assert result.is_error
        assert "no event of that id was shown to you" in str(result.content)
    assert "/invented.md" not in paths(client, dream.outputs[0].memory_store_id)


def test_nobody_else_speaks_in_a_dreams_session(client: Anthropic, notes: str, talk: str) -> None:
    dream = running_dream(client, begin(client, notes, talk, script="daydream"))
    session_id = str(dream.session_id)
    for act in (
        lambda: client.beta.sessions.events.send(session_id, events=[MESSAGE]),
        lambda: client.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}]),
        lambda: client.beta.sessions.update(session_id, title="mine"),
        lambda: client.beta.sessions.archive(session_id),
        lambda: client.beta.sessions.delete(session_id),
    ):
        with pytest.raises(anthropic.BadRequestError, match=dream.id):
            act()
    client.beta.dreams.cancel(dream.id)
    stopped(client, dream)
    usage = client.beta.dreams.retrieve(dream.id).usage
    assert client.beta.sessions.delete(session_id).id == session_id
    assert client.beta.dreams.retrieve(dream.id).usage == usage


def test_R008_D06_the_dreaming_beta_alone_is_enough_and_needed(
    server: Server, client: Anthropic, store: str, talk: str
) -> None:
    headers = {"x-api-key": server.api_key}
    with httpx2.Client(base_url=server.base_url, headers=headers) as http:
        for betas, status in (
            (DREAMING_BETA, 200),
            (f"managed-agents-2026-04-01,{DREAMING_BETA}", 200),
            ("managed-agents-2026-04-01", 400),
        ):
            answer = http.get("/v1/dreams", headers={"anthropic-beta": betas})
            assert answer.status_code == status, betas
        refused = http.get("/v1/dreams")
        assert refused.status_code == 400
        assert DREAMING_BETA in refused.json()["error"]["message"]


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose dreams have three seconds."""
    data_dir = tmp_path_factory.mktemp("brief") / "data"
    with running(data_dir, model_scripts=str(SCRIPTS), dream_budget_s=3.0) as started:
        yield started


def test_R247_a_dream_that_takes_too_long_is_a_timeout(brief: Server) -> None:
    with Anthropic(base_url=brief.base_url, api_key=brief.api_key, max_retries=0) as client:
        store = client.beta.memory_stores.create(name="s").id
        write(client, store, "/notes.md")
        with Site(brief, client) as site:
            talk = site.session().id
        dream = ended(client, begin(client, store, talk, script="daydream"))
        assert dream.error is not None
        assert (dream.status, dream.error.type) == ("failed", "timeout")
        stopped(client, dream)

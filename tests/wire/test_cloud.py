"""Cloud environments served by workers of the operator's pool, with real sandboxes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check
from tests.wire.workers import ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of our own: a pool takes the work of every cloud environment there is."""
    data_dir = tmp_path_factory.mktemp("cloud") / "data"
    with running(data_dir, model_scripts=str(SCRIPTS)) as started:
        yield started


def pool_key(site: Site) -> str:
    answer = site.http.post("/x/pool/keys", json={"name": "pool"})
    assert answer.status_code == 200, answer.text
    key: str = answer.json()["key"]
    return key


def cloud_session(site: Site, script: str = "shell", policy: str = "always_allow") -> Any:
    return site.api.beta.sessions.create(
        agent=site.agent(script, policy),
        environment_id=site.environment("cloud"),
        initial_events=[MESSAGE],
    )


async def ended(site: Site, session_id: str, stop: str = "end_turn", count: int = 1) -> list[Any]:
    """Return the log once the session rested for that reason so many times, and rests."""

    def look() -> list[Any] | None:
        log = site.events(session_id)
        rests = [e for e in log if e.type == "session.status_idle" and e.stop_reason.type == stop]
        return log if len(rests) >= count and log[-1].id == rests[-1].id else None

    return await to_thread.run_sync(lambda: until(look), abandon_on_cancel=True)


def named(log: list[Any], type: str) -> list[Any]:
    return [event for event in log if event.type == type]


async def test_c14_2_a_cloud_sandboxs_results_are_the_agents(site: Site, tmp_path: Path) -> None:
    async with ours(site, tmp_path, pool_key(site)):
        session = cloud_session(site, "hands")
        log = await ended(site, session.id)
    uses, results = named(log, "agent.tool_use"), named(log, "agent.tool_result")
    assert len(uses) == 7
    assert [use.id for use in uses] == [result.tool_use_id for result in results]
    assert not any(result.is_error for result in results)
    assert named(log, "user.tool_result") == []
    assert named(log, "agent.message")[-1].content[0].text == "The total is 52."
    # It never asks a client for anything: the sandbox is the server's own business.
    assert len(named(log, "session.status_idle")) == 1
    for event in log:
        check(event, nullable=False)


async def test_R183_R185_c11_4_files_go_in_read_only_and_what_is_left_comes_out(
    site: Site, tmp_path: Path
) -> None:
    beta = site.api.beta
    file_id = beta.files.upload(file=("data.csv", b"a,b\n1,2\n")).id
    async with ours(site, tmp_path, pool_key(site)) as state:
        session = beta.sessions.create(
            agent=site.agent("files"),
            environment_id=site.environment("cloud"),
            resources=[{"type": "file", "file_id": file_id, "mount_path": "/in/data.csv"}],
            initial_events=[MESSAGE],
        )
        log = await ended(site, session.id)
        looked, changed, *_ = [e.content[0].text for e in named(log, "agent.tool_result")]
        assert "1,2" in looked
        assert "1,2" in changed
        assert "Read-only file system" in changed

        def brought() -> dict[str, Any] | None:
            files = {f.filename: f for f in beta.files.list(scope_id=session.id) if f.downloadable}
            return files if set(files) == {"report.txt", "data.bin", "report2.txt"} else None

        left = await to_thread.run_sync(lambda: until(brought))
        assert {f.scope.id for f in left.values()} == {session.id}

        def text(name: str) -> bytes:
            return beta.files.download(left[name].id).read()

        assert text("report.txt") == b"The sum is 3.\n"
        assert text("data.bin") == b"x\0y"
        assert text("report2.txt") == b"second\n"
        # One more file, between two turns of a session that is served already.
        more = beta.files.upload(file=("more.csv", b"3,4\n")).id
        beta.sessions.resources.add(session.id, type="file", file_id=more, mount_path="/more.csv")
        beta.sessions.events.send(session.id, events=[MESSAGE])
        log = await ended(site, session.id, count=2)
        shown = named(log, "agent.tool_result")[5].content[0].text
        assert "3,4" in shown
        assert "report2.txt" in shown
        beta.sessions.delete(session.id)

        def forgotten() -> bool:
            return not (state / "files" / session.id).exists()

        await to_thread.run_sync(lambda: until(forgotten))
    assert list(beta.files.list(scope_id=session.id)) == []
    told = [json.loads(line) for line in read_lines(state / "audit.jsonl")]
    fetched = [record for record in told if record["kind"] == "file.fetch"]
    sent = [record for record in told if record["kind"] == "output.send"]
    assert len(fetched) >= 2
    assert {record["fields"]["path"] for record in sent} >= {"report.txt", "deep/er/data.bin"}
    digest = hashlib.sha256(b"The sum is 3.\n").hexdigest()
    assert digest in {record["fields"]["sha256"] for record in sent}


async def test_R390_the_fixed_directories_are_there(site: Site, tmp_path: Path) -> None:
    store = site.api.beta.memory_stores.create(name="Notes").id
    async with ours(site, tmp_path, pool_key(site)):
        session = site.api.beta.sessions.create(
            agent=site.agent("places"),
            environment_id=site.environment("cloud"),
            resources=[{"type": "memory_store", "memory_store_id": store}],
            initial_events=[MESSAGE],
        )
        log = await ended(site, session.id)
    (result,) = named(log, "agent.tool_result")
    assert result.content[0].text.split() == [
        "/workspace",
        "/mnt/memory/notes",
        "/mnt/session/outputs",
        "/mnt/session/uploads",
    ]


async def test_what_a_person_allows_runs_and_what_is_denied_does_not(
    site: Site, tmp_path: Path
) -> None:
    async with ours(site, tmp_path, pool_key(site)):
        for verdict in ("allow", "deny"):
            session = cloud_session(site, policy="always_ask")
            (use,) = named(await ended(site, session.id, "requires_action"), "agent.tool_use")
            event: Any = {
                "type": "user.tool_confirmation",
                "tool_use_id": use.id,
                "result": verdict,
            }
            site.api.beta.sessions.events.send(session.id, events=[event])
            log = await to_thread.run_sync(site.wait, session.id, "agent.tool_result")
            (result,) = named(log, "agent.tool_result")
            assert result.is_error is (verdict == "deny")
            assert ("42" in result.content[0].text) is (verdict == "allow")


async def test_an_interrupt_closes_a_call_that_nobody_serves(site: Site) -> None:
    session = cloud_session(site)

    def called() -> list[Any] | None:
        return named(site.events(session.id), "agent.tool_use") or None

    await to_thread.run_sync(lambda: until(called))
    site.api.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}])
    (result,) = named(await ended(site, session.id), "agent.tool_result")
    assert result.is_error
    # The item that waits for a worker is of no use to one any more, but does no harm either.
    assert site.types(session.id)[-1] == "session.status_idle"


async def test_a_session_without_sandbox_calls_needs_no_worker(site: Site) -> None:
    session = cloud_session(site, "answer")
    await ended(site, session.id)
    assert poll(site, pool_key(site)) != session.id


def test_only_the_pool_answers_for_a_cloud_sandbox(site: Site) -> None:
    session = cloud_session(site)
    use: Any = site.wait(session.id, "agent.tool_use")[-1]
    answer: Any = {
        "type": "user.tool_result",
        "tool_use_id": use.id,
        "content": [{"type": "text", "text": "forged"}],
    }
    with pytest.raises(anthropic.BadRequestError, match="self_hosted"):
        site.api.beta.sessions.events.send(session.id, events=[answer])


def test_a_pool_key_claims_and_does_nothing_else(site: Site) -> None:
    session, key = cloud_session(site), pool_key(site)
    headers = {"authorization": f"Bearer {key}", "anthropic-beta": "managed-agents-2026-04-01"}
    environment = f"/v1/environments/{session.environment_id}"
    with httpx2.Client(base_url=site.server.base_url, headers=headers) as http:
        for path in (
            "/v1/sessions",
            f"/v1/sessions/{session.id}",
            f"/v1/sessions/{session.id}/events",
            "/v1/agents",
            "/v1/files",
            "/v1/skills",
            f"{environment}/work",
            f"{environment}/work/poll",
            f"{environment}/work/stats",
            "/x/pool/keys",
            "/x/keys",
        ):
            assert http.get(path).status_code == 403, path
        stop = http.post(f"{environment}/work/work_1/stop", json={"force": True})
        assert stop.status_code == 403
    # And nobody else claims from the pool.
    for secret in (site.key, site.server.api_key):
        answer = httpx2.get(f"{site.server.base_url}/x/pool/poll", headers={"x-api-key": secret})
        assert answer.status_code == 403
    (shown, *_) = site.http.get("/x/pool/keys").json()["data"]
    assert site.http.delete(f"/x/pool/keys/{shown['id']}").json()["revoked_at"] is not None
    gone = httpx2.get(f"{site.server.base_url}/x/pool/poll", headers=headers)
    assert gone.status_code == 401


def poll(site: Site, key: str) -> str | None:
    """Return the session whose work the pool gets next, if any."""
    answer = httpx2.get(
        f"{site.server.base_url}/x/pool/poll", headers={"authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json() and answer.json()["data"]["id"]

"""Skills through the official SDK."""

import io
import stat
import zipfile
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.lib import files_from_dir

from tests.wire.site import Site
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

READING: Any = [{"type": "agent_toolset_20260401"}]


def manifest(name: str = "calc", description: str = "Adds numbers") -> bytes:
    return f"---\nname: {name}\ndescription: {description}\n---\nAdd.\n".encode()


def bundle(name: str = "calc", **more: bytes) -> Any:
    files = [(f"{name}/SKILL.md", manifest(name)), (f"{name}/run.sh", b"#!/bin/sh\necho 52\n")]
    return [*files, *((f"{name}/{path}", data) for path, data in more.items())]


def names(archive: bytes) -> dict[str, int]:
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        return {info.filename: info.external_attr >> 16 for info in found.infolist()}


def test_R187_R194_R009_c1_10_c24_7_a_skill_is_described_whole(client: Anthropic) -> None:
    made = client.beta.skills.create(files=bundle())
    check(made)
    assert made.id.startswith("skill_")
    assert (made.display_name, made.source.type) == ("calc", "custom")
    assert client.beta.skills.retrieve(made.id) == made
    named = client.beta.skills.create(files=bundle(), display_name="Adding up")
    assert named.display_name == "Adding up"
    with pytest.raises(anthropic.BadRequestError, match="display_name"):
        client.beta.skills.create(files=bundle(), display_name="two\nlines")


def test_R188_R196_c24_1_c24_2_latest_is_an_alias_of_retrieval_only(client: Anthropic) -> None:
    skill = client.beta.skills.create(files=bundle())
    first = client.beta.skills.versions.retrieve("latest", skill_id=skill.id)
    check(first)
    assert first.id == skill.latest_version_id
    assert first.id.startswith("skver_")
    assert (first.name, first.description) == ("calc", "Adds numbers")
    assert client.beta.skills.versions.retrieve(first.id, skill_id=skill.id) == first
    for call in (client.beta.skills.versions.download, client.beta.skills.versions.delete):
        with pytest.raises(anthropic.NotFoundError):
            call("latest", skill_id=skill.id)


def test_R195_versions_grow_and_keep_the_name(client: Anthropic) -> None:
    skill = client.beta.skills.create(files=bundle())
    second = client.beta.skills.versions.create(skill.id, files=bundle(more=b"x"))
    check(second)
    newer = client.beta.skills.retrieve(skill.id)
    assert newer.latest_version_id == second.id
    assert newer.updated_at > skill.updated_at
    with pytest.raises(anthropic.BadRequestError, match="'calc'"):
        client.beta.skills.versions.create(skill.id, files=bundle("other"))
    listed = list(client.beta.skills.versions.list(skill.id, limit=1))
    assert [v.id for v in listed] == [second.id, skill.latest_version_id]
    with pytest.raises(anthropic.NotFoundError):
        client.beta.skills.versions.create("skill_none", files=bundle())


async def test_R190_R197_c1_16_downloads_are_deterministic_zips(
    client: Anthropic, async_client: AsyncAnthropic, tmp_path: Path
) -> None:
    folder = tmp_path / "calc"
    (folder / "lib").mkdir(parents=True)
    (folder / "SKILL.md").write_bytes(manifest())
    (folder / "lib" / "data.txt").write_text("1")
    (folder / "go.sh").write_text("#!/bin/sh\n")
    skill = client.beta.skills.create(files=files_from_dir(str(folder)))
    version = skill.latest_version_id
    archive = client.beta.skills.versions.download(version, skill_id=skill.id).read()
    assert names(archive) == {
        "calc/SKILL.md": stat.S_IFREG | 0o644,
        "calc/go.sh": stat.S_IFREG | 0o755,
        "calc/lib/data.txt": stat.S_IFREG | 0o644,
    }
    # A download uploaded again, by the other client, is the same archive.
    again = await async_client.beta.skills.create(files=[("calc.zip", archive)])
    answer = await async_client.beta.skills.versions.download(
        again.latest_version_id, skill_id=again.id
    )
    assert await answer.read() == archive


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("calc/x", b"x")], "SKILL.md is missing"),
        ([("SKILL.md", manifest())], "one top directory"),
        ([("calc/SKILL.md", manifest()), ("other/x", b"x")], "one top directory"),
        ([("calc/SKILL.md", manifest()), ("calc/../../x", b"x")], "relative path"),
        ([("/calc/SKILL.md", manifest())], "relative path"),
        ([("calc/SKILL.md", b"no front matter")], "front matter"),
        ([("calc/SKILL.md", manifest("Calc"))], "name:"),
        ([("calc/SKILL.md", manifest("claude-calc"))], "claude"),
        ([("calc/SKILL.md", manifest(description="<b>x</b>"))], "description:"),
        ([("calc.zip", b"no zip")], "zip archive is damaged"),
        ([("calc.zip", b"no zip"), ("calc/SKILL.md", manifest())], "one zip archive, or"),
    ],
)
def test_R191_R192_R193_what_is_wrong_is_named(client: Anthropic, files: Any, message: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message):
        client.beta.skills.create(files=files)


def test_R191_too_large_is_413(client: Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.beta.skills.create(files=bundle(big=b"x" * 30 * 1024 * 1024))
    assert caught.value.status_code == 413


def test_R198_deletion(client: Anthropic) -> None:
    skill = client.beta.skills.create(files=bundle())
    first = skill.latest_version_id
    with pytest.raises(anthropic.BadRequestError, match="only one"):
        client.beta.skills.versions.delete(first, skill_id=skill.id)
    second = client.beta.skills.versions.create(skill.id, files=bundle())
    gone = client.beta.skills.versions.delete(second.id, skill_id=skill.id)
    check(gone)
    assert (gone.id, gone.type) == (second.id, "skill_version_deleted")
    assert client.beta.skills.retrieve(skill.id).latest_version_id == first
    deleted = client.beta.skills.delete(skill.id)
    check(deleted)
    assert (deleted.id, deleted.type) == (skill.id, "skill_deleted")
    for call in (client.beta.skills.retrieve, client.beta.skills.delete):
        with pytest.raises(anthropic.NotFoundError):
            call(skill.id)
    with pytest.raises(anthropic.NotFoundError):
        client.beta.skills.versions.retrieve(first, skill_id=skill.id)


async def test_R199_lists_page_and_filter(client: Anthropic, async_client: AsyncAnthropic) -> None:
    made = [client.beta.skills.create(files=bundle()).id for _ in range(3)]
    page = client.beta.skills.list(limit=2)
    assert [skill.id for skill in page.data] == made[:0:-1]
    for skill in page.data:
        check(skill)
    also = [skill.id async for skill in await async_client.beta.skills.list(source="custom")]
    assert also[:3] == made[::-1]
    assert client.beta.skills.list(source="anthropic").data == []
    with pytest.raises(anthropic.BadRequestError, match="source"):
        client.beta.skills.list(source="elsewhere")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        client.beta.skills.list(limit=1001)
    versions = [
        version.id async for version in await async_client.beta.skills.versions.list(made[0])
    ]
    assert len(versions) == 1


def test_R200_c5_25_c5_27_agents_name_skills(client: Anthropic) -> None:
    skill = client.beta.skills.create(files=bundle())
    reference: Any = {"type": "custom", "skill_id": skill.id}
    agent = client.beta.agents.create(name="a", model="m", tools=READING, skills=[reference])
    check(agent)
    assert [s.to_dict() for s in agent.skills] == [{**reference, "version": "latest"}]
    pinned = client.beta.agents.update(
        agent.id, skills=[{**reference, "version": skill.latest_version_id}]
    )
    assert pinned.skills[0].version == skill.latest_version_id
    for bad, message in (
        ({"tools": []}, "`read` tool"),
        ({"skills": [{**reference, "version": "skver_none"}]}, "no skill version"),
        ({"skills": [{"type": "anthropic", "skill_id": "xlsx"}]}, "no built-in skills"),
        ({"skills": [reference, reference]}, "appears twice"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=message):
            client.beta.agents.update(agent.id, **bad)


def test_c5_25_sessions_hold_concrete_versions(site: Site) -> None:
    skill = site.api.beta.skills.create(files=bundle())
    agent = site.api.beta.agents.create(
        name="a",
        model="scripted/answer",
        tools=READING,
        skills=[{"type": "custom", "skill_id": skill.id}],
    )
    made = site.api.beta.sessions.create(agent=agent.id, environment_id=site.environment_id)
    assert [s.version for s in made.agent.skills] == [skill.latest_version_id]
    newer = site.api.beta.skills.versions.create(skill.id, files=bundle(more=b"x"))
    assert site.api.beta.sessions.retrieve(made.id).agent.skills == made.agent.skills
    later = site.api.beta.sessions.create(agent=agent.id, environment_id=site.environment_id)
    assert later.agent.skills[0].version == newer.id
    # Q34: what runs goes on, what is new does not start.
    site.api.beta.skills.delete(skill.id)
    assert site.api.beta.sessions.retrieve(made.id).agent.skills == made.agent.skills
    with pytest.raises(anthropic.BadRequestError) as caught:
        site.api.beta.sessions.create(agent=agent.id, environment_id=site.environment_id)
    body: Any = caught.value.body
    assert body["error"]["details"]["error_code"] == "skill_not_found_error"


def test_c2_8_workers_read_the_skills_of_their_sessions_only(site: Site) -> None:
    used, other = (site.api.beta.skills.create(files=bundle()) for _ in range(2))
    agent = site.api.beta.agents.create(
        name="a",
        model="scripted/answer",
        tools=READING,
        skills=[{"type": "custom", "skill_id": used.id}],
    )
    reading = site.worker.beta.skills.versions
    with pytest.raises(anthropic.NotFoundError):
        reading.retrieve("latest", skill_id=used.id)
    site.api.beta.sessions.create(agent=agent.id, environment_id=site.environment_id)
    found = reading.retrieve("latest", skill_id=used.id)
    assert names(reading.download(found.id, skill_id=used.id).read())
    assert site.worker.beta.skills.retrieve(used.id).id == used.id
    with pytest.raises(anthropic.NotFoundError):
        reading.retrieve("latest", skill_id=other.id)
    with pytest.raises(anthropic.NotFoundError):
        reading.download(other.latest_version_id, skill_id=other.id)
    for call in (site.worker.beta.skills.list, lambda: reading.list(used.id)):
        with pytest.raises(anthropic.PermissionDeniedError):
            call()
    with pytest.raises(anthropic.PermissionDeniedError):
        site.worker.beta.skills.create(files=bundle())

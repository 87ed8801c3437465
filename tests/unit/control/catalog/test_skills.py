from typing import Any

import pytest

from intramuros.control.catalog import service, skills
from intramuros.control.catalog.kinds import SKILL
from intramuros.control.catalog.skills import Upload
from intramuros.control.identity.actor import Actor
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.skills import Manifest

QUOTA = 1000


def upload(key: str, name: str = "calc", size: int = 10) -> Upload:
    return Upload(Manifest(name, f"does {key}"), Blob(key, size, "d"), QUOTA)


def custom(skill_id: str, version: str = "latest") -> dict[str, Any]:
    return {"type": "custom", "skill_id": skill_id, "version": version}


@pytest.fixture
def skill_id(tx: Tx, actor: Actor) -> str:
    return skills.create(tx, actor, upload("k1"), None).id


def latest(tx: Tx, actor: Actor, skill_id: str) -> str:
    found: str = skills.version_of(tx, actor.workspace_id, skill_id, "latest", alias=True).id
    return found


def test_R194_the_display_name_defaults_to_the_name(tx: Tx, actor: Actor, skill_id: str) -> None:
    shown = skills.present(service.get(tx, actor.workspace_id, SKILL, skill_id))
    assert (shown["display_name"], shown["source"]) == ("calc", {"type": "custom"})
    assert shown["latest_version_id"] == latest(tx, actor, skill_id)
    named = skills.create(tx, actor, upload("k2"), "Adds things")
    assert skills.present(named)["display_name"] == "Adds things"


def test_R195_every_version_has_the_skills_name(tx: Tx, actor: Actor, skill_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"'calc'.*'other'"):
        skills.add_version(tx, actor, skill_id, upload("k2", "other"))
    made = skills.add_version(tx, actor, skill_id, upload("k2"))
    assert latest(tx, actor, skill_id) == made.id
    assert skills.archive_of(tx, made).key == "k2"


def test_R196_only_retrieval_knows_latest(tx: Tx, actor: Actor, skill_id: str) -> None:
    for version in ("latest", "skver_none"):
        with pytest.raises(NotFound):
            skills.version_of(tx, actor.workspace_id, skill_id, version)
    other = skills.create(tx, actor, upload("k2", "other"), None)
    with pytest.raises(NotFound):
        skills.version_of(tx, actor.workspace_id, other.id, latest(tx, actor, skill_id))
    with pytest.raises(NotFound):
        skills.version_of(tx, "wrkspc_other", skill_id, "latest", alias=True)


def test_R198_the_only_version_stays_and_the_newest_falls_back(
    tx: Tx, actor: Actor, skill_id: str, clock: ManualClock
) -> None:
    first = latest(tx, actor, skill_id)
    with pytest.raises(InvalidRequest, match="only one"):
        skills.remove_version(tx, actor, skill_id, first)
    clock.advance(1)
    second = skills.add_version(tx, actor, skill_id, upload("k2")).id
    clock.advance(1)
    third = skills.add_version(tx, actor, skill_id, upload("k3")).id
    assert skills.remove_version(tx, actor, skill_id, first) == ["k1"]
    assert latest(tx, actor, skill_id) == third
    assert skills.remove_version(tx, actor, skill_id, third) == ["k3"]
    assert latest(tx, actor, skill_id) == second
    assert holdings.used(tx) == 10


def test_R198_a_skill_goes_with_all_its_versions(
    tx: Tx, actor: Actor, skill_id: str, clock: ManualClock
) -> None:
    for number in range(2, 5):
        clock.advance(1)
        skills.add_version(tx, actor, skill_id, upload(f"k{number}"))
    assert sorted(skills.remove(tx, actor, skill_id)) == ["k1", "k2", "k3", "k4"]
    assert holdings.used(tx) == 0
    with pytest.raises(NotFound):
        skills.remove(tx, actor, skill_id)


def test_R181_skills_count_towards_the_quota(tx: Tx, actor: Actor, skill_id: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        skills.add_version(tx, actor, skill_id, upload("k2", size=QUOTA))
    assert caught.value.hints.code == "storage_quota_exceeded"


def test_c5_25_references_must_exist(tx: Tx, actor: Actor, skill_id: str) -> None:
    workspace = actor.workspace_id
    skills.check_references(tx, workspace, [custom(skill_id)])
    skills.check_references(tx, workspace, [custom(skill_id, latest(tx, actor, skill_id))])
    for bad in (custom("skill_none"), custom(skill_id, "skver_none")):
        with pytest.raises(InvalidRequest, match=r"skills\[0\]: no ") as caught:
            skills.check_references(tx, workspace, [bad])
        assert caught.value.hints.code == "skill_not_found_error"
    with pytest.raises(InvalidRequest, match="no built-in skills"):
        skills.check_references(tx, workspace, [{**custom("xlsx"), "type": "anthropic"}])


def test_c5_25_sessions_get_concrete_versions(tx: Tx, actor: Actor, skill_id: str) -> None:
    pinned, told = skills.pin(tx, actor.workspace_id, [custom(skill_id)])
    version = latest(tx, actor, skill_id)
    assert pinned == [custom(skill_id, version)]
    assert [(t.skill_id, t.version_id, t.manifest) for t in told] == [
        (skill_id, version, Manifest("calc", "does k1"))
    ]


def test_two_skills_of_one_name_cannot_share_a_session(tx: Tx, actor: Actor, skill_id: str) -> None:
    twin = skills.create(tx, actor, upload("k2"), None).id
    with pytest.raises(InvalidRequest, match="share a directory"):
        skills.pin(tx, actor.workspace_id, [custom(skill_id), custom(twin)])


def test_R201_skills_count_over_all_agents_of_a_session(
    tx: Tx, actor: Actor, skill_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = skills.create(tx, actor, upload("k2", "other"), None).id
    first = latest(tx, actor, skill_id)

    def agents(*references: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"name": f"a{n}", "skills": [one]} for n, one in enumerate(references)]

    crew = agents(custom(skill_id), custom(skill_id, first), custom(other))
    told = skills.pin_all(tx, actor.workspace_id, crew)
    assert [skill.skill_id for skill in told] == [skill_id, other], "a shared skill counts once"
    assert [agent["skills"][0]["version"] for agent in crew[:2]] == [first, first]
    skills.add_version(tx, actor, skill_id, upload("k3"))
    with pytest.raises(InvalidRequest, match=r"a1.*'calc'"):
        skills.pin_all(tx, actor.workspace_id, agents(custom(skill_id), custom(skill_id, first)))
    monkeypatch.setattr(skills, "MAX_SESSION_SKILLS", 1)
    with pytest.raises(InvalidRequest, match="a session takes 1"):
        skills.pin_all(tx, actor.workspace_id, crew)

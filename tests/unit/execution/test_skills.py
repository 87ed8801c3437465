import json
from pathlib import Path

import anyio
import pytest

from intramuros.execution.client import Away, Refused, Skill, SkillVersion, Work
from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.sandbox.base import Mount
from intramuros.execution.skills import Skills, directory_of
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock
from tests.unit.execution.test_archives import zip_of

pytestmark = pytest.mark.anyio

CALC, PDF = Skill("skill_1", "latest"), Skill("skill_2", "skver_9")


class ScriptedClient:
    def __init__(self, session_id: str = "sesn_1") -> None:
        self.work = Work("work_1", "env_1", "session", session_id)
        self.names = {"skill_1": "calc", "skill_2": "pdf"}
        self.archives: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        self.asked: list[str] = []

    async def skill_version(self, skill: Skill) -> SkillVersion:
        self.asked.append(skill.skill_id)
        if self.failures:
            raise self.failures.pop(0)
        return SkillVersion(f"skver_of_{skill.skill_id}", self.names[skill.skill_id])

    async def download_skill(
        self, skill: Skill, version: SkillVersion, target: Path, max_bytes: int
    ) -> str:
        assert version.id == f"skver_of_{skill.skill_id}"
        data = self.archives.get(skill.skill_id, zip_of({"x/SKILL.md": skill.skill_id.encode()}))
        assert len(data) < max_bytes
        await anyio.Path(target).write_bytes(data)
        return "digest"


@pytest.fixture
def client() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture
def skills(tmp_path: Path) -> Skills:
    record = Record(tmp_path / "audit.jsonl", ManualClock())
    return Skills(tmp_path / "skills", record, lambda: 0.0)


def shown(mounts: tuple[Mount, ...]) -> dict[str, str]:
    (mount,) = mounts
    assert (mount.target, mount.read_only) == ("/workspace/skills", True)
    return {str(p.relative_to(mount.source)): p.read_text() for p in mount.source.rglob("*.md")}


async def test_skills_are_laid_out_recorded_and_removed(
    skills: Skills, client: ScriptedClient, tmp_path: Path
) -> None:
    mounts = await skills.lay_out(client, (CALC, PDF))
    assert shown(mounts) == {"calc/SKILL.md": "skill_1", "pdf/SKILL.md": "skill_2"}
    records = [json.loads(line) for line in read_lines(tmp_path / "audit.jsonl")]
    found = [(r["kind"], r["fields"]["skill_id"], r["fields"]["sha256"]) for r in records]
    assert found == [
        ("skill.fetch", "skill_1", "digest"),
        ("skill.fetch", "skill_2", "digest"),
    ]
    await skills.tidy("sesn_1", lambda _: False)
    assert list((tmp_path / "skills").iterdir()) == []
    assert await skills.lay_out(client, ()) == ()


async def test_c24_6_a_failing_skill_is_left_out(skills: Skills, client: ScriptedClient) -> None:
    client.failures = [Refused("HTTP 404", 404)]
    assert shown(await skills.lay_out(client, (CALC, PDF))) == {"pdf/SKILL.md": "skill_2"}
    client.archives["skill_1"] = zip_of({"../x": b""})
    await skills.remove("sesn_1")
    assert shown(await skills.lay_out(client, (CALC, PDF))) == {"pdf/SKILL.md": "skill_2"}
    client.archives.clear()
    client.names["skill_2"] = "calc"
    await skills.remove("sesn_1")
    assert shown(await skills.lay_out(client, (CALC, PDF))) == {"calc/SKILL.md": "skill_1"}


async def test_a_control_plane_that_is_away_is_asked_again(
    skills: Skills, client: ScriptedClient
) -> None:
    client.failures = [Away("HTTP 503")] * 3
    assert shown(await skills.lay_out(client, (CALC,))) == {"calc/SKILL.md": "skill_1"}
    await skills.remove("sesn_1")
    client.failures = [Away("HTTP 503")] * 4
    assert shown(await skills.lay_out(client, (CALC,))) == {}
    assert client.asked == ["skill_1"] * 8


async def test_what_cannot_be_recorded_is_not_unpacked(
    skills: Skills, client: ScriptedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise RecordFailed("full")

    monkeypatch.setattr(skills._record, "write", full)
    assert shown(await skills.lay_out(client, (CALC,))) == {}


async def test_a_kept_sandbox_keeps_its_skills(
    skills: Skills, client: ScriptedClient, tmp_path: Path
) -> None:
    first = await skills.lay_out(client, (CALC,))
    await skills.tidy("sesn_1", lambda _: True)
    assert await skills.lay_out(client, (CALC,)) == first
    assert client.asked == ["skill_1"]
    await skills.tidy("sesn_1", lambda _: True)
    # Another session's item ends after the sandbox has gone.
    other = ScriptedClient("sesn_2")
    await skills.lay_out(other, (PDF,))
    await skills.tidy("sesn_2", lambda _: False)
    assert list((tmp_path / "skills").iterdir()) == []


async def test_a_worker_removes_what_an_earlier_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "skills"
    (folder / "old").mkdir(parents=True)
    record = Record(tmp_path / "audit.jsonl", ManualClock())
    Skills(folder, record, lambda: 0.0)
    assert list(folder.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="--state-dir"):
        Skills(tmp_path / "file" / "skills", record, lambda: 0.0)


@pytest.mark.parametrize(
    ("name", "directory"),
    [("calc", "calc"), ("a/b/calc ", "calc"), *((bad, "skill_1") for bad in ("..", "", "a/"))],
)
def test_c24_3_the_directory_is_the_names_last_component(name: str, directory: str) -> None:
    assert directory_of(SkillVersion("v", name), CALC) == directory


def test_c24_3_a_skill_without_a_usable_name_is_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        directory_of(SkillVersion("v", "."), Skill("../x", "latest"))

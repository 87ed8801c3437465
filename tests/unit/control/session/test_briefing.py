from typing import Any

import pytest

from intramuros.control.session.briefing import brief
from intramuros.protocol.resources.skills import Manifest


def store(**more: Any) -> dict[str, Any]:
    return {
        "type": "memory_store",
        "name": "Team notes",
        "description": "",
        "access": "read_write",
        "instructions": None,
        "mount_path": "/mnt/memory/team-notes",
        **more,
    }


@pytest.mark.parametrize(("own", "said"), [("Be brief.", "Be brief."), ("", None), (None, None)])
def test_without_memory_the_agents_own_stands_alone(own: str | None, said: str | None) -> None:
    assert brief(own, []) == said


def test_c11_13_R146_each_mount_is_described() -> None:
    text = brief(
        "Be brief.",
        [
            store(description="What the team decided.", instructions="Read it first."),
            store(name="Law", mount_path="/mnt/memory/law", access="read_only"),
        ],
    )
    assert text is not None
    assert text.startswith("Be brief.\n\n# Memory\n")
    for part in (
        "`/mnt/memory/team-notes`: Team notes (you may read and write)",
        "About it: What the team decided.",
        "How to use it: Read it first.",
        "`/mnt/memory/law`: Law (you may only read; writes are refused)",
    ):
        assert part in text
    assert text.count("About it") == 1
    assert brief(None, [store()]) == brief("", [store()])


def test_each_file_is_pointed_to_by_its_place_and_its_name() -> None:
    place = "/mnt/session/uploads"
    text = brief(
        "Be brief.",
        [
            {"type": "file", "mount_path": f"{place}/file_1", "_filename": "q3.csv"},
            {"type": "file", "mount_path": f"{place}/plan.txt", "_filename": "plan.txt"},
        ],
    )
    assert text is not None
    assert text.startswith("Be brief.\n\n# Files\n")
    assert text.endswith(f"- `{place}/file_1`: q3.csv\n- `{place}/plan.txt`")


def test_skills_stand_between_the_agents_own_and_memory() -> None:
    skills = [Manifest("calc", "Adds\nnumbers"), Manifest("pdf", "Fills forms")]
    text = brief("Be brief.", [store()], skills)
    assert text is not None
    assert text.startswith("Be brief.\n\n# Skills\n")
    assert "- `skills/calc/SKILL.md`: Adds numbers\n- `skills/pdf/SKILL.md`: Fills forms\n" in text
    assert text.index("# Skills") < text.index("# Memory")
    assert brief(None, [], skills[:1]) == brief("", [], skills[:1])


def repository(**more: Any) -> dict[str, Any]:
    return {
        "type": "github_repository",
        "url": "https://github.com/octo/repo",
        "mount_path": "/workspace/repo",
        "checkout": None,
        **more,
    }


def test_c11_6_each_repository_is_pointed_to_by_its_place() -> None:
    text = brief(
        "Be brief.",
        [
            repository(_state="ready"),
            repository(mount_path="/workspace/b", checkout={"type": "branch", "name": "dev"}),
            repository(mount_path="/workspace/c", checkout={"type": "commit", "sha": "a" * 40}),
            repository(mount_path="/workspace/d", _state="failed"),
        ],
    )
    assert text is not None
    assert text.startswith("Be brief.\n\n# Repositories\n")
    url = "https://github.com/octo/repo"
    assert text.endswith(
        f"- `/workspace/repo`: {url}\n- `/workspace/b`: {url}, branch `dev`\n"
        f"- `/workspace/c`: {url}, at {'a' * 40}\n"
        f"- `/workspace/d`: {url} (could not be cloned: it is not there)"
    )


def test_R203_skills_of_the_same_name_stand_side_by_side() -> None:
    skill = {"path": ".claude/skills/calc/SKILL.md", "name": "calc", "description": "Adds\n one."}
    text = brief(
        None,
        [repository(_skills=[skill]), repository(mount_path="/workspace/b", _skills=[skill])],
        [Manifest("calc", "Adds numbers")],
    )
    assert text is not None
    for line in (
        "- `skills/calc/SKILL.md`: Adds numbers",
        "- calc, `/workspace/repo/.claude/skills/calc/SKILL.md`: Adds one.",
        "- calc, `/workspace/b/.claude/skills/calc/SKILL.md`: Adds one.",
    ):
        assert line in text

from typing import Any

import pytest

from intramuros.control.identity.actor import Actor
from intramuros.control.session import repositories
from intramuros.control.session.repositories import CLONE_US, PATIENCE_US
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.repositories import (
    ERRORS,
    RepositoryParam,
    RepositoryReport,
)
from tests.fakes.world import World

URL = "https://github.com/octo/repo"
SKILL = {"path": ".claude/skills/a/SKILL.md", "name": "a", "description": "Does."}


def param(url: str = URL, **more: Any) -> RepositoryParam:
    return RepositoryParam.model_validate({"type": "github_repository", "url": url, **more})


@pytest.fixture
def actor(world: World) -> Actor:
    return Actor(world.clock, world.ids, world.workspace_id, "apikey_1")


def report(**more: Any) -> RepositoryReport:
    return RepositoryReport.model_validate({"attempt": "one", **more})


def test_R393_each_repository_has_a_place_of_its_own(actor: Actor) -> None:
    first, second = repositories.mount(actor, [param(), param(mount_path="/workspace/b/c")])
    assert (first["mount_path"], second["mount_path"]) == ("/workspace/repo", "/workspace/b/c")
    assert first["id"] != second["id"]
    for place in ("/workspace/repo", "/workspace/repo/in"):
        with pytest.raises(InvalidRequest, match="in each other's way"):
            repositories.mount(actor, [param(), param(mount_path=place)])


def test_the_agents_own_skills_keep_their_place(actor: Actor) -> None:
    for place in ("/workspace/skills", "/workspace/skills/x"):
        mounted = repositories.mount(actor, [param(mount_path=place)])
        with pytest.raises(InvalidRequest, match="choose another place"):
            repositories.check_beside_skills(mounted)
    repositories.check_beside_skills(repositories.mount(actor, [param()]))


def test_a_turn_waits_for_a_checkout_but_not_for_ever(actor: Actor, world: World) -> None:
    now_us = to_micros(world.clock.now())
    mounted = repositories.mount(actor, [param(), param(f"{URL}2")])
    assert repositories.ready_us(mounted, now_us) == now_us + PATIENCE_US
    begun = [repositories.begun(shown, now_us + 5) for shown in mounted]
    assert repositories.ready_us(begun, now_us + 5) == now_us + 5 + CLONE_US
    one = [repositories.told(begun[0], report(commit="a" * 40)), begun[1]]
    assert repositories.ready_us(one, now_us + 9) == now_us + 5 + CLONE_US
    both = [repositories.told(shown, report(trouble="failed")) for shown in one]
    assert repositories.ready_us(both, now_us + 9) == now_us + 9
    assert [repositories.begun(shown, now_us) for shown in both] == both
    assert repositories.ready_us([], 7) == 7
    file = {"type": "file"}
    assert repositories.begun(file, 1) is file


def test_R203_skills_are_picked_up_once(actor: Actor) -> None:
    (shown,) = repositories.mount(actor, [param()])
    failed = repositories.told(shown, report(trouble="unreachable"))
    assert "_skills" not in failed
    ready = repositories.told(failed, report(commit="a" * 40, skills=[SKILL]))
    assert ready["_skills"] == [SKILL]
    again = repositories.told(ready, report(attempt="two", commit="b" * 40))
    assert again["_skills"] == [SKILL]


def test_R396_every_trouble_is_told_in_words(actor: Actor) -> None:
    checkout = {"type": "branch", "name": "dev"}
    (shown,) = repositories.mount(actor, [param(checkout=checkout)])
    for trouble in ERRORS:
        text = repositories.explain(shown, trouble)
        assert text.startswith(f"{URL} was not checked out: ")
        assert "{" not in text
    assert "branch 'dev' does not exist" in repositories.explain(shown, "checkout")
    (shown,) = repositories.mount(actor, [param(checkout={"type": "commit", "sha": "a" * 40})])
    assert "commit 'aaaa" in repositories.explain(shown, "checkout")


def test_R395_only_the_rotated_resource_is_renewed(actor: Actor, world: World) -> None:
    first, second = repositories.mount(actor, [param(), param(f"{URL}2")])
    world.clock.advance(5)
    renewed = [repositories.renewed(shown, first["id"], actor) for shown in (first, second)]
    assert renewed[0]["updated_at"] > first["updated_at"]
    assert renewed[1] is second

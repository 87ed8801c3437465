"""Repositories in the sandboxes of a real worker, from a host that stands for github.com."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.egress import netns
from intramuros.execution.egress.http1 import Place
from intramuros.execution.egress.leg import Leg
from intramuros.execution.egress.upstream import Dialler
from intramuros.execution.sandbox.base import Level
from intramuros.kernel.appendlog import read_lines
from tests.engines import opened
from tests.fakes.git_host import GitHost, git, git_host
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site
from tests.wire.structure import check
from tests.wire.test_cloud import ended, named, pool_key
from tests.wire.workers import ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

TOKEN = "ghp_pl4nted-7f3a9c"
SKILL = "---\nname: review\ndescription: Reviews code.\n---\nRead it all.\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of our own: a pool takes the work of every cloud environment there is."""
    data_dir = tmp_path_factory.mktemp("repositories") / "data"
    with running(data_dir, model_scripts=str(SCRIPTS)) as started:
        yield started


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    found = netns.probe()
    if found.level is not Level.OK:
        pytest.skip(f"no egress on this host: {found.what}: {found.fix}")
    if shutil.which("git", path="/usr/bin:/bin") is None:
        pytest.skip("this host has no git for sandboxes to clone with")
    with git_host(tmp_path_factory.mktemp("host")) as made:
        made.make(
            "octo/repo", {"a.txt": "one\n", ".claude/skills/review/SKILL.md": SKILL}, token=TOKEN
        )
        made.make("octo/other", {"b.txt": "other"}, token="another")
        yield made


@pytest.fixture
def github(host: GitHost, monkeypatch: pytest.MonkeyPatch) -> GitHost:
    """Let the worker find the host at the port of github.com."""

    async def connect(_self: Dialler, place: Place, _addresses: Sequence[Any]) -> Leg:
        assert (place.name, place.port) == ("github.com", 443)
        return await Leg.dial("127.0.0.1", host.port)

    monkeypatch.setattr(Dialler, "_connect", connect)
    host.asked.clear()
    return host


async def this_machine(_name: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def settings(host: GitHost) -> dict[str, Any]:
    return {
        "egress_allow": ("github.com",),
        "egress_internal": ("github.com",),
        "egress_ca_file": host.ca,
    }


def repository(name: str = "octo/repo", token: str | None = TOKEN, **more: Any) -> Any:
    sent = {} if token is None else {"authorization_token": token}
    return {"type": "github_repository", "url": f"https://github.com/{name}", **sent, **more}


def results(log: list[Any]) -> list[str]:
    return [event.content[0].text for event in named(log, "agent.tool_result")]


async def test_c11_6_R203_R392_R393_an_agent_works_in_a_private_repository_without_its_token(
    site: Site, tmp_path: Path, github: GitHost
) -> None:
    session = site.api.beta.sessions.create(
        agent=site.agent("coder"),
        environment_id=site.environment("cloud"),
        resources=[repository()],
        initial_events=[MESSAGE],
    )
    async with ours(site, tmp_path, pool_key(site), this_machine, **settings(github)) as state:
        log = await ended(site, session.id)
    assert not named(log, "session.error")
    looked, changed, searched = results(log)
    assert looked.startswith("one\n1\norigin\thttps://github.com/octo/repo (fetch)")
    assert "\nmain\n" in looked
    # It was pushed by the agent's own git, through `origin`.
    assert changed.strip() == "41"
    pushed = git(github.bare("octo/repo"), "show", "fix:a.txt")
    assert pushed == "two"
    assert "seen ghp_pl4ntedx" in searched
    assert "HIT" not in searched
    assert "FOUND /tmp/decoy" in searched
    assert TOKEN not in json.dumps([event.to_dict() for event in log], default=str)
    # The token went with what git asks of this repository, and with nothing else.
    asked = [(path, token) for path, token in github.asked if token is not None]
    assert {token for _, token in asked} == {TOKEN}
    assert {path.rpartition("/")[2] for path, _ in asked} == {
        *("refs", "git-upload-pack", "git-receive-pack"),
    }
    assert all(path.startswith("/octo/repo/") for path, _ in asked)
    assert any("lfs" in path for path, _ in github.asked)
    assert any("octo/other" in path for path, _ in github.asked)
    # The model knew of the skill from its first word on.
    with opened(site.server.data_dir) as db:
        (kept,) = db.execute("SELECT resources FROM sessions WHERE id = ?", (session.id,))
    (shown,) = json.loads(kept[0])
    assert [skill["name"] for skill in shown["_skills"]] == ["review"]
    told = [json.loads(line) for line in read_lines(state / "audit.jsonl")]
    kinds = [record["kind"] for record in told]
    assert kinds.index("repository.clone") < kinds.index("repository.cloned")
    assert kinds.index("repository.cloned") < kinds.index("tool.call")
    used = [record for record in told if record["fields"].get("secrets")]
    assert {tuple(record["fields"]["secrets"]) for record in used} == {
        ("token of https://github.com/octo/repo",)
    }
    for file in state.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert TOKEN.encode() not in file.read_bytes(), file


async def test_R396_what_cannot_be_cloned_is_told_and_a_better_token_helps(
    site: Site, tmp_path: Path, github: GitHost
) -> None:
    github.statuses["octo/forbidden"] = 403
    wanted = {
        "octo/repo": ("wrong-token", "repository_authentication_error"),
        "octo/forbidden": (None, "repository_forbidden_error"),
        "octo/absent": (TOKEN, "repository_not_found_error"),
    }
    mounted = [repository(name, token) for name, (token, _) in wanted.items()]
    lost = {"type": "branch", "name": "gone"}
    mounted.append(repository(checkout=lost, mount_path="/workspace/gone"))
    async with ours(site, tmp_path, pool_key(site), this_machine, **settings(github)):
        first = site.api.beta.sessions.create(
            agent=site.agent("looker"),
            environment_id=site.environment("cloud"),
            resources=mounted[:3],
            initial_events=[MESSAGE],
        )
        log = await ended(site, first.id)
        errors = named(log, "session.error")
        for event in errors:
            check(event)
            assert event.error.retry_status.type == "retrying"
        assert [(event.error.repository_url, event.error.type) for event in errors] == [
            (f"https://github.com/{name}", type) for name, (_, type) in wanted.items()
        ]
        site.api.beta.sessions.resources.update(
            first.resources[0].id, session_id=first.id, authorization_token=TOKEN
        )
        site.api.beta.sessions.events.send(first.id, events=[MESSAGE])
        log = await ended(site, first.id, count=2)
        assert len(named(log, "session.error")) == 3
        before, after = results(log)
        assert "No such file" in before
        assert after == "one"
        second = site.api.beta.sessions.create(
            agent=site.agent("places"),
            environment_id=site.environment("cloud"),
            resources=mounted[3:],
            initial_events=[MESSAGE],
        )
        (event,) = named(await ended(site, second.id), "session.error")
        assert event.error.type == "repository_checkout_error"


async def test_R396_a_worker_without_a_network_says_so(site: Site, tmp_path: Path) -> None:
    async with ours(site, tmp_path, pool_key(site)):
        session = site.api.beta.sessions.create(
            agent=site.agent("places"),
            environment_id=site.environment("cloud"),
            resources=[repository()],
            initial_events=[MESSAGE],
        )
        log = await ended(site, session.id)
    (event,) = named(log, "session.error")
    assert event.error.type == "repository_clone_error"
    assert named(log, "agent.tool_result")

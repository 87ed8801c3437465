"""Repositories as clients see them: mounted, shown without their token, rotated, refused."""

from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic

from tests.wire.site import BETA, MESSAGE, Site, until
from tests.wire.structure import check
from tests.wire.test_cloud import pool_key
from tests.wire.test_work import token_of

pytestmark = pytest.mark.anyio
URL = "https://github.com/octo/repo"
TOKEN = "ghp_of-the-first-hour"


def repository(url: str = URL, **more: Any) -> Any:
    return {"type": "github_repository", "url": url, **more}


def session(site: Site, *resources: Any, **more: Any) -> Any:
    return site.session(environment_id=site.environment("cloud"), resources=list(resources), **more)


class Worker:
    """Claims a session's work from the pool and speaks with its token."""

    def __init__(self, site: Site, session_id: str) -> None:
        poll = f"{site.server.base_url}/x/pool/poll"
        headers = {"authorization": f"Bearer {pool_key(site)}"}

        def claim() -> Any:
            item = httpx2.get(poll, headers=headers).json()
            return item if item and item["data"]["id"] == session_id else None

        token = token_of(until(claim)["secret"])
        self.place = f"{site.server.base_url}/x/sessions/{session_id}/repositories"
        self.headers = {"authorization": f"Bearer {token}"}

    def repositories(self) -> Any:
        answer = httpx2.post(self.place, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def report(self, resource_id: str, **report: Any) -> int:
        place = f"{self.place}/{resource_id}"
        return httpx2.post(place, json=report, headers=self.headers).status_code


def test_c11_3_c11_6_c11_7_R392_R393_R394_a_repository_is_shown_without_its_token(
    site: Site,
) -> None:
    branch, commit = {"type": "branch", "name": "dev"}, {"type": "commit", "sha": "a" * 40}
    made = session(
        site,
        repository(authorization_token=TOKEN),
        repository(f"{URL}.py", checkout=branch, mount_path="/workspace/deep/py"),
        repository("https://github.com/o/r", checkout=commit, authorization_token=None),
    )
    check(made)
    assert [shown.mount_path for shown in made.resources] == [
        "/workspace/repo",
        "/workspace/deep/py",
        "/workspace/r",
    ]
    checkouts = [shown.checkout and shown.checkout.to_dict() for shown in made.resources]
    assert checkouts == [None, branch, commit]
    assert all(shown.id.startswith("sesrsc_") for shown in made.resources)
    assert made.resources[0].created_at == made.resources[0].updated_at
    resources = site.api.beta.sessions.resources
    for shown in made.resources:
        check(shown)
        assert resources.retrieve(shown.id, session_id=made.id) == shown
        assert set(shown.to_dict()) == {
            *("id", "type", "url", "mount_path", "checkout", "created_at", "updated_at"),
        }
    assert list(resources.list(made.id)) == made.resources
    assert site.api.beta.sessions.retrieve(made.id).resources == made.resources


@pytest.mark.parametrize(
    "url",
    [
        "git@github.com:octo/repo",
        f"{URL}.git",
        "http://github.com/octo/repo",
        "https://gitlab.com/octo/repo",
        "https://github.com/octo",
        f"{URL}/tree/main",
        "https://user:pw@github.com/octo/repo",
    ],
)
def test_c11_5_R391_what_is_no_repository(site: Site, url: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="url") as caught:
        session(site, repository(url))
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mount_path": "/workspace"}, "mount_path"),
        ({"mount_path": "/tmp/repo"}, "mount_path"),
        ({"mount_path": "/workspace/../etc"}, "mount_path"),
        ({"checkout": {"type": "branch", "name": "--upload-pack=x"}}, "name"),
        ({"checkout": {"type": "commit", "sha": "abc"}}, "sha"),
        ({"checkout": {"type": "tag", "name": "v1"}}, "checkout"),
        ({"authorization_token": ""}, "authorization_token"),
        ({"authorization_token": "a\r\nb"}, "authorization_token"),
        ({"tokken": "t"}, "unknown field"),
    ],
)
def test_R393_R394_what_cannot_be_mounted(site: Site, wrong: Any, named: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=named):
        session(site, repository(**wrong))
    with pytest.raises(anthropic.BadRequestError, match="in each other's way"):
        session(site, repository(), repository(mount_path="/workspace/repo/in"))


def test_c11_8_R395_only_its_token_can_be_changed(site: Site) -> None:
    made = session(site, repository(authorization_token=TOKEN))
    resources = site.api.beta.sessions.resources
    (shown,) = made.resources
    changed = resources.update(shown.id, session_id=made.id, authorization_token="ghp_second")
    check(changed)
    assert changed.updated_at > shown.updated_at
    assert changed.to_dict() == {**shown.to_dict(), "updated_at": changed.to_dict()["updated_at"]}
    worker = Worker(site, made.id)
    assert [told["authorization_token"] for told in worker.repositories()] == ["ghp_second"]
    with pytest.raises(anthropic.BadRequestError, match="which a session keeps"):
        resources.delete(shown.id, session_id=made.id)
    place = f"/v1/sessions/{made.id}/resources"
    for path, body in (
        (place, repository()),
        (f"{place}/{shown.id}", {"authorization_token": "t", "checkout": None}),
        (f"{place}/{shown.id}", {"url": URL}),
    ):
        assert site.http.post(path, json=body, headers=BETA).status_code == 400
    with pytest.raises(anthropic.NotFoundError):
        resources.update("sesrsc_none", session_id=made.id, authorization_token="t")
    site.api.beta.sessions.archive(made.id)
    with pytest.raises(anthropic.BadRequestError, match="has ended"):
        resources.update(shown.id, session_id=made.id, authorization_token="t")


async def test_the_same_by_the_async_client(site: Site, async_client: AsyncAnthropic) -> None:
    made = session(site, repository(authorization_token=TOKEN))
    resources = async_client.beta.sessions.resources
    raw = await resources.with_raw_response.update(
        made.resources[0].id, session_id=made.id, authorization_token="ghp_second"
    )
    changed = await raw.parse()
    assert await resources.retrieve(changed.id, session_id=made.id) == changed
    assert [shown async for shown in resources.list(made.id)] == [changed]
    async with resources.with_streaming_response.update(
        changed.id, session_id=made.id, authorization_token="ghp_third"
    ) as answer:
        assert (await answer.parse()).type == "github_repository"
    with pytest.raises(anthropic.BadRequestError):
        await resources.update(changed.id, session_id=made.id, authorization_token="a b")


@pytest.mark.parametrize(
    ("trouble", "type"),
    [
        ("authentication", "repository_authentication_error"),
        ("forbidden", "repository_forbidden_error"),
        ("not_found", "repository_not_found_error"),
        ("checkout", "repository_checkout_error"),
        ("too_large", "repository_clone_error"),
    ],
)
def test_c14_7_R396_a_session_goes_on_without_what_was_not_cloned(
    site: Site, trouble: str, type: str
) -> None:
    made = session(site, repository(), initial_events=[MESSAGE])
    worker = Worker(site, made.id)
    (told,) = worker.repositories()
    assert worker.report(told["id"], attempt="one", trouble=trouble) == 200
    assert worker.report(told["id"], attempt="one", trouble=trouble) == 200
    log = site.wait(made.id, "session.status_idle")
    (event,) = [event for event in log if event.type == "session.error"]
    check(event)
    assert (event.error.type, event.error.repository_url) == (type, URL)
    assert event.error.retry_status.type == "retrying"
    assert log[-1].stop_reason.type == "end_turn"
    assert worker.report(told["id"], attempt="two", trouble="bad luck") == 400
    assert worker.report("sesrsc_none", attempt="two", trouble=trouble) == 404


def test_R203_the_model_is_told_of_skills_from_its_first_word_on(site: Site) -> None:
    made = session(site, repository(), initial_events=[MESSAGE])
    worker = Worker(site, made.id)
    (told,) = worker.repositories()
    # Nothing is asked of the model while the repository is cloned.
    assert site.types(made.id) == ["user.message"] or "agent.message" not in site.types(made.id)
    assert site.api.beta.sessions.retrieve(made.id).status == "running"
    skill = {"path": ".claude/skills/a/SKILL.md", "name": "a", "description": "Does."}
    report = {"attempt": "one", "commit": "a" * 40, "skills": [skill]}
    assert worker.report(told["id"], **report) == 200
    log = site.wait(made.id, "session.status_idle")
    assert not [event for event in log if event.type == "session.error"]
    assert "agent.message" in [event.type for event in log]


def test_R205_R207_R208_deployments_carry_repositories_and_outcomes(site: Site) -> None:
    outcome: Any = {
        "type": "user.define_outcome",
        "description": "It is done.",
        "rubric": {"type": "text", "content": "Is it done?"},
    }
    system: Any = {"type": "system.message", "content": [{"type": "text", "text": "Hurry."}]}
    base: Any = {
        "name": "Nightly",
        "agent": site.agent(),
        "environment_id": site.environment("cloud"),
    }
    made = site.api.beta.deployments.create(
        **base,
        initial_events=[outcome, MESSAGE, system],
        resources=[repository(authorization_token=TOKEN)],
    )
    check(made, nullable=False)
    assert [event.type for event in made.initial_events] == [
        "user.define_outcome",
        "user.message",
        "system.message",
    ]
    assert made.resources[0].to_dict() == {
        "type": "github_repository",
        "url": URL,
        "mount_path": None,
        "checkout": None,
    }
    assert TOKEN not in site.http.get(f"/v1/deployments/{made.id}").text
    run = site.api.beta.deployments.run(made.id)
    assert run.session_id is not None
    worker = Worker(site, run.session_id)
    assert [told["authorization_token"] for told in worker.repositories()] == [TOKEN]
    for wrong in ([system], [MESSAGE, system, system], [system, MESSAGE]):
        with pytest.raises(anthropic.BadRequestError):
            site.api.beta.deployments.create(**base, initial_events=wrong)
    with pytest.raises(anthropic.BadRequestError, match="500"):
        site.api.beta.deployments.create(
            **base,
            initial_events=[MESSAGE],
            resources=[repository(f"{URL}{number}") for number in range(501)],
        )


def test_R397_self_hosted_environments_mount_no_repositories(site: Site) -> None:
    with pytest.raises(anthropic.BadRequestError, match=site.environment_id):
        site.session(resources=[repository()])
    made = site.api.beta.deployments.create(
        name="Nightly",
        agent=site.agent(),
        environment_id=site.environment_id,
        initial_events=[MESSAGE],
        resources=[repository()],
    )
    run = site.api.beta.deployments.run(made.id)
    assert run.error is not None
    assert (run.session_id, run.error.type) == (None, "self_hosted_resources_unsupported_error")

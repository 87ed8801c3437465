"""Which models a workspace may use: our own routes, and everything that they hold back."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from anyio.from_thread import start_blocking_portal

from tests.fakes.messages_server import FakeMessages
from tests.wire.host import Server, running
from tests.wire.site import until

pytestmark = pytest.mark.timeout(240)

MODELS = """
models:
  - {id: house-7b, aliases: [house], display_name: H}
  - {id: other, display_name: O}
"""
HELLO: Any = {"max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}
GO: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}


@pytest.fixture(scope="module")
def fake() -> FakeMessages:
    return FakeMessages.saying([{"type": "text", "text": "Good morning."}])


@pytest.fixture(scope="module")
def narrowed(fake: FakeMessages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("allowances")
    (folder / "models.yaml").write_text(MODELS)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fake.running()) as base_url,
        running(
            folder / "data",
            model_base_url=base_url,
            model_api_key="sk-x",
            models_file=str(folder / "models.yaml"),
        ) as started,
    ):
        yield started


class Site(AbstractContextManager["Site"]):
    """A workspace of its own, and a key that may use it."""

    def __init__(self, server: Server) -> None:
        self._opened = ExitStack()
        self.admin = self._as(server, server.api_key)
        self.workspace_id = self.admin.beta.organization.workspaces.create(name="Narrow").id
        self.path = f"/x/workspaces/{self.workspace_id}/models"
        headers = {"anthropic-workspace-id": self.workspace_id}
        made: Any = self.admin.post(
            "/x/keys", body={"name": "k"}, options={"headers": headers}, cast_to=object
        )
        self.client = self._as(server, made["key"])

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _as(self, server: Server, key: str) -> Anthropic:
        made = Anthropic(base_url=server.base_url, api_key=key, max_retries=0)
        return self._opened.enter_context(made)

    def allow(self, *models: str) -> Any:
        return self.admin.put(self.path, body={"models": list(models)}, cast_to=object)

    def agent(self, model: str) -> Any:
        return self.client.beta.agents.create(name="a", model=model)

    def session(self, agent: Any, **more: Any) -> Any:
        environment = self.client.beta.environments.create(
            name=f"e-{agent.id}", config={"type": "self_hosted"}
        )
        return self.client.beta.sessions.create(
            agent=agent.id, environment_id=environment.id, **more
        )


@pytest.fixture
def site(narrowed: Server) -> Iterator[Site]:
    with Site(narrowed) as made:
        yield made
        made.admin.beta.organization.workspaces.archive(made.workspace_id)


def test_the_list_is_shown_set_and_taken_away(site: Site) -> None:
    shown = {"type": "workspace_models", "workspace_id": site.workspace_id}
    assert site.admin.get(site.path, cast_to=object) == {**shown, "models": None}
    assert site.allow("other", "house", "other") == {**shown, "models": ["house", "other"]}
    # The official view of the workspace stays the official one, and its changes leave the list.
    workspaces = site.admin.beta.organization.workspaces
    renamed = workspaces.update(site.workspace_id, name="Narrower")
    assert "models" not in renamed.to_dict()
    assert site.admin.get(site.path, cast_to=object) == {**shown, "models": ["house", "other"]}
    gone = site.admin.put(site.path, body={"models": None}, cast_to=object)
    assert gone == {**shown, "models": None}


@pytest.mark.parametrize(
    "body", [{}, {"models": [""]}, {"models": ["a*b"]}, {"models": ["a b"]}, {"models": "a"}]
)
def test_what_is_no_list_is_refused(site: Site, body: Any) -> None:
    with pytest.raises(anthropic.BadRequestError):
        site.admin.put(site.path, body=body, cast_to=object)
    with pytest.raises(anthropic.NotFoundError):
        site.admin.put("/x/workspaces/wrkspc_x/models", body={"models": []}, cast_to=object)


def test_only_administrators_of_the_organization_set_it(site: Site) -> None:
    with pytest.raises(anthropic.PermissionDeniedError):
        site.client.put(site.path, body={"models": None}, cast_to=object)


def test_what_is_stored_or_started_is_held_to_it(site: Site) -> None:
    old = site.agent("other")
    site.allow("house-7b")
    with pytest.raises(anthropic.PermissionDeniedError, match="may not use 'other'"):
        site.agent("other")
    agent = site.agent("house")
    with pytest.raises(anthropic.PermissionDeniedError):
        site.client.beta.agents.update(agent.id, version=1, model="other")
    with pytest.raises(anthropic.PermissionDeniedError):
        site.session(old)
    session = site.session(agent)
    with pytest.raises(anthropic.PermissionDeniedError):
        overridden: Any = {"type": "agent_with_overrides", "id": agent.id, "model": "other"}
        site.client.beta.sessions.create(agent=overridden, environment_id=session.environment_id)
    team: Any = {"type": "coordinator", "agents": [{"type": "agent", "id": old.id}]}
    mixed = site.client.beta.agents.create(name="m", model="house", multiagent=team)
    with pytest.raises(anthropic.PermissionDeniedError, match="'other'"):
        site.session(mixed)


def test_messages_and_the_list_of_models_are_held_to_it(site: Site, fake: FakeMessages) -> None:
    site.allow("house*")
    asked = len(fake.bodies)
    assert [model.id for model in site.client.models.list()] == ["house-7b"]
    with pytest.raises(anthropic.NotFoundError):
        site.client.models.retrieve("other")
    for call in (site.client.messages.create, site.client.messages.stream):
        with pytest.raises(anthropic.PermissionDeniedError):
            made = call(model="other", **HELLO)
            if call == site.client.messages.stream:
                with made as stream:
                    stream.get_final_message()
    with pytest.raises(anthropic.PermissionDeniedError):
        site.client.messages.count_tokens(model="other", messages=HELLO["messages"])
    assert len(fake.bodies) == asked, "the provider heard nothing"
    assert site.client.messages.create(model="house", **HELLO).stop_reason == "end_turn"


def test_a_session_that_runs_is_held_to_it_at_its_next_turn(site: Site, fake: FakeMessages) -> None:
    session = site.session(site.agent("other"))
    events = site.client.beta.sessions.events
    events.send(session.id, events=[GO])
    until(lambda: _idles(site, session.id) == 1 or None)
    asked = len(fake.bodies)
    site.allow("house")
    events.send(session.id, events=[GO])
    until(lambda: _idles(site, session.id) == 2 or None)
    failed = [e for e in events.list(session.id) if e.type == "session.error"]
    assert "may not use 'other'" in str(failed[-1].to_dict())
    assert len(fake.bodies) == asked
    site.allow("*")
    events.send(session.id, events=[GO])
    until(lambda: _idles(site, session.id) == 3 or None)
    assert len(fake.bodies) == asked + 1


def _idles(site: Site, session_id: str) -> int:
    listed = site.client.beta.sessions.events.list(session_id, limit=1000)
    return sum(event.type == "session.status_idle" for event in listed)

"""What a test about sessions starts from: an agent, an environment, a worker's key."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx2
import yaml
from anthropic import Anthropic
from anthropic.types.beta import BetaManagedAgentsSession

from tests.wire.host import Server, running

T = TypeVar("T")

MESSAGE: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
BETA = {"anthropic-beta": "managed-agents-2026-04-01"}


class Site(AbstractContextManager["Site"]):
    """Clients of each kind for one environment.

    ``api`` and ``worker`` are official clients, ``http`` a plain one with the API key.
    """

    def __init__(self, server: Server, api: Anthropic) -> None:
        self.server = server
        self.api = api
        self._opened = ExitStack()
        self.environment_id = self.environment()
        self.key = self.environment_key(self.environment_id)
        self.worker = self.client(self.key)
        headers = {"x-api-key": server.api_key, **BETA}
        self.http = self._opened.enter_context(
            httpx2.Client(base_url=server.base_url, headers=headers, timeout=60)
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    def client(self, token: str) -> Anthropic:
        """A client with a worker's key, or the token of its work; closed with the site."""
        made = Anthropic(base_url=self.server.base_url, auth_token=token, max_retries=0)
        return self._opened.enter_context(made)

    def environment(self, type: str = "self_hosted") -> str:
        config: Any = {"type": type}
        return self.api.beta.environments.create(name="site", config=config).id

    def environment_key(self, environment_id: str) -> str:
        answer = httpx2.post(
            f"{self.server.base_url}/x/environments/{environment_id}/keys",
            headers={"x-api-key": self.server.api_key},
            json={"name": "worker"},
        )
        assert answer.status_code == 200, answer.text
        key: str = answer.json()["key"]
        return key

    def agent(self, script: str = "answer", policy: str = "always_allow") -> str:
        tools: Any = [
            {
                "type": "agent_toolset_20260401",
                "default_config": {"permission_policy": {"type": policy}},
            }
        ]
        made = self.api.beta.agents.create(name="A", model=f"scripted/{script}", tools=tools)
        return made.id

    def session(self, script: str = "answer", **more: Any) -> BetaManagedAgentsSession:
        body = {"agent": self.agent(script), "environment_id": self.environment_id, **more}
        return self.api.beta.sessions.create(**body)

    def events(self, session_id: str, **query: Any) -> list[Any]:
        return list(self.api.beta.sessions.events.list(session_id, **query))

    def types(self, session_id: str) -> list[str]:
        return [event.type for event in self.events(session_id)]

    def wait(self, session_id: str, type: str, count: int = 1) -> list[Any]:
        """Return the log once it holds so many events of a type."""

        def enough() -> list[Any] | None:
            found = self.events(session_id)
            return found if sum(e.type == type for e in found) >= count else None

        return until(enough)


@contextmanager
def scripted(folder: Path, script: Mapping[str, Any]) -> Iterator[Site]:
    """A site of a server whose one model plays a script: ``scripted/it``."""
    (folder / "scripts").mkdir()
    (folder / "scripts" / "it.yaml").write_text(yaml.safe_dump(dict(script)))
    with (
        running(folder / "server", model_scripts=str(folder / "scripts")) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key) as api,
        Site(server, api) as made,
    ):
        yield made


def until(look: Callable[[], T | None], seconds: float = 60.0) -> T:
    """Return what ``look`` finds, asking again for a while."""
    end = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.02)  # noqa: TID251  another process decides when
    return found

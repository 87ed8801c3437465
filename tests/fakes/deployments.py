"""Deployments over a world of tests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from intramuros.control.catalog import agents, service
from intramuros.control.catalog.kinds import AGENT, ENVIRONMENT, Kind
from intramuros.control.deployment import deployments, present, runs
from intramuros.control.deployment.configure import rubric_files, with_texts
from intramuros.control.deployment.deployments import Deployment, Deployments
from intramuros.control.deployment.runs import Runs
from intramuros.control.deployment.scheduler import Scheduler
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import audit
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import rfc3339
from intramuros.protocol.events import Inbound
from intramuros.protocol.resources.agents import AgentCreate, AgentUpdate
from intramuros.protocol.resources.deployments import DeploymentCreate, DeploymentUpdate
from tests.fakes.world import World

GO: dict[str, Any] = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
HOURLY = {"type": "cron", "expression": "0 * * * *", "timezone": "UTC"}


class Desk:
    """Acts on deployments in the world's transaction."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.service = Deployments(world.tokens)
        self.texts: dict[str, str] = {}
        self.runs = Runs(
            world.clock, world.ids, world.sessions, world.journal, resolve=self._resolve
        )

    async def _resolve(self, _: str, events: Sequence[Inbound]) -> Sequence[Inbound]:
        """Read rubrics out of ``texts`` instead of files."""
        missing = set(rubric_files(events)) - set(self.texts)
        if missing:
            raise InvalidRequest(f"{missing} hold no text")
        return with_texts(events, self.texts)

    @property
    def actor(self) -> Actor:
        return Actor(self.world.clock, self.world.ids, self.world.workspace_id, "apikey_1")

    def make(self, **body: object) -> Deployment:
        request = DeploymentCreate.model_validate(
            {
                "name": "Nightly",
                "agent": self.world.agent_id,
                "environment_id": self.world.environment_id,
                "initial_events": [GO],
                **body,
            }
        )
        return self.service.create(self.world.tx, self.actor, request)

    def change(self, deployment_id: str, **body: object) -> Deployment:
        request = DeploymentUpdate.model_validate(body)
        return self.service.update(self.world.tx, self.actor, deployment_id, request)

    def get(self, deployment_id: str) -> Deployment:
        return deployments.get(self.world.tx, self.world.workspace_id, deployment_id)

    def shown(self, deployment_id: str) -> dict[str, Any]:
        return present.deployment(self.get(deployment_id), self.world.now_us)

    def pause(self, deployment_id: str) -> Deployment:
        return deployments.pause(self.world.tx, self.actor, deployment_id)

    def unpause(self, deployment_id: str) -> Deployment:
        return deployments.unpause(self.world.tx, self.actor, deployment_id)

    def archive(self, deployment_id: str) -> Deployment:
        return deployments.archive(self.world.tx, self.actor, deployment_id)

    def history(self, deployment_id: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment as shown, oldest first."""
        query = runs.Query(1000, deployment_id=deployment_id)
        found, _ = runs.find(self.world.tx, self.world.workspace_id, query)
        return [present.run(row) for row in reversed(found)]

    def agent(self, **body: object) -> str:
        request = AgentCreate.model_validate({"name": "B", "model": "scripted/x", **body})
        return agents.create(self.world.tx, self.actor, request).id

    def next_version(self, agent_id: str) -> int:
        request = AgentUpdate.model_validate({"system": rfc3339(self.world.clock.now())})
        return agents.update(self.world.tx, self.actor, agent_id, request).version

    def put_away(self, kind: Kind, resource_id: str) -> None:
        found = service.get(self.world.tx, self.world.workspace_id, kind, resource_id)
        service.archive(self.world.tx, self.actor, found)

    def put_environment_away(self) -> None:
        self.put_away(ENVIRONMENT, self.world.environment_id)

    def put_agent_away(self) -> None:
        """Archive the agent alone, as no endpoint does."""
        self.put_away(AGENT, self.world.agent_id)

    def acts(self) -> list[str]:
        """Return the kinds of the audit records, oldest first."""
        return list(self.world.tx.execute(select(audit.c.kind).order_by(audit.c.seq)).scalars())


def schedule(expression: str, timezone: str = "UTC") -> Mapping[str, str]:
    return {"type": "cron", "expression": expression, "timezone": timezone}


class Stage:
    """A desk over a file, and as many schedulers as wanted."""

    def __init__(self, db: Database, desk: Desk) -> None:
        self.db = db
        self.desk = desk
        self.clock = desk.world.clock
        self.one = self.scheduler("one")

    def scheduler(self, holder: str) -> Scheduler:
        return Scheduler(self.db, self.desk.runs, holder)

    async def act(self, what: Callable[[Desk], Any]) -> Any:
        def work(tx: Tx) -> Any:
            self.desk.world.tx = tx
            return what(self.desk)

        return await self.db.write(work)

    async def make(self, **body: object) -> str:
        made = await self.act(lambda desk: desk.make(schedule=HOURLY, **body))
        return made.resource.id

    async def history(self, deployment_id: str) -> list[dict[str, Any]]:
        return await self.act(lambda desk: desk.history(deployment_id))

    async def scheduled(self, deployment_id: str) -> list[str]:
        """Return the nominal times that were run."""
        return [
            run["trigger_context"]["scheduled_at"][:16] for run in await self.history(deployment_id)
        ]

    async def shown(self, deployment_id: str) -> dict[str, Any]:
        return await self.act(lambda desk: desk.shown(deployment_id))

    async def fire_at(self, deployment_id: str) -> None:
        """Move the clock to the moment at which the deployment's next run is due."""

        def at_us(desk: Desk) -> int:
            found = desk.get(deployment_id)
            fire = found.timetable().first(found.next_us - 1)
            return fire.at_us - desk.world.now_us

        self.clock.advance(await self.act(at_us) / 1_000_000)

"""What a request makes of a deployment: every reference looked up, every default set."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from intramuros.control.catalog import agents, files, service, vaults
from intramuros.control.catalog.kinds import ENVIRONMENT
from intramuros.control.deployment import mounted
from intramuros.control.deployment.cron import BadExpression, parse
from intramuros.control.deployment.timetable import Timetable
from intramuros.control.deployment.zones import zone
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.model.catalogue import Catalogue, shipped_catalogue
from intramuros.control.session import budget, file_sources, legality, mounts
from intramuros.control.session.state import initial
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, TooLarge
from intramuros.kernel.timing import to_micros
from intramuros.protocol.events import (
    FileRubric,
    Inbound,
    SystemMessage,
    TextRubric,
    UserDefineOutcome,
)
from intramuros.protocol.resources.agents import AgentReference
from intramuros.protocol.resources.base import MetadataPatch, merge_metadata
from intramuros.protocol.resources.budgets import BudgetLimit
from intramuros.protocol.resources.deployments import (
    DeploymentCreate,
    DeploymentUpdate,
    Schedule,
)
from intramuros.protocol.resources.sessions import ResourceParam

Body = dict[str, Any]

# A list shows the events of up to a hundred deployments at once.
MAX_EVENTS_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Reader:
    """Reads requests in the caller's transaction; ``models`` says what models take."""

    tx: Tx
    actor: Actor
    models: Catalogue | None

    def read(
        self, request: DeploymentCreate | DeploymentUpdate, stored: Mapping[str, Any] | None = None
    ) -> Body:
        """Return those members of the configuration that were sent (contract-2 R212, R213).

        Raises:
            NotFound: no such agent, version, environment, vault or memory store here.
            InvalidRequest: one of them is archived, the schedule can never fire, a model of a
                budget has no list price, or something is asked for that this server does not have.
            TooLarge: more initial events than are kept.
        """
        stored = stored or {"metadata": {}}
        sent: Body = {}
        for name in type(request).model_fields:
            if request.sent(name):
                value = getattr(request, name)
                sent[name] = (
                    _merged(stored["metadata"], value)
                    if name == "metadata"
                    else _READ[name](self, value)
                )
        if "agent" in sent or "budget" in sent:
            self._check_prices({**stored, **sent})
        return sent

    def _check_prices(self, body: Body) -> None:
        """Refuse a budget if the agent, or one that it may delegate to, has no list price."""
        if body.get("budget") is None:
            return
        reference = AgentReference(type="agent", **body["agent"])
        agent = agents.resolve(self.tx, self.actor.workspace_id, reference, self.models)
        known = self.models or shipped_catalogue()
        for model, speed in budget.models_of(agent):
            budget.check_model(model, known.price(model, speed))

    def _name(self, sent: str) -> str:
        return sent

    def _description(self, sent: str | None) -> str | None:
        return sent or None

    def _agent(self, sent: str | AgentReference) -> Body:
        """Return the agent at a concrete version (R206)."""
        found = agents.resolve(self.tx, self.actor.workspace_id, sent, self.models)
        return {"id": found["id"], "version": found["version"]}

    def _environment(self, sent: str) -> str:
        found = service.get(self.tx, self.actor.workspace_id, ENVIRONMENT, sent)
        if found.archived_us is not None:
            raise InvalidRequest(f"environment {found.id!r} is archived")
        return found.id

    def _events(self, sent: Sequence[Inbound]) -> list[Body]:
        """Return events that a new session would take (R205)."""
        if isinstance(sent[0], SystemMessage):
            raise InvalidRequest(
                "initial_events: a system.message follows the user.message it is for"
            )
        now_us, workspace_id = to_micros(self.actor.clock.now()), self.actor.workspace_id
        legality.check(
            initial("", self_hosted=False), {}, [_as_if_read(event) for event in sent], now_us
        )
        itself = Principal(CredentialKind.API_KEY, self.actor.by, workspace_id)
        file_sources.check(self.tx, itself, "", sent, now_us)
        for file_id in rubric_files(sent):
            files.of_workspace(self.tx, workspace_id, file_id, now_us)
        shown = [event.model_dump(mode="json") for event in sent]
        if len(json.dumps(shown)) > MAX_EVENTS_BYTES:
            raise TooLarge(f"initial_events: at most {MAX_EVENTS_BYTES} bytes are kept")
        return shown

    def _resources(self, sent: Sequence[ResourceParam] | None) -> list[Body]:
        """Return resources that a new session would take."""
        mounts.verify(self.tx, self.actor.workspace_id, sent)
        return [mounted.stored(self.actor, resource) for resource in sent or ()]

    def _vaults(self, sent: Sequence[str] | None) -> list[str]:
        return vaults.attach(self.tx, self.actor.workspace_id, sent or ())

    def _schedule(self, sent: Schedule | None) -> Body | None:
        """Return a schedule that will fire (R214, R215, Q19)."""
        if sent is None:
            return None
        schedule = sent.model_dump()
        try:
            table = timetable("", schedule)
        except BadExpression as error:
            raise InvalidRequest(f"schedule.expression: {error}") from error
        except ValueError as error:
            raise InvalidRequest(f"schedule.timezone: {error}") from error
        if table is None or not table.upcoming(to_micros(self.actor.clock.now()), 1):
            raise InvalidRequest("schedule.expression: it would never fire")
        return schedule

    def _budget(self, sent: BudgetLimit | None) -> Body | None:
        return None if sent is None else sent.model_dump()


_READ: Final[Mapping[str, Callable[[Reader, Any], Any]]] = {
    "name": Reader._name,
    "description": Reader._description,
    "agent": Reader._agent,
    "environment_id": Reader._environment,
    "initial_events": Reader._events,
    "resources": Reader._resources,
    "vault_ids": Reader._vaults,
    "schedule": Reader._schedule,
    "budget": Reader._budget,
}


def timetable(deployment_id: str, schedule: Mapping[str, Any] | None) -> Timetable | None:
    """Return the times of a schedule, or None without one.

    Raises:
        BadExpression: the expression cannot be read.
        ValueError: this machine does not know the zone.
    """
    if schedule is None:
        return None
    return Timetable(deployment_id, parse(schedule["expression"]), zone(schedule["timezone"]))


def rubric_files(events: Sequence[Inbound]) -> list[str]:
    """Return the files that hold rubrics, which are read anew for each run."""
    return [
        event.rubric.file_id
        for event in events
        if isinstance(event, UserDefineOutcome) and isinstance(event.rubric, FileRubric)
    ]


def with_texts(events: Sequence[Inbound], texts: Mapping[str, str]) -> list[Inbound]:
    """Return the events with the texts of the files that hold rubrics, by file id."""
    return [
        event.model_copy(
            update={"rubric": TextRubric(type="text", content=texts[event.rubric.file_id])}
        )
        if isinstance(event, UserDefineOutcome) and isinstance(event.rubric, FileRubric)
        else event
        for event in events
    ]


def _as_if_read(event: Inbound) -> Inbound:
    return with_texts([event], dict.fromkeys(rubric_files([event]), "read later"))[0]


def _merged(stored: dict[str, str], patch: MetadataPatch | None) -> dict[str, str]:
    try:
        return merge_metadata(stored, patch)
    except ValueError as error:
        raise InvalidRequest(f"metadata: {error}") from error

"""What the sandbox of one item's session may reach: asked for at first, and again as it goes on."""

from collections.abc import Callable, Iterable
from typing import Final

import anyio

from intramuros.execution.client import Away, Refused
from intramuros.execution.egress.base import Passage
from intramuros.execution.egress.installer import Installer
from intramuros.execution.egress.rules import OPERATORS_ALONE, SessionRules
from intramuros.execution.egress.station import Station
from intramuros.execution.hosted_client import HostedClient
from intramuros.execution.record import Record
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s

log = logger("egress")

_SLOWEST_S: Final = 10.0


class SessionPassage:
    """The passage of one session while an item of it is served.

    Args:
        station: None when sandboxes of this worker have no network.
        client: of a cloud session; None for a self-hosted one, whose environment has no rules.
        learn: told the secrets that the rules bring, which never leave again.
    """

    def __init__(
        self,
        station: Station | None,
        session_id: str,
        client: HostedClient | None,
        rand: Callable[[], float],
        learn: Callable[[Iterable[str]], None],
    ) -> None:
        self._learn = learn
        self._station = station
        self._session_id = session_id
        self._client = client
        self._rand = rand
        self._packages = SessionRules().packages

    async def open(self) -> Passage | None:
        """Return the session's passage, however long its rules take; None is no network."""
        if self._station is None:
            return None
        attempt = 0
        while True:
            try:
                rules = await self._rules()
            except Refused as error:
                log.error("egress_rules_refused", status=error.status, session=self._session_id)
                return None
            except Away as error:
                log.info("egress_rules_away", error=str(error))
                await anyio.sleep(backoff_s(attempt, 0.5, _SLOWEST_S, self._rand()))
                attempt += 1
            else:
                self._packages = rules.packages
                return self._station.passage(self._session_id, rules)

    def installer(self, record: Record) -> Installer | None:
        """Return what installs the environment's packages; None when there are none."""
        gate = None if self._station is None else self._station.gate(self._session_id)
        if gate is None or not self._packages:
            return None
        return Installer(self._packages, record, self._session_id, gate.registries_only)

    async def refresh(self) -> None:
        """Go by what the rules and secrets are now (R081); never raises.

        While the control plane is away the last known rules hold; once it refuses, nothing passes.
        """
        if self._station is None or self._client is None:
            return
        if self._station.gate(self._session_id) is None:
            return
        try:
            rules = await self._rules()
        except Away as error:
            log.info("egress_rules_away", error=str(error))
            return
        except Refused as error:
            log.error("egress_rules_refused", status=error.status, session=self._session_id)
            rules = SessionRules.nothing()
        self._station.passage(self._session_id, rules)

    def close(self) -> None:
        """The item is over: let go of the passage, if its sandbox is not kept."""
        if self._station is not None:
            self._station.release(self._session_id)

    async def _rules(self) -> SessionRules:
        if self._client is None:
            return OPERATORS_ALONE
        rules = await self._client.egress()
        self._learn(variable.value for variable in rules.variables)
        return rules

"""What the worker of a cloud session must know to hold its sandbox to the environment's network.

Each function runs inside the caller's transaction. The caller holds the token of one work item: it
reaches that item's session and nothing else. Secrets leave here for the worker's proxy, which keeps
them outside of the sandbox; that they do is audited first.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import ENVIRONMENT, VAULT_CREDENTIAL
from intramuros.control.catalog.service import Query, Resource
from intramuros.control.catalog.vaults import MAX_ACTIVE_CREDENTIALS, Credentials
from intramuros.control.identity import audit
from intramuros.control.identity.principal import Principal
from intramuros.control.session.roster import crew_of
from intramuros.control.session.sessions import Sessions
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import Clock

Shown = dict[str, Any]
VARIABLE: Final = "environment_variable"


class Egress:
    """Tells workers what sandboxes may reach, and with which secrets."""

    def __init__(self, clock: Clock, sessions: Sessions, credentials: Credentials) -> None:
        self._clock = clock
        self._sessions = sessions
        self._credentials = credentials

    def reveal(self, tx: Tx, principal: Principal, session_id: str) -> Shown:
        """Return networking, packages, MCP servers and variables of a session, secrets included.

        Credentials are read anew each time, so that rotation, archiving and other rules for their
        use take effect without a restart (R081).

        Raises:
            NotFound: no such session for this caller.
            InvalidRequest: a self-hosted one, whose network is its operator's alone.
        """
        row = self._sessions.get(tx, principal, session_id)
        environment = service.get(tx, row.workspace_id, ENVIRONMENT, row.environment_id)
        config = environment.body["config"]
        if config["type"] != "cloud":
            raise InvalidRequest("egress: only sessions of cloud environments have rules for it")
        found = list(self._variables(tx, row.workspace_id, row.vault_ids))
        if found:
            audit.record(
                tx,
                self._clock,
                "secret.use",
                workspace_id=row.workspace_id,
                session_id=session_id,
                fields={
                    "by": principal.credential_id,
                    "credential_ids": [credential.id for credential in found],
                },
            )
        return {
            "type": "session_egress",
            "networking": config["networking"],
            "packages": config["packages"],
            "mcp_server_urls": mcp_servers(row.agent),
            "variables": [self._shown(tx, credential) for credential in found],
        }

    def _variables(self, tx: Tx, workspace_id: str, vault_ids: Sequence[str]) -> Iterator[Resource]:
        """Yield the credentials that become variables: of one name, the first vault's (R078)."""
        taken: set[str] = set()
        for vault_id in vault_ids:
            query = Query(limit=MAX_ACTIVE_CREDENTIALS, parent_id=vault_id)
            for credential in service.find(tx, workspace_id, VAULT_CREDENTIAL, query)[0]:
                auth = credential.body["auth"]
                if auth["type"] == VARIABLE and auth["secret_name"] not in taken:
                    taken.add(auth["secret_name"])
                    yield credential

    def _shown(self, tx: Tx, credential: Resource) -> Shown:
        auth = self._credentials.open(tx, credential)
        networking, place = auth.public["networking"], auth.public["injection_location"]
        return {
            "credential_id": credential.id,
            "name": auth.public["secret_name"],
            "value": auth.secret["secret_value"],
            "allowed_hosts": networking.get("allowed_hosts"),
            "header": place["header"],
            "body": place["body"],
        }


def mcp_servers(agent: Mapping[str, Any]) -> list[str]:
    """Return the URLs of a session's MCP servers, those of agents that it may employ included."""
    agents = [agent, *crew_of(agent.get("multiagent")).agents.values()]
    urls = [server["url"] for one in agents for server in one.get("mcp_servers") or ()]
    return sorted({url for url in urls if urlsplit(url).hostname})

"""Tries a stored OAuth credential on its server (contract-2 R085 to R092, Q07, Q08)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from intramuros.control.catalog import service, vaults
from intramuros.control.catalog.kinds import VAULT_CREDENTIAL
from intramuros.control.catalog.reach import Reach
from intramuros.control.catalog.wallet import Held, Wallet
from intramuros.control.mcp.base import Caller, McpError, McpServer
from intramuros.control.mcp.oauth import RefreshFailed
from intramuros.control.mcp.probe import Failed, probe
from intramuros.control.store.db import Database, Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import Clock, rfc3339

Shown = dict[str, Any]

# What a server answers to a token that it does not take.
_REFUSED: Final = frozenset({401, 403})
_RETRYABLE: Final = frozenset({408, 429})


@dataclass(frozen=True)
class Validator:
    """Contacts servers on behalf of whoever asks whether a credential works."""

    db: Database
    clock: Clock
    reach: Reach
    wallet: Wallet

    async def validate(self, workspace_id: str, vault_id: str, credential_id: str) -> Shown:
        """Return the verdict as answers show it; a bad credential is a verdict, not an error.

        Raises:
            NotFound: no such vault or credential here.
            InvalidRequest: archived (Q07), or no OAuth credential (Q08).
        """
        caller = Caller(workspace_id, "")
        held = await self.db.read(lambda tx: self._hold(tx, workspace_id, vault_id, credential_id))
        failed, refresh = await self._probe(caller, held), None
        status = _verdict(failed)
        if failed and failed.answer and failed.answer.status == 401:
            refresh, held, status = await self._refreshed(caller, held)
            if status == "valid":
                failed = await self._probe(caller, held)
                status = _verdict(failed)
        secrets = held.auth.secret.values()
        return {
            "type": "vault_credential_validation",
            "credential_id": credential_id,
            "vault_id": vault_id,
            "has_refresh_token": held.renewable(),
            "mcp_probe": None if failed is None else _shown(failed, secrets),
            "refresh": refresh,
            "status": status,
            "validated_at": rfc3339(self.clock.now()),
        }

    def _hold(self, tx: Tx, workspace_id: str, vault_id: str, credential_id: str) -> Held:
        credential = vaults.get(tx, workspace_id, vault_id, credential_id)
        service.check_active(VAULT_CREDENTIAL, credential)
        kind = credential.body["auth"]["type"]
        if kind != "mcp_oauth":
            raise InvalidRequest(f"only mcp_oauth credentials can be validated; this is {kind}")
        return self.wallet.hold(tx, workspace_id, credential_id)

    async def _probe(self, caller: Caller, held: Held) -> Failed | None:
        url: str = held.auth.public["mcp_server_url"]
        if not self.reach.carries_secrets(url):
            return Failed("initialize", None)
        try:
            transport = await self.reach.transport_for(caller, McpServer("probed", url))
        except McpError:
            return Failed("initialize", None)
        await self.wallet.note_use(caller, held.credential, url)
        return await probe(transport, url, held.auth.bearer() or "")

    async def _refreshed(self, caller: Caller, held: Held) -> tuple[Shown, Held, str]:
        """Return what the refresh came to, the credential after it, and the verdict so far."""
        if not held.renewable():
            return {"status": "no_refresh_token", "http_response": None}, held, "invalid"
        try:
            fresh = await self.wallet.refresh(caller, held)
        except RefreshFailed as error:
            answer = error.answer
            status = "invalid" if error.gone or (answer and _final(answer.status)) else "unknown"
            known = answer is not None or error.gone
            shown: Shown = {
                "status": "failed" if known else "connect_error",
                "http_response": answer.shown(held.auth.secret.values()) if answer else None,
            }
            return shown, held, status
        return {"status": "succeeded", "http_response": None}, fresh, "valid"


def _verdict(failed: Failed | None) -> str:
    if failed is None:
        return "valid"
    refused = failed.answer is not None and failed.answer.status in _REFUSED
    return "invalid" if refused else "unknown"


def _final(status: int) -> bool:
    """Tell whether a token endpoint's answer will stay the same (R086, R087)."""
    return 400 <= status < 500 and status not in _RETRYABLE


def _shown(failed: Failed, secrets: Iterable[str]) -> Shown:
    answer = failed.answer
    return {
        "method": failed.method,
        "http_response": None if answer is None else answer.shown(secrets),
    }

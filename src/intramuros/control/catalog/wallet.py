"""Which credential goes to which MCP server, fresh when it is needed.

A credential goes only to the server it was stored for (R076), over TLS or to one of the operator's
own networks, and its use is in the audit chain before it is sent. Tokens are renewed by one process
at a time: the right to is a row's lock in the store, so a refresh token is never sent twice, and
what came back is durable before it is used (Q10).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx2
from sqlalchemy import select

from intramuros.control.catalog import service
from intramuros.control.catalog.auths import Auth, renewed, server_key
from intramuros.control.catalog.kinds import VAULT_CREDENTIAL
from intramuros.control.catalog.reach import Reach
from intramuros.control.catalog.service import Resource
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.mcp.base import Caller, McpServer
from intramuros.control.mcp.bearer import Bearer, BearerTransport, CredentialRefused
from intramuros.control.mcp.oauth import Grant, RefreshFailed, Tokens, exchange
from intramuros.control.store import strongbox
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.strongbox import Lock
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, from_micros, parse_rfc3339, rfc3339, to_micros

log = logger("wallet")

MICROS: Final = 1_000_000
# An access token is renewed this long before it expires (Q10).
EARLY_S: Final = 60
# A process that dies while it renews a token keeps the others waiting no longer than this.
LOCK_S: Final = 45
_LOOK_AGAIN_S: Final = 0.1


@dataclass(frozen=True)
class Held:
    """A credential as a transaction read it, with both halves."""

    credential: Resource
    auth: Auth
    stopped: bool

    @property
    def generation(self) -> int:
        """Return what grows whenever the credential changes."""
        return int(self.credential.body["generation"])

    def renewable(self) -> bool:
        """Tell whether there is a refresh token."""
        return bool(self.auth.public.get("refresh"))

    def expires_us(self) -> int | None:
        """Return when the access token expires, or None if nobody knows."""
        at: str | None = self.auth.public.get("expires_at")
        return None if at is None else to_micros(parse_rfc3339(at))

    def bearer(self) -> Bearer:
        """Return what to send."""
        return Bearer(self.auth.bearer() or "", self.generation, self.renewable())


class Wallet:
    """Opens ways to MCP servers that carry the session's credentials."""

    def __init__(
        self, db: Database, clock: Clock, ids: IdFactory, credentials: Credentials, reach: Reach
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._credentials = credentials
        self._reach = reach

    async def transport_for(self, caller: Caller, server: McpServer) -> httpx2.AsyncBaseTransport:
        """Return a new transport to the server, with a credential if the session has one for it.

        Raises:
            McpError: the host is under the tunnel suffix and no tunnel of this workspace owns it.
        """
        inner = await self._reach.transport_for(caller, server)
        vault_ids = await self._db.read(lambda tx: _vaults_of(tx, caller.session_id))
        if not vault_ids:
            return inner
        used: set[tuple[str, int]] = set()

        async def lookup(refused: int | None) -> Bearer | None:
            held = await self._db.read(lambda tx: self._match(tx, caller, vault_ids, server.url))
            if held is None:
                return None
            if not self._reach.carries_secrets(server.url):
                raise CredentialRefused("a credential is sent over https only; change the URL")
            fresh = await self._fresh(caller, held, refused)
            mark = (fresh.credential.id, fresh.generation)
            if mark not in used:
                await self.note_use(caller, fresh.credential, server.url, server.name)
                used.add(mark)
            return fresh.bearer()

        return BearerTransport(inner, server.url, lookup)

    async def note_use(
        self, caller: Caller, credential: Resource, url: str, server_name: str | None = None
    ) -> None:
        """Record that a credential is about to be sent to a host."""
        await self._db.write(
            lambda tx: self._note_use(tx, caller, credential, url, server_name), ()
        )

    async def refresh(self, caller: Caller, held: Held) -> Held:
        """Return the credential with a new access token; as it is now if another has renewed it.

        Raises:
            RefreshFailed: there is none to be had; ``answer`` is what the token endpoint said.
        """
        while True:
            step = await self._db.write(lambda tx: self._claim(tx, caller, held))
            if isinstance(step, Held):
                return step
            if step is not None:
                # A refresh token may be good for one use: once it is sent, what comes back must be
                # kept, whatever became of the turn that wanted it. It has its own deadline.
                with anyio.CancelScope(shield=True):
                    return await self._exchange(caller, held, step)
            await anyio.sleep(_LOOK_AGAIN_S)

    async def _fresh(self, caller: Caller, held: Held, refused: int | None) -> Held:
        expires_us, now_us = held.expires_us(), to_micros(self._clock.now())
        due = expires_us is not None and expires_us - EARLY_S * MICROS <= now_us
        if not held.renewable() or not (due or refused == held.generation):
            return held
        try:
            return await self.refresh(caller, held)
        except RefreshFailed as error:
            usable = expires_us is not None and expires_us > now_us
            if usable and refused is None:
                # It may come round before the token that there is has expired.
                log.info("refresh_failed_early", credential=held.credential.id)
                return held
            raise CredentialRefused(f"the OAuth refresh failed: {error.message}") from error

    def _match(self, tx: Tx, caller: Caller, vault_ids: Sequence[str], url: str) -> Held | None:
        """Return the first active credential that answers to the server (R078)."""
        key = server_key(url)
        for vault_id in vault_ids:
            found = strongbox.match(tx, vault_id, key)
            if found is not None:
                return self.hold(tx, caller.workspace_id, found)
        return None

    def hold(self, tx: Tx, workspace_id: str, credential_id: str) -> Held:
        """Return a credential with both halves.

        Raises:
            NotFound: no such active credential here.
        """
        credential = service.get(tx, workspace_id, VAULT_CREDENTIAL, credential_id)
        auth = self._credentials.open(tx, credential)
        row = strongbox.find(tx, credential_id)
        return Held(credential, auth, bool(row and row.stopped))

    def _claim(self, tx: Tx, caller: Caller, seen: Held) -> Held | Lock | None:
        """Take the right to renew, with the record of what it will send; None if another has it."""
        try:
            now = self.hold(tx, caller.workspace_id, seen.credential.id)
        except NotFound as error:
            raise RefreshFailed("the credential is archived") from error
        if now.generation != seen.generation:
            return now
        if now.stopped:
            raise RefreshFailed(
                "the grant is gone (invalid_grant); update the credential", gone=True
            )
        refresh = now.auth.public.get("refresh")
        if not refresh:
            raise RefreshFailed("the credential has no refresh token")
        if not self._reach.carries_secrets(refresh["token_endpoint"]):
            raise RefreshFailed("a refresh token is sent over https only")
        at_us = to_micros(self._clock.now())
        lock = strongbox.lock(tx, now.credential.id, at_us, LOCK_S * MICROS)
        if lock is not None:
            self._note_use(tx, caller, now.credential, refresh["token_endpoint"], None)
        return lock

    async def _exchange(self, caller: Caller, held: Held, lock: Lock) -> Held:
        try:
            tokens = await self._ask(caller, held)
        except RefreshFailed as failed:
            gone = failed.gone
            await self._db.write(lambda tx: self._give_up(tx, caller, held, lock, gone))
            raise
        return await self._db.write(lambda tx: self._keep(tx, caller, held, lock, tokens))

    async def _ask(self, caller: Caller, held: Held) -> Tokens:
        refresh, secret = held.auth.public["refresh"], held.auth.secret
        endpoint = McpServer("token endpoint", refresh["token_endpoint"])
        try:
            transport = await self._reach.transport_for(caller, endpoint)
        except Exception as error:
            raise RefreshFailed("the token endpoint cannot be reached") from error
        return await exchange(
            transport,
            Grant(
                token_endpoint=refresh["token_endpoint"],
                client_id=refresh["client_id"],
                auth=refresh["token_endpoint_auth"]["type"],
                refresh_token=secret["refresh_token"],
                client_secret=secret.get("client_secret"),
                scope=refresh["scope"],
                resource=refresh["resource"],
            ),
        )

    def _keep(self, tx: Tx, caller: Caller, held: Held, lock: Lock, tokens: Tokens) -> Held:
        if not strongbox.holds(tx, lock):
            # Someone stored other tokens meanwhile, or archived the credential: theirs stands.
            try:
                return self.hold(tx, caller.workspace_id, held.credential.id)
            except NotFound as error:
                raise RefreshFailed("the credential is archived") from error
        expires_at = None
        if tokens.lifetime_s is not None:
            at_us = to_micros(self._clock.now()) + round(tokens.lifetime_s * MICROS)
            expires_at = rfc3339(from_micros(at_us))
        auth = renewed(held.auth, tokens.access_token, tokens.refresh_token, expires_at)
        actor = self._actor(caller)
        # The row itself, not what was read before the exchange: labels may have changed since.
        current = service.get(tx, caller.workspace_id, VAULT_CREDENTIAL, held.credential.id)
        stored = self._credentials.renew(tx, actor, current, auth)
        return Held(stored, auth, stopped=False)

    def _give_up(self, tx: Tx, caller: Caller, held: Held, lock: Lock, gone: bool) -> None:
        if strongbox.give_up(tx, lock, stopped=gone):
            audit.record(
                tx,
                self._clock,
                "vault_credential.refresh_failed",
                workspace_id=caller.workspace_id,
                session_id=caller.session_id or None,
                fields={"id": held.credential.id, "vault_id": held.credential.parent_id},
            )

    def _note_use(
        self, tx: Tx, caller: Caller, credential: Resource, url: str, server_name: str | None
    ) -> None:
        fields: dict[str, object] = {
            "credential_id": credential.id,
            "vault_id": credential.parent_id,
            "generation": credential.body["generation"],
            "host": urlsplit(url).hostname,
        }
        if server_name is not None:
            fields["server"] = server_name
        audit.record(
            tx,
            self._clock,
            "secret.use",
            workspace_id=caller.workspace_id,
            session_id=caller.session_id or None,
            fields=fields,
        )

    def _actor(self, caller: Caller) -> Actor:
        return Actor(self._clock, self._ids, caller.workspace_id, caller.session_id or "validate")


def _vaults_of(tx: Tx, session_id: str) -> list[str]:
    found: list[str] | None = tx.scalar(
        select(sessions.c.vault_ids).where(sessions.c.id == session_id)
    )
    return found or []

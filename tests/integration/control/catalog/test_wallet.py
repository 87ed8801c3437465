"""Whose credential goes where, and what happens when a refresh meets something else."""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpx2
import pytest
from sqlalchemy import insert, select, update

from intramuros.control.catalog import service, vaults
from intramuros.control.catalog.kinds import VAULT_CREDENTIAL
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.catalog.wallet import LOCK_S, Held, Wallet
from intramuros.control.identity.actor import Actor
from intramuros.control.mcp.base import Caller
from intramuros.control.mcp.oauth import RefreshFailed
from intramuros.control.store import strongbox
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.strongbox import Strongbox
from intramuros.control.store.tables import audit, metadata, vault_secrets, workspaces
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.vaults import CredentialCreate, CredentialUpdate, VaultCreate
from tests.engines import database_url
from tests.fakes.outbox import listen, waiting

if TYPE_CHECKING:
    from intramuros.control.catalog.reach import Reach

pytestmark = pytest.mark.anyio

WORKSPACE = "wrkspc_1"
CALLER = Caller(WORKSPACE, "")


class Way:
    """Leads to a token endpoint that is a function."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: Callable[[int], dict[str, object]] = lambda n: {
            "access_token": f"at-{n}",
            "refresh_token": f"rt-{n}",
            "expires_in": 3600,
        }
        self.meanwhile: Callable[[], Any] | None = None

    def carries_secrets(self, url: str) -> bool:
        return url.startswith("https:")

    async def transport_for(self, caller: Caller, server: object) -> httpx2.AsyncBaseTransport:
        async def respond(request: httpx2.Request) -> httpx2.Response:
            self.asked += 1
            if self.meanwhile is not None:
                await self.meanwhile()
            said = self.answer(self.asked)
            status = 400 if "error" in said else 200
            return httpx2.Response(status, stream=httpx2.ByteStream(json.dumps(said).encode()))

        return httpx2.MockTransport(respond)


class House:
    """A wallet over a database with one OAuth credential in it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.clock = ManualClock()
        self.ids = IdFactory(self.clock, os.urandom)
        self.credentials = Credentials(Strongbox(Sealer(bytes(32), os.urandom), os.urandom))
        self.way = Way()
        reach = cast("Reach", self.way)
        self.wallet = Wallet(db, self.clock, self.ids, self.credentials, reach)
        self.actor = Actor(self.clock, self.ids, WORKSPACE, "test")
        self.vault_id = self.credential_id = ""

    async def fill(self) -> None:
        refresh = {
            "client_id": "c",
            "refresh_token": "rt-0",
            "token_endpoint": "https://t.example",
            "token_endpoint_auth": {"type": "none"},
        }
        url = "https://m.example"
        auth = {"type": "mcp_oauth", "access_token": "at-0", "mcp_server_url": url}
        request = CredentialCreate.model_validate({"auth": {**auth, "refresh": refresh}})

        def work(tx: Tx) -> None:
            tx.execute(insert(workspaces).values(id=WORKSPACE, name="W", created_us=0))
            self.vault_id = vaults.create(tx, self.actor, VaultCreate(display_name="V")).id
            made = self.credentials.create(tx, self.actor, self.vault_id, request)
            self.credential_id = made.id

        await self.db.write(work)

    async def held(self) -> Held:
        return await self.db.read(lambda tx: self.wallet.hold(tx, WORKSPACE, self.credential_id))

    async def change(self, **auth: Any) -> None:
        body = {"auth": {"type": "mcp_oauth", **auth}}
        request = CredentialUpdate.model_validate(body)
        await self.db.write(
            lambda tx: self.credentials.update(
                tx, self.actor, self.vault_id, self.credential_id, request
            )
        )


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    db = Database.open(database_url(tmp_path / "db"))
    metadata.create_all(db.engine)
    made = House(db)
    await made.fill()
    yield made
    db.close()


async def test_R082_Q10_what_came_back_is_stored_before_it_is_used(house: House) -> None:
    fresh = await house.wallet.refresh(CALLER, await house.held())
    stored = await house.held()
    assert fresh.auth.secret == stored.auth.secret
    assert stored.auth.secret == {"access_token": "at-1", "refresh_token": "rt-1"}
    assert stored.generation == fresh.generation == 2
    assert stored.auth.public["expires_at"] == "2026-01-01T01:00:00.000000Z"


async def test_Q10_one_of_many_refreshes(house: House) -> None:
    held = await house.held()
    house.way.meanwhile = lambda: anyio.sleep(0.2)
    tokens: list[str | None] = []

    async def refresh() -> None:
        tokens.append((await house.wallet.refresh(CALLER, held)).auth.bearer())

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(refresh)
    assert (tokens, house.way.asked) == (["at-1"] * 5, 1)


async def test_Q10_a_cancelled_turn_keeps_what_came_back(house: House) -> None:
    held, asked = await house.held(), anyio.Event()

    async def meanwhile() -> None:
        asked.set()
        await anyio.sleep(0.1)

    house.way.meanwhile = meanwhile
    async with anyio.create_task_group() as group:
        group.start_soon(house.wallet.refresh, CALLER, held)
        await asked.wait()
        group.cancel_scope.cancel()
    assert (await house.held()).auth.bearer() == "at-1"


async def test_Q10_a_dead_holder_makes_room(house: House) -> None:
    def die(tx: Tx) -> None:
        now_us = to_micros(house.clock.now())
        assert strongbox.lock(tx, house.credential_id, now_us, LOCK_S * 1_000_000)

    await house.db.write(die)
    house.clock.advance(LOCK_S)
    assert (await house.wallet.refresh(CALLER, await house.held())).auth.bearer() == "at-1"


async def test_R081_a_users_update_wins_over_a_refresh_under_way(house: House) -> None:
    async def meanwhile() -> None:
        await house.change(access_token="by-hand", refresh={"refresh_token": "by-hand"})

    house.way.meanwhile = meanwhile
    fresh = await house.wallet.refresh(CALLER, await house.held())
    assert fresh.auth.bearer() == "by-hand"
    assert (await house.held()).auth.secret["refresh_token"] == "by-hand"


async def test_R047_an_archived_credential_is_not_brought_back(house: House) -> None:
    async def meanwhile() -> None:
        await house.db.write(
            lambda tx: vaults.archive_credential(
                tx, house.actor, house.vault_id, house.credential_id
            )
        )

    house.way.meanwhile = meanwhile
    with pytest.raises(RefreshFailed, match="archived"):
        await house.wallet.refresh(CALLER, await house.held())
    assert await house.db.read(lambda tx: tx.scalar(select(vault_secrets.c.epoch))) is None
    kept = await house.db.read(
        lambda tx: service.get(tx, WORKSPACE, VAULT_CREDENTIAL, house.credential_id)
    )
    assert kept.archived_us is not None


async def test_R083_Q10_one_record_and_one_webhook_for_each_failing_episode(
    house: House,
) -> None:
    await house.db.write(
        lambda tx: listen(tx, "vault_credential.refresh_failed", workspace_id=WORKSPACE)
    )
    house.way.answer = lambda _: {"error": "invalid_client"}

    async def fail() -> None:
        with pytest.raises(RefreshFailed):
            await house.wallet.refresh(CALLER, await house.held())

    for _ in range(3):
        await fail()
    house.way.answer = lambda _: {"error": "invalid_grant"}
    for _ in range(3):
        await fail()
    assert house.way.asked == 4
    await house.change(access_token="by-hand")
    await fail()
    assert house.way.asked == 5
    kinds = await house.db.read(lambda tx: list(tx.execute(select(audit.c.kind)).scalars()))
    assert kinds.count("vault_credential.refresh_failed") == 2
    assert kinds.count("secret.use") == 5
    told = await house.db.read(waiting)
    assert [(data["id"], data["vault_id"]) for data in told] == [
        (house.credential_id, house.vault_id)
    ] * 2


async def test_a_refresh_token_is_not_sent_in_the_clear(house: House) -> None:
    def rewrite(tx: Tx) -> None:
        current = service.get(tx, WORKSPACE, VAULT_CREDENTIAL, house.credential_id)
        body = json.loads(json.dumps(current.body))
        body["auth"]["refresh"]["token_endpoint"] = "http://t.example"
        service.change(tx, house.actor, VAULT_CREDENTIAL, current, body)

    await house.db.write(rewrite)
    with pytest.raises(RefreshFailed, match="https only"):
        await house.wallet.refresh(CALLER, await house.held())
    assert house.way.asked == 0


async def test_a_swapped_secret_is_noticed(house: House) -> None:
    await house.db.write(lambda tx: tx.execute(update(vault_secrets).values(sealed=b"\x01" * 60)))
    with pytest.raises(Exception, match="does not open"):
        await house.held()

"""A store, and whoever writes to it."""

from sqlalchemy import insert

from intramuros.control.catalog import memory_stores, service
from intramuros.control.catalog.kinds import AGENT, ENVIRONMENT
from intramuros.control.catalog.memory_versions import Author, Writer
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import sessions
from intramuros.protocol.resources.memory import MemoryStoreCreate

API_KEY = Principal(CredentialKind.API_KEY, "apikey_test", "wrkspc_test")


def make_store(tx: Tx, actor: Actor, name: str = "Notes", **more: str) -> Resource:
    return memory_stores.create(tx, actor, MemoryStoreCreate(name=name, **more))


def make_writer(tx: Tx, actor: Actor) -> Writer:
    return Writer(actor, Author("api_actor", actor.by), make_store(tx, actor))


def make_session(tx: Tx, actor: Actor, session_id: str) -> Principal:
    """Store a session and return the principal of its worker's token."""
    environment = service.create(tx, actor, ENVIRONMENT, {"config": {"type": "self_hosted"}})
    tx.execute(
        insert(sessions).values(
            id=session_id,
            workspace_id=actor.workspace_id,
            environment_id=environment.id,
            environment_kind="self_hosted",
            agent_id=service.create(tx, actor, AGENT, {}).id,
            agent_version=1,
            agent={},
            metadata={},
            resources=[],
            vault_ids=[],
            status="idle",
            state={},
            last_seq=0,
            created_us=1,
            updated_us=1,
        )
    )
    return Principal(
        CredentialKind.SESSIONS_TOKEN,
        "sestok_test",
        actor.workspace_id,
        environment_id=environment.id,
        session_id=session_id,
        work_id="work_test",
    )

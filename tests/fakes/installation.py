"""Installations with a row in every table, and what a server's API shows of one."""

import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2
from anthropic import Anthropic
from sqlalchemy import Boolean, LargeBinary, Table

from intramuros.control.catalog import vaults
from intramuros.control.identity.installation import Installation, open_installation
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blobs, new_key
from intramuros.control.store.db import Tx
from intramuros.control.store.migrate import SCHEMA
from intramuros.control.store.repository_tokens import Tokens
from intramuros.control.store.secrets import ensure_secret
from intramuros.control.store.strongbox import Strongbox
from intramuros.control.tracing import destinations
from intramuros.control.webhooks.addresses import Policy
from intramuros.control.webhooks.endpoints import Endpoints
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.telemetry import DestinationCreate
from intramuros.protocol.resources.vaults import CredentialCreate, VaultCreate
from intramuros.protocol.resources.webhooks import WorkspaceEndpointCreate
from tests.fakes.world import World
from tests.wire.host import Server, running
from tests.wire.matrix import BETAS, Callers, world

SCRIPTS: Final = Path(__file__).parents[1] / "wire/scripts"
# What is kept as text must come back as it was written.
STRANGE: Final = (
    '{"a": NaN, "b": 1e400, "c": [-0.0, 1.10, 12345678901234567890123], "a": "\\u0000 \\ud800 ü"}'
)
CONTENTS: Final = (bytes(range(256)) * 5_000, b"", b"one")


def invented(data_dir: Path) -> Path:
    """Make an installation without a server: rows that look like nothing else, and three files."""
    anyio.run(_found, data_dir)
    with closing(sqlite3.connect(data_dir / "intramuros.db")) as connection, connection:
        for table in SCHEMA.sorted_tables:
            if table.name not in ("audit", "activities", "storage", "secrets", "removed_logs"):
                for number in range(3):
                    _invent(connection, table, number)
        _make_strange(connection, "sessions", "state")
    return data_dir


def sound(data_dir: Path) -> Path:
    """Make an installation without a server in which everything fits: a log, a file, secrets."""
    anyio.run(_found, data_dir)
    anyio.run(_use, data_dir)
    return data_dir


async def _use(data_dir: Path) -> None:
    opened = await open_installation(data_dir)

    def work(tx: Tx) -> None:
        actor = opened.operator("test")
        made = World(tx, ManualClock(), opened.ids, opened.workspace_id, opened.db)
        for _ in range(2):
            session_id = made.create()
            made.say(session_id)
            made.say(session_id)
        vault = vaults.create(tx, actor, VaultCreate(display_name="V"))
        auth = {"type": "static_bearer", "token": "t", "mcp_server_url": "https://m.example"}
        box = vaults.Credentials(Strongbox(opened.sealer, opened.ids.random))
        box.create(tx, actor, vault.id, CredentialCreate.model_validate({"auth": auth}))
        hook = {"url": "https://h.example/x", "name": "H", "enabled_events": ["vault.created"]}
        endpoints = Endpoints(opened.sealer, os.urandom, Policy())
        endpoints.create(
            tx, actor, opened.workspace_id, WorkspaceEndpointCreate.model_validate(hook)
        )
        to = {
            "endpoint_url": "https://collector.example",
            "workspaces": {"type": "all"},
            "headers": {"x-key": "secret"},
        }
        destinations.create(
            tx, actor, destinations.Rules(opened.sealer), DestinationCreate.model_validate(to)
        )
        tokens = Tokens(opened.sealer, os.urandom)
        tokens.put(tx, "sesrsc_1", "secret", session_id=session_id)

    try:
        await opened.db.write(work)
    finally:
        opened.close()


async def _found(data_dir: Path) -> None:
    opened = await open_installation(data_dir)
    try:
        store = Blobs.open(None, data_dir)
        for number, content in enumerate(CONTENTS):
            await _keep(opened, store, f"file_{number}", content)
        await opened.db.write(lambda tx: ensure_secret(tx, opened.sealer, "a", lambda: b"v", 1))
    finally:
        opened.close()


async def _keep(opened: Installation, store: Blobs, owner: str, content: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    blob = await store.put(new_key(), chunks(), len(content))
    await opened.db.write(lambda tx: holdings.take(tx, opened.workspace_id, owner, blob))


def used(data_dir: Path) -> Path:
    """Make an installation by its API, with one of everything; its server is stopped again."""
    with running(data_dir, model_scripts=str(SCRIPTS)) as server:
        paths = httpx2.get(f"{server.base_url}/x/openapi.json").json()["paths"]
        with closing(Callers(server)) as callers, world(callers, "".join(paths)) as things:
            talk = things.site.session(initial_events=[_MESSAGE])
            things.site.wait(talk.id, "session.status_idle")
            things.api.beta.files.upload(file=("all.bin", CONTENTS[0]))
    with closing(sqlite3.connect(data_dir / "intramuros.db")) as connection, connection:
        _make_strange(connection, "leases", "payload")
        # The last number given is of a row that is gone.
        connection.execute(
            "INSERT OR REPLACE INTO sqlite_sequence VALUES ('telemetry_spans', 4711)"
        )
    return data_dir


def shown(server: Server) -> dict[str, Any]:
    """Return everything that the official SDK lists, and the bytes of a skill."""
    with Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api:
        beta = api.beta
        lists: dict[str, Any] = {
            "agents": beta.agents.list(include_archived=True),
            "environments": beta.environments.list(include_archived=True),
            "sessions": beta.sessions.list(include_archived=True),
            "vaults": beta.vaults.list(include_archived=True),
            "stores": beta.memory_stores.list(include_archived=True),
            "deployments": beta.deployments.list(include_archived=True),
            "runs": beta.deployment_runs.list(),
            "tunnels": beta.tunnels.list(include_archived=True),
            "files": beta.files.list(),
            "skills": beta.skills.list(),
            "users": beta.organization.users.list(),
            "groups": beta.organization.rbac_groups.list(),
            "workspaces": beta.organization.workspaces.list(include_archived=True),
        }
        found = {name: _plain(each) for name, each in lists.items()}
        for session in found["sessions"]:
            del session["stats"]  # its seconds go on
            found[session["id"]] = _plain(beta.sessions.events.list(session["id"]))
        for store in found["stores"]:
            found[store["id"]] = _plain(
                beta.memory_stores.memories.list(store["id"], path_prefix="/", view="full")
            )
    assert all(found[name] for name in lists)
    headers = {"x-api-key": server.api_key, "anthropic-beta": BETAS}
    with httpx2.Client(base_url=server.base_url, headers=headers) as http:
        for skill in found["skills"]:
            path = f"/v1/skills/{skill['id']}/versions/{skill['latest_version_id']}/content"
            answer = http.get(path)
            assert answer.status_code == 200, answer.text
            found[path] = answer.content
    return found


_MESSAGE: Final[Any] = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}


def _plain(each: Any) -> list[Any]:
    return [one.model_dump(mode="json") for one in each]


def _make_strange(connection: sqlite3.Connection, table: str, column: str) -> None:
    which = f"rowid = (SELECT max(rowid) FROM {table})"
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {which}", (STRANGE,))


def _invent(connection: sqlite3.Connection, table: Table, number: int) -> None:
    values: dict[str, object] = {}
    for column in table.columns:
        if column.foreign_keys:
            (key,) = column.foreign_keys
            rows = connection.execute(
                f"SELECT {key.column.name} FROM {key.column.table.name} ORDER BY 1"
            ).fetchall()
            values[column.name] = rows[min(number, len(rows) - 1)][0]
        elif number == 2 and column.nullable and not column.primary_key:
            values[column.name] = None
        else:
            values[column.name] = _value(column.type, number)
    if table.name == "blobs":
        values |= {"key": f"{number}/lost", "gone": 0}
    names, places = ", ".join(values), ", ".join("?" * len(values))
    connection.execute(
        f"INSERT INTO {table.name} ({names}) VALUES ({places})", list(values.values())
    )


def _value(kind: Any, number: int) -> object:
    if isinstance(kind, Boolean):
        return number % 2
    if isinstance(kind, LargeBinary):
        return b"\x00\xff'\\" + os.urandom(8)
    if kind.python_type is int:
        return 2**62 + number
    if kind.python_type is dict:
        return json.dumps({"z": number, "a": ["\t\\N", None]})
    return f"{number}\\N\t\n'ü\U0001f600"

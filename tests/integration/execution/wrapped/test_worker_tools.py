"""A worker answers an agent's custom tools with MCP servers, and no credential leaves with them."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from intramuros.kernel.config import environment
from tests.fakes.control_plane import ControlPlane, running
from tests.fakes.guarded_mcp import guarded_mcp
from tests.fakes.sandbox import FakeProvider
from tests.fakes.worker import Rig, stopped

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[4]
SQLITE = (
    Path(environment().get("INTRAMUROS_DEMO_UPSTREAM", ROOT / ".venv-upstream"))
    / "bin"
    / "mcp-server-sqlite"
)
TOKEN = "perimeter-token-4711"


async def answers(
    folder: Path, servers: dict[str, Any], *calls: tuple[str, dict[str, Any]]
) -> tuple[Rig, list[dict[str, Any]]]:
    """Return what the control plane is told of calls."""
    file = folder / "servers.yaml"
    file.write_text(yaml.safe_dump({"servers": servers}))
    async with running(ControlPlane()) as plane:
        rig = Rig(plane, FakeProvider(), folder)
        item, session = plane.offer(), plane.session()
        session.emit("session.status_running")
        ids = [
            session.emit("agent.custom_tool_use", name=name, input=arguments)["id"]
            for name, arguments in calls
        ]
        session.on_result = lambda _: session.idle() if len(session.results) == len(ids) else None
        async with rig.worker(mcp_servers=file):
            await stopped(item)
        return rig, [session.result_of(id) for id in ids]


async def test_a_server_over_http_is_shown_the_credential_and_nobody_else_is(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text(f"Bearer {TOKEN}\n")
    token.chmod(0o600)
    with guarded_mcp() as guarded:
        guarded.tokens.add(TOKEN)
        bank = {
            "url": guarded.url,
            "header_files": {"Authorization": "token"},
            "tools": {"bank_add": "add"},
        }
        rig, (told,) = await answers(tmp_path, {"bank": bank}, ("bank_add", {"a": 2, "b": 3}))
    assert guarded.seen[-1] == TOKEN
    assert told["type"] == "user.custom_tool_result"
    text = told["content"][0]["text"]
    assert text.startswith("5, said with ")
    assert TOKEN not in text
    assert "masked" in text
    assert rig.provider.created == []
    kept = rig.settings.audit_path().read_text()
    assert TOKEN not in kept
    assert [one["fields"]["tool"] for one in rig.audit() if one["kind"] == "tool.call"] == [
        "bank_add"
    ]


async def test_a_refused_credential_is_an_error_that_the_agent_reads(tmp_path: Path) -> None:
    with guarded_mcp() as guarded:
        bank = {"url": guarded.url, "tools": ["add"]}
        _, (told,) = await answers(tmp_path, {"bank": bank}, ("add", {"a": 2, "b": 3}))
    assert told["is_error"] is True
    assert "cannot be reached" in told["content"][0]["text"]


@pytest.mark.skipif(not SQLITE.exists(), reason="NO MCP SERVER OF PYPI: run `make upstream`")
async def test_a_server_that_is_not_ours_serves_only_what_is_listed(tmp_path: Path) -> None:
    database = tmp_path / "bank.db"
    with sqlite3.connect(database) as db:
        db.execute("create table accounts (owner text)")
        db.execute("insert into accounts values ('ada')")
    sql = {"command": [str(SQLITE), "--db-path", str(database)], "tools": ["read_query"]}
    _, told = await answers(
        tmp_path,
        {"sql": sql},
        ("read_query", {"query": "select owner from accounts"}),
        ("read_query", {"query": "delete from accounts"}),
    )
    assert "ada" in told[0]["content"][0]["text"]
    assert told[1]["is_error"] is True or "Error" in told[1]["content"][0]["text"]

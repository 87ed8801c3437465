"""How long pages take among a million sessions, events, memory versions and agents.

``python -m benchmarks.million [--rows N] [--out FILE]``

Rows are copies, written past the server (``tests/fakes/crowd.py``); two of three sessions are
archived, and newer than the rest. Each list is then read through the API: its first page, one with
a filter that matches everything and one that matches nothing, and a page from its middle.
"""

import argparse
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.fakes.crowd import crowd
from tests.wire.host import running

from benchmarks.api import Client, timed
from benchmarks.meter import summary_ms
from intramuros.kernel.telemetry import configure
from intramuros.kernel.timing import from_micros, rfc3339

_MESSAGE = {"type": "user.message", "content": [{"type": "text", "text": "x"}]}
_FILLED = {
    "sessions": "1",
    "events": "internal = 0 AND queued = 0",
    "memory_versions": "1",
    "resources": "kind IN ('agent', 'vault')",
}


def furnish(api: Client) -> dict[str, str]:
    """Make one of each, and return the ids."""
    agent = api.ask("POST", "/v1/agents", {"name": "bench", "model": "instant"})["id"]
    place = {"name": "bench", "config": {"type": "self_hosted"}}
    environment = api.ask("POST", "/v1/environments", place)["id"]
    session = {"agent": agent, "environment_id": environment, "title": "bench"}
    session_id = api.ask("POST", "/v1/sessions", session)["id"]
    api.ask("POST", f"/v1/sessions/{session_id}", {"title": "told"})  # an event that has happened
    store = api.ask("POST", "/v1/memory_stores", {"name": "s"})["id"]
    memory = api.ask("POST", f"/v1/memory_stores/{store}/memories", {"path": "/a", "content": "x"})
    api.ask("POST", "/v1/vaults", {"display_name": "v"})
    return {"agent": agent, "session": session_id, "store": store, "memory": memory["id"]}


def lists(ids: dict[str, str], middle: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield what to call each question, its path and its query."""
    sessions, log = "/v1/sessions", f"/v1/sessions/{ids['session']}/events"
    versions = f"/v1/memory_stores/{ids['store']}/memory_versions"
    before = {"created_at[lte]": middle}
    yield "agents", "/v1/agents", {}
    yield "agents, from the middle", "/v1/agents", before
    yield "vaults", "/v1/vaults", {}
    yield "sessions", sessions, {}
    yield "sessions, archived too", sessions, {"include_archived": "true"}
    yield "sessions, oldest first", sessions, {"order": "asc"}
    yield "sessions, from the middle", sessions, before
    yield "sessions of the agent", sessions, {"agent_id": ids["agent"]}
    yield "sessions of no agent", sessions, {"agent_id": "agent_none"}
    yield "sessions that are idle", sessions, {"statuses[]": "idle"}
    yield "sessions that are running", sessions, {"statuses[]": "running"}
    yield "events", log, {"limit": "20"}
    yield "events, newest first", log, {"limit": "20", "order": "desc"}
    yield "versions", versions, {"limit": "20"}
    yield "versions of the memory", versions, {"limit": "20", "memory_id": ids["memory"]}
    yield "versions of no session", versions, {"limit": "20", "session_id": "sesn_none"}
    yield "versions, deletions only", versions, {"limit": "20", "operation": "deleted"}


def middle_of(database: Path) -> str:
    """Return the time that has half of the agents behind it."""
    with closing(sqlite3.connect(database)) as connection:
        span = "SELECT (min(created_us) + max(created_us)) / 2 FROM resources WHERE kind = 'agent'"
        (at_us,) = connection.execute(span).fetchone()
    return rfc3339(from_micros(at_us))


def main() -> None:
    """Fill, ask and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    configure(json=True, level="error")
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(Path(scratch, "data"), log_level="warning") as server,
    ):
        api = Client(server.base_url, server.api_key)
        ids = furnish(api)
        (database,) = server.data_dir.glob("*.db")
        counts = crowd(database, options.rows, _FILLED)
        api = Client(server.base_url, server.api_key)  # the server has closed the idle one
        print(f"rows: {counts}; {database.stat().st_size >> 20} MiB", flush=True)
        for name, path, query in lists(ids, middle_of(database)):
            asked = f"{path}?{urlencode(query)}"
            times = [
                timed(lambda asked=asked: api.ask("GET", asked)) for _ in range(options.rounds)
            ]
            figures[name] = {"first_ms": round(times[0] / 1e6, 2), **summary_ms(times)}
            print(f"{name:28} first {figures[name]['first_ms']:>8} ms  {figures[name]}", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"rows": counts, "lists": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()

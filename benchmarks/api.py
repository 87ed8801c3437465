"""What the API adds to a database: each call beside an empty route, and appends beside raw SQL.

``python -m benchmarks.api [--rounds N] [--out FILE]``

The server and a bare FastAPI application (``bare.py``) serve the same database file. One client
takes turns between a call and the bare route that does one indexed read or one durable write, so
that load from elsewhere hits both alike; the ratio of the medians is what counts. A call is over
when its last byte is here; what clients then make of it is theirs.

Appends are rows of the log itself, each a durable transaction of its own, from one task and from
several at once (who then share commits), beside one row and one commit after the other in raw SQL.
Accepted are whole inputs: checked, folded into the session's state, audited and queued besides.
"""

import argparse
import http.client
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
from sqlalchemy import select
from tests.wire.host import ROOT, Server, running

from benchmarks.meter import MIB, spent, summary_ms
from intramuros.control.api.services import Services
from intramuros.control.app import build_services
from intramuros.control.identity.installation import open_installation
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.settings import ServerSettings
from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.control.store.events import End, Stamp
from intramuros.control.store.records import Draft
from intramuros.control.store.tables import sessions
from intramuros.kernel.config import environment
from intramuros.kernel.service import settle
from intramuros.kernel.telemetry import configure
from intramuros.kernel.timing import to_micros
from intramuros.protocol.events import INBOUND
from intramuros.protocol.resources.sessions import SessionCreate

BETA: Final = "managed-agents-2026-04-01"
TARGET_RATIO: Final = 1.5
TARGET_APPENDS: Final = 0.6
_MESSAGE: Final = {"type": "user.message", "content": [{"type": "text", "text": "x" * 500}]}
_PER_SESSION: Final = 10
TURN: Final = 10
Call = Callable[[], bytes]


class Client:
    """One connection that is kept open."""

    def __init__(self, base_url: str, api_key: str = "") -> None:
        host, _, port = base_url.removeprefix("http://").rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=30)
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers |= {"x-api-key": api_key, "anthropic-beta": BETA}

    def fetch(self, method: str, path: str, body: object = None) -> bytes:
        """Send a request and return the answer."""
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, body=content, headers=self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {data!r}")
        return data

    def ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401  any JSON
        """Send a request and return what its answer says."""
        return json.loads(self.fetch(method, path, body))


@contextmanager
def bare(database: Path) -> Iterator[Client]:
    """Run the application to compare with."""
    command = [sys.executable, "-m", "benchmarks.bare", str(database)]
    env = {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Client(f"http://127.0.0.1:{process.stdout.readline().strip()}")
        finally:
            process.terminate()


def calls(api: Client) -> dict[str, tuple[str, Call]]:
    """Return each call by name, and which bare route it is compared with."""
    agent = {"name": "bench", "model": "instant", "system": "x" * 1000}
    agent_id = api.ask("POST", "/v1/agents", agent)["id"]
    place = {"name": "bench", "config": {"type": "self_hosted"}}
    session = {
        "agent": agent_id,
        "environment_id": api.ask("POST", "/v1/environments", place)["id"],
    }
    session_id = api.ask("POST", "/v1/sessions", session)["id"]
    memories = f"/v1/memory_stores/{api.ask('POST', '/v1/memory_stores', {'name': 's'})['id']}"
    numbers = itertools.count()

    def memory() -> bytes:
        body = {"path": f"/{next(numbers)}", "content": "x" * 500}
        return api.fetch("POST", f"{memories}/memories", body)

    memory_id = json.loads(memory())["id"]
    for _ in range(30):
        memory()
        for path, body in (("agents", agent), ("sessions", session)):
            api.ask("POST", f"/v1/{path}", body)
    log = f"/v1/sessions/{session_id}/events"
    for _ in range(25):
        api.ask("POST", log, {"events": [_MESSAGE]})
    return {
        "agents create": ("write", lambda: api.fetch("POST", "/v1/agents", agent)),
        "agents retrieve": ("read", lambda: api.fetch("GET", f"/v1/agents/{agent_id}")),
        "agents list 20": ("page", lambda: api.fetch("GET", "/v1/agents")),
        "sessions create": ("write", lambda: api.fetch("POST", "/v1/sessions", session)),
        "sessions retrieve": ("read", lambda: api.fetch("GET", f"/v1/sessions/{session_id}")),
        "sessions list 20": ("page", lambda: api.fetch("GET", "/v1/sessions")),
        "events list 20": ("page", lambda: api.fetch("GET", f"{log}?limit=20")),
        "memories create": ("write", memory),
        "memories retrieve": (
            "read",
            lambda: api.fetch("GET", f"{memories}/memories/{memory_id}"),
        ),
        "memories list 20": ("page", lambda: api.fetch("GET", f"{memories}/memories?limit=20")),
    }


def timed(call: Call) -> int:
    """Return how long a call takes, in nanoseconds."""
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began


def side_by_side(server: Server, rounds: int) -> dict[str, Any]:
    """Time each call and the bare route in turns.

    A turn is a few calls, not one: with every commit of another process a connection drops the
    pages that it has read, which those of one process do not do to each other.
    """
    api = Client(server.base_url, server.api_key)
    (database,) = server.data_dir.glob("*.db")
    figures: dict[str, Any] = {}
    with bare(database) as plain:
        for number, (name, (kind, call)) in enumerate(calls(api).items()):
            plainly = bare_calls(plain, f"{number}-", kind, len(call()))
            ours, theirs, one = in_turns([call, plainly[kind], plainly.get("read", call)], rounds)
            figures[name] = {
                "api_ms": ours,
                f"bare_{kind}_ms": theirs,
                "ratio": round(ours["p50"] / theirs["p50"], 2),
            }
            if kind == "page":
                figures[name]["ratio_to_one_row"] = round(ours["p50"] / one["p50"], 2)
    return figures


def bare_calls(plain: Client, prefix: str, kind: str, size: int) -> dict[str, Call]:
    """Return the bare route's calls by kind, with rows that make answers of ``size`` bytes."""
    if kind == "write":
        numbers = itertools.count()
        return {
            "write": lambda: plain.fetch("POST", f"/write/{prefix}w{next(numbers)}", "x" * size)
        }
    rows = 20 if kind == "page" else 1
    for row in range(rows):
        plain.fetch("POST", f"/write/{prefix}{row:02}", "x" * (size // rows))
    return {
        "read": lambda: plain.fetch("GET", f"/read/{prefix}00"),
        "page": lambda: plain.fetch("GET", f"/page/{prefix}?limit={rows}"),
    }


def in_turns(each: Sequence[Call], rounds: int) -> list[dict[str, float]]:
    """Return what ``rounds`` calls of each take, of which the first turn is not counted."""
    times: list[list[int]] = [[] for _ in each]
    for _ in range(rounds // TURN + 1):
        for call, kept in zip(each, times, strict=True):
            kept.extend(timed(call) for _ in range(TURN))
    return [summary_ms(kept[TURN:]) for kept in times]


def raw_appends(database: Path, rows: int) -> float:
    """Return rows a second that raw SQL appends, each with a commit of its own."""
    body = json.dumps(_MESSAGE)
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as db:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE raw (session, seq INTEGER, body, PRIMARY KEY (session, seq))")
        began = time.perf_counter()
        for seq in range(rows):
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO raw VALUES ('sesn_1', ?, ?)", (seq, body))
            db.execute("COMMIT")
        return rows / (time.perf_counter() - began)


async def appends(home: Path, database: Path, rows: int) -> dict[str, Any]:
    """Return events a second that the journal accepts, from one task and from several at once."""
    opened = await open_installation(home, None, None)
    try:
        services = await build_services(opened, ServerSettings(data_dir=home))
        settle()  # as every program of ours does once it is up
        raw = await anyio.to_thread.run_sync(raw_appends, database, rows)
        found: dict[str, Any] = {"raw_per_s": round(raw)}
        for name, measure in (("appended", appended), ("accepted", accepted)):
            for tasks in (1, 16):
                rate = await measure(services, opened.workspace_id, rows, tasks)
                found[f"{name}_by_{tasks}_per_s"] = round(rate)
                found[f"{name}_by_{tasks}_ratio"] = round(rate / raw, 2)
        return found
    finally:
        opened.close()


async def appended(services: Services, _workspace_id: str, rows: int, tasks: int) -> float:
    """Return the rate at which so many tasks append rows to a log of their own, durably."""
    draft = [Draft("user.message", {"content": _MESSAGE["content"]})]
    stamp = Stamp(to_micros(services.clock.now()), lambda: services.ids.new("sevt"))

    def logs(tx: Tx) -> list[str]:
        return list(tx.execute(select(sessions.c.id).order_by(sessions.c.id)).scalars())

    async def fill(session_id: str) -> None:
        for number in range(rows // tasks):
            end = End(1_000_000 + number, 0)
            await services.db.write(partial(_append, session_id, end, draft, stamp))

    ids = (await services.db.read(logs))[tasks : 2 * tasks]
    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for session_id in ids:
            group.start_soon(fill, session_id)
    return rows // tasks * len(ids) / (time.perf_counter() - began)


def _append(session_id: str, end: End, drafts: list[Draft], stamp: Stamp, tx: Tx) -> None:
    events.append(tx, session_id, end, drafts, stamp)


async def accepted(services: Services, workspace_id: str, rows: int, tasks: int) -> float:
    """Return the rate at which so many tasks have messages accepted, a few for each session."""
    caller = Principal(CredentialKind.API_KEY, "apikey_bench", workspace_id)
    message = INBOUND.validate_python(_MESSAGE)
    each = rows // tasks // _PER_SESSION

    def prepare(tx: Tx) -> list[str]:
        row = tx.execute(select(sessions.c.agent_id, sessions.c.environment_id).limit(1)).one()
        body = SessionCreate(agent=row.agent_id, environment_id=row.environment_id)
        return [services.sessions.create(tx, caller, body).id for _ in range(each * tasks)]

    ids = await services.db.write(prepare)

    async def send(mine: list[str]) -> None:
        for session_id in mine:
            for _ in range(_PER_SESSION):
                await services.db.write(
                    partial(
                        services.journal.accept,
                        principal=caller,
                        session_id=session_id,
                        inbound=[message],
                    )
                )

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for task in range(tasks):
            group.start_soon(send, ids[task * each : (task + 1) * each])
    return len(ids) * _PER_SESSION / (time.perf_counter() - began)


def report(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [f"{'call':20} {'api p50':>10} {'bare p50':>10} {'ratio':>7}  target {TARGET_RATIO}"]
    for name, row in figures["calls"].items():
        bare_ms = next(value for key, value in row.items() if key.startswith("bare_"))
        lines.append(
            f"{name:20} {row['api_ms']['p50']:>7} ms {bare_ms['p50']:>7} ms {row['ratio']:>7}"
        )
    append = figures["appends"]
    lines.append(
        f"appends a second: raw SQL {append['raw_per_s']}; target {TARGET_APPENDS}; "
        + ", ".join(
            f"{name} by {tasks} {append[f'{name}_by_{tasks}_per_s']}"
            f" ({append[f'{name}_by_{tasks}_ratio']})"
            for name in ("appended", "accepted")
            for tasks in (1, 16)
        )
    )
    lines.append(f"server memory: {figures['server_rss_mib']} MiB")
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    configure(json=True, level="error")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch, "data")
        with running(home, log_level="warning") as server:
            figures: dict[str, Any] = {"calls": side_by_side(server, options.rounds)}
            figures["server_rss_mib"] = round(spent(server.process.pid).rss_bytes / MIB, 1)
        rows, (database,) = 5 * options.rounds, home.glob("*.db")
        figures["appends"] = anyio.run(
            appends, home, database, rows, backend_options={"use_uvloop": True}
        )
    print(report(figures))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

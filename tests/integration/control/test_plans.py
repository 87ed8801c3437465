"""What lists and other reads cost does not grow with what is stored.

A recorded server gets one of everything; then its tables get thousands of rows more, and every
GET route is asked with every filter, page by page to the end. The database counts the steps of each
statement: none may look at more than about a page. Its plans say the same of any number of rows.
"""

import itertools
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests.fakes.crowd import BOUNDED, crowd, growing
from tests.wire.host import Server, running
from tests.wire.matrix import BETAS, Callers, World, world
from tests.wire.site import until

SCRIPTS = Path(__file__).parents[2] / "wire" / "scripts"
COPIES: Final = 3000
PAGE: Final = 100
# A page of 100 rows takes some 6,000 steps; looking at every row takes 15,000 or more.
MOST_STEPS: Final = 12_000
# Streams and polls wait by design; content is bytes; effective limits are refused here.
# Reports are of a span that the caller names; outputs are of sessions that the cloud runs.
_NO_LISTS: Final = (
    "/stream",
    "/poll",
    "/content",
    "/effective",
    "_report",
    "_report/messages",
    "/outputs",
    "/spills/{tool_use_id}",
)
_POSITIONS: Final = frozenset({"limit", "page", "after_id", "before_id"})
# Ids of activities come from lines of the chain, which copies share: positions name no copy.
_ONE_PAGE: Final = frozenset({"/v1/compliance/activities"})
NO_ROWS: Final = {
    "spent_assertions": "written by the exchange of assertions only; reads go by its key",
    **dict.fromkeys(("activities", "compliance"), "written while compliance is switched on"),
    **dict.fromkeys(
        ("webhook_deliveries", "webhook_events"),
        "what waits to be sent, for a day; claimed by its due time",
    ),
    "dream_memories": "written by dreams that rewrite memories; at most 2,000 for one",
    "removed_logs": "on PostgreSQL only; emptied soon after it was written",
    "spend_days": "written by models that cost something; reads go by its key",
    "telemetry_spans": "written while a destination listens; sent from the oldest on",
}
# Filters that take words only which the document does not list.
WORDS: Final = {"source": ("custom", "anthropic")}
# Statements that look at all of something by design, and why that is bounded.
BY_DESIGN: Final = {
    "FROM credentials WHERE credentials.workspace_id = ? AND credentials.kind = ? ORDER": (
        "API keys are made by hand; ours lists them whole"
    ),
    "FROM credentials WHERE credentials.environment_id = ? AND credentials.kind = ? ORDER": (
        "as are environment keys"
    ),
    "FROM credentials WHERE credentials.kind = ? AND credentials.revoked_us": (
        "of the organization's API keys, those of a status"
    ),
    "FROM credentials WHERE credentials.kind = ? AND (credentials.revoked_us": "the same",
    "FROM credentials WHERE credentials.kind = ? AND credentials.created_by": "of one maker",
    "FROM credentials WHERE 0 = 1": "ends before its first row",
    "FROM resources LEFT OUTER JOIN workspace_members": "service accounts are made by hand",
    "WHERE ssh_certificates.revoked_us IS NULL ORDER": (
        "all certificates of a day, of which environments have so many at most; once a minute"
    ),
    "FROM memories WHERE memories.store_id = ?": "a store has at most 2,000 memories",
    "FROM sessions JOIN memory_attachments": "archived sessions of one store are passed over",
    "leases.state IN ('starting', 'active', 'stopping')": "what is served now has its own index",
    "FROM audit ORDER BY audit.seq DESC LIMIT": "reads the end of the chain",
    "SELECT telemetry_spans.seq FROM telemetry_spans LIMIT": "looks whether there is any",
    "UPDATE resources SET sort_key=lower(": "a migration",
    "UPDATE memory_attachments SET created_us": "a migration",
}


@dataclass
class Tour:
    """What was asked and what the database was asked for it."""

    asked: list[str] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    plans: dict[str, list[str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    home = tmp_path_factory.mktemp("plans")
    made = Tour()
    record = home / "record.json"
    with running(
        home / "data",
        module="tests.fakes.recording_server",
        record_file=str(record),
        model_scripts=str(SCRIPTS),
    ) as server:
        drive(server, made)
    made.notes = json.loads(record.read_text())
    with sqlite3.connect(home / "data" / "intramuros.db") as connection:
        for note in made.notes:
            if note["sql"].split(None, 1)[0] in {"SELECT", "UPDATE", "DELETE", "WITH"}:
                rows = connection.execute("EXPLAIN QUERY PLAN " + note["sql"], note["parameters"])
                made.plans[note["sql"]] = [row[3] for row in rows]
    connection.close()
    yield made


def drive(server: Server, made: Tour) -> None:
    document = httpx2.get(f"{server.base_url}/x/openapi.json").json()
    routes = {
        path: methods["get"].get("parameters", [])
        for path, methods in document["paths"].items()
        if "get" in methods and not path.endswith(_NO_LISTS)
    }
    with (
        closing(Callers(server)) as callers,
        httpx2.Client(base_url=server.base_url, timeout=60) as http,
        world(callers, "".join(routes)) as things,
    ):
        work(things)
        fill(server)
        secrets = [server.api_key, things.site.key, things.token]
        for path, parameters in routes.items():
            for name, value in things.made.items():
                path = path.replace("{" + name + "}", value)
            assert "{" not in path, f"say in tests/wire/matrix.py how to make one for {path}"
            for query in queries(parameters, things):
                made.asked.append(f"{path} {query}")
                walk(http, path, query, secrets)
        work(things)


def work(things: World) -> None:
    """Have a session that delegates to three others, and a worker that looks for work."""
    site = things.site
    roster = [
        site.api.beta.agents.create(name=name, model="scripted/answer").id
        for name in ("Scout", "Asker", "Clerk")
    ]
    lead = site.api.beta.agents.create(
        name="Lead", model="scripted/lead", multiagent={"type": "coordinator", "agents": roster}
    )
    session = site.session(agent=lead.id)
    site.api.beta.sessions.events.send(
        session.id, events=[{"type": "user.message", "content": [{"type": "text", "text": "go"}]}]
    )
    site.wait(session.id, "session.status_idle")
    until(lambda: len(list(site.api.beta.sessions.threads.list(session.id))) == 4 or None)
    poll = things.site.worker.beta.environments.work.poll
    until(lambda: poll(things.site.environment_id, block_ms=1))


def fill(server: Server) -> None:
    (path,) = server.data_dir.glob("*.db")
    rows = crowd(path, COPIES)
    empty = {name for name, count in rows.items() if count < COPIES}
    assert empty <= set(NO_ROWS), "make one of these in tests/wire/matrix.py, or say why not"


def queries(parameters: Any, things: World) -> Iterator[dict[str, Any]]:
    """Yield what to ask a route: each filter alone, with each order."""
    names = {parameter["name"]: parameter["schema"] for parameter in parameters}
    names = {name: schema for name, schema in names.items() if "anthropic" not in name}
    orders = {
        name: list(values(name, schema, things))
        for name, schema in names.items()
        if name.startswith(("order", "sort"))
    }
    filters: list[dict[str, Any]] = [{}]
    for name, schema in names.items():
        if name not in orders and name not in _POSITIONS:
            filters += [{name: value} for value in values(name, schema, things)]
    for one in filters:
        for picks in itertools.product(*orders.values()):
            query = {**one, **dict(zip(orders, picks, strict=True))}
            if "limit" in names and "ids[]" not in one:
                query["limit"] = PAGE
            yield query


def values(name: str, schema: Any, things: World) -> Iterator[Any]:
    """Yield values of a filter: what is there, and what is nowhere."""
    for option in schema.get("anyOf", [schema]):
        if "enum" in option:
            yield from option["enum"]
        elif "const" in option:
            yield option["const"]
        elif option.get("type") == "array":
            yield from values(name.removesuffix("[]"), option["items"], things)
        elif option.get("type") == "boolean":
            yield "true"
        elif option.get("type") == "integer":
            yield 1
        elif option.get("type") == "string":
            yield from texts(name, things)


def texts(name: str, things: World) -> Iterator[str]:
    if name in WORDS:
        yield from WORDS[name]
    elif "_at" in name:
        yield from ("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z")
    elif "path" in name:
        yield from ("/", "/nowhere/")
    elif name in things.made:
        yield from (things.made[name], "nobody")
    else:
        yield "nobody"


def walk(http: httpx2.Client, path: str, query: dict[str, Any], secrets: list[str]) -> None:
    """Follow a list to its end."""
    betas = {"anthropic-beta": BETAS}
    for secret in secrets:  # whichever kind the route takes
        headers = {"authorization": f"Bearer {secret}", **betas}
        if http.get(path, params=query, headers=headers).status_code != 403:
            break
    seen: set[str] = set()
    while True:
        answer = http.get(path, params=query, headers=headers)
        if answer.status_code == 400 and "nobody" in query.values():
            return  # a filter that takes certain words only, and asks nothing of the database
        assert answer.status_code in (200, 404), (
            f"say in WORDS what {path} {query} takes: {answer.text}"
        )
        body = answer.json()
        rows = {json.dumps(row) for row in body.get("data", [])}
        assert not seen & rows, f"{path} {query} shows rows twice"
        seen |= rows
        if path in _ONE_PAGE:
            return
        if body.get("next_page"):
            query = {**query, "page": body["next_page"]}
        elif body.get("has_more"):
            query = {**query, "after_id": body["last_id"]}
        else:
            return


def by_design(sql: str) -> bool:
    written = re.sub(r":\w+", "?", " ".join(sql.split()))
    return any(part in written for part in BY_DESIGN)


@pytest.mark.timeout(240)
def test_no_statement_looks_at_more_than_a_page(tour: Tour) -> None:
    dear = [
        f"{note['steps']} steps: {' '.join(note['sql'].split())}\n    "
        + "\n    ".join(tour.plans.get(note["sql"], []))
        for note in sorted(tour.notes, key=lambda note: -note["steps"])
        if note["steps"] > MOST_STEPS and not by_design(note["sql"])
    ]
    assert not dear, "\n" + "\n".join(dear)


@pytest.mark.timeout(240)
def test_no_plan_scans_or_sorts_a_table_that_grows(tour: Tour) -> None:
    names = {table.name for table in growing()}
    bad = [
        f"{step}: {' '.join(sql.split())}"
        for sql, plan in tour.plans.items()
        for step in plan
        if not by_design(sql) and step.startswith("SCAN ") and step.split()[1] in names
    ]
    assert not bad, "\n" + "\n".join(bad)
    assert len(tour.asked) > 100
    assert not names & set(BOUNDED)

"""A server while PostgreSQL cuts its statements off: all goes on afterwards, nothing is lost."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from anthropic import Anthropic

from tests.postgres import Cluster
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site, until

pytestmark = pytest.mark.sqlite

SCRIPTS = Path(__file__).parents[3] / "wire/scripts"
LIMIT_S = 0.5
# What runs beside the API and looks at the database by itself.
JOBS = ("jobs", "schedules", "dreams", "webhooks")

_TABLES = (
    "SELECT quote_ident(tablename) FROM pg_tables"
    " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
)


@contextmanager
def locked(url: str, tables: list[str]) -> Iterator[None]:
    """Nobody reads or writes anything: reads and writes wait for locks until they give up."""
    with psycopg.connect(url) as connection:
        until(lambda: _lock(connection, tables))
        yield
        connection.rollback()


def _lock(connection: "psycopg.Connection[Any]", tables: list[str]) -> bool | None:
    """Lock all tables, in an order that others do not know; None if one was in the way."""
    try:
        connection.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
    except psycopg.errors.DeadlockDetected:
        connection.rollback()
        return None
    return True


class Trouble:
    """Makes sessions all the time, and knows which of them were acknowledged."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.acknowledged: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._make)

    def __enter__(self) -> "Trouble":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    def _make(self) -> None:
        while not self._over.is_set():
            # The SDK repeats what is answered 503 or 504.
            made = self.site.session(initial_events=[MESSAGE])
            self.acknowledged.append(made.id)
            self._over.wait(0.1)


def complaints(server: Server, since: int) -> set[str]:
    """Return which components said since then that the database failed them."""
    lines = [json.loads(line) for line in server.log[since:].splitlines() if line[:1] == "{"]
    return {one["component"] for one in lines if one["level"] in ("warning", "error")}


@pytest.mark.timeout(240)
def test_every_job_goes_on_after_its_statements_were_cut_off(
    cluster: Cluster, url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tables = [
        str(row[0]) for row in cluster.run(_TABLES, cluster.used[f"/one/{request.node.nodeid}"])
    ]
    with (
        running(
            tmp_path / "data",
            model_scripts=str(SCRIPTS),
            database_url=url,
            database_statement_timeout_s=LIMIT_S,
        ) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=30) as api,
        Site(server, api) as site,
    ):
        first = site.session(initial_events=[MESSAGE])
        site.wait(first.id, "session.status_idle")
        with Trouble(site) as trouble:
            since = len(server.log)
            with locked(url, tables):
                until(lambda: complaints(server, since).issuperset(JOBS) or None)
            many = len(trouble.acknowledged) + 3
            until(lambda: len(trouble.acknowledged) >= many or None)
        for session_id in trouble.acknowledged:
            site.wait(session_id, "session.status_idle")
        listed = {one.id for one in api.beta.sessions.list(limit=100)}
        assert listed >= {first.id, *trouble.acknowledged}
        assert server.process.poll() is None
        assert "task_failed" not in server.log
        # Each job looks again, and finds nothing to complain of.
        since = len(server.log)
        site.wait(site.session(initial_events=[MESSAGE]).id, "session.status_idle")
        assert not complaints(server, since) & set(JOBS)

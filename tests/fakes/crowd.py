"""Fills a database: many rows like the ones that are there, written past the server.

Children share their parents: after :func:`crowd` an agent has thousands of versions, a session
thousands of events, a workspace thousands of everything. Two of three that can be archived are
archived, and newer than the rest.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import Integer, String, Table, UniqueConstraint

from intramuros.control.store import (  # noqa: F401  every table, whoever asks
    deployment_tables,
    dream_tables,
    metering_tables,
    release_tables,
    repository_tables,
    session_tables,
    ssh_tables,
    webhook_tables,
)
from intramuros.control.store.tables import metadata

# These stay small, and why.
BOUNDED: Final = {
    "workspaces": "an organization has at most 100",
    "storage": "one row a workspace",
    "secrets": "the server's own keys",
    "telemetry_destinations": "an organization has at most 10",
    **dict.fromkeys(
        ("rate_limits", "spend_limits", "telemetry_workspaces"),
        "set by administrators: some for each of at most 100 workspaces",
    ),
    "pollers": "forgotten after a day",
    "alembic_version": "one row",
    **dict.fromkeys(
        ("users", "invites", "groups", "group_members", "user_workspaces"),
        "the people of one organization, counted and limited",
    ),
}
# What tells the copies apart, where the rule below would choose another column.
_VARY: Final = {
    "memory_attachments": {"session_id"},
    "session_skills": {"session_id"},
    "workspace_members": {"member_id"},
    "vault_secrets": {"credential_id", "match_key"},
}
# One row of each of these groups is copied; of other tables one row.
_GROUPS: Final = {
    "resources": "kind",
    "credentials": "kind",
    "leases": "queue = 'turn'",
}
# Which rows may be copied: of the audit chain, one that an activity points to, if any does.
_SOURCES: Final = {
    "audit": "(seq IN (SELECT seq FROM activities) OR NOT EXISTS (SELECT 1 FROM activities))"
}
# The rows of an old installation rest; copies point to copies.
_AT_REST: Final = {
    "activities": {"seq": "(SELECT max(seq) FROM audit) - :copies + i"},
    "leases": {
        "state": "CASE queue WHEN 'turn' THEN 'idle' ELSE 'stopped' END",
        "key": "key || '_' || i",
    },
}


def growing() -> list[Table]:
    """Return the tables that grow with use."""
    return [table for table in metadata.sorted_tables if table.name not in BOUNDED]


def crowd(path: Path, copies: int, only: Mapping[str, str] | None = None) -> dict[str, int]:
    """Copy a row of every group ``copies`` times; return how many rows each table got.

    Args:
        only: the tables to fill, each with a condition on the rows to copy; all by default.
    """
    with sqlite3.connect(path, isolation_level=None, timeout=30) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("BEGIN IMMEDIATE")
        made = {
            table.name: connection.execute(
                _statement(table, (only or {}).get(table.name, "1")), {"copies": copies}
            ).rowcount
            for table in growing()
            if only is None or table.name in only
        }
        connection.execute("COMMIT")
    connection.close()
    return made


def _statement(table: Table, which: str) -> str:
    vary = _VARY.get(table.name) or _telling(table)
    shown = {column.name: _copied(table, column.name, vary) for column in table.columns}
    source = _SOURCES.get(table.name, "1")
    group = _GROUPS.get(table.name, "''")
    return f"""
        INSERT INTO {table.name} ({", ".join(shown)})
        WITH RECURSIVE numbers(i) AS (
            SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < :copies
        ), ends AS (SELECT {_ends(table, vary)})
        SELECT {", ".join(shown.values())}
        FROM (SELECT * FROM {table.name} WHERE rowid IN (
            SELECT min(rowid) FROM {table.name} WHERE {which} AND {source} GROUP BY {group}
        )), numbers, ends
    """


def _copied(table: Table, name: str, vary: set[str]) -> str:
    if (rest := _AT_REST.get(table.name, {}).get(name)) is not None:
        return rest
    column = table.columns[name]
    if name in vary:
        return f"ends.{name} + i" if isinstance(column.type, Integer) else f"{name} || '_' || i"
    if name == "archived_us":
        return "CASE WHEN i * 3 > :copies THEN created_us + i END"
    return f"{name} + i" if name == "created_us" else name


def _ends(table: Table, vary: set[str]) -> str:
    numbers = [name for name in vary if isinstance(table.columns[name].type, Integer)]
    return ", ".join(f"(SELECT max({name}) FROM {table.name}) AS {name}" for name in numbers) or "1"


def _telling(table: Table) -> set[str]:
    """Return a column of each unique set: text that is no reference, else a number."""
    sets = [list(table.primary_key.columns)]
    sets += [list(index.columns) for index in table.indexes if index.unique]
    sets += [list(c.columns) for c in table.constraints if isinstance(c, UniqueConstraint)]
    chosen = set()
    for columns in sets:
        own = [column for column in columns if not column.foreign_keys]
        texts = [column for column in own if isinstance(column.type, String)]
        numbers = [column for column in own if isinstance(column.type, Integer)]
        chosen.add((texts or numbers or columns)[-1].name)
    return chosen

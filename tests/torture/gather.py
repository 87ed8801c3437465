"""Reads what a world left: the database, the files, the processes, and the API while it lives."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import anyio
import httpx2
from sqlalchemy import select

from intramuros.control.identity import audit
from intramuros.control.store import events
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import leases, sessions
from tests.torture.evidence import (
    Effect,
    Evidence,
    Lease,
    SessionEvidence,
    client_journals,
    effects_of,
)
from tests.torture.journal import entries
from tests.torture.world import BETA, LOOPBACK, World

INSIDE_BYTES = 1 << 20
_OCTAL = re.compile(r"\\([0-7]{3})")


async def told_by_api(world: World) -> dict[str, list[dict[str, Any]]]:
    """Return every session's public events, each as another server tells them."""
    headers = {"x-api-key": world.api_key, **BETA}
    found: dict[str, list[dict[str, Any]]] = {}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as api:
        base = f"http://{LOOPBACK}:{world.port(0)}"
        for number, session in enumerate(await _pages(api, f"{base}/v1/sessions")):
            port = world.port(number % world.shape.servers)
            url = f"http://{LOOPBACK}:{port}/v1/sessions/{session['id']}/events"
            found[session["id"]] = await _pages(api, url)
    return found


async def _pages(api: httpx2.AsyncClient, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = await _page(api, url, query)
        found += page["data"]
        if not page.get("next_page"):
            return found
        query["page"] = page["next_page"]


async def _page(api: httpx2.AsyncClient, url: str, query: dict[str, Any]) -> Any:
    """Return a page; asks again for a while, since servers have just been hurt."""
    with anyio.fail_after(60):
        while True:
            with suppress(httpx2.HTTPError):
                answer = await api.get(url, params=query)
                if answer.status_code < 500:
                    assert answer.status_code == 200, answer.text
                    return answer.json()
            await anyio.sleep(0.5)


async def gather(
    world: World,
    told: dict[str, list[dict[str, Any]]],
    left: list[str],
    unfinished: list[str],
) -> Evidence:
    """Read everything else, when every program of the world is gone."""
    db = Database.open(world.database_url)
    try:
        held, queue, chain, integrity = await db.read(_stored)
    finally:
        db.close()
    effects: list[Effect] = []
    reached: list[str] = []
    for number in range(world.shape.workers):
        name = f"worker.{number}"
        some, bad = effects_of(name, world.effects(name) / "log")
        effects += some
        reached += bad
    chains = {"control": chain}
    for name in world.programs:
        file = world.home / name / "audit.jsonl"
        if file.exists():
            chains[name] = file.read_text().splitlines()
    journals = world.home / "journals"
    return Evidence(
        sessions={
            row.id: SessionEvidence(
                row.id, rows, row.last_seq, row.status, row.state, told.get(row.id, [])
            )
            for row, rows in held
        },
        leases=queue,
        clients=client_journals(journals),
        model=entries(journals / "model.jsonl"),
        upstream=entries(journals / "upstream.jsonl"),
        effects=effects,
        reached=reached,
        chains=chains,
        relayed=[file.read_bytes() for file in sorted((world.home / "edge").glob("relayed/*"))],
        inside=_inside(world),
        left=left,
        crashes=[crash for program in world.programs.values() for crash in program.crashes],
        integrity=integrity,
        secrets=world.secrets,
        skewed_us=round(world.skewed_s * 1_000_000),
        unfinished=unfinished,
    )


def _stored(tx: Tx) -> tuple[list[Any], list[Lease], list[str], str]:
    rows = tx.execute(select(sessions)).all()
    held = [(row, events.read(tx, row.id)) for row in rows]
    queue = [
        Lease(row.id, row.queue, row.key, row.state) for row in tx.execute(select(leases)).all()
    ]
    chain = list(audit.read_lines(tx))
    if tx.connection.dialect.name != "sqlite":
        return held, queue, chain, "ok"
    found = tx.connection.exec_driver_sql("PRAGMA integrity_check").scalar()
    return held, queue, chain, str(found)


def _inside(world: World) -> dict[str, str]:
    """Return what the sandboxes wrote down of themselves."""
    found: dict[str, str] = {}
    for file in sorted((world.home / "effects").glob("*/environ-*")):
        found[str(file.relative_to(world.home))] = file.read_text(errors="replace")[:INSIDE_BYTES]
    return found


def processes_of(home: Path) -> list[str]:
    """Return the processes whose command or mounts name a directory, this one apart.

    What runs in a sandbox says nothing of it in its command, but sees a part of it.
    """
    inside = _place(home)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                line = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if str(home) in line or any(map(inside, _mounts(entry))):
                    found.append(f"{entry.name} {line[:300]}")
    return found


@dataclass(frozen=True)
class _Mount:
    """A line of ``mountinfo``: a part of a file system, and where it is seen."""

    device: str
    part: PurePath
    seen_at: PurePath


def _mounts(process: Path) -> list[_Mount]:
    lines = (process / "mountinfo").read_text(errors="replace").splitlines()
    fields = ([_OCTAL.sub(_character, field) for field in line.split(" ")] for line in lines)
    # The kernel marks what was removed meanwhile.
    return [
        _Mount(device, PurePath(part.removesuffix("//deleted")), PurePath(seen_at))
        for _, _, device, part, seen_at, *_ in fields
    ]


def _character(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 8))


def _place(home: Path) -> Callable[[_Mount], bool]:
    """Return what tells whether a mount shows a part of a directory, wherever it is seen."""
    around = [m for m in _mounts(Path("/proc/self")) if home.is_relative_to(m.seen_at)]
    own = max(around, key=lambda mount: len(mount.seen_at.parts))
    part = own.part / home.relative_to(own.seen_at)
    return lambda mount: mount.device == own.device and mount.part.is_relative_to(part)


def connections_to(port: int) -> int:
    """Return how many TCP connections of this machine are established to a local port."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, _, state = line.split()[1:4]
        found += state == "01" and int(local.rpartition(":")[2], 16) == port
    return found


async def work_of(world: World) -> list[str]:
    """Return the work items of the environment that are not stopped."""
    headers = {"authorization": f"Bearer {world.environment_key}", **BETA}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as api:
        base = f"http://{LOOPBACK}:{world.port(0)}/v1/environments/{world.environment_id}/work"
        found = await _pages(api, base)
    return [f"work {item['id']} is {item['state']}" for item in found if item["state"] != "stopped"]

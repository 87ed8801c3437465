"""A door to one real sandbox, and clients that knock."""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from intramuros.cli.ssh import issue
from intramuros.execution.guests import Guests
from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import Sandbox
from intramuros.execution.ssh.authority import Authority
from intramuros.execution.ssh.door import Door, Manner, Trusted
from intramuros.execution.ssh.visits import Rooms
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.audit import verify
from tests.waiting import until

SESSION = "sesn_ssh"


@dataclass
class Done:
    """What a client did."""

    status: int
    out: str
    err: str


class Rig:
    """One worker's door, with one session behind it."""

    def __init__(self, folder: Path, sandbox: Sandbox | None) -> None:
        self.folder = folder
        self.state = folder / "ssh"
        self.authority = Authority.opened(self.state)
        self.sandbox = sandbox
        self.clock = SystemClock()
        self.record = Record(folder / "audit.jsonl", self.clock)
        self.guests = Guests()
        self.stop = Stop()
        self.trusted = [Trusted(self.authority.public_line)]
        self.manner = Manner(self.state / "socket", self.state, 60, 60)
        self.casts: Path | None = None

    async def visit(self, session_id: str) -> Sandbox | None:
        return self.sandbox if session_id == SESSION else None

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Rig"]:
        rooms = Rooms(self.visit, self.record, self.clock, self.casts)
        door = Door(self.manner, self.authority, tuple(self.trusted), rooms, self.guests)
        async with anyio.create_task_group() as group:
            group.start_soon(door.serve, self.stop)
            try:
                await until((self.state / "address").exists)
                yield self
            finally:
                self.stop.request()
        self.record.close()

    def identity(self, session_id: str = SESSION, name: str = "me") -> Path:
        made = self.folder / name
        made.mkdir(mode=0o700, exist_ok=True)
        issue(made, self.state, self.authority, session_id, 120)
        return made

    async def ssh(self, *arguments: str, me: Path | None = None, stdin: bytes = b"") -> Done:
        return await self.run("ssh", *arguments, me=me, stdin=stdin)

    async def run(
        self, program: str, *arguments: str, me: Path | None = None, stdin: bytes = b""
    ) -> Done:
        config = str((me or self.identity()) / "config")
        argv = [program, "-F", config, *arguments]

        def work() -> Done:
            done = subprocess.run(
                argv, input=stdin, capture_output=True, timeout=30, check=False, env=_env()
            )
            return Done(
                done.returncode,
                done.stdout.decode("utf-8", "replace"),
                done.stderr.decode("utf-8", "replace"),
            )

        return await to_thread.run_sync(work)

    def records(self) -> list[dict[str, Any]]:
        self.record.settle()
        lines = list(read_lines(self.folder / "audit.jsonl"))
        verify(lines)
        return [{"kind": one["kind"], **one["fields"]} for one in map(json.loads, lines)]


def _env() -> dict[str, str]:
    return {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": "/nonexistent"}

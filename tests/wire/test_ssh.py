"""People with certificates of the server enter the sandbox of the session they are for, alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from tests.drives import Workspace
from tests.waiting import until as waited
from tests.wire.site import MESSAGE, Site
from tests.wire.workers import ours

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        shutil.which("ssh") is None, reason="NO SSH CLIENT: apt install openssh-client"
    ),
]


class Person:
    """Somebody with an API key and the public half of a worker's authority."""

    def __init__(self, site: Site, state: Path, folder: Path) -> None:
        self.site = site
        self.state = state
        self.key = folder / "api-key"
        self.key.write_text(site.server.api_key)

    async def ssh(self, session_id: str, *words: str) -> "subprocess.CompletedProcess[str]":
        address = (self.state / "ssh/address").read_text().strip()
        return await self.run(
            *(sys.executable, "-m", "intramuros.cli.main", "ssh", session_id),
            *("--address", address, "--host-authority", str(self.state / "ssh/ca.pub")),
            *("--url", self.site.server.base_url, "--api-key-file", str(self.key)),
            *words,
        )

    async def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        env = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}

        def work() -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                argv, env=env, capture_output=True, text=True, timeout=40, check=False
            )

        return await to_thread.run_sync(work)


async def authority(site: Site, folder: Path) -> Path:
    answer = httpx2.get(
        f"{site.server.base_url}/x/ssh_authority", headers={"x-api-key": site.server.api_key}
    )
    assert answer.status_code == 200, answer.text
    file = folder / "trust"
    file.write_text(answer.json()["public_key"] + "\n")
    return file


def acts(state: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, read_lines(state / "audit.jsonl")))


async def test_a_certificate_of_the_server_opens_one_sandbox_until_the_session_is_over(
    site: Site, tmp_path: Path
) -> None:
    trust = await authority(site, tmp_path)
    session = site.session("door", initial_events=[MESSAGE])
    other = site.session("door")
    port = {"ssh_listen": "127.0.0.1:0", "ssh_trust": trust}
    async with ours(site, tmp_path, **port) as state:
        person = Person(site, state, tmp_path)
        note = Workspace(state / "sandboxes/workspaces", session.id, "note")
        await waited(note.exists, 30)
        done = await person.ssh(session.id, "--", "cat", "note")
        assert (done.returncode, done.stdout) == (0, "of the agent\n"), done.stderr
        # Files for any client; the certificate outlives the session, and opens nothing then.
        me = tmp_path / "me"
        assert (await person.ssh(session.id, "--write", str(me))).returncode == 0
        config = str(me / "config")
        again = await person.run("ssh", "-F", config, session.id, "cat note")
        assert again.stdout == "of the agent\n"
        # For another session it is no certificate at all.
        strange = await person.run("ssh", "-F", config, "-l", other.id, other.id, "cat note")
        assert (strange.returncode, strange.stdout) == (255, "")
        assert "Permission denied" in strange.stderr
        site.api.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}])
        await waited(lambda: _idle(site, session.id), 30)
        site.api.beta.sessions.archive(session.id)
        await waited(lambda: "work.end" in {one["kind"] for one in acts(state)}, 30)
        late = await person.run("ssh", "-F", config, session.id, "cat note")
        assert (late.returncode, late.stdout) == (69, "")
        refused = await person.ssh(session.id, "--", "true")
        assert refused.returncode != 0
        assert "is over" in refused.stderr
    opened = [one["fields"] for one in acts(state) if one["kind"] == "ssh.open"]
    assert {one["session_id"] for one in opened} == {session.id}
    assert all(" by " in one["who"] for one in opened)


def _idle(site: Site, session_id: str) -> bool:
    return site.api.beta.sessions.retrieve(session_id).status == "idle"


async def test_a_worker_that_was_not_told_to_trusts_no_server(site: Site, tmp_path: Path) -> None:
    session = site.session("door", initial_events=[MESSAGE])
    async with ours(site, tmp_path, ssh_listen="127.0.0.1:0") as state:
        workspaces = state / "sandboxes/workspaces"
        await waited(Workspace(workspaces, session.id, "note").exists, 30)
        done = await Person(site, state, tmp_path).ssh(session.id, "--", "cat", "note")
        assert done.returncode == 255
        assert "Permission denied" in done.stderr
        Workspace(workspaces, session.id, "go").touch()

"""People with certificates of the server enter the sandbox of the session they are for, alone."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from intramuros.cli.ssh import Door, certified, known_host, lay_out
from intramuros.kernel.appendlog import read_lines
from intramuros.protocol.ssh import public_line
from tests.drives import Workspace
from tests.waiting import until as waited
from tests.wire.host import running
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

    def __init__(self, site: Site, state: Path, folder: Path, key: str | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.site = site
        self.state = state
        self.folder = folder
        self.key = folder / "api-key"
        self.key.write_text(key or site.server.api_key)

    @property
    def config(self) -> str:
        """Of any client, once :meth:`prepare` made it."""
        return str(self.folder / "me/config")

    async def prepare(self, session_id: str) -> None:
        """Get files for any client."""
        server = self.site.server.base_url
        door = Door(self.address, known_host(self.state / "ssh/ca.pub"))
        made = self.folder / "me"
        made.mkdir(mode=0o700, exist_ok=True)
        with Anthropic(base_url=server, api_key=self.key.read_text()) as client:
            lay_out(made, certified(client, session_id, 1800), door, session_id)

    async def tries(self, session_id: str) -> "subprocess.CompletedProcess[str]":
        """Come in with those, and go."""
        return await self.run("ssh", "-F", self.config, session_id, "cat note")

    @asynccontextmanager
    async def inside(self, session_id: str) -> AsyncIterator["subprocess.Popen[bytes]"]:
        """Be inside with those until something ends it."""
        argv = ["ssh", "-F", self.config, session_id, "echo in; exec sleep 500"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220  at once
            assert process.stdout is not None
            try:
                assert await to_thread.run_sync(process.stdout.readline) == b"in\n"
                yield process
            finally:
                process.kill()

    @property
    def address(self) -> str:
        return (self.state / "ssh/address").read_text().strip()

    async def ssh(self, session_id: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return await self.run(
            *(sys.executable, "-m", "intramuros.cli.main", "ssh", session_id),
            *("--address", self.address, "--host-authority", str(self.state / "ssh/ca.pub")),
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


def new_key(site: Site) -> tuple[str, str]:
    """Return the id and the secret of a developer's key."""
    made = site.http.post("/x/keys", json={"name": "k", "scopes": ["workspace:developer"]})
    assert made.status_code == 200, made.text
    return made.json()["id"], made.json()["key"]


def told(site: Site, key: str, etag: str = "") -> httpx2.Response:
    """Return what a worker with this key hears."""
    headers = {"authorization": f"Bearer {key}", "if-none-match": etag}
    return httpx2.get(f"{site.server.base_url}/x/ssh_revocations", headers=headers)


async def test_who_lost_the_key_is_out_in_seconds_and_stays_out_and_others_stay_in(
    site: Site, tmp_path: Path
) -> None:
    session = site.session("door", initial_events=[MESSAGE])
    other_environment = site.environment()
    other_key = site.environment_key(other_environment)
    elsewhere = site.session("door", environment_id=other_environment)
    port = {"ssh_listen": "127.0.0.1:0", "ssh_trust": await authority(site, tmp_path)}
    async with ours(site, tmp_path, **port) as state:
        key_id, secret = new_key(site)
        ada = Person(site, state, tmp_path / "ada", secret)
        bob = Person(site, state, tmp_path / "bob")
        note = Workspace(state / "sandboxes/workspaces", session.id, "note")
        await waited(note.exists, 60)
        await ada.prepare(session.id)
        await bob.prepare(session.id)
        async with ada.inside(session.id) as first, bob.inside(session.id) as second:
            assert site.http.delete(f"/x/keys/{key_id}").status_code == 200
            await waited(lambda: first.poll() is not None, 60)
            assert first.returncode == 255
            refused = await ada.tries(session.id)
            assert (refused.returncode, refused.stdout) == (255, "")
            assert "Permission denied" in refused.stderr
            assert second.poll() is None
            # No other environment hears of it.
            [mine] = told(site, site.key).json()["serials"]
            assert told(site, other_key).json()["serials"] == []
            # Whoever may use the session may end what is left, by hand.
            place = f"/x/sessions/{session.id}/ssh_certificates"
            listed = site.http.get(place).json()["data"]
            assert [(one["serial"] == mine, one["revoked_why"]) for one in listed] == [
                (False, None),
                (True, "credential"),
            ]
            bobs = {"serial": listed[0]["serial"]}
            strange = f"/x/sessions/{elsewhere.id}/ssh_certificates/revoke"
            assert site.http.post(strange, json=bobs).status_code == 404
            assert second.poll() is None
            left = site.http.post(f"{place}/revoke", json=bobs).json()["data"]
            assert left[0]["revoked_why"] == "asked"
            await waited(lambda: second.poll() is not None, 60)
            assert (await bob.tries(session.id)).returncode == 255
        full = told(site, site.key)
        assert sorted(full.json()["serials"]) == sorted([mine, bobs["serial"]])
        assert told(site, site.key, full.headers["etag"]).status_code == 304
        # A new certificate lets in as ever.
        await bob.prepare(session.id)
        assert (await bob.tries(session.id)).stdout == "of the agent\n"
        Workspace(state / "sandboxes/workspaces", session.id, "go").touch()
    assert _whys(state)[:2] == ["the certificate is revoked"] * 2


def test_what_was_revoked_when_a_server_was_killed_is_told_by_the_next(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data) as server:
        api = Anthropic(base_url=server.base_url, api_key=server.api_key)
        with api, Site(server, api) as site:
            session, key = site.session("none"), site.key
            place = f"/x/sessions/{session.id}/ssh_certificates"
            line = public_line(Ed25519PrivateKey.generate().public_key())
            made = site.http.post(place, json={"public_key": line})
            assert site.http.post(f"{place}/revoke", json={}).status_code == 200
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
    with running(data) as server:
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx2.get(f"{server.base_url}/x/ssh_revocations", headers=headers)
        assert answer.json()["serials"] == [made.json()["serial"]]


def _whys(state: Path) -> list[str]:
    return [one["fields"]["why"] for one in acts(state) if one["kind"] == "ssh.close"]

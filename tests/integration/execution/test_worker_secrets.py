"""No credential of the worker is anywhere that a sandbox can see: looked for from inside."""

import base64
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.outflow.search import Search
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.channel import Channel
from intramuros.execution.worker import serve_worker
from tests.fakes.control_plane import KEY, ControlPlane, running
from tests.fakes.sandbox import FakeProvider
from tests.fakes.worker import Rig

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

TOKEN = "token-of-this-item-0123456789"

# Everything a process inside can read of itself and of others, and of every file that is shown.
SEARCH = r"""
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo 2>/dev/null | tr '\0' '\n'
ls -l /proc/[0-9]*/fd 2>/dev/null
for file in /proc/[0-9]*/fd/*; do [ -f "$file" ] && head -c 4096 "$file"; done 2>/dev/null
grep -rsl -m1 -e KEY -e TOKEN /workspace /tmp /home /run /etc /var /dev/shm | sed 's/^/HIT /'
env
true
"""


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    async with running(ControlPlane()) as made:
        yield made


async def test_no_credential_reaches_a_sandbox(
    working_host: None, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    real = Channel._send

    async def tapped(self: Channel, data: bytes) -> None:
        sent.append(bytes(data))
        await real(self, data)

    monkeypatch.setattr(Channel, "_send", tapped)
    # The filter would hide what we look for.
    monkeypatch.setattr(Search, "find", lambda *_args, **_options: [])
    # What an operator's shell may hold must not get in either.
    for name in (
        "ANTHROPIC_ENVIRONMENT_KEY",
        "ANTHROPIC_API_KEY",
        "INTRAMUROS_API_KEY",
        "SOME_VAR",
    ):
        monkeypatch.setenv(name, KEY)
    rig = Rig(plane, FakeProvider(), tmp_path)
    provider = BubblewrapProvider(rig.settings.state_dir / "sandboxes")
    item, session = plane.offer(token=TOKEN), plane.session()
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in (KEY, TOKEN)]
    # The needles are put together inside, so that the command itself does not contain them.
    (key_a, key_b), (token_a, token_b) = halves
    script = SEARCH.replace("KEY", f"'{key_a}''{key_b}'").replace(
        "TOKEN", f"'{token_a}''{token_b}'"
    )
    call = session.tool_use("bash", {"command": script})
    session.on_result = lambda _: session.idle()
    settings = replace(rig.settings, once=True)
    await serve_worker(settings, provider=provider, ready=rig.ready.append)
    assert item.state == "stopped"
    shown = session.result_of(call)
    text = shown["content"][0]["text"]
    assert shown["is_error"] is False
    assert "PATH=" in text, "the search did not see even its own environment"
    needles = [KEY, TOKEN, base64.b64encode(KEY.encode()).decode()[:20], "SOME_VAR"]
    for needle in needles:
        assert needle not in text
        assert all(needle.encode() not in frame for frame in sent)
    assert "HIT " not in text
    assert sent, "the tap saw nothing"


async def test_a_sandbox_cannot_reach_the_control_plane(
    working_host: None, plane: ControlPlane, tmp_path: Path
) -> None:
    rig = Rig(plane, FakeProvider(), tmp_path)
    provider = BubblewrapProvider(rig.settings.state_dir / "sandboxes")
    plane.offer()
    session = plane.session()
    port = plane.base_url.rsplit(":", 1)[1]
    names = {socket.gethostname(), "127.0.0.1", "localhost"}
    attempts = "; ".join(
        f"(exec 3<>/dev/tcp/{name}/{port}) 2>/dev/null && echo OPEN" for name in sorted(names)
    )
    call = session.tool_use("bash", {"command": f"{attempts}; echo tried"})
    session.on_result = lambda _: session.idle()
    await serve_worker(replace(rig.settings, once=True), provider=provider, ready=rig.ready.append)
    shown: dict[str, Any] = session.result_of(call)
    assert shown["content"][0]["text"].strip() == "tried"

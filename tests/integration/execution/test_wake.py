"""Webhooks that wake a worker: signed ones once each, and nothing else; a slow poll besides."""

import contextlib
import json
import socket
from datetime import timedelta
from pathlib import Path

import anyio
import httpx2
import pytest
from standardwebhooks import Webhook

from intramuros.execution.wake import MAX_BODY_BYTES, Bell, Doorbell, read_secret
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock, SystemClock
from tests.fakes.control_plane import ControlPlane, running
from tests.fakes.sandbox import FakeProvider
from tests.fakes.worker import Rig, stopped
from tests.waiting import until

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_AfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = json.dumps({"type": "event", "data": {"type": "session.status_run_started"}})


def signed(
    id: str = "msg_1", body: str = BODY, secret: str = SECRET, ago_s: float = 0
) -> dict[str, str]:
    at = SystemClock().now() - timedelta(seconds=ago_s)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(id, at.replace(microsecond=0), body),
    }


def doorbell(clock: ManualClock | None = None) -> tuple[Doorbell, Bell]:
    bell = Bell(clock or SystemClock(), 60)
    return Doorbell(("127.0.0.1", 0), SECRET, bell, clock or SystemClock()), bell


def test_what_verifies_rings_once() -> None:
    clock = ManualClock()
    door, bell = doorbell(clock)
    first = signed()
    assert door.answer(first, BODY.encode()) == 200
    assert door.answer(first, BODY.encode()) == 200
    assert bell.rings == 1
    assert door.answer(signed("msg_2"), BODY.encode()) == 200
    assert bell.rings == 2
    assert len(door._seen) == 2
    clock.advance(700)
    assert door.answer(signed("msg_3"), BODY.encode()) == 200
    assert list(door._seen) == ["msg_3"]


def test_nothing_else_rings() -> None:
    door, bell = doorbell()
    good = signed()
    for headers, body in (
        ({}, BODY),
        (good, BODY + " "),
        (signed(secret=OTHER), BODY),
        (signed(ago_s=400), BODY),
        (signed(ago_s=-400), BODY),
        ({**good, "webhook-id": "msg_2"}, BODY),
        ({**good, "webhook-timestamp": "nan"}, BODY),
        ({**good, "webhook-signature": "v1"}, BODY),
        ({**good, "webhook-signature": "v1,a,b x"}, BODY),
        ({**good, "webhook-signature": "v1,\xff"}, BODY),
    ):
        assert door.answer(headers, body.encode()) == 401
    assert door.answer(good, b"\xff\xfe") == 401
    assert bell.rings == 0


async def test_it_listens_here_and_bounds_what_it_reads() -> None:
    door, bell = doorbell()
    async with door.opened() as (host, port), httpx2.AsyncClient(trust_env=False) as http:
        url = f"http://{host}:{port}/anything"
        for at_once in range(3):
            headers = signed(f"msg_{at_once}")
            assert (await http.post(url, content=BODY, headers=headers)).status_code == 200
        assert (await http.get(url)).status_code == 405
        big = "x" * (MAX_BODY_BYTES + 1)
        with contextlib.suppress(httpx2.TransportError):
            # It may hang up before all of it was sent.
            assert (await http.post(url, content=big)).status_code == 413
        with socket.create_connection((host, port)) as raw:
            raw.sendall(b"no HTTP at all\r\n\r\n")
            await anyio.sleep(0.05)
        assert (await http.post(url, content=BODY)).status_code == 401
    assert bell.rings == 3
    with socket.create_server(("127.0.0.1", 0)) as taken:
        another = Doorbell(taken.getsockname(), SECRET, bell, SystemClock())
        with pytest.raises(OperatorError, match="wake-listen"):
            await another.opened().__aenter__()


async def test_a_bell_wakes_at_once_and_by_itself_after_a_while() -> None:
    stop, bell = Stop(), Bell(SystemClock(), 0.05)
    with anyio.fail_after(60):
        await bell.sleep(stop)  # by itself
        patient = Bell(ManualClock(), 60)
        async with anyio.create_task_group() as group:
            group.start_soon(patient.sleep, stop)
            await anyio.sleep(0.02)
            patient.ring()
        await patient.sleep(stop)  # it rang a moment ago
        another = Bell(ManualClock(), 60)
        async with anyio.create_task_group() as group:
            group.start_soon(another.sleep, stop)
            await anyio.sleep(0.02)
            stop.request()


async def test_a_worker_sleeps_until_a_webhook_and_serves_what_came(tmp_path: Path) -> None:
    secret = tmp_path / "webhook"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with running(ControlPlane()) as plane:
        rig = Rig(plane, FakeProvider(), tmp_path)
        async with rig.worker(wake_listen=address, wake_secret_file=secret):
            await until(lambda: rig.ready)
            asked = plane.count("poll")
            item = plane.offer()
            plane.session().idle()
            await anyio.sleep(0.4)
            assert plane.count("poll") == asked, "it sleeps"
            assert not item.claimed
            async with httpx2.AsyncClient(trust_env=False) as http:
                forged = signed(secret=OTHER)
                bad = await http.post(f"http://{address}/", content=BODY, headers=forged)
                assert bad.status_code == 401
                assert plane.count("poll") == asked
                good = await http.post(f"http://{address}/", content=BODY, headers=signed())
                assert good.status_code == 200
            await stopped(item)


@pytest.mark.parametrize("text", ["", "sk-ant-x", "whsec_", "whsec_é", "whsec_" + "a" * 2000])
def test_a_file_without_a_secret_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "secret"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(OperatorError):
        read_secret(file)


def test_a_secret_is_nobody_elses(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    assert read_secret(file) == SECRET
    file.chmod(0o644)
    with pytest.raises(OperatorError, match="others may read"):
        read_secret(file)
    with pytest.raises(OperatorError, match="cannot read"):
        read_secret(tmp_path / "none")

import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from intramuros.execution import desk
from intramuros.execution.desk import Desk, Request, ask, text
from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import SandboxError
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from tests.waiting import until

pytestmark = pytest.mark.anyio
Ask = Callable[..., Any]


async def echo(request: Request) -> object:
    return {"said": text(request, "word")}


async def fail(_request: Request) -> object:
    raise SandboxError("it broke")


async def explode(_request: Request) -> object:
    raise RuntimeError("a defect")


async def unfit(_request: Request) -> object:
    raise OperatorError("it cannot", "do this")


@pytest.fixture
def record(tmp_path: Path):
    made = Record(tmp_path / "audit.jsonl", SystemClock())
    yield made
    made.close()


@pytest.fixture
async def path(tmp_path: Path, record: Record) -> AsyncIterator[Path]:
    # Longer than the kernel takes for a socket's address.
    place = tmp_path / ("x" * 120) / "desk/socket"
    acts = {"echo": echo, "list": echo, "fail": fail, "unfit": unfit, "explode": explode}
    stop = Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(Desk(place, acts, record, frozenset({"list"})).serve, stop)
        await until(place.exists)
        yield place
        stop.request()
    assert not place.exists()


async def asked(path: Path, **request: object) -> object:
    return await to_thread.run_sync(ask, path, request, 5.0)


async def test_an_act_is_recorded_before_it_is_done(path: Path, record: Record) -> None:
    assert await asked(path, do="echo", word="x") == {"said": "x"}
    assert await asked(path, do="list", word="y") == {"said": "y"}
    lines = [json.loads(line) for line in read_lines(record._file.path)]  # type: ignore[attr-defined]
    assert [line["kind"] for line in lines] == ["desk.echo"]
    assert f'"by_uid":{os.geteuid()}' in json.dumps(lines[0], separators=(",", ":"))


async def test_refusals_are_told(path: Path) -> None:
    for request, why in (
        ({"do": "fail"}, "it broke"),
        ({"do": "unfit"}, "it cannot: do this"),
        ({"do": "explode"}, "failed inside the worker"),
        ({"do": "nothing"}, "ask for one of"),
        ({}, "ask for one of"),
        ({"do": "echo", "word": 5}, "must be a text"),
        ({"do": "echo", "word": ""}, "must be a text"),
        ({"do": "echo", "word": "x" * 201}, "must be a text"),
    ):
        with pytest.raises(DomainError, match=why):
            await asked(path, **request)


async def test_what_cannot_be_recorded_is_not_done(
    path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_lines: list[str]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "_append", full)
    with pytest.raises(DomainError, match="No space left"):
        await asked(path, do="echo", word="x")
    assert await asked(path, do="list", word="x") == {"said": "x"}


async def test_only_the_workers_user_reaches_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, mode in ((path, 0o600), (path.parent, 0o700)):
        assert stat.S_IMODE((await anyio.Path(place).stat()).st_mode) == mode
    monkeypatch.setattr(desk, "peer_uid", lambda _socket: 12345)
    with pytest.raises(DomainError, match="only root and the worker"):
        await asked(path, do="echo", word="x")


@pytest.mark.parametrize("sent", [b"", b"\n", b"[]\n", b"{\n", b"x" * 70_000, b"\xff\n"])
async def test_noise_harms_nobody(path: Path, sent: bytes) -> None:
    def send() -> bytes:
        with socket.socket(socket.AF_UNIX) as raw:
            desk._through(path, raw.connect)
            raw.settimeout(5)
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            try:
                return raw.recv(1000)
            except ConnectionResetError:
                return b""

    assert b'"ok"' not in await to_thread.run_sync(send)
    assert await asked(path, do="echo", word="x") == {"said": "x"}


async def test_those_who_only_wait_do_not_keep_others_out_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "REQUEST_S", 0.1)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(desk.MAX_CLIENTS)]
    for one in waiting:
        desk._through(path, one.connect)
    assert await asked(path, do="echo", word="x") == {"said": "x"}
    for one in waiting:
        one.close()


async def test_without_a_worker_the_error_says_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "none/socket", tmp_path / "socket"):
        with pytest.raises(OperatorError, match="no worker answers"):
            ask(path, {"do": "echo"}, 1.0)

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.sandbox.inside.sftp import MAX_HANDLES, MAX_PACKET, Broken, Server, serve

STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


def text(value: bytes) -> bytes:
    return number(len(value)) + value


class Client:
    def __init__(self, folder: Path) -> None:
        self.server = Server()
        self.folder = os.fsencode(folder)

    def path(self, name: str) -> bytes:
        return text(self.folder + b"/" + name.encode())

    def ask(self, kind: int, *parts: bytes) -> tuple[int, bytes]:
        answer = self.server.answer(bytes((kind,)) + number(7) + b"".join(parts))
        assert answer[1:5] == number(7)
        return answer[0], answer[5:]

    def status(self, kind: int, *parts: bytes) -> int:
        answered, content = self.ask(kind, *parts)
        assert answered == STATUS
        return int.from_bytes(content[:4], "big")

    def open(self, name: str, flags: int, attributes: bytes = number(0)) -> bytes:
        answered, content = self.ask(3, self.path(name), number(flags), attributes)
        assert answered == HANDLE, content
        return content


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def test_versions_are_told(client: Client) -> None:
    assert client.server.answer(b"\x01" + number(6))[:5] == b"\x02" + number(3)


def test_a_file_is_written_read_and_changed(client: Client, tmp_path: Path) -> None:
    handle = client.open("f", READ | WRITE | CREATE | EXCLUSIVE, number(4) + number(0o4640))
    assert client.status(6, handle, number(3, 8), text(b"abc")) == 0
    assert client.ask(5, handle, number(2, 8), number(99)) == (DATA, text(b"\0abc"))
    assert client.status(5, handle, number(6, 8), number(99)) == 1
    assert client.ask(8, handle)[1][4:12] == number(6, 8)
    assert (
        client.status(10, handle, number(1 | 4 | 8), number(4, 8), number(0o7600), number(1) * 2)
        == 0
    )
    assert client.status(4, handle) == 0
    assert client.status(4, handle) == 4
    info = (tmp_path / "f").stat()
    assert (info.st_size, info.st_mode & 0o7777, info.st_mtime) == (4, 0o600, 1)
    # No set-user-id bit comes in this way.
    assert not info.st_mode & stat.S_ISUID
    appended = client.open("f", WRITE | APPEND)
    assert client.status(6, appended, number(0, 8), text(b"end")) == 0
    assert client.status(3, client.path("f"), number(WRITE | CREATE | EXCLUSIVE), number(0)) == 4
    client.open("f", WRITE | TRUNCATE)
    assert (tmp_path / "f").stat().st_size == 0


def test_directories_and_names(client: Client, tmp_path: Path) -> None:
    assert client.status(14, client.path("d"), number(4) + number(0o700)) == 0
    for index in range(150):
        (tmp_path / "d" / f"{index:03}").write_text("x")
    _, handle = client.ask(11, client.path("d"))
    counts = []
    while (answer := client.ask(12, handle))[0] == NAME:
        counts.append(int.from_bytes(answer[1][:4], "big"))
    assert counts == [100, 50]
    assert client.status(15, client.path("d")) == 4
    assert client.status(18, client.path("d/000"), client.path("d/001")) == 4
    assert client.status(18, client.path("d/000"), client.path("moved")) == 0
    posix = text(b"posix-rename@openssh.com")
    assert client.status(200, posix, client.path("moved"), client.path("d/001")) == 0
    assert client.status(200, text(b"hardlink@openssh.com"), client.path("a"), text(b"b")) == 8
    assert client.status(20, text(b"d/002"), client.path("link")) == 0
    assert client.ask(19, client.path("link"))[1].startswith(number(1) + text(b"d/002"))
    assert client.ask(7, client.path("link"))[0] == client.ask(17, client.path("link"))[0] == ATTRS
    assert client.ask(16, client.path("d/.."))[1].startswith(number(1) + text(client.folder))
    assert client.status(13, client.path("link")) == 0
    assert client.status(13, client.path("link")) == 2
    assert client.status(7, text(b"/a\0b")) == 4
    assert client.status(7, client.path("d/002/x")) == 2


def test_pipes_and_devices_hold_nobody_up(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    handle = client.open("pipe", READ)
    assert client.status(5, handle, number(0, 8), number(10)) == 4


def test_handles_are_bounded_and_wrong_ones_answered(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    for _ in range(MAX_HANDLES):
        client.open("f", READ)
    assert client.status(3, client.path("f"), number(READ), number(0)) == 4
    assert client.status(11, client.path(".")) == 4
    for kind in (4, 5, 6, 8, 10, 12):
        assert client.status(kind, text(b"no"), number(0, 8), number(1), number(0)) == 4
    assert client.status(99) == 8


@given(st.binary(max_size=60))
def test_foreign_bytes_are_answered_or_refused(data: bytes) -> None:
    # Kinds that could change the machine the test runs on are left out.
    if data and data[0] in (3, 6, 9, 10, 13, 14, 15, 18, 20, 200):
        return
    try:
        answer = Server().answer(data)
    except Broken:
        return
    assert answer[0] in (2, STATUS, HANDLE, DATA, NAME, ATTRS)


@pytest.mark.parametrize("head", [b"\0\0\0\0", number(MAX_PACKET + 1)])
def test_packets_that_cannot_be_end_it(head: bytes) -> None:
    read, write = os.pipe()
    os.write(write, head + b"xx")
    os.close(write)
    with pytest.raises(Broken):
        serve(read, 1)
    os.close(read)


def test_it_serves_until_the_client_is_gone(tmp_path: Path) -> None:
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    os.write(in_write, number(5) + b"\x01" + number(3) + number(9)[:2])
    os.close(in_write)
    serve(in_read, out_write)
    os.close(out_write)
    with os.fdopen(out_read, "rb") as answers:
        assert answers.read()[4:9] == b"\x02" + number(3)
    os.close(in_read)

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import streams
from intramuros.execution.sandbox.inside.loop import Loop
from intramuros.execution.sandbox.inside.spawn import Spawner
from intramuros.execution.sandbox.inside.streams import WINDOW, Stream, open_stream

ENV = {b"PATH": b"/usr/bin:/bin"}


class Host:
    """Takes the frames of one stream."""

    def __init__(self, loop: Loop, spawner: Spawner, **call: bytes) -> None:
        self.loop = loop
        self.frames: list[dict[str, bytes]] = []
        self.ended = False
        fields = {"argv": b"", "cwd": b"/", **call}
        self.stream: Stream = open_stream(loop, spawner, fields, ENV, self.frames.append)
        self.stream.ended = self._end
        self.stream.start()

    def _end(self) -> None:
        self.ended = True

    def out(self, name: str = "out") -> bytes:
        return b"".join(frame.get(name, b"") for frame in self.frames)

    def until_end(self) -> int:
        while not self.ended:
            self.loop.once()
        return int(self.frames[-1]["code"])


@pytest.fixture
def quiet(loop: Loop) -> Iterator[Loop]:
    yield loop
    loop.reap()


def test_streams_apart_and_the_status_last(quiet: Loop, spawner: Spawner) -> None:
    host = Host(quiet, spawner, argv=b"/bin/sh\0-c\0cat; echo e >&2; exit 9")
    host.stream.take(b"one ", eof=False)
    host.stream.take(b"two", eof=True)
    assert host.until_end() == 9
    assert (host.out(), host.out("err")) == (b"one two", b"e\n")
    assert sum(int(frame.get("taken", b"0")) for frame in host.frames) == 7
    # What comes late changes nothing.
    host.stream.more(5)
    host.stream.take(b"late", eof=True)
    host.stream.resize(1, 1)
    host.stream.signal(9)
    host.stream.kill()


def test_no_more_is_sent_than_was_asked_for(quiet: Loop, spawner: Spawner) -> None:
    host = Host(quiet, spawner, argv=b"/bin/sh\0-c\0head -c 1000000 /dev/zero")
    while len(host.out()) < WINDOW:
        quiet.once()
    host.stream.more(10)
    while len(host.out()) < WINDOW + 10:
        quiet.once()
    assert len(host.out()) == WINDOW + 10
    host.stream.more(1_000_000)
    assert host.until_end() == 0
    assert len(host.out()) == 1_000_000


def test_its_end_is_told_although_a_child_holds_its_output(quiet: Loop, spawner: Spawner) -> None:
    host = Host(quiet, spawner, argv=b"/bin/sh\0-c\0sleep 100 & echo $!; exit 2")
    assert host.until_end() == 2
    os.kill(int(host.out()), 9)


def test_a_terminal_controls_what_runs_in_it(quiet: Loop, spawner: Spawner) -> None:
    script = b"stty size; read x; echo got $x; cat"
    host = Host(quiet, spawner, argv=b"/bin/sh\0-c\0" + script, rows=b"11", columns=b"22")
    while b"11 22" not in host.out():
        quiet.once()
    host.stream.take(b"line\n", eof=False)
    while b"got line" not in host.out():
        quiet.once()
    host.stream.take(b"", eof=True)
    assert host.until_end() == 0


def test_it_is_killed_with_its_group(quiet: Loop, spawner: Spawner) -> None:
    host = Host(quiet, spawner, argv=b"/bin/sh\0-c\0sleep 100 & echo $!; wait")
    while not host.out().endswith(b"\n"):
        quiet.once()
    host.stream.kill()
    host.stream.kill()
    child = Path(f"/proc/{int(host.out())}/stat")
    while child.exists() and ") Z" not in child.read_text():
        os.sched_yield()
    assert not host.ended


def test_one_of_our_own_programs_is_run_by_name(
    quiet: Loop, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(Path(streams.__file__).parents[4])
    monkeypatch.setattr(streams, "_LIBRARY", source)
    host = Host(quiet, spawner, module=b"sftp")
    host.stream.take(b"\0\0\0\5\1\0\0\0\3", eof=True)
    assert host.until_end() == 0, host.out("err")
    assert host.out()[4:9] == b"\x02\0\0\0\3"
    wrong = Host(quiet, spawner, module=b"sftp")
    wrong.stream.take(b"GET / HTTP/1.1\r\n", eof=True)
    assert wrong.until_end() == 1
    assert b"sftp: packet of" in wrong.out("err")
    assert sys.executable


def test_no_process_no_descriptors(
    quiet: Loop, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    def refuse(*_arguments: object, **_named: object) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(spawner, "spawn", refuse)
    for call in ({}, {"rows": b"1", "columns": b"1"}):
        with pytest.raises(OSError, match="unavailable"):
            open_stream(quiet, spawner, {"argv": b"x", "cwd": b"/", **call}, ENV, print)
    assert len(list(Path("/proc/self/fd").iterdir())) == before

"""Process 1 as a real process on a socket, without the sandbox around it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import intramuros
from intramuros.execution.sandbox.inside import frames

CODE = """
from intramuros.execution.sandbox.inside.supervisor import main
import sys
main(int(sys.argv[1]))
"""


class Peer:
    def __init__(self, workdir: Path) -> None:
        ours, theirs = socket.socketpair()
        path = str(Path(intramuros.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", CODE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={"PYTHONPATH": path, "SECRET": "canary"},
        )
        theirs.close()
        self.sock, self.reader = ours, frames.Reader()
        self.waiting: list[dict[str, bytes]] = []
        ours.settimeout(60)
        self.send(
            op=b"configure",
            workdir=str(workdir).encode(),
            roots=b"",
            read_only=b"",
            env=b"PATH=/usr/bin:/bin\0A=1",
            open_files=b"512",
            processes=b"-1",
            file_bytes=b"1000000",
            address_space=b"-1",
        )
        self.ready = self.receive()

    def send(self, **fields: bytes) -> None:
        self.sock.sendall(frames.encode(fields))

    def receive(self) -> dict[str, bytes]:
        while not self.waiting:
            data = self.sock.recv(1 << 16)
            assert data, "process 1 is gone"
            self.waiting += self.reader.feed(data)
        return self.waiting.pop(0)

    def ask(self, **fields: bytes) -> dict[str, bytes]:
        self.send(**{"id": b"1", **fields})
        return self.receive()

    def bash(self, command: bytes, timeout_ms: bytes = b"9000") -> dict[str, bytes]:
        return self.ask(
            op=b"bash", command=command, nonce=os.urandom(16).hex().encode(), timeout_ms=timeout_ms
        )


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path.resolve())
    yield made
    made.sock.close()
    assert made.process.wait(60) == 0


def test_it_says_when_it_serves(peer: Peer) -> None:
    assert int(peer.ready["ready"]) == peer.process.pid
    assert peer.ready["python"].startswith(b"3.")


def test_tools_commands_and_programs_are_served(peer: Peer) -> None:
    assert (
        peer.ask(op=b"tool", tool=b"write", file_path=b"f", content=b"x")["text"]
        == b"wrote 1 bytes to f"
    )
    assert peer.ask(op=b"tool", tool=b"read", file_path=b"f")["text"] == b"x"
    assert peer.ask(op=b"tool", tool=b"glob", pattern=b"*")["text"].endswith(b"/f")
    assert (
        peer.ask(op=b"tool", tool=b"read", file_path=b"g")["error"]
        == b"read: g: no such file or directory"
    )
    assert peer.bash(b"echo $A$SECRET")["output"] == b"1\n"
    answer = peer.ask(
        op=b"exec", argv=b"cat", cwd=b"/", stdin=b"in", timeout_ms=b"5000", limit=b"100"
    )
    assert answer["stdout"] == b"in"


def test_killing_the_child_that_waits_harms_no_call(peer: Peer) -> None:
    for _ in range(3):
        assert "error" in peer.ask(op=b"tool", tool=b"read", file_path=b"g")
        children = Path(f"/proc/{peer.process.pid}/task/{peer.process.pid}/children")
        for pid in children.read_text().split():
            os.kill(int(pid), 9)
    answer = peer.ask(op=b"tool", tool=b"read", file_path=b"g")
    assert answer["error"] == b"read: g: no such file or directory"


def test_a_dead_shell_wants_a_restart(peer: Peer) -> None:
    assert peer.bash(b"exit 1")["state"] == b"died"
    assert peer.bash(b"true")["error"] == b"bash: bash session terminated; restart required"
    assert peer.ask(op=b"restart") == {"id": b"1"}
    assert peer.bash(b"echo up")["output"] == b"up\n"


def test_a_second_command_at_a_time_is_refused(peer: Peer) -> None:
    peer.send(op=b"bash", id=b"5", command=b"sleep 20", nonce=b"aa", timeout_ms=b"9000")
    assert peer.bash(b"true")["error"] == b"bash: another command is still running"
    peer.send(op=b"cancel", id=b"", target=b"5")
    assert peer.bash(b"true")["error"] == b"bash: bash session terminated; restart required"


def test_a_cancelled_program_is_not_answered(peer: Peer) -> None:
    peer.send(op=b"exec", id=b"5", argv=b"sleep\x0020", cwd=b"/", timeout_ms=b"20000", limit=b"1")
    peer.send(op=b"cancel", id=b"", target=b"5")
    assert peer.ask(op=b"tool", tool=b"read", file_path=b"g")["id"] == b"1"


def test_a_large_answer_waits_for_a_slow_reader(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "big.pdf").write_bytes(b"%PDF" * 1_000_000)
    for number in (b"7", b"8"):
        peer.send(op=b"tool", id=number, tool=b"read", file_path=b"big.pdf")
    answers = {answer["id"]: len(answer["data"]) for answer in (peer.receive(), peer.receive())}
    assert answers == {b"7": 4_000_000, b"8": 4_000_000}


def test_a_program_that_cannot_start_is_an_answer(peer: Peer) -> None:
    answer = peer.ask(op=b"exec", argv=b"nope", cwd=b"/", timeout_ms=b"5000", limit=b"100")
    assert answer["code"] == b"127"


def test_its_limits_are_inherited(peer: Peer) -> None:
    output = peer.bash(b"ulimit -n; ulimit -c; ulimit -f")["output"].split()
    assert output[:2] == [b"512", b"0"]
    assert int(output[2]) * 1024 <= 1_000_000


def test_it_is_closed_to_its_own_uid_unless_root(peer: Peer) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may open any process; the battery tries it inside a sandbox")
    with pytest.raises(PermissionError):
        os.close(os.open(f"/proc/{peer.process.pid}/mem", os.O_RDWR))


def test_a_broken_stream_ends_it(tmp_path: Path) -> None:
    made = Peer(tmp_path)
    made.sock.sendall(b"\xff" * 64)
    assert made.process.wait(60) != 0
    made.sock.close()

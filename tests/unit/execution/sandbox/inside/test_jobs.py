from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import jobs
from intramuros.execution.sandbox.inside.loop import Loop
from intramuros.execution.sandbox.inside.spawn import Spawner

ENV = {b"PATH": b"/usr/bin:/bin"}


def program(loop: Loop, spawner: Spawner, argv: list[str], **more: bytes) -> dict[str, bytes]:
    answers: list[dict[str, bytes]] = []
    call = {"argv": "\0".join(argv).encode(), "cwd": b"/", "timeout_ms": b"10000", "limit": b"1000"}
    jobs.run_program(loop, spawner, {**call, **more}, ENV, answers.append)
    while not answers:
        loop.once()
    [answer] = answers
    return answer


def test_streams_are_kept_apart(loop: Loop, spawner: Spawner) -> None:
    answer = program(loop, spawner, ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in" * 50_000)
    assert answer["stderr"] == b"err\n"
    assert answer["stdout"] == (b"in" * 500)
    assert answer["code"] == b"3"
    assert answer["truncated"] == b"1"


def test_input_nobody_reads_harms_nobody(loop: Loop, spawner: Spawner) -> None:
    answer = program(loop, spawner, ["true"], stdin=b"x" * 1_000_000)
    assert answer["code"] == b"0"


def test_the_environment_adds_to_ours(loop: Loop, spawner: Spawner) -> None:
    answer = program(loop, spawner, ["env"], env=b"A=1\0B=x=y")
    assert sorted(answer["stdout"].split()) == [b"A=1", b"B=x=y", b"PATH=/usr/bin:/bin"]


def test_time_running_out_ends_it(loop: Loop, spawner: Spawner) -> None:
    answer = program(loop, spawner, ["sh", "-c", "echo a; sleep 30"], timeout_ms=b"200")
    assert answer["timed_out"] == b"1"
    assert answer["code"] == b"137"
    assert answer["stdout"] == b"a\n"


def test_a_daemon_does_not_hold_the_answer(loop: Loop, spawner: Spawner) -> None:
    answer = program(loop, spawner, ["sh", "-c", "sleep 30 & echo done"])
    assert answer["stdout"] == b"done\n"


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [(b"", {}), (b"a=b\0c=", {b"a": b"b", b"c": b""}), (b"x=1=2", {b"x": b"1=2"})],
)
def test_environments_are_parsed(raw: bytes, parsed: dict[bytes, bytes]) -> None:
    assert jobs.parse_env(raw) == parsed


@pytest.fixture(autouse=True)
def no_leaks(loop: Loop):
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before

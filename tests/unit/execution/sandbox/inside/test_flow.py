import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside.flow import PIECE, Flow
from intramuros.execution.sandbox.inside.loop import Loop
from intramuros.execution.sandbox.inside.spawn import Spawner

Fields = dict[str, bytes]


@pytest.fixture
def made(loop: Loop, spawner: Spawner) -> Iterator[Callable[..., Flow]]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    flows: list[Flow] = []

    def make(work: Callable[[int], Fields], *, outward: bool) -> Flow:
        flows.append(Flow(loop, spawner, work, outward=outward))
        return flows[-1]

    yield make
    for flow in flows:
        flow.kill()
        flow.kill()
    while loop._children:
        loop.once()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def ask(loop: Loop, do: Callable[[Callable[[Fields], None]], None]) -> Fields:
    answers: list[Fields] = []
    do(answers.append)
    while not answers:
        loop.once()
    [answer] = answers
    return answer


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def test_pieces_are_pulled_and_facts_come_last(loop: Loop, made) -> None:
    data = os.urandom(3 * PIECE + 17)

    def work(fd: int) -> Fields:
        write_all(fd, data)
        return {"entries": b"3"}

    flow, got = made(work, outward=True), []
    while "end" not in (answer := ask(loop, flow.pull)):
        assert 0 < len(answer["data"]) <= PIECE
        got.append(answer["data"])
    assert b"".join(got) == data
    assert answer == {"entries": b"3", "end": b"1"}
    assert ask(loop, flow.pull) == answer


def test_pieces_are_pushed_and_facts_come_last(loop: Loop, made) -> None:
    def work(fd: int) -> Fields:
        count = 0
        while chunk := os.read(fd, 65536):
            count += len(chunk)
        return {"bytes": b"%d" % count}

    flow = made(work, outward=False)
    for _ in range(3):
        assert ask(loop, lambda answer: flow.push(bytes(PIECE), False, answer)) == {}
    answer = ask(loop, lambda answer: flow.push(b"end", True, answer))
    assert answer == {"bytes": b"%d" % (3 * PIECE + 3), "end": b"1"}


@pytest.mark.parametrize("outward", [True, False])
def test_a_child_that_dies_says_so(loop: Loop, made, outward: bool) -> None:
    flow = made(lambda _fd: os.kill(os.getpid(), 9), outward=outward)
    if outward:
        answer = ask(loop, flow.pull)
    else:
        answer = {}
        while "end" not in answer:
            answer = ask(loop, lambda done: flow.push(bytes(PIECE), False, done))
    assert b"137" in answer["error"]


def test_a_child_that_stops_reading_tells_why(loop: Loop, made) -> None:
    flow = made(lambda _fd: {"error": b"the disk is full"}, outward=False)
    answer: Fields = {}
    while "end" not in answer:
        answer = ask(loop, lambda done: flow.push(bytes(PIECE), False, done))
    assert answer["error"] == b"the disk is full"


def test_facts_may_be_long(loop: Loop, made) -> None:
    flow = made(lambda _fd: {"processes": b"x" * 150_000}, outward=True)
    assert len(ask(loop, flow.pull)["processes"]) == 150_000


def test_one_that_is_killed_holds_nothing(loop: Loop, made) -> None:
    def work(fd: int) -> Fields:
        while True:
            write_all(fd, bytes(PIECE))

    flow = made(work, outward=True)
    assert len(ask(loop, flow.pull)["data"]) == PIECE
    flow.kill()
    assert "error" in ask(loop, flow.pull)

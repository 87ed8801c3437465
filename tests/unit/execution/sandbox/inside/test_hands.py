import os
from pathlib import Path
from time import process_time

import pytest

from intramuros.execution.sandbox.inside.hands import Hand
from intramuros.execution.sandbox.inside.loop import Loop
from intramuros.execution.sandbox.inside.spawn import Spawner


@pytest.fixture
def made(loop: Loop, spawner: Spawner):
    before = len(list(Path("/proc/self/fd").iterdir()))
    hands: list[Hand] = []

    def make(tool, cpu_s: int = 10) -> Hand:
        hands.append(Hand(loop, spawner, tool, cpu_s))
        return hands[-1]

    yield make
    for hand in hands:
        hand.kill()
        hand.kill()
    loop.reap()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def use(loop: Loop, hand: Hand, wall_s: float = 10.0, **call: bytes) -> dict[str, bytes]:
    answers: list[dict[str, bytes]] = []
    hand.use(call, wall_s, answers.append)
    while not answers:
        assert hand.busy
        loop.once()
    [answer] = answers
    return answer


def died(answer: dict[str, bytes]) -> int:
    return os.waitstatus_to_exitcode(int(answer["died"]))


def test_one_child_serves_many_calls(loop: Loop, made) -> None:
    hand = made(lambda call: {"back": call["data"], "pid": b"%d" % os.getpid()})
    data = os.urandom(1_000_000)
    for sent in (data, b"", data):
        assert use(loop, hand, data=sent) == {"back": sent, "pid": b"%d" % hand.pid}
    assert not hand.busy
    assert hand.alive


def test_a_tool_that_dies_says_how_far_it_came(loop: Loop, made) -> None:
    hand = made(lambda _call: os.kill(os.getpid(), 9))
    answer = use(loop, hand)
    assert (died(answer), answer["begun"]) == (-9, b"1")
    assert not hand.alive


def test_one_killed_while_it_waited_had_not_begun(loop: Loop, made) -> None:
    hand = made(lambda call: call)
    os.kill(hand.pid, 9)
    os.waitid(os.P_PID, hand.pid, os.WEXITED | os.WNOWAIT)
    answer = use(loop, hand)
    assert died(answer) == -9
    assert "begun" not in answer


def test_time_of_either_kind_runs_out(loop: Loop, made) -> None:
    def spin(_call: dict[str, bytes]) -> dict[str, bytes]:
        while True:
            pass

    assert died(use(loop, made(spin, cpu_s=1))) == -24
    answer = use(loop, made(spin), wall_s=0.2)
    assert (died(answer), answer["timed_out"]) == (-9, b"1")


def test_processor_time_is_counted_per_call(loop: Loop, made) -> None:
    def work(_call: dict[str, bytes]) -> dict[str, bytes]:
        start = process_time()
        while process_time() - start < 0.6:
            pass
        return {"ok": b"1"}

    hand = made(work, cpu_s=1)
    # Four calls take more than the one second and its rounding; the kernel counts by ticks.
    for _ in range(4):
        assert use(loop, hand) == {"ok": b"1"}


def test_killed_in_mid_call_nobody_is_answered(loop: Loop, made) -> None:
    hand = made(lambda call: call)
    answers: list[dict[str, bytes]] = []
    hand.use({"a": b"b"}, 10.0, answers.append)
    hand.kill()
    loop.alarm("soon", 0.05, lambda: answers.append({}))
    while not answers:
        loop.once()
    assert answers == [{}]

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from intramuros.execution.sandbox.base import SandboxError, SandboxGone
from intramuros.execution.sandbox.keeping import MAX_SCRIPT_BYTES, Keeper, Process, Told, _jobs

if TYPE_CHECKING:
    from intramuros.execution.sandbox.channel import Channel

pytestmark = pytest.mark.anyio
Fields = dict[str, bytes]
ROOTS = {"/workspace": "/state/w", "/home": "/home"}


class Inside:
    """Process 1, answering as the test wants."""

    def __init__(self, **answers: list[Fields] | Fields) -> None:
        self.answers = answers
        self.asked: list[Fields] = []

    async def request(self, op: str, fields: Mapping[str, bytes]) -> Fields:
        assert op == "state"
        self.asked.append(dict(fields))
        answer = self.answers.get(fields["act"].decode(), {})
        if isinstance(answer, list):
            answer = answer.pop(0)
        if "gone" in answer:
            raise SandboxGone("the sandbox is gone")
        return answer

    def acts(self) -> list[str]:
        return [fields["act"].decode() for fields in self.asked]


def keeper(inside: Inside) -> Keeper:
    return Keeper(cast("Channel", inside), ROOTS, 1000)


async def pieces(*data: bytes) -> AsyncGenerator[bytes]:
    for piece in data:
        yield piece


async def test_a_save_is_pulled_to_its_end() -> None:
    inside = Inside(
        pull=[
            {"data": b"1"},
            {"data": b"2"},
            {
                "end": b"1",
                "entries": b"3",
                "bytes": b"nonsense",
                "processes": b"7\t5\tsleep 9\0x\ty\tz\0" + b"8\t1\tls \x1b[2J\n",
                "sockets": b"/workspace/s",
            },
        ]
    )
    kept = keeper(inside)
    assert [piece async for piece in kept.save()] == [b"1", b"2"]
    assert (kept.facts.entries, kept.facts.data_bytes) == (3, 0)
    assert kept.facts.processes == (Process(7, 5, "sleep 9"), Process(8, 1, "ls  [2J "))
    assert kept.facts.sockets == ("/workspace/s",)
    assert inside.asked[0]["roots"] == b"/workspace=/state/w\0/home=/home"
    assert inside.acts() == ["save", "pull", "pull", "pull"]


async def test_a_save_that_is_given_up_lets_go_what_stands_still() -> None:
    inside = Inside(pull={"data": b"1"})
    saving = keeper(inside).save()
    assert await anext(saving) == b"1"
    await saving.aclose()
    assert inside.acts() == ["save", "pull", "drop"]
    inside = Inside(pull={"error": b"a file is a device", "end": b"1"})
    with pytest.raises(SandboxError, match="a device"):
        [piece async for piece in keeper(inside).save()]
    assert inside.acts()[-1] == "drop"


async def test_a_load_is_pushed_to_its_end() -> None:
    inside = Inside(push=[{}, {}, {"end": b"1", "attributes_lost": b"2"}])
    assert await keeper(inside).load(pieces(b"1", b"2")) == 2
    assert [fields.get("data") for fields in inside.asked] == [None, b"1", b"2", b""]
    assert "last" in inside.asked[-1]
    assert inside.asked[0]["limit"] == b"1000"


async def test_a_load_that_fails_is_dropped() -> None:
    inside = Inside(push=[{}, {"end": b"1", "error": b"no space left on device"}])
    with pytest.raises(SandboxError, match="no space"):
        await keeper(inside).load(pieces(b"1", b"2", b"3"))
    assert inside.acts() == ["load", "push", "push", "drop"]


async def test_a_shell_tells_or_is_named_as_lost() -> None:
    inside = Inside(
        tell=[
            {"none": b"1"},
            {"script": b"cd /", "lost": b"a\0b", "jobs": b"[1]+  5 Running   sleep 9 &\n"},
            {"error": b"a command is still running"},
            {"script": bytes(MAX_SCRIPT_BYTES + 1)},
            {"gone": b"1"},
        ]
    )
    kept = keeper(inside)
    assert await kept.tell() == Told()
    assert await kept.tell() == Told(b"cd /", ("a", "b"), {5: "sleep 9 &"})
    assert (await kept.tell()).lost == (
        "the shell's directory, variables and functions (a command is still running)",
    )
    assert "too large" in (await kept.tell()).lost[0]
    with pytest.raises(SandboxGone):
        await kept.tell()


async def test_one_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intramuros.execution.sandbox.keeping._STEP_S", 0.01)

    class Silent(Inside):
        async def request(self, op: str, fields: Mapping[str, bytes]) -> Fields:
            await anyio.sleep_forever()
            raise AssertionError("unreachable")

    with pytest.raises(SandboxError, match="in time"):
        await keeper(Silent()).load(pieces(b"x"))


async def test_a_shell_that_takes_its_state_back_may_complain() -> None:
    inside = Inside(
        adopt=[
            {"state": b"done", "output": b""},
            {"state": b"done", "output": b"bash: cd: /x: no\nbash: y\n"},
            {"state": b"timeout", "output": b""},
        ]
    )
    kept = keeper(inside)
    assert await kept.adopt(b"x") == []
    assert await kept.adopt(b"x") == ["bash: cd: /x: no", "bash: y"]
    assert "started anew" in (await kept.adopt(b"x"))[0]


def test_jobs_of_several_lines_are_one_command() -> None:
    said = (
        b"[1]   13 Running                 sleep 1000 &\n"
        b"[2]-  14 Stopped                 ( while :; do\n    sleep 1;\ndone ) &\n"
        b"[3]+    16 Running                 x | y &\n"
    )
    assert _jobs(said) == {
        13: "sleep 1000 &",
        14: "( while :; do sleep 1; done ) &",
        16: "x | y &",
    }
    assert _jobs(b"nonsense\n\xff\n") == {}

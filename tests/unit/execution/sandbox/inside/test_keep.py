import os
from collections.abc import Callable
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import stillness
from intramuros.execution.sandbox.inside.keep import Keep
from intramuros.execution.sandbox.inside.loop import Loop
from intramuros.execution.sandbox.inside.shell import Shell
from intramuros.execution.sandbox.inside.spawn import Spawner

Fields = dict[str, bytes]
ENV = {b"PATH": b"/usr/bin:/bin"}


class Bench:
    """Process 1's part, with a shell."""

    def __init__(self, loop: Loop, spawner: Spawner, folder: Path) -> None:
        self._loop, self._spawner, self._folder = loop, spawner, folder
        self.shell: Shell | None = None
        self.keep = Keep(loop, spawner, ENV, list, lambda: self.shell, self.fresh)

    def fresh(self, script: bytes | None = None) -> Shell:
        self.close()
        self.shell = Shell(self._loop, self._spawner, str(self._folder), ENV, script)
        return self.shell

    def close(self) -> None:
        if self.shell is not None and not self.shell.closed:
            self.shell.kill()

    def wait(self, do: Callable[[Callable[[Fields], None]], None]) -> Fields:
        answers: list[Fields] = []
        do(answers.append)
        while not answers:
            self._loop.once()
        return answers[0]

    def ask(self, act: str, **fields: bytes) -> Fields:
        call = {"act": act.encode(), "nonce": os.urandom(8).hex().encode(), **fields}
        return self.wait(lambda answer: self.keep.serve(call, answer))

    def run(self, command: str) -> Fields:
        assert self.shell is not None
        nonce = os.urandom(8).hex().encode()
        shell = self.shell
        return self.wait(lambda answer: shell.run(command.encode(), nonce, 10.0, answer))

    def save(self, root: Path) -> tuple[list[bytes], Fields]:
        assert self.ask("save", roots=b"/w=" + os.fsencode(root)) == {}
        pieces = []
        while "end" not in (answer := self.ask("pull")):
            pieces.append(answer["data"])
        return pieces, answer


@pytest.fixture
def bench(loop: Loop, spawner: Spawner, workdir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stillness, "hold", list)  # it would hold pytest's other children
    made = Bench(loop, spawner, workdir)
    yield made
    made.ask("drop")
    made.close()


def test_files_and_shell_come_back(bench: Bench, workdir: Path, loop: Loop) -> None:
    bench.fresh()
    bench.run("mkdir d; cd d; echo hi > f; X='a b'; exec 9</dev/null; sleep 41 &")
    told = bench.ask("tell", timeout_ms=b"5000")
    assert told["lost"].decode() == "the shell's open file 9 → /dev/null"
    assert b"sleep 41 &" in told["jobs"]
    pieces, facts = bench.save(workdir)
    assert (facts["entries"], facts["bytes"]) == (b"2", b"3")
    assert b"sleep 41" in facts["processes"]
    os.system(f"rm -r {workdir}/d")
    assert bench.ask("load", roots=b"/w=" + os.fsencode(workdir), limit=b"1000") == {}
    for piece in pieces:
        answer = bench.ask("push", data=piece)
    if "end" not in answer:
        answer = bench.ask("push", data=b"", last=b"1")
    assert (answer["entries"], answer["attributes_lost"]) == (b"2", b"0")
    done = bench.ask("adopt", script=told["script"], timeout_ms=b"5000")
    assert (done["state"], done["output"]) == (b"done", b"")
    assert bench.run('echo "$X"; cat f; [ ! -e /dev/fd/201 ] && echo closed')["output"] == (
        b"a b\nhi\nclosed\n"
    )
    told = bench.ask("tell", timeout_ms=b"5000")
    assert b"X='a b'" in told["script"] or b'X="a b"' in told["script"]


def test_without_a_shell_there_is_nothing_to_tell(bench: Bench) -> None:
    assert bench.ask("tell", timeout_ms=b"1000") == {"none": b"1"}
    bench.fresh().kill()
    assert bench.ask("tell", timeout_ms=b"1000") == {"none": b"1"}


def test_a_shell_that_does_not_answer_is_named(bench: Bench) -> None:
    bench.fresh()
    bench.run("jobs() { :; }; builtin() { while :; do :; done; }")
    told = bench.ask("tell", timeout_ms=b"300")
    assert told["script"] == b""
    assert b"it did not tell them" in told["lost"]


def test_a_shell_that_says_too_much_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intramuros.execution.sandbox.inside.shell.MAX_REPORT", 100_000)
    bench.fresh()
    bench.run("X=$(head -c 200000 /dev/zero | tr '\\0' x)")
    assert bench.ask("tell", timeout_ms=b"5000")["script"] == b""


def test_complaints_of_the_new_shell_are_told(bench: Bench) -> None:
    done = bench.ask("adopt", script=b"cd /nowhere\nY=1\n", timeout_ms=b"5000")
    assert b"/nowhere" in done["output"]
    assert bench.run("echo $Y")["output"] == b"1\n"


def test_what_was_not_begun_is_an_error(bench: Bench) -> None:
    assert "error" in bench.ask("pull")
    assert "error" in bench.ask("push", data=b"x")
    assert bench.ask("drop") == {}


def test_what_cannot_be_kept_or_restored_is_an_error(bench: Bench, workdir: Path) -> None:
    _, facts = bench.save(workdir / "missing")
    assert b"no such file" in facts["error"]
    bench.ask("load", roots=b"/w=" + os.fsencode(workdir), limit=b"1000")
    answer = bench.ask("push", data=b"nonsense", last=b"1")
    assert b"no stream of files" in answer["error"]

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import shell as module
from intramuros.execution.sandbox.inside.loop import Loop
from intramuros.execution.sandbox.inside.shell import Shell
from intramuros.execution.sandbox.inside.spawn import Spawner

ENV = {b"PATH": b"/usr/bin:/bin", b"PS1": b"", b"PS2": b""}


class Driver:
    def __init__(self, loop: Loop, shell: Shell) -> None:
        self.loop, self.shell, self.count = loop, shell, 0

    def run(self, command: str, timeout_s: float = 10) -> tuple[str, int | None, str]:
        answers = []
        self.count += 1
        self.shell.run(command.encode(), b"%032x" % self.count, timeout_s, answers.append)
        while not answers:
            self.loop.once()
        [answer] = answers
        code = int(answer["code"]) if answer["code"] else None
        self.last = answer
        return answer["state"].decode(), code, answer["output"].decode("utf-8", "replace")


@pytest.fixture
def bash(loop: Loop, spawner: Spawner, tmp_path: Path) -> Iterator[Driver]:
    made = Shell(loop, spawner, str(tmp_path), ENV)
    yield Driver(loop, made)
    if not made.closed:
        made.kill()
    with suppress(ChildProcessError):
        os.waitpid(made.pid, 0)


def test_state_survives_between_commands(bash: Driver) -> None:
    assert bash.run("x=5; cd /; f() { echo f; }")[1] == 0
    assert bash.run("echo $x; pwd; f") == ("done", 0, "5\n/\nf\n")


def test_errors_join_output_and_input_is_empty(bash: Driver) -> None:
    assert bash.run("cat; echo a; echo b >&2; (exit 3)") == ("done", 3, "a\nb\n")


def test_commands_hold_three_descriptors(bash: Driver) -> None:
    assert bash.run("ls /proc/self/fd") == ("done", 0, "0\n1\n2\n3\n")


def test_nothing_printed_is_taken_for_the_end(bash: Driver) -> None:
    forged = "printf '%032x 0\\n' 1; printf '00000000000000000000000000000001 0\\n' >&200; echo on"
    state, code, output = bash.run(forged)
    assert (state, code) == ("done", 0)
    assert output.endswith("on\n")
    assert "200" in output  # bash says that the descriptor is bad


def test_the_tail_of_a_long_output_is_kept(bash: Driver) -> None:
    state, code, output = bash.run("head -c 150000 /dev/zero | tr '\\0' a; echo end")
    assert (state, code) == ("done", 0)
    assert len(output) == module.MAX_OUTPUT
    assert output.endswith("aaaend\n")
    assert bash.last["truncated"] == b"1"
    assert bash.run("echo short") == ("done", 0, "short\n")
    assert bash.last["truncated"] == b""


def test_exit_and_syntax_errors_end_the_shell(bash: Driver) -> None:
    assert bash.run("echo bye; exit 4") == ("died", 4, "bye\n")
    assert bash.shell.closed


def test_an_exit_does_not_wait_for_a_background_child(bash: Driver) -> None:
    assert bash.run("sleep 30 & exit 0")[0] == "died"
    os.killpg(bash.shell.pid, 9)


def test_time_running_out_kills_command_and_shell(bash: Driver) -> None:
    state, code, output = bash.run("echo started; sleep 30", timeout_s=0.3)
    assert (state, code, output) == ("timeout", None, "started\n")
    assert bash.shell.closed


def test_a_large_command_is_fed_bit_by_bit(bash: Driver) -> None:
    text = "x" * 300_000
    assert bash.run(f"v='{text}'; echo ${{#v}}") == ("done", 0, "300000\n")


def test_background_output_comes_with_the_next_command(bash: Driver) -> None:
    bash.run("(sleep 0.1; echo late) &")
    assert bash.run("sleep 0.3; echo now") == ("done", 0, "late\nnow\n")


def test_binary_output_passes(bash: Driver) -> None:
    bash.run("printf '\\000\\377\\033[1m'")
    assert bash.last["output"] == b"\0\xff\x1b[1m"

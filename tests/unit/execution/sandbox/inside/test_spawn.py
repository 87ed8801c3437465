import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside.spawn import Spawner


def run(spawner: Spawner, argv: list[str], **more: object) -> tuple[int, str]:
    read, write = os.pipe()
    fds = {1: write, 2: write, **more.pop("fds", {})}
    pid = spawner.spawn(argv, cwd="/", env={b"PATH": b"/usr/bin:/bin"}, fds=fds)
    os.close(write)
    said = b""
    while chunk := os.read(read, 65536):
        said += chunk
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode()


def test_children_hold_their_own_descriptors_only(spawner: Spawner) -> None:
    extra = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(extra, True)
    code, said = run(spawner, ["ls", "/proc/self/fd"])
    os.close(extra)
    assert (code, said.split()) == (0, ["0", "1", "2", "3"])


def test_high_numbers_arrive(spawner: Spawner) -> None:
    read, write = os.pipe()
    code, _ = run(spawner, ["bash", "-c", "echo high >&200"], fds={200: write})
    os.close(write)
    assert (code, os.read(read, 10)) == (0, b"high\n")
    os.close(read)


def test_the_environment_is_exactly_what_was_given(spawner: Spawner) -> None:
    said = run(spawner, ["env"])[1]
    assert said == "PATH=/usr/bin:/bin\n"


def test_a_program_that_is_not_there_ends_with_127(spawner: Spawner) -> None:
    code, said = run(spawner, ["no-such-program"])
    assert (code, said) == (127, "no-such-program: No such file or directory\n")


def test_children_lead_a_session_and_meet_signals_as_anywhere(spawner: Spawner) -> None:
    _, said = run(spawner, ["sh", "-c", "cat /proc/$$/stat; grep SigIgn /proc/self/status"])
    pid, session = said.split()[0], said.split()[5]
    assert pid == session
    # 32 and 33 belong to the C library, which lets nobody change them.
    assert int(said.split()[-1], 16) & ~(3 << 31) == 0


def test_a_failing_child_function_ends_its_child_alone(spawner: Spawner) -> None:
    def broken() -> int:
        raise SystemExit(3)

    pid = spawner.fork(broken, {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 126


def test_children_stand_in_front_when_memory_runs_out(spawner: Spawner) -> None:
    assert run(spawner, ["cat", "/proc/self/oom_score_adj"])[1] == "500\n"


def test_the_directory_must_exist(spawner: Spawner, tmp_path: Path) -> None:
    pid = spawner.spawn(["true"], cwd=str(tmp_path / "no"), env={}, fds={})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127


@pytest.fixture(autouse=True)
def no_leaks():
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_programs_lose_what_tells_our_own_processes_apart(spawner: Spawner) -> None:
    assert run(spawner, ["bash", "-c", "ulimit -Hq; ulimit -q 1"])[1].startswith("0\n")
    assert run(spawner, ["bash", "-c", "ulimit -Hq 1"])[0] != 0 or os.geteuid() == 0

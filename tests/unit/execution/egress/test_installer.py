from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.egress.installer import INSTALL_S, Installer
from intramuros.execution.egress.packages import plan, read_packages
from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.sandbox.base import ExecResult, SandboxGone
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock

pytestmark = pytest.mark.anyio

# As a careless client writes them, in no order.
RAW: dict[str, Any] = {
    "type": "packages",
    "pip": ["duckdb==1.1.0"],
    "npm": ["left-pad@1.3.0"],
    "go": ["example.com/a@v1.2.3", "example.com/b"],
    "gem": ["rake:13.0.6"],
    "cargo": ["ripgrep@14.1.0"],
    "apt": ["jq", "tree"],
}


class Inside:
    """A sandbox that notes what is run in it."""

    def __init__(self, failing: dict[str, ExecResult | Exception] | None = None) -> None:
        self.ran: list[str] = []
        self.confined: list[bool] = []
        self.files: dict[str, bytes] = {}
        self.failing = failing or {}
        self.only = False

    async def exec(self, argv: list[str], **options: Any) -> ExecResult:
        if argv[0] == "cat":
            found = self.files.get(argv[1])
            return ExecResult(0 if found else 1, found or b"", b"")
        line = argv[2]
        if line.startswith("printf"):
            _, _, digest, _, place = line.split()
            self.files[place] = digest.encode()
            return ExecResult(0, b"", b"")
        assert options["timeout_s"] == INSTALL_S
        self.ran.append(line.split("exec ", 1)[1])
        self.confined.append(self.only)
        for word, result in self.failing.items():
            if word in line:
                if isinstance(result, Exception):
                    raise result
                return result
        return ExecResult(0, b"", b"")

    @contextmanager
    def registries_only(self) -> Iterator[None]:
        self.only = True
        yield
        self.only = False


async def install(tmp_path: Path, inside: Inside, raw: dict[str, Any] = RAW) -> str | None:
    record = Record(tmp_path / "audit", ManualClock())
    try:
        sandbox: Any = inside
        known = read_packages(raw)
        return await Installer(known, record, "sesn_1", inside.registries_only).install(sandbox)
    finally:
        record.close()


async def test_R386_managers_run_in_alphabetical_order(tmp_path: Path) -> None:
    inside = Inside()
    assert await install(tmp_path, inside) is None
    managers = ["apt-get", "apt-get", "cargo", "gem", "go", "go", "npm", "python3"]
    assert [line.split()[0] for line in inside.ran] == managers
    assert [step.manager for step in plan(read_packages(RAW))] == sorted(RAW.keys() - {"type"})
    for name in ("jq tree", "ripgrep@14.1.0", "rake:13.0.6", "left-pad@1.3.0", "duckdb==1.1.0"):
        assert any(line.endswith(name) for line in inside.ran), name
    assert "go install example.com/a@v1.2.3" in inside.ran
    assert "go install example.com/b@latest" in inside.ran


async def test_meanwhile_only_registries_are_reachable(tmp_path: Path) -> None:
    inside = Inside()
    await install(tmp_path, inside)
    assert all(inside.confined)
    assert not inside.only


async def test_what_is_there_is_not_installed_again_until_the_list_changes(tmp_path: Path) -> None:
    inside = Inside()
    await install(tmp_path, inside)
    count = len(inside.ran)
    await install(tmp_path, inside)
    assert len(inside.ran) == count
    await install(tmp_path, inside, {"pip": ["duckdb==1.2.0"]})
    assert len(inside.ran) == count + 1


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (ExecResult(1, b"", b"no such package"), "npm: exit status 1: no such package"),
        (ExecResult(127, b"", b"npm: not found"), "npm: exit status 127: npm: not found"),
        (ExecResult(137, b"", b"", timed_out=True), "npm: it took longer than 900 s"),
        (ExecResult(1, b"on the other stream", b""), "npm: exit status 1: on the other stream"),
        (TimeoutError(), "npm: it took too long"),
    ],
)
async def test_a_manager_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, result: ExecResult | Exception, said: str
) -> None:
    inside = Inside({"npm": result})
    note = await install(tmp_path, inside)
    assert note is not None
    assert note.splitlines()[1:] == [said]
    assert inside.ran[-1].startswith("python3")
    # It is tried again the next time.
    assert not inside.files


async def test_a_command_that_fails_ends_its_managers_turn(tmp_path: Path) -> None:
    inside = Inside({"apt-get update": ExecResult(100, b"", b"not root")})
    note = await install(tmp_path, inside)
    assert note is not None
    assert "apt: exit status 100: not root" in note
    assert not any("apt-get install" in line for line in inside.ran)


async def test_a_sandbox_that_dies_is_not_a_failed_package(tmp_path: Path) -> None:
    inside = Inside()

    async def gone(argv: list[str], **_: Any) -> ExecResult:
        raise SandboxGone("dead")

    with pytest.raises(SandboxGone):
        await install(tmp_path, Inside({"gem": SandboxGone("dead")}))
    inside.exec = gone  # type: ignore[method-assign]
    with pytest.raises(SandboxGone):
        await install(tmp_path, inside)


async def test_each_manager_is_recorded_before_it_runs(tmp_path: Path, monkeypatch: Any) -> None:
    inside = Inside()
    await install(tmp_path, inside)
    lines = list(read_lines(tmp_path / "audit"))
    assert len(lines) == 6
    assert '"manager":"apt"' in lines[0]
    assert "duckdb" not in "".join(lines)

    async def full(*_: Any, **__: Any) -> None:
        raise RecordFailed("disk full")

    monkeypatch.setattr(Record, "write", full)
    silent = Inside()
    note = await install(tmp_path, silent)
    assert note is not None
    assert "could not record" in note
    assert silent.ran == []


async def test_a_name_runs_nothing(tmp_path: Path) -> None:
    inside = Inside()
    await install(tmp_path, inside, {"pip": ["a;touch${IFS}x", "$(id)", "`id`"]})
    assert inside.ran[0].endswith("-- 'a;touch${IFS}x' '$(id)' '`id`'")

import os
from pathlib import Path

import anyio
import pytest

from intramuros.execution.sandbox import quota
from intramuros.execution.sandbox.quota import Quota, usage_bytes
from intramuros.execution.sandbox.trees import Hidden

pytestmark = pytest.mark.anyio


def test_links_count_once_and_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(bytes(1 << 20))
    base = usage_bytes(tmp_path)
    assert base >= 1 << 20
    (tmp_path / "hard").hardlink_to(tmp_path / "d/f")
    (tmp_path / "soft").symlink_to("/usr")
    (tmp_path / "loop").symlink_to(".")
    assert usage_bytes(tmp_path) < base + (1 << 16)


def test_sparse_files_cost_what_they_take(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1 << 40)
    assert usage_bytes(tmp_path) < 1 << 20


def test_a_tree_without_end_is_over_any_quota(
    tmp_path: Path,
) -> None:
    for number in range(6):
        (tmp_path / str(number)).touch()
    assert usage_bytes(tmp_path, (), 5) == 1 << 62


def test_what_is_gone_or_closed_is_passed_over(tmp_path: Path) -> None:
    assert usage_bytes(tmp_path / "none") == 0


async def test_the_watch_ends_what_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "_FIRST_LOOK_S", 0.01)
    watched = Quota([tmp_path], 1 << 20)
    assert not await watched.is_over()
    with anyio.fail_after(60), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watched.wait_until_over, scope)
            for number in range(3):
                (tmp_path / f"f{number}").write_bytes(os.urandom(600_000))
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await watched.is_over()
    assert "1 of 1 MiB used" in watched.message("bash")


async def test_what_is_written_to_other_directories_counts_too(tmp_path: Path) -> None:
    workspace, other = tmp_path / "w", tmp_path / "o"
    for directory in (workspace, other):
        directory.mkdir()
    (other / "f").write_bytes(b"x" * (2 << 20))
    assert not await Quota([workspace], 1 << 20).is_over()
    assert await Quota([workspace, other], 1 << 20).is_over()


async def test_files_are_counted_as_well_as_bytes(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / str(number)).touch()
    assert not await Quota([tmp_path], 1 << 20, 20).is_over()
    few = Quota([tmp_path], 1 << 20, 5)
    assert await few.is_over()
    assert "more than 5 files" in few.message("bash")


async def test_where_nothing_is_to_be_watched_nothing_is_over(tmp_path: Path) -> None:
    none = Quota([], 0)
    assert not await none.is_over()
    assert not await none.grew_over()
    with anyio.fail_after(60), anyio.CancelScope() as scope:
        await none.wait_until_over(scope)
    assert not scope.cancel_called


async def test_what_was_measured_before_a_command_ended_is_stale(tmp_path: Path) -> None:
    watched = Quota([tmp_path], 1 << 20)
    assert not await watched.is_over()
    (tmp_path / "f").write_bytes(os.urandom(2 << 20))
    assert not await watched.is_over()
    watched.changed()
    assert await watched.is_over()


@pytest.mark.parametrize("failing", [Hidden(), OSError(24, "too many open files")])
def test_what_cannot_be_counted_is_over_any_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Exception
) -> None:
    def walk(_path: str) -> None:
        raise failing

    monkeypatch.setattr(quota.trees, "walk", walk)
    assert usage_bytes(tmp_path) == quota.UNCOUNTABLE


def test_one_unlucky_look_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [Hidden(), Hidden()]

    def opened(_pid: int) -> list[os.stat_result]:
        if failures:
            raise failures.pop()
        return []

    monkeypatch.setattr(quota.processes, "opened", opened)
    assert usage_bytes(tmp_path, [1]) == 0

import json
from pathlib import Path

import anyio
import pytest

from intramuros.execution import status
from intramuros.execution.status import Board
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock
from tests.waiting import until

pytestmark = pytest.mark.anyio


def test_a_board_shows_what_each_loop_is_doing_now() -> None:
    board, doing = Board(ManualClock()), ["polling"]
    board.put("poll", lambda: doing[0])
    board.put("item", lambda: "bash")
    assert board.view() == {"poll": "polling", "item": "bash"}
    doing[0] = "pausing"
    board.remove("item")
    board.remove("never there")
    assert board.view() == {"poll": "pausing"}


async def test_the_file_follows_the_board_and_goes_with_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_PERIOD_S", 0.005)
    path, board, stop, doing = tmp_path / "status.json", Board(ManualClock()), Stop(), ["polling"]
    board.put("poll", lambda: doing[0])

    def shown() -> str | None:
        return json.loads(path.read_text())["loops"]["poll"] if path.exists() else None

    async with anyio.create_task_group() as group:
        group.start_soon(board.publish, path, stop)
        with anyio.fail_after(60):
            for text in ("polling", "pausing"):
                doing[0] = text
                await until(lambda text=text: shown() == text)
        stop.request()
    assert not path.exists()


async def test_a_full_disk_does_not_end_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_PERIOD_S", 0.001)
    board, stop = Board(ManualClock()), Stop()
    board.put("poll", lambda: "polling")
    async with anyio.create_task_group() as group:
        group.start_soon(board.publish, tmp_path / "no" / "such" / "folder", stop)
        await anyio.sleep(0.02)
        stop.request()

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from intramuros.execution import repositories as room
from intramuros.execution.checkout import CheckedOut, CheckoutFailed, Found
from intramuros.execution.client import Away, Refused
from intramuros.execution.hosted_client import Repository
from intramuros.execution.mounted import Mounted
from intramuros.execution.record import Record
from intramuros.execution.repositories import Ground, Repositories
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock
from tests.fakes.hosted import FakeHosted
from tests.fakes.outflow import gate

pytestmark = pytest.mark.anyio
URL = "https://github.com/octo/repo"
SKILL = Found(".claude/skills/a/SKILL.md", "a", "Does.")


class FakeRoad:
    def __init__(self) -> None:
        self.granted: Sequence[Repository] = ()
        self.statuses: list[int | None] = []
        self.open = 0

    def grant(self, repositories: Sequence[Repository]) -> None:
        self.granted = repositories

    @contextmanager
    def opened(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def ask(self, repository: Repository) -> int | None:
        return self.statuses.pop(0) if self.statuses else 200


class Rig:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.remote = FakeHosted()
        self.remote.granted = [
            Repository("sesrsc_1", URL, "/workspace/repo", "1", None, None, "ghp_secret")
        ]
        self.road = FakeRoad()
        self.gate = gate()
        self.learnt: list[str] = []
        self.made: list[Any] = []
        self.cloned = 0
        self.folder = folder
        self.audit = folder / "audit.jsonl"
        self.record = Record(self.audit, ManualClock())
        rig = self

        class FakeCheckout:
            def __init__(self, *_: object) -> None:
                pass

            async def make(self) -> CheckedOut:
                assert rig.road.open == 1
                rig.cloned += 1
                made = rig.made.pop(0) if rig.made else CheckedOut("a" * 40, (SKILL,))
                if isinstance(made, str):
                    raise CheckoutFailed(made)
                return made

        monkeypatch.setattr(room, "Checkout", FakeCheckout)
        self.item()

    def item(self, road: bool = True) -> None:
        """Begin another item of the same session."""
        ground = Ground(
            self.folder / "home",
            self.record,
            lambda: 0.0,
            cast("Any", None),
            self.road if road else None,
            self.gate,
            self.learnt.extend,
        )
        self.repositories = Repositories(ground, cast("Any", self.remote))

    async def sync(self, updated_at: str = "1") -> None:
        await self.repositories.sync((Mounted("sesrsc_1", updated_at),))

    def told(self) -> list[tuple[object, object]]:
        return [(report["trouble"], report["commit"]) for _, report in self.remote.reports]

    def kinds(self) -> list[str]:
        return [json.loads(line)["kind"] for line in read_lines(self.audit)]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path, monkeypatch)
    yield made
    made.record.close()


async def test_a_repository_is_cloned_once_recorded_and_told(rig: Rig) -> None:
    await rig.sync()
    await rig.sync()
    rig.item()
    await rig.sync()
    assert rig.cloned == 1
    assert rig.kinds() == ["repository.clone", "repository.cloned", "repository.report"]
    ((resource_id, report),) = rig.remote.reports
    assert resource_id == "sesrsc_1"
    assert (report["commit"], report["trouble"]) == ("a" * 40, None)
    assert report["skills"] == [{"path": SKILL.path, "name": "a", "description": "Does."}]
    assert list(rig.road.granted) == rig.remote.granted
    rig.repositories.close()
    assert list(rig.road.granted) == []
    for file in rig.folder.rglob("*"):
        assert not file.is_file() or b"ghp_secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        (401, "authentication"),
        (403, "forbidden"),
        (404, "not_found"),
        (410, "not_found"),
        (451, "forbidden"),
    ],
)
async def test_R396_the_host_says_why_not(rig: Rig, status: int, trouble: str) -> None:
    rig.road.statuses = [status]
    await rig.sync()
    assert (rig.told(), rig.cloned) == ([(trouble, None)], 0)
    assert rig.kinds() == ["repository.clone", "repository.left_out"]


@pytest.mark.parametrize("status", [None, 429, 500, 503])
async def test_a_host_that_is_away_is_asked_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    monkeypatch.setattr(room, "backoff_s", lambda *_: 0.0)
    rig.road.statuses = [status, 200]
    await rig.sync()
    assert rig.told() == [(None, "a" * 40)]
    rig.item()
    rig.remote.granted = [Repository("sesrsc_2", URL, "/workspace/b", "1")]
    rig.road.statuses = [status] * 3
    with capture_logs() as logs:
        await rig.sync()
    assert rig.told()[1:] == [("unreachable", None)]
    (left,) = [one for one in logs if one["event"] == "repository_left_out"]
    said = f"answered {status}" if status else "did not answer"
    assert left["error"] == f"unreachable: the host {said}"


async def test_what_cannot_pass_is_not_tried_twice(rig: Rig) -> None:
    rig.made = ["too_large"]
    await rig.sync()
    assert (rig.cloned, rig.told()) == (1, [("too_large", None)])


async def test_another_token_is_another_chance(rig: Rig) -> None:
    rig.road.statuses = [401]
    await rig.sync()
    rig.item()
    await rig.sync()
    assert (rig.cloned, len(rig.told())) == (0, 1), "the same token is not tried again"
    rig.remote.granted = [
        Repository("sesrsc_1", URL, "/workspace/repo", "2", None, None, "ghp_better")
    ]
    await rig.sync("2")
    assert rig.told() == [("authentication", None), (None, "a" * 40)]
    assert rig.road.granted[0].token == "ghp_better"


async def test_what_was_about_the_way_is_tried_by_the_next_item(rig: Rig) -> None:
    rig.made = ["too_slow"]
    await rig.sync()
    rig.item()
    await rig.sync()
    assert rig.told() == [("too_slow", None), (None, "a" * 40)]


async def test_without_a_network_nothing_is_cloned_and_the_session_goes_on(rig: Rig) -> None:
    rig.item(road=False)
    await rig.sync()
    assert (rig.cloned, rig.told()) == (0, [("unreachable", None)])
    rig.repositories.close()


async def test_a_server_that_is_away_is_asked_before_the_next_call(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "backoff_s", lambda *_: 0.0)
    rig.remote.failures = [Away("HTTP 503")] * 3
    await rig.sync()
    assert (rig.cloned, rig.told()) == (0, [])
    rig.remote.failures = [Away("HTTP 503")]
    await rig.sync()
    assert (rig.cloned, rig.told()) == (1, [(None, "a" * 40)])


async def test_a_report_is_repeated_with_the_same_attempt_or_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "backoff_s", lambda *_: 0.0)
    sent: list[object] = []

    async def report(_: str, said: dict[str, object]) -> None:
        sent.append(said["attempt"])
        raise Away("HTTP 503") if len(sent) < 3 else Refused("HTTP 404", 404)

    monkeypatch.setattr(rig.remote, "report", report)
    await rig.sync()
    assert len(sent) == 3
    assert len(set(sent)) == 1


async def test_nothing_is_cloned_that_cannot_be_recorded(rig: Rig) -> None:
    rig.record.close()
    await rig.sync()
    assert (rig.cloned, rig.told()) == (0, [("failed", None)])
    rig.record = Record(rig.audit, ManualClock())


@pytest.mark.parametrize("notes", ["", "[]", "{", '{"sesrsc_1": 7}'])
async def test_notes_that_are_damaged_mean_to_look_again(rig: Rig, notes: str) -> None:
    (rig.folder / "home").mkdir()
    (rig.folder / "home" / "repositories.json").write_text(notes)
    await rig.sync()
    assert rig.cloned == 1

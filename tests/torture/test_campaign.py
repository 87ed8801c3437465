"""The campaign itself, for a few seconds: ``make torture`` plays it for as long as you like."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests import postgres
from tests.hosts import needs_sandboxes
from tests.torture.campaign import Round, play
from tests.torture.schedule import Schedule
from tests.torture.world import Shape

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SHORT = Schedule.load((Path(__file__).parent / "schedules" / "short.json").read_text())


@pytest.fixture
def cluster() -> Iterator[postgres.Cluster | None]:
    """A PostgreSQL for several servers, where there is one; else one server on SQLite it is."""
    needs_sandboxes()
    with ExitStack() as stack:
        there = postgres.binaries() is not None
        yield stack.enter_context(postgres.running()) if there else None


async def test_a_short_round_loses_and_doubles_nothing(
    cluster: postgres.Cluster | None, tmp_path: Path
) -> None:
    faults = SHORT.faults
    if cluster is None:
        faults = tuple(f for f in faults if f.target not in ("database", "server.1"))
    game = Round(
        *(SHORT.seed, SHORT.seconds, 4),
        Shape(servers=2, workers=1),
        schedule=replace(SHORT, faults=faults),
    )
    verdict = await play(game, tmp_path / "torture", cluster)
    assert verdict.violations == [], verdict.report()
    # There was something to judge.
    assert verdict.extent["sessions"] == 4
    assert verdict.extent["effects"] > 0
    assert verdict.extent["calls"] > 4

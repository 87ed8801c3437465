from dataclasses import replace
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import Limits, Mount, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.spares import Sparing, additions
from tests.fakes.sandbox import FakeProvider

OPERATORS = Mount(Path("/data"), "/mnt/data")
SESSIONS = Mount(Path("/memory"), "/mnt/memory/a", read_only=False, owned=True)
SPARE = SandboxSpec(mounts=(OPERATORS,), environment={"LANG": "C"})


def test_variables_the_path_and_further_mounts_come_late() -> None:
    assert additions(SPARE, SPARE) == ()
    wanted = replace(
        SPARE, mounts=(OPERATORS, SESSIONS), environment={"KEY": "placeholder"}, path=("/opt/x",)
    )
    assert additions(SPARE, wanted) == (SESSIONS,)


@pytest.mark.parametrize(
    "other",
    [
        {"mounts": (SESSIONS,)},
        {"mounts": ()},
        {"mounts": (SESSIONS, OPERATORS)},
        {"limits": Limits(pids=1)},
        {"egress": "names"},
        {"trust": Path("/ca.pem")},
        {"rootfs": Path("/image")},
        {"user": "root"},
    ],
)
def test_all_else_is_there_from_the_start(other: dict[str, object]) -> None:
    assert additions(SPARE, replace(SPARE, **other)) is None  # type: ignore[arg-type]


def test_who_can_start_ahead_is_known_by_what_it_offers(tmp_path: Path) -> None:
    assert isinstance(BubblewrapProvider(tmp_path), Sparing)
    assert not isinstance(FakeProvider(), Sparing)

import stat
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from intramuros.execution.egress.packages import ROOT
from intramuros.execution.egress.policy import ANY, Hosts, OwnRules
from intramuros.execution.egress.rules import OPERATORS_ALONE, SessionRules, Variable
from intramuros.execution.egress.station import Ground, Station
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.execution.record import Record
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock

pytestmark = pytest.mark.anyio


async def nowhere(name: str, port: int) -> Sequence[str]:
    raise OSError(name)


def ground(folder: Path, own: OwnRules | None = None) -> Ground:
    return Ground(
        folder / "egress", own or OwnRules(allow=ANY), Dialler(client_context(), nowhere), 4
    )


def secret(value: str = "the-real-value") -> SessionRules:
    return SessionRules(
        OPERATORS_ALONE.networking,
        (Variable("vcrd_1", "TOKEN", value, Hosts(every=True), True, True),),
    )


@pytest.fixture
async def record(tmp_path: Path) -> AsyncIterator[Record]:
    made = Record(tmp_path / "audit.jsonl", SystemClock())
    yield made
    made.close()


@pytest.fixture
async def station(tmp_path: Path, record: Record) -> AsyncIterator[Station]:
    async with Station.opened(ground(tmp_path), record, SystemClock()) as made:
        yield made


async def test_a_passage_has_names_a_gate_trust_and_placeholders(
    station: Station, tmp_path: Path
) -> None:
    passage = station.passage("sesn_1", secret())
    assert passage.names.admits("any.test")
    assert passage.names.ports() >= {80, 443}
    assert passage.trust == tmp_path / "egress" / "ca-bundle.pem"
    assert set(passage.environment) == {"TOKEN"}
    assert "the-real-value" not in repr(passage)


@pytest.mark.parametrize("scrub", [True, False])
async def test_answers_are_searched_unless_the_operator_says_otherwise(
    tmp_path: Path, record: Record, scrub: bool
) -> None:
    async with Station.opened(
        replace(ground(tmp_path), scrub=scrub), record, SystemClock()
    ) as made:
        made.passage("sesn_1", secret())
        gate = made.gate("sesn_1")
        assert gate is not None
        assert (gate.scrubber() is not None) is scrub


async def test_packages_are_found_and_go_behind_credentials(station: Station) -> None:
    packages = {"pip": ("duckdb",), "npm": ("left-pad",)}
    passage = station.passage("sesn_1", replace(secret(), packages=packages))
    assert passage.environment["PYTHONPATH"].endswith("/pip")
    assert passage.path == tuple(f"{ROOT}/{name}/bin" for name in ("npm", "pip"))
    assert "TOKEN" in passage.environment


async def test_placeholders_last_and_are_each_sessions_own(tmp_path: Path, record: Record) -> None:
    seen = []
    for _ in range(2):  # a worker, and the one after it
        async with Station.opened(ground(tmp_path), record, SystemClock()) as made:
            for session_id in ("sesn_1", "sesn_2"):
                seen.append(made.passage(session_id, secret()).environment["TOKEN"])
                assert made.passage(session_id, secret("new")).environment["TOKEN"] == seen[-1]
    assert seen[:2] == seen[2:]
    assert seen[0] != seen[1]


async def test_a_passage_is_renewed_in_place(station: Station) -> None:
    passage = station.passage("sesn_1", secret())
    again = station.passage("sesn_1", SessionRules.nothing())
    assert again.gate is passage.gate
    assert not passage.names.admits("any.test")
    assert station.gate("sesn_1") is passage.gate
    station.release("sesn_1")
    station.release("sesn_1")
    assert station.gate("sesn_1") is None
    assert station.passage("sesn_1", secret()).gate is not passage.gate


async def test_a_kept_sandbox_keeps_its_gate_and_a_gone_one_does_not(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached = {"kept"}
    monkeypatch.setattr(station.captures, "attached", attached.__contains__)
    for session_id in ("kept", "gone", "served"):
        station.passage(session_id, secret())
    station.release("kept")
    station.release("gone")
    assert station.gate("kept") is not None
    assert station.gate("gone") is None
    assert station.gate("served") is not None
    attached.clear()  # evicted while it rested; the next item's end takes it along
    station.release("other")
    assert station.gate("kept") is None
    assert station.gate("served") is not None


async def test_the_workers_own_rules_count_whatever_a_session_says(
    tmp_path: Path, record: Record
) -> None:
    own = OwnRules(allow=Hosts(frozenset({"api.test"})))
    async with Station.opened(ground(tmp_path, own), record, SystemClock()) as made:
        names = made.passage("sesn_1", OPERATORS_ALONE).names
        assert names.admits("api.test")
        assert not names.admits("any.test")


async def test_keys_are_the_workers_alone_and_what_is_trusted_is_for_all(
    station: Station, tmp_path: Path
) -> None:
    folder = tmp_path / "egress"

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(folder) == 0o700
    assert mode(folder / "ca.key") == mode(folder / "placeholder.key") == 0o600
    assert mode(folder / "ca-bundle.pem") == 0o644
    assert station.passage("sesn_1", secret()).trust is not None


async def test_a_damaged_key_is_not_worked_with(tmp_path: Path, record: Record) -> None:
    async with Station.opened(ground(tmp_path), record, SystemClock()):
        pass
    (tmp_path / "egress" / "placeholder.key").write_bytes(b"short")
    with pytest.raises(OperatorError, match="damaged"):
        async with Station.opened(ground(tmp_path), record, SystemClock()):
            pass


async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path, record: Record) -> None:
    (tmp_path / "egress").write_text("a file")
    with pytest.raises(OperatorError, match="cannot use"):
        async with Station.opened(ground(tmp_path), record, SystemClock()):
            pass

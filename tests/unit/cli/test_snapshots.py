from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic

from intramuros.kernel.errors import DomainError
from tests.unit.cli.conftest import Run, Served
from tests.unit.cli.test_sessions import new_session

WHERE = ("--state-dir", "/x")
SHOWN = {
    "id": "snap_1",
    "session_id": "sesn_1",
    "created_at": 1_700_000_000.0,
    "stored_bytes": 2048,
    "entries": 5,
    "expires_at": None,
    "name": "mine",
    "lost": ["background process 5 (running for 3 s): sleep 9"],
}


class Desk:
    """Answers in place of a worker."""

    def __init__(self) -> None:
        self.asked: list[tuple[Path, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {"snapshots": [SHOWN], "create": SHOWN, "pause": SHOWN}

    def __call__(self, path: Path, request: dict[str, Any]) -> object:
        self.asked.append((path, dict(request)))
        answer = self.answers.get(request["do"], request)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk()
    monkeypatch.setattr("intramuros.execution.desk.ask", made)
    return made


def test_snapshots_are_listed(run: Run, desk: Desk) -> None:
    desk.answers["snapshots"] = [SHOWN, {**SHOWN, "id": "snap_2", "session_id": "sesn_2"}]
    rows = run("snapshot", "list", "--state-dir", "/x").out.splitlines()
    assert rows[0].split("\t") == [
        *("snap_1", "sesn_1", "2023-11-14T22:13:20Z", "2048", "5", "", "mine")
    ]
    assert len(rows) == 2
    assert "snap_2" in run("snapshot", "list", "--state-dir", "/x", "--session", "sesn_2").out
    assert desk.asked[0] == (Path("/x/desk/socket"), {"do": "snapshots"})


def test_a_pause_prints_what_is_lost_and_the_snapshot(run: Run, desk: Desk) -> None:
    ran = run("session", "pause", "sesn_1", "--data-dir", "/d")
    assert (ran.status, ran.out) == (0, "snap_1\n")
    assert ran.err == "not kept: background process 5 (running for 3 s): sleep 9\n"
    request = {"do": "pause", "session": "sesn_1", "level": "files"}
    assert desk.asked == [(Path("/d/worker/desk/socket"), request)]
    desk.answers["pause"] = {"session": "sesn_1", "level": "freeze"}
    ran = run("session", "pause", "sesn_1", "--level", "freeze", "--state-dir", "/x")
    assert (ran.out, ran.err) == ("sesn_1\n", "")
    assert run("session", "resume", "sesn_1", "--state-dir", "/x").out == "sesn_1\n"


def test_each_act_asks_for_itself(run: Run, desk: Desk) -> None:
    where = ("--state-dir", "/x")
    desk.answers |= {"restore": {"session": "sesn_1"}, "rotate": {"resealed": 4, "forgotten": 1}}
    assert run("snapshot", "create", "sesn_1", "--name", "n", *where).out == "snap_1\n"
    run("snapshot", "create", "sesn_1", "--name", "n", "--expires-s", "60", *where)
    assert run("snapshot", "restore", "snap_1", *where).out == "sesn_1\n"
    assert run("snapshot", "fork", "snap_1", "--session", "sesn_2", *where).out == "sesn_2\n"
    assert run("snapshot", "delete", "snap_1", "--force", *where).status == 0
    assert run("snapshot", "expire", *where).status == 0
    assert "4 sealed anew, 1 old" in run("snapshot", "rotate-key", "--forget", *where).err
    assert [request for _, request in desk.asked] == [
        {"do": "create", "session": "sesn_1", "name": "n"},
        {"do": "create", "session": "sesn_1", "name": "n", "expires_s": 60.0},
        {"do": "restore", "snapshot": "snap_1"},
        {"do": "fork", "snapshot": "snap_1", "session": "sesn_2"},
        {"do": "delete", "snapshot": "snap_1", "force": True},
        {"do": "expire"},
        {"do": "rotate", "forget": True},
    ]


def test_a_fork_without_a_session_creates_one_like_its_source(
    run: Run, desk: Desk, served: Served
) -> None:
    session_id = new_session(served)
    desk.answers["snapshots"] = [{**SHOWN, "session_id": session_id}]
    made = run("snapshot", "fork", "snap_1", *served.options, *WHERE).out.strip()
    key = (served.data_dir / "api-key").read_text().strip()
    with Anthropic(base_url=served.url, api_key=key) as client:
        source = client.beta.sessions.retrieve(session_id)
        copy = client.beta.sessions.retrieve(made)
    assert (copy.agent.id, copy.environment_id) == (source.agent.id, source.environment_id)
    assert copy.title == "Fork of A title"
    assert desk.asked[-1][1] == {"do": "fork", "snapshot": "snap_1", "session": made}
    assert run("snapshot", "fork", "snap_none", *served.options, *WHERE).status == 2


def test_refusals_and_a_missing_worker_are_told(run: Run, desk: Desk) -> None:
    desk.answers["delete"] = DomainError("session s would wake from it")
    ran = run("snapshot", "delete", "snap_1", "--state-dir", "/x")
    assert (ran.status, "would wake" in ran.err) == (1, True)
    ran = run("snapshot", "list")
    assert (ran.status, "which worker" in ran.err) == (2, True)


def test_the_state_directory_may_come_from_the_environment(
    run: Run, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTRAMUROS_STATE_DIR", "/env")
    run("snapshot", "list")
    assert desk.asked[0][0] == Path("/env/desk/socket")

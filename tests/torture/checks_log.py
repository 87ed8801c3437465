"""Judges the logs: nothing acknowledged is lost, and every view is the log. Pure.

Each function yields what is wrong with one promise; ``checker.py`` lists them.
"""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from intramuros.control.session.fold import fold
from intramuros.control.session.fold_thread import IllegalRecord
from intramuros.control.session.state import State, initial, load
from intramuros.control.store.records import Record, primary_thread_id
from tests.torture import jobs
from tests.torture.evidence import Evidence, SessionEvidence
from tests.torture.violations import Violation


def gapless(evidence: Evidence) -> Iterator[Violation]:
    """The log has every position once, in order of time (invariant 1)."""
    for session in evidence.sessions.values():
        positions = [row.seq for row in session.rows]
        if positions != list(range(1, len(positions) + 1)):
            yield Violation("gapless", session.id, f"positions {_broken(positions)}")
        if session.last_seq != len(positions):
            yield Violation(
                "gapless", session.id, f"last_seq {session.last_seq}, {len(positions)} rows"
            )
        for before, after in pairwise(session.rows):
            if after.at_us <= before.at_us:
                yield Violation("gapless", f"{session.id} {after.seq}", "time stands still")
        keys = [(row.id, row.queued) for row in session.rows]
        for key in {key for key in keys if keys.count(key) > 1}:
            yield Violation("gapless", session.id, f"event {key} twice")


def derived(evidence: Evidence) -> Iterator[Violation]:
    """What is stored of a session is the fold of its log (invariant 1)."""
    for session in evidence.sessions.values():
        state = initial(primary_thread_id(session.id), self_hosted=session.self_hosted)
        try:
            for row in session.rows:
                state = fold(state, row)
        except (IllegalRecord, KeyError) as error:
            yield Violation("derived", session.id, f"the log is illegal: {error}")
            continue
        stored = load(session.state)
        if state.dump() != stored.dump():
            yield Violation("derived", session.id, f"state differs: {_difference(state, stored)}")
        if state.status.value != session.status:
            yield Violation("derived", session.id, f"status {session.status}, log {state.status}")


def told(evidence: Evidence) -> Iterator[Violation]:
    """The API tells the log, whole and in order (invariant 1)."""
    for session in evidence.sessions.values():
        happened = {row.id for row in session.rows if not row.queued}
        waiting = [row for row in session.rows if row.queued and row.id not in happened]
        expected = [row.public() for row in (*_visible(session), *waiting)]
        if [_digest(event) for event in session.told] != [_digest(event) for event in expected]:
            yield Violation(
                "told", session.id, f"{len(session.told)} events told, {len(expected)} in the log"
            )


def kept(evidence: Evidence) -> Iterator[Violation]:
    """Whatever was acknowledged to a client is there (invariant 1)."""
    ids = {session.id: {row.id for row in session.rows} for session in evidence.sessions.values()}
    for name, entry in _entries(evidence, "promised"):
        for found in entry["ids"]:
            session = found if entry["op"] == "create" else entry["session"]
            if session not in ids:
                yield Violation("kept", name, f"session {session} is lost")
            elif entry["op"] != "create" and found not in ids[session]:
                yield Violation("kept", name, f"{entry['op']} {found} is lost")


def consumed(evidence: Evidence) -> Iterator[Violation]:
    """Every input took its place in the history (no turn is stuck)."""
    for session in evidence.sessions.values():
        done = {row.id for row in session.rows if not row.queued}
        for row in session.rows:
            if row.queued and row.id not in done:
                yield Violation("consumed", session.id, f"{row.type} {row.id} still waits")


def seen(evidence: Evidence) -> Iterator[Violation]:
    """What a stream showed is the log: the same events, in the same order, none left out."""
    for name in evidence.clients:
        shown = [entry for entry in evidence.clients[name] if entry["kind"] == "saw"]
        session = evidence.sessions.get(shown[0]["session"]) if shown else None
        if session is None:
            continue
        log = {row.seq: row for row in _visible(session)}
        for entry in shown:
            row = log.get(entry["seq"])
            if row is None or row.id != entry["id"] or _digest(row.public()) != entry["sha"]:
                yield Violation("seen", name, f"{entry['id']} at {entry['seq']} is not in the log")
        positions = [entry["seq"] for entry in shown]
        if positions != sorted(set(positions)):
            yield Violation("seen", name, "events were shown out of order, or twice")
        missed = {seq for seq in log if seq <= max(positions)} - set(positions)
        if missed:
            yield Violation("seen", name, f"positions {sorted(missed)[:5]} were never shown")


def fenced(evidence: Evidence) -> Iterator[Violation]:
    """Requests to the model do not overlap, and leases only grow (invariant 2)."""
    for session in evidence.sessions.values():
        epoch, opened = 0, ""
        for row in session.rows:
            if row.type == "span.model_request_start":
                mine = int((row.private or {})["epoch"])  # type: ignore[call-overload]
                if opened:
                    yield Violation("fenced", session.id, f"{row.id} began while {opened} ran")
                if mine < epoch:
                    yield Violation("fenced", session.id, f"{row.id}: epoch {mine} after {epoch}")
                epoch, opened = mine, row.id
            elif row.type == "span.model_request_end":
                if row.body["model_request_start_id"] != opened:
                    yield Violation("fenced", session.id, f"{row.id} ends what is not open")
                opened = ""


def at_rest(evidence: Evidence) -> Iterator[Violation]:
    """In the end every session is idle and nothing is held for it (no turn stuck, 10)."""
    for name in evidence.unfinished:
        yield Violation("at_rest", name, "the client waited in vain")
    for session in evidence.sessions.values():
        state = load(session.state)
        if session.status != "idle" or state.request or state.queued:
            yield Violation("at_rest", session.id, f"is {session.status}, phase {state.phase}")
    for lease in evidence.leases:
        work = lease.queue.startswith("work/")
        if (
            lease.state not in ({"stopped"} if work else {"idle"})
            and lease.key in evidence.sessions
        ):
            yield Violation("at_rest", lease.id, f"is {lease.state}")


def done(evidence: Evidence) -> Iterator[Violation]:
    """The agent did what it was asked to, unless it was told to stop."""
    texts: dict[str, set[str]] = {}
    for session in evidence.sessions.values():
        found = texts.setdefault(session.id, set())
        for row in session.rows:
            if row.type == "agent.message":
                blocks: Any = row.body["content"]
                found.update(t for block in blocks for t in jobs.said_done(block["text"]))
    stopped = {entry["token"] for _, entry in _entries(evidence, "interrupting")}
    for name, entry in _entries(evidence, "promised"):
        lost = entry["op"] == "message" and entry["about"] not in stopped
        if lost and entry["about"] not in texts.get(entry["session"], set()):
            yield Violation("done", name, f"{entry['about']} was never answered")


def _entries(evidence: Evidence, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, journal in evidence.clients.items():
        for entry in journal:
            if entry["kind"] == kind:
                yield name, entry


def _visible(session: SessionEvidence) -> list[Record]:
    return [row for row in session.rows if row.visible and row.seen_from(None)]


def _digest(event: object) -> str:
    return hashlib.sha256(jobs.dumped(event).encode()).hexdigest()


def _broken(positions: list[int]) -> str:
    for expected, found in enumerate(positions, 1):
        if expected != found:
            return f"go wrong at {expected}: {found}"
    return "are too few"


def _difference(left: State, right: State) -> str:
    one, two = left.dump(), right.dump()
    return ", ".join(sorted(name for name in one if one[name] != two.get(name)))

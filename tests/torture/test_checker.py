"""The checker finds nothing in an honest world, and each lie that is planted in one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from intramuros.control.session.drafts import INTERRUPTED
from intramuros.control.store.records import Record
from tests.torture.checker import INVARIANTS, extent, judge
from tests.torture.evidence import Effect, Evidence, Lease, SessionEvidence
from tests.torture.honest import BASH, CUSTOM, DENIED, MCP, SECRET, SESSION, chain, honest

Lie = Callable[[Evidence], Evidence]


def test_an_honest_world_has_nothing_wrong() -> None:
    assert judge(honest()) == []
    assert extent(honest())["calls"] == 4


def change(evidence: Evidence, **members: Any) -> Evidence:
    session = replace(evidence.sessions[SESSION], **members)
    return replace(evidence, sessions={SESSION: session})


def rows(evidence: Evidence) -> list[Record]:
    return list(evidence.sessions[SESSION].rows)


def at(evidence: Evidence, type: str) -> int:
    return next(n for n, row in enumerate(rows(evidence)) if row.type == type)


def with_row(evidence: Evidence, number: int, **members: Any) -> Evidence:
    found = rows(evidence)
    found[number] = replace(found[number], **members)
    return change(evidence, rows=found)


def appended(evidence: Evidence, type: str, body: dict[str, Any], id: str = "sevt_new") -> Evidence:
    found = rows(evidence)
    last = found[-1]
    found.append(Record(SESSION, last.seq + 1, id, type, last.at_us + 1, body))
    return change(evidence, rows=found, last_seq=len(found))


def journal(evidence: Evidence, **entry: Any) -> Evidence:
    client = [*evidence.clients["client-c0"], {"session": SESSION, **entry}]
    return replace(evidence, clients={"client-c0": client})


def without_row(evidence: Evidence, type: str) -> Evidence:
    found = rows(evidence)
    del found[at(evidence, type)]
    renumbered = [replace(row, seq=seq) for seq, row in enumerate(found, 1)]
    return change(evidence, rows=renumbered, last_seq=len(renumbered))


def result_of(evidence: Evidence, type: str) -> dict[str, Any]:
    return dict(rows(evidence)[at(evidence, type)].body)


def seen_again(evidence: Evidence) -> Evidence:
    shown = [entry for entry in evidence.clients["client-c0"] if entry["kind"] == "saw"]
    return journal(evidence, **shown[0])


def missed(evidence: Evidence) -> Evidence:
    entries = list(evidence.clients["client-c0"])
    del entries[4]
    return replace(evidence, clients={"client-c0": entries})


def late(evidence: Evidence) -> Evidence:
    """It ran just after a client had seen its result."""
    result = rows(evidence)[at(evidence, "user.tool_result")]
    effect = Effect("worker.1", BASH, (result.at_us + 2000) * 1000)
    return replace(evidence, effects=[*evidence.effects, effect])


LIES: list[tuple[str, Lie]] = [
    ("gapless", lambda e: change(e, rows=rows(e)[:5] + rows(e)[6:])),
    ("gapless", lambda e: change(e, last_seq=99)),
    ("gapless", lambda e: with_row(e, 3, at_us=1)),
    ("gapless", lambda e: with_row(e, 4, id=rows(e)[1].id)),
    ("derived", lambda e: change(e, state={**e.sessions[SESSION].state, "turn": 7})),
    ("derived", lambda e: change(e, status="running")),
    ("derived", lambda e: appended(e, "span.model_request_end", {"model_request_start_id": "x"})),
    ("told", lambda e: change(e, told=e.sessions[SESSION].told[:-1])),
    ("told", lambda e: change(e, told=list(reversed(e.sessions[SESSION].told)))),
    ("kept", lambda e: journal(e, kind="promised", op="message", about="t", ids=["sevt_lost"])),
    ("kept", lambda e: journal(e, kind="promised", op="create", about="", ids=["sesn_lost"])),
    ("consumed", lambda e: with_row(e, 3, id="sevt_other")),
    ("seen", lambda e: journal(e, kind="saw", seq=2, id="sevt_2", sha="other", at_us=1)),
    ("seen", lambda e: journal(e, kind="saw", seq=999, id="sevt_ghost", sha="", at_us=1)),
    ("seen", seen_again),
    ("seen", missed),
    (
        "fenced",
        lambda e: with_row(e, at(e, "span.model_request_start"), private={"epoch": 9}),
    ),
    ("fenced", lambda e: without_row(e, "span.model_request_end")),
    ("at_rest", lambda e: replace(e, unfinished=["c0"])),
    ("at_rest", lambda e: change(e, status="running")),
    ("at_rest", lambda e: replace(e, leases=[Lease("t", "turn", SESSION, "held")])),
    ("at_rest", lambda e: replace(e, leases=[Lease("w", "work/env_1", SESSION, "active")])),
    ("done", lambda e: without_row(e, "agent.message")),
    ("one_result", lambda e: without_row(e, "user.custom_tool_result")),
    ("one_result", lambda e: appended(e, "user.tool_result", result_of(e, "user.tool_result"))),
    ("one_result", lambda e: appended(e, "user.tool_result", {"tool_use_id": "sevt_none"})),
    ("once", lambda e: replace(e, effects=[*e.effects, *e.effects])),
    ("once", lambda e: replace(e, effects=[*e.effects, Effect("worker.1", "n9", 1)])),
    ("once", lambda e: replace(e, effects=[*e.effects, Effect("worker.1", BASH, 10**18)])),
    ("once", lambda e: replace(late(e), skewed_us=3_600_000_000)),
    ("once", lambda e: replace(e, upstream=[*e.upstream, *e.upstream])),
    ("once", lambda e: replace(e, upstream=[*e.upstream, {"nonce": "n9"}])),
    ("real", lambda e: replace(e, effects=[])),
    ("real", lambda e: replace(e, upstream=[])),
    ("real", lambda e: replace(e, effects=[*e.effects, Effect("worker.0", DENIED, 1)])),
    ("said", lambda e: replace(e, model=[])),
    (
        "said",
        lambda e: appended(
            e, "agent.custom_tool_use", {"name": "probe", "input": {"nonce": CUSTOM}}
        ),
    ),
    ("chained", lambda e: replace(e, chains={**e.chains, "edge": []})),
    ("chained", lambda e: replace(e, chains={**e.chains, "worker.0": e.chains["worker.0"][1:]})),
    ("chained", lambda e: replace(e, integrity="page 3 is torn")),
    ("audited", lambda e: replace(e, chains={**e.chains, "worker.0": chain(("work.claim", {}))})),
    ("audited", lambda e: replace(e, chains={**e.chains, "gateway": chain(("link.up", {}))})),
    ("audited", lambda e: replace(e, chains={**e.chains, "control": chain(("key.made", {}))})),
    ("walled", lambda e: replace(e, relayed=[b"..." + MCP.encode()])),
    ("walled", lambda e: replace(e, inside={"environ": f"KEY={SECRET}"})),
    ("walled", lambda e: appended(e, "session.error", {"error": {"message": SECRET}})),
    ("walled", lambda e: replace(e, reached=[BASH])),
    ("gone", lambda e: replace(e, left=["17 bwrap"])),
    ("gone", lambda e: replace(e, crashes=["server.0 ended with status 1"])),
]


@pytest.mark.parametrize(
    ("invariant", "lie"), LIES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(LIES)]
)
def test_each_planted_lie_is_found(invariant: str, lie: Lie) -> None:
    found = {violation.invariant for violation in judge(lie(honest()))}
    assert invariant in found


def test_every_invariant_has_a_lie_that_it_finds() -> None:
    assert {name for name, _ in LIES} == set(INVARIANTS)


def test_a_session_that_was_lost_whole_is_missed() -> None:
    assert "kept" in {v.invariant for v in judge(replace(honest(), sessions={}))}


def test_a_call_may_begin_in_the_moment_in_which_it_is_stopped_but_only_once() -> None:
    evidence = honest()
    number = at(evidence, "user.tool_result")
    content = [{"type": "text", "text": INTERRUPTED}]
    body = {**rows(evidence)[number].body, "content": content, "is_error": True}
    stopped = with_row(evidence, number, body=body)
    after = Effect("worker.0", BASH, (rows(evidence)[number].at_us + 90_000) * 1000)
    found = {v.invariant for v in judge(replace(stopped, effects=[after]))}
    assert "once" not in found
    twice = replace(stopped, effects=[after, replace(after, worker="worker.1")])
    assert "once" in {violation.invariant for violation in judge(twice)}


def test_an_interrupted_job_need_not_be_done() -> None:
    stopped = journal(without_row(honest(), "agent.message"), kind="interrupting", token="c0t1")
    assert "done" not in {violation.invariant for violation in judge(stopped)}


def test_evidence_of_one_session_does_not_excuse_another() -> None:
    evidence = honest()
    other = SessionEvidence("sesn_2", (), 3, "idle", evidence.sessions[SESSION].state, ())
    both = replace(evidence, sessions={**evidence.sessions, "sesn_2": other})
    assert {v.where for v in judge(both) if v.invariant == "gapless"} == {"sesn_2"}

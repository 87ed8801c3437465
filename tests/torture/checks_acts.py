"""Judges what was done outside the log: calls, their effects, records, and the wall. Pure."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from intramuros.control.session.drafts import INTERRUPTED
from intramuros.control.store.records import Record
from intramuros.protocol.audit import BrokenChain, verify
from intramuros.protocol.events import ANSWERS
from tests.torture import jobs
from tests.torture.evidence import Effect, Evidence
from tests.torture.violations import Violation

# Two programs read the same clock at different moments; a result's time is taken after its effect.
TOLERANCE_US = 50_000
_NAMES = ("tool_use_id", "custom_tool_use_id", "mcp_tool_use_id")


@dataclass(frozen=True)
class Use:
    """A call in a log, and the results that were recorded for it."""

    session_id: str
    row: Record
    nonce: str | None
    results: tuple[Record, ...]

    @property
    def text(self) -> str:
        """What the results say."""
        blocks: Any = [block for row in self.results for block in row.body.get("content") or ()]  # type: ignore[attr-defined]
        return " ".join(str(block.get("text", "")) for block in blocks)

    @property
    def stopped(self) -> bool:
        """Whether the loop closed it because somebody stopped the session."""
        return self.text == INTERRUPTED

    @property
    def good(self) -> bool:
        """Whether the tool itself answered."""
        return any(not row.body.get("is_error") for row in self.results)


def uses(evidence: Evidence) -> list[Use]:
    """Return every call of every session."""
    found = []
    for session in evidence.sessions.values():
        answers: dict[str, dict[str, Record]] = {}
        for row in session.rows:
            named = next((row.body[name] for name in _NAMES if name in row.body), None)
            if row.type.endswith("_result") and not row.internal:
                answers.setdefault(str(named), {}).setdefault(row.id, row)
        for row in session.rows:
            if row.type in ANSWERS and not row.queued:
                given: Any = row.body["input"]
                results = tuple(answers.pop(row.id, {}).values())
                found.append(Use(session.id, row, jobs.nonce_of(given), results))
    return found


def one_result(evidence: Evidence) -> Iterator[Violation]:
    """Every call has exactly one result, behind it in the log (invariant 3).

    To deny a call that a worker would run is its result: the model reads the reason.
    """
    known, denied = set(), _denied(evidence)
    for use in uses(evidence):
        known.add(use.row.id)
        where = f"{use.session_id} {use.row.id}"
        if len(use.results) != 1 and not (use.row.id in denied and not use.results):
            yield Violation("one_result", where, f"{len(use.results)} results")
        if any(result.seq < use.row.seq for result in use.results):
            yield Violation("one_result", where, "the result came first")
    for session in evidence.sessions.values():
        for row in session.rows:
            named = next((row.body[name] for name in _NAMES if name in row.body), None)
            if row.type.endswith("_result") and not row.internal and named not in known:
                yield Violation("one_result", f"{session.id} {row.id}", "answers no call")


def once(evidence: Evidence) -> Iterator[Violation]:
    """No tool ran for a call that is not in a log, twice on a worker, or after its result."""
    by_nonce = {use.nonce: use for use in uses(evidence) if use.nonce}
    shown = (e for journal in evidence.clients.values() for e in journal if e["kind"] == "saw")
    seen = {entry["id"]: entry["at_us"] for entry in shown}
    times = Counter((effect.worker, effect.nonce) for effect in evidence.effects)
    runs = Counter(effect.nonce for effect in evidence.effects)
    for (worker, nonce), count in times.items():
        if count > 1:
            yield Violation("once", nonce, f"ran {count} times on {worker}")
    for effect in evidence.effects:
        use = by_nonce.get(effect.nonce)
        if use is None:
            yield Violation("once", effect.nonce, f"ran on {effect.worker}, and is in no log")
            continue
        # What is stopped may have been on its way.
        if not (use.stopped and runs[effect.nonce] == 1):
            yield from _late(evidence, effect, use, seen)
    touched = Counter(entry["nonce"] for entry in evidence.upstream)
    for nonce, count in touched.items():
        if count > 1:
            yield Violation("once", nonce, f"called {count} times upstream")
        if nonce not in by_nonce:
            yield Violation("once", nonce, "called upstream, and is in no log")


def _late(
    evidence: Evidence, effect: Effect, use: Use, seen: Mapping[str, int]
) -> Iterator[Violation]:
    """Yield the results that were there before the tool ran.

    Args:
        seen: when a client saw each event.
    """
    for result in use.results:
        # Servers' clocks jump; those of the sandboxes and of the clients do not.
        recorded_us = result.at_us + TOLERANCE_US + evidence.skewed_us
        late_us = effect.at_ns // 1000 - min(recorded_us, seen.get(result.id, recorded_us))
        if late_us > 0:
            yield Violation("once", effect.nonce, f"ran {late_us} µs after its result was recorded")


def real(evidence: Evidence) -> Iterator[Violation]:
    """A result that says that the tool ran is of a tool that ran; a refused one did not."""
    ran = {effect.nonce for effect in evidence.effects}
    ran |= {entry["nonce"] for entry in evidence.upstream}
    for use in uses(evidence):
        custom = use.row.type == "agent.custom_tool_use"
        claims = use.nonce is not None and use.good and use.nonce in use.text
        if claims and not custom and use.nonce not in ran:
            yield Violation("real", use.row.id, "has a good result, and left no mark")
        if use.nonce in ran and use.row.id in _denied(evidence):
            yield Violation("real", use.row.id, "was denied, and ran")


def _denied(evidence: Evidence) -> set[str]:
    return {
        str(row.body["tool_use_id"])
        for session in evidence.sessions.values()
        for row in session.rows
        if row.type == "user.tool_confirmation" and row.body.get("result") == "deny"
    }


def said(evidence: Evidence) -> Iterator[Violation]:
    """Every call in a log is one that the model made, and none is there twice."""
    asked = {nonce for entry in evidence.model for nonce in entry.get("nonces", {})}
    times = Counter(use.nonce for use in uses(evidence))
    for nonce, count in times.items():
        if nonce is None or nonce not in asked:
            yield Violation("said", str(nonce), "is in a log, and the model never said it")
        if count > 1:
            yield Violation("said", str(nonce), f"is in the logs {count} times")


def chained(evidence: Evidence) -> Iterator[Violation]:
    """Every audit chain is whole, and not empty (invariant 7)."""
    if evidence.integrity != "ok":
        yield Violation("chained", "database", evidence.integrity)
    for name, lines in evidence.chains.items():
        try:
            if not verify(lines).seq and name != "gateway":  # it may have had nothing to carry
                yield Violation("chained", name, "is empty")
        except BrokenChain as error:
            yield Violation("chained", name, str(error))


def audited(evidence: Evidence) -> Iterator[Violation]:
    """What took effect is on record, on its own side of the wall (invariants 7 and 8)."""
    by_nonce = {use.nonce: use for use in uses(evidence) if use.nonce}
    records = {name: _records(lines) for name, lines in evidence.chains.items()}
    workers = {name: found for name, found in records.items() if name.startswith("worker")}
    began = {name: _calls(found, "tool.call") for name, found in workers.items()}
    for effect in evidence.effects:
        use = by_nonce.get(effect.nonce)
        if use is not None and use.row.id not in began.get(effect.worker, set()):
            yield Violation("audited", use.row.id, f"ran on {effect.worker} without a record")
    sent = {call for found in workers.values() for call in _calls(found, "tool.result")}
    for use in uses(evidence):
        by_worker = use.row.type == "agent.tool_use" and any(
            row.type == "user.tool_result" for row in use.results
        )
        if by_worker and use.good and use.row.id not in sent:
            yield Violation("audited", use.row.id, "its result left without a record")
    told = _calls(records.get("control", []), "mcp.call")
    through = sum(record["kind"] == "mcp.request" for record in records.get("gateway", []))
    for entry in evidence.upstream:
        use = by_nonce.get(entry["nonce"])
        if use is not None and use.row.id not in told:
            yield Violation("audited", use.row.id, "was called without a record outside")
    if through < len(evidence.upstream):
        yield Violation(
            "audited", "gateway", f"{len(evidence.upstream)} calls, {through} requests on record"
        )


def walled(evidence: Evidence) -> Iterator[Violation]:
    """No credential inside or in a log, no plaintext at the edge, no way out (4, 5, 6)."""
    for number, data in enumerate(evidence.relayed):
        for use in uses(evidence):
            if use.nonce and use.nonce.encode() in data:
                yield Violation("walled", f"edge {number}", f"relayed {use.nonce} in the clear")
    logs = {
        session.id: json.dumps([[row.body, row.private] for row in session.rows], default=str)
        for session in evidence.sessions.values()
    }
    places: Mapping[str, str] = {**evidence.inside, **logs}
    for where, text in places.items():
        if any(secret in text for secret in evidence.secrets):
            yield Violation("walled", where, "holds a credential")
    for nonce in evidence.reached:
        yield Violation("walled", nonce, "a sandbox reached the host's network")


def gone(evidence: Evidence) -> Iterator[Violation]:
    """No process, sandbox or connection is left, and no program ended by itself (10)."""
    for what in evidence.left:
        yield Violation("gone", "machine", what)
    for what in evidence.crashes:
        yield Violation("gone", "programs", what)


def _records(lines: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def _calls(records: list[dict[str, Any]], kind: str) -> set[str]:
    names = ("call_id", "call", "mcp_tool_use_id")
    fields = [record["fields"] for record in records if record["kind"] == kind]
    return {str(given[name]) for given in fields for name in names if name in given}

"""Holds what is left of a world against every promise of the design. Pure."""

from collections.abc import Callable, Iterable, Mapping

from tests.torture import checks_acts, checks_log
from tests.torture.evidence import Evidence
from tests.torture.violations import Violation

INVARIANTS: Mapping[str, Callable[[Evidence], Iterable[Violation]]] = {
    check.__name__: check
    for check in (
        checks_log.gapless,
        checks_log.derived,
        checks_log.told,
        checks_log.kept,
        checks_log.consumed,
        checks_log.seen,
        checks_log.fenced,
        checks_log.at_rest,
        checks_log.done,
        checks_acts.one_result,
        checks_acts.once,
        checks_acts.real,
        checks_acts.said,
        checks_acts.chained,
        checks_acts.audited,
        checks_acts.walled,
        checks_acts.gone,
    )
}


def judge(evidence: Evidence) -> list[Violation]:
    """Return everything that is wrong."""
    return [violation for check in INVARIANTS.values() for violation in check(evidence)]


def extent(evidence: Evidence) -> dict[str, int]:
    """Return how much there was to judge, so that an empty run is not mistaken for a good one."""
    calls = checks_acts.uses(evidence)
    return {
        "sessions": len(evidence.sessions),
        "rows": sum(len(session.rows) for session in evidence.sessions.values()),
        "requests": sum(entry["kind"] == "request" for entry in evidence.model),
        "calls": len(calls),
        "effects": len(evidence.effects),
        "upstream": len(evidence.upstream),
        "interrupted": sum(not use.good for use in calls),
    }

from typing import Any

import anyio
import pytest

from intramuros.execution.client import Away, Refused
from intramuros.execution.egress.base import Passage
from intramuros.execution.egress.rules import OPERATORS_ALONE, SessionRules
from intramuros.execution.passages import SessionPassage

pytestmark = pytest.mark.anyio
RULES = SessionRules()
LEARNT: list[str] = []


class FakeStation:
    def __init__(self) -> None:
        self.asked: list[SessionRules] = []
        self.kept: set[str] = set()

    def passage(self, session_id: str, rules: SessionRules) -> Passage:
        self.asked.append(rules)
        self.kept.add(session_id)
        named: Any = session_id
        return Passage(named, named)

    def gate(self, session_id: str) -> Any:
        return session_id if session_id in self.kept else None

    def release(self, session_id: str) -> None:
        self.kept.discard(session_id)


class FakeClient:
    """Answers from a list, exceptions included; the last one again and again."""

    def __init__(self, *answers: SessionRules | Exception) -> None:
        self.answers = list(answers)

    async def egress(self) -> SessionRules:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def passage(station: FakeStation | None, client: FakeClient | None) -> SessionPassage:
    given: Any = station
    asked: Any = client
    return SessionPassage(given, "sesn_1", asked, lambda: 0.0, LEARNT.extend)


async def test_a_worker_without_egress_asks_nobody() -> None:
    made = passage(None, FakeClient(AssertionError()))
    assert await made.open() is None
    await made.refresh()
    made.close()


async def test_a_self_hosted_session_goes_by_the_operators_rules_alone() -> None:
    station = FakeStation()
    made = passage(station, None)
    assert await made.open() is not None
    await made.refresh()
    assert station.asked == [OPERATORS_ALONE]


async def test_a_cloud_sessions_rules_are_waited_for() -> None:
    station = FakeStation()
    made = passage(station, FakeClient(Away("503"), Away("malformed"), RULES))
    with anyio.fail_after(60):
        assert await made.open() is not None
    assert station.asked == [RULES]


async def test_a_server_that_does_not_say_gives_no_network() -> None:
    station = FakeStation()
    made = passage(station, FakeClient(Refused("404", 404)))
    assert await made.open() is None
    await made.refresh()
    assert station.asked == []


async def test_rules_are_asked_for_again_and_hold_while_nobody_answers() -> None:
    station, nothing = FakeStation(), SessionRules.nothing()
    made = passage(station, FakeClient(RULES, Away("503"), nothing, Refused("403", 403)))
    await made.open()
    await made.refresh()
    assert station.asked == [RULES]
    await made.refresh()
    await made.refresh()
    assert station.asked == [RULES, nothing, nothing]


async def test_the_end_of_an_item_lets_go_of_its_passage() -> None:
    station = FakeStation()
    made = passage(station, FakeClient(RULES))
    await made.open()
    made.close()
    assert station.kept == set()

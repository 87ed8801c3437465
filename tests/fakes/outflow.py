"""A gate with the default policy, compiled once for all tests."""

from typing import Any, cast

from intramuros.execution.outflow.findings import Action
from intramuros.execution.outflow.gate import Gate
from intramuros.execution.outflow.policy import Policy, default_policy
from intramuros.execution.outflow.search import Search
from intramuros.execution.record import Record
from intramuros.execution.releases import Answer, Question, Releases, WayOut

POLICY = default_policy()
KEY = bytes(range(32))


def gate(*held: str, policy: Policy = POLICY) -> Gate:
    """Return a gate that knows these secrets."""
    made = Gate(policy, KEY)
    made.learn("test", held)
    return made


def asking(rule: str = "github token") -> Policy:
    """Return the default policy, but that a person is asked about what a rule finds."""
    return Policy(Search(POLICY.search.patterns, actions={rule: Action.ASK}), ask_timeout_s=600.0)


class FakePeople:
    """Who is asked: ``answer`` is what they say, None nothing yet; an exception is raised."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.answer: Answer | Exception | None = None

    async def ask(self, asked: Question, wait_s: int) -> Answer | None:
        assert 0 < wait_s <= 600
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def aclose(self) -> None:
        pass


def way(record: Record, made: Gate, people: FakePeople | None = None) -> WayOut:
    """Return the way out of files and memories."""
    asked = cast("Any", people)
    return WayOut(made, Releases(asked, "sesn_1", record, record.clock, 600.0))

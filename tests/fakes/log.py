"""A log in memory: what the journal does to a session, without a database."""

import itertools
from collections.abc import Sequence

from intramuros.control.session.fold import fold
from intramuros.control.session.state import State, initial
from intramuros.control.store.records import Draft, Record
from intramuros.protocol.events import PROCESSED_ON_RECEIPT

START_US = 1_767_225_600_000_000


class MemoryLog:
    """Appends drafts as the journal would: gapless positions, rising times, state folded along."""

    def __init__(self, *, self_hosted: bool = True, crewed: bool = False) -> None:
        self.state: State = initial("sthr_main", self_hosted=self_hosted, crewed=crewed)
        self.records: list[Record] = []
        self.now_us = START_US
        self._ids = (f"sevt_{n}" for n in itertools.count(1))

    def new_id(self) -> str:
        return next(self._ids)

    def append(self, *drafts: Draft) -> list[Record]:
        added = []
        for draft in drafts:
            self.now_us += 1
            record = Record(
                session_id="sesn_1",
                seq=len(self.records) + 1,
                id=draft.id or self.new_id(),
                type=draft.type,
                at_us=self.now_us,
                body=draft.body,
                thread_id=draft.thread_id,
                queued=draft.queued,
                private=draft.private,
                shared=draft.shared,
            )
            self.state = fold(self.state, record)
            self.records.append(record)
            added.append(record)
        return added

    def send(self, type: str, **body: object) -> str:
        """Take a client's input as the API does, and return its id."""
        queued = type not in PROCESSED_ON_RECEIPT
        return self.append(Draft(type, body, queued=queued))[0].id

    def aim(self, rubric: str = "- It works.", iterations: int = 3) -> str:
        """Define an outcome as the API does, and return its id."""
        outcome_id = f"outc_{len(self.records) + 1}"
        self.send(
            "user.define_outcome",
            outcome_id=outcome_id,
            description="Build it.",
            rubric={"type": "text", "content": rubric},
            max_iterations=iterations,
        )
        return outcome_id

    def say(self, text: str = "hello") -> str:
        return self.send("user.message", content=[{"type": "text", "text": text}])

    @property
    def shown(self) -> Sequence[Record]:
        """What clients see happen."""
        return [r for r in self.records if not r.internal and not r.queued]

    @property
    def types(self) -> list[str]:
        return [record.type for record in self.shown]

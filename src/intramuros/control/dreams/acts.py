"""The acts of a dream, each inside the caller's transaction. What is decided is in ``plan.py``."""

from dataclasses import dataclass, field, replace

from intramuros.control.catalog import memories
from intramuros.control.dreams import output, prompts, reading, rows
from intramuros.control.dreams.hands import Hands
from intramuros.control.dreams.plan import (
    Act,
    Ask,
    Copy,
    Dream,
    Fail,
    Halt,
    Limits,
    Serve,
    Start,
    Surroundings,
    decide,
    next_part,
    part_chars,
)
from intramuros.control.dreams.stage import Stage
from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest


@dataclass(frozen=True)
class Acts:
    """Decides and does."""

    stage: Stage
    limits: Limits = field(default_factory=Limits)

    def next(self, tx: Tx, dream: Dream) -> Act:
        """Return what the dream does next, by everything that surrounds it now."""
        return decide(dream, self._look(tx, dream), self.stage.now_us(), self.limits)

    def do(self, tx: Tx, dream: Dream, act: Act) -> None:
        """Do an act; closing and waiting are not done here."""
        match act:
            case Start():
                self._start(tx, dream)
            case Copy():
                output.copy(tx, self.stage, dream)
            case Ask():
                self._ask(tx, dream)
            case Serve():
                self._serve(tx, dream)
            case Fail():
                self._fail(tx, dream, act)
            case Halt():
                self.stage.halt(tx, dream)
            case _:
                pass

    def _look(self, tx: Tx, dream: Dream) -> Surroundings:
        store = output.condition(tx, dream.workspace_id, dream.store_id)
        made = dream.output_id
        state = rows.states(tx, [dream.session_id]).get(dream.session_id)
        there = rows.existing(tx, dream.session_ids)
        gone = (one for one in dream.session_ids if one not in there)
        return Surroundings(
            store=store,
            output=output.condition(tx, dream.workspace_id, made) if made else "open",
            store_bytes=memories.size(tx, dream.store_id) if dream.started_us is None else 0,
            lost_session=next(gone, None),
            state=state,
            complaint=self.stage.complaint(tx, dream) if state is not None else None,
        )

    def _start(self, tx: Tx, dream: Dream) -> None:
        try:
            output_id = output.make(tx, self.stage, dream)
        except InvalidRequest as error:
            self._fail(tx, dream, Fail("memory_store_org_limit_exceeded", error.message))
            return
        now_us = self.stage.now_us()
        rows.change(tx, dream, status="running", started_us=now_us, output_id=output_id)
        self.stage.open(tx, dream)

    def _ask(self, tx: Tx, dream: Dream) -> None:
        chars = part_chars(self.limits, self._window(dream))
        lines, progress, more = reading.fill(tx, dream, chars)
        number, held = dream.progress.part + 1, reading.held(tx, dream)
        if lines:
            text = prompts.part(number, held, lines, more=more)
        elif dream.progress.part > 1:
            text = prompts.review(number, held)
        else:
            # Nothing to read at all, or one part that was everything.
            rows.change(tx, dream, progress=replace(progress, last=True))
            return
        # A dream of one part saw everything at once; one of several ends with a look at the whole.
        last = not lines or (number == 1 and not more)
        rows.change(tx, dream, progress=next_part(progress, chars, last=last))
        self.stage.tell(tx, dream, text, afresh=number > 1)

    def _window(self, dream: Dream) -> int | None:
        entry = self.stage.models.find(str(dream.model["id"]))
        return None if entry is None else entry.max_input_tokens

    def _serve(self, tx: Tx, dream: Dream) -> None:
        held = self.stage.journal.hold(tx, dream.session_id)
        hands = Hands(tx, dream, output.writer(tx, self.stage, dream))
        answers = []
        for use_id in held.state.blocking:
            use = events.by_id(tx, dream.session_id, use_id)
            given = use.body if use is not None else {}
            text, failed = hands.perform(str(given.get("name")), given.get("input"))
            answers.append((use_id, text, failed))
        rows.change(tx, dream, progress=hands.progress)
        self.stage.answer(tx, held, answers)

    def _fail(self, tx: Tx, dream: Dream, why: Fail) -> None:
        error = {"type": why.type, "message": why.message}
        rows.change(tx, dream, status="failed", error=error, ended_us=self.stage.now_us())
        self.stage.audit_end(tx, dream, {"status": "failed", "error": why.type})
        self.stage.halt(tx, dream)

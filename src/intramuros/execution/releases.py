"""Ask people whether something may leave, and learn what they answer.

A question (``/x/sessions/{id}/releases``) carries rules, counts, a size, a keyed digest and an
excerpt in which all that was found is masked; what it is about stays here. Where nobody can be
asked, as at a control plane that knows no such thing, the answer is no.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final, Literal

import httpx2

from intramuros.execution.client import Away, Refused, Work
from intramuros.execution.hosted_client import checked, mapped
from intramuros.execution.outflow.gate import NOBODY, Gate
from intramuros.execution.outflow.results import Found
from intramuros.execution.record import INWARD, OUTWARD, Record, weigh
from intramuros.execution.server import Server
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, parse_rfc3339, rfc3339
from intramuros.protocol.resources.releases import (
    ID_PATTERN,
    MAX_EXCERPT_CHARS,
    MAX_REASON_CHARS,
    MAX_RULES,
)

log = logger("releases")

Subject = Literal["tool_result", "output", "memory"]

_TIMEOUT: Final = httpx2.Timeout(15.0, connect=10.0)
_MAX_ANSWER_BYTES: Final = 64 * 1024
_ID: Final = re.compile(ID_PATTERN)


@dataclass(frozen=True)
class Question:
    """What is asked; ``until`` is when the answer becomes no (RFC 3339)."""

    id: str
    subject: Subject
    rules: Mapping[str, int]
    size_bytes: int
    digest: str
    excerpt: str
    until: str


@dataclass(frozen=True)
class Answer:
    """What was answered: ``why`` is for the model, ``by`` names the credential that answered."""

    allowed: bool
    why: str = ""
    by: str | None = None


@dataclass(frozen=True)
class Matter:
    """What is asked about: only rules, size, keyed digest and masked excerpt of it are said."""

    subject: Subject
    found: Found
    size_bytes: int
    digest: str
    excerpt: str = ""


class ReleaseClient:
    """What one work item may ask.

    Args:
        server: that handed the item out.
        work: the item; it has a token of its own.
    """

    def __init__(self, server: Server, work: Work) -> None:
        self._http = server.client(
            f"/x/sessions/{work.session_id}", {"authorization": f"Bearer {work.token}"}, _TIMEOUT
        )

    async def ask(self, asked: Question, wait_s: int) -> Answer | None:
        """Ask, or ask again; None while there is no answer.

        Raises:
            Refused: nobody can be asked.
            Away: not now.
        """
        body = {key: value for key, value in asdict(asked).items() if key != "until"}
        with mapped():
            answer = await self._http.post("/releases", json={**body, "wait_s": wait_s})
            checked(answer)
            if len(answer.content) > _MAX_ANSWER_BYTES:
                raise Away("the answer is too long")
            return read_answer(answer.json(), asked)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def read_answer(raw: Any, asked: Question) -> Answer | None:  # noqa: ANN401  foreign data
    """Read a question as the server shows it.

    Raises:
        ValueError: it is another one, or has another form.
    """
    shown = raw if isinstance(raw, Mapping) else {}
    if shown.get("id") != asked.id or shown.get("digest") != asked.digest:
        raise ValueError("the answer is to another question")
    by, why = shown.get("decided_by"), shown.get("deny_message")
    who = by if isinstance(by, str) else None
    match shown.get("status"):
        case "open":
            return None
        case "allowed":
            return Answer(True, by=who)
        case "denied":
            said = f" ({why[:MAX_REASON_CHARS]})" if isinstance(why, str) and why else ""
            return Answer(False, f"A person refused it{said}.", who)
        case "expired":
            return Answer(False, _LATE)
    raise ValueError("malformed answer")


_LATE: Final = "Nobody answered in time whether it may leave."


class Releases:
    """The questions of one item's session.

    Args:
        client: None where nobody can be asked.
        wait_s: how long an answer may take.
    """

    def __init__(
        self,
        client: ReleaseClient | None,
        session_id: str,
        record: Record,
        clock: Clock,
        wait_s: float,
    ) -> None:
        self._client = client
        self._session_id = session_id
        self._record = record
        self._clock = clock
        self._wait_s = wait_s
        self._asked: set[str] = set()
        self._answers: dict[str, Answer] = {}

    def question(self, what: Matter, id: str = "") -> Question:
        """Return the question about something; ``id`` is a call's, or made of the digest."""
        return Question(
            id if _ID.match(id) else f"ask_{what.digest}",
            what.subject,
            dict(list(what.found.counts.items())[:MAX_RULES]),
            what.size_bytes,
            what.digest,
            what.excerpt[:MAX_EXCERPT_CHARS],
            rfc3339(self._clock.now() + timedelta(seconds=self._wait_s)),
        )

    async def look(self, asked: Question) -> Answer | None:
        """Return the answer to a question, which is asked if it was not; None while there is none.

        Raises:
            RecordFailed: question or answer could not be recorded; the latter does not count then.
        """
        known = self._answers.get(asked.id)
        if known is not None:
            return known
        answer = await self._look(asked)
        if answer is not None:
            await self._record.write(
                "release.answer",
                direction=INWARD,
                session_id=self._session_id,
                release_id=asked.id,
                digest=asked.digest,
                rule="allow" if answer.allowed else "deny",
                by=answer.by,
            )
            self._answers[asked.id] = answer
        return answer

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _look(self, asked: Question) -> Answer | None:
        left_s = (parse_rfc3339(asked.until) - self._clock.now()).total_seconds()
        if left_s <= 0:
            return Answer(False, _LATE)
        if self._client is None:
            return Answer(False, NOBODY)
        await self._announce(asked)
        try:
            return await self._client.ask(asked, max(1, round(left_s)))
        except Refused as error:
            log.warning("release_refused", status=error.status)
            return Answer(False, NOBODY)
        except Away as error:
            log.info("release_not_asked", error=str(error))
            return None

    async def _announce(self, asked: Question) -> None:
        if asked.id in self._asked:
            return
        weight = weigh({**asdict(asked), "until": None})
        await self._record.write(
            "release.ask",
            direction=OUTWARD,
            session_id=self._session_id,
            release_id=asked.id,
            subject=asked.subject,
            rules=dict(asked.rules),
            digest=asked.digest,
            bytes=weight.size,
            sha256=weight.sha256,
        )
        self._asked.add(asked.id)


@dataclass(frozen=True)
class WayOut:
    """What files and memories pass on their way out."""

    gate: Gate
    releases: Releases

"""Rubrics that lie in files: read before the event is stored, so that the log holds their text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from intramuros.control.catalog import files
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.events import (
    MAX_RUBRIC_CHARS,
    FileRubric,
    Inbound,
    TextRubric,
    UserDefineOutcome,
)

# A character takes at most four bytes of UTF-8.
_MAX_BYTES = 4 * MAX_RUBRIC_CHARS

Event = TypeVar("Event", bound=Inbound)


@dataclass(frozen=True)
class Shelf:
    """Where files are."""

    db: Database
    blobs: Blobs
    clock: Clock

    async def resolve(self, workspace_id: str, events: Sequence[Event]) -> list[Event]:
        """Return the events with the text of each file that is a rubric (contract 14.1).

        Raises:
            NotFound: no such file in the workspace, or it has expired.
            InvalidRequest: a file is no text, empty, or longer than a rubric may be.
        """
        resolved: list[Event] = []
        for index, event in enumerate(events):
            if isinstance(event, UserDefineOutcome) and isinstance(event.rubric, FileRubric):
                content = await self._text(workspace_id, event.rubric.file_id, index)
                rubric = TextRubric(type="text", content=content)
                resolved.append(event.model_copy(update={"rubric": rubric}))
            else:
                resolved.append(event)
        return resolved

    async def _text(self, workspace_id: str, file_id: str, index: int) -> str:
        now_us = to_micros(self.clock.now())
        _, blob = await self.db.read(
            lambda tx: files.of_workspace(tx, workspace_id, file_id, now_us)
        )
        where = f"events[{index}].rubric: file {file_id!r}"
        if blob.size_bytes > _MAX_BYTES:
            raise InvalidRequest(f"{where} is longer than {MAX_RUBRIC_CHARS} characters")
        data = b"".join([chunk async for chunk in await self.blobs.read(blob)])
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{where} is no UTF-8 text") from error
        if not text.strip() or "\0" in text:
            raise InvalidRequest(f"{where} holds no text")
        if len(text) > MAX_RUBRIC_CHARS:
            raise InvalidRequest(f"{where} is longer than {MAX_RUBRIC_CHARS} characters")
        return text

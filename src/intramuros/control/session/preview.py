"""From a model's deltas to the previews that streams may show (contract 18). Never waits.

A preview carries the id of the event that will conclude it. Indexes count the message's own
content, so the text blocks of the reply, not the reply's blocks.
"""

from collections.abc import Callable, Mapping

from intramuros.control.model.base import Delta, TextDelta, ThinkingDelta
from intramuros.control.store.notify import Whisper

MESSAGE = "agent.message"
THINKING = "agent.thinking"


class Preview:
    """The preview of one model request.

    Args:
        request_seq: log position of the request's start.
        message_id: event id of the message that the reply will become.
        new_id: makes event ids, for thinking.
    """

    def __init__(self, request_seq: int, message_id: str, new_id: Callable[[], str]) -> None:
        self._request_seq = request_seq
        self._message_id = message_id
        self._new_id = new_id
        self._places: dict[int, int] = {}  # block of the reply → entry of the message
        self._told = 0  # what was whispered so far, as whispers count it
        self.thinking_ids: list[str] = []

    def feed(self, delta: Delta) -> list[Whisper]:
        """Return what to whisper for one delta."""
        if isinstance(delta, ThinkingDelta):
            return []  # that it thinks is shown, not what
        if not isinstance(delta, TextDelta):
            self.thinking_ids.append(self._new_id())
            return [self._start(THINKING, self.thinking_ids[-1])]
        if not delta.text:
            return []
        whispers = [] if self._places else [self._start(MESSAGE, self._message_id)]
        place = self._places.setdefault(delta.index, len(self._places))
        content = {"type": "text", "text": delta.text}
        event = {
            "type": "event_delta",
            "event_id": self._message_id,
            "delta": {"type": "content_delta", "index": place, "content": content},
        }
        return [*whispers, self._whisper(MESSAGE, event, len(delta.text))]

    def _start(self, kind: str, event_id: str) -> Whisper:
        event = {"type": "event_start", "event": {"type": kind, "id": event_id}}
        return self._whisper(kind, event, 1)

    def _whisper(self, kind: str, event: Mapping[str, object], size: int) -> Whisper:
        at, self._told = self._told, self._told + size
        return Whisper(self._request_seq, kind, event, at, size)

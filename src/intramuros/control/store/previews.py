"""Previews for the streams of other processes: what is whispered here, told there if it is wanted.

Each process tells which sessions its streams want previews of, again and again; whoever drives a
turn of one of them passes its whispers on, gathered and joined. All of it may be lost: receivers
see a gap by what whispers count, and show no more of that request then (store/notify.py). Nothing
waits for anybody: what cannot be told is dropped. No I/O; store/replicas.py carries it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from intramuros.control.store.notify import Hub, Whisper
from intramuros.kernel.timing import Clock

MESSAGE: Final = "agent.message"
# For so long are whispers gathered, in seconds.
GATHER_S: Final = 0.005
# For so long does a process believe that previews are wanted elsewhere.
WANTED_S: Final = 35.0
# Sessions that are known to be wanted; beyond that they go without.
WANTED_LIMIT: Final = 50_000
# What may wait to be told, in characters.
WAITING_LIMIT: Final = 65_536
# A piece of so many characters fits, whatever they are: JSON has at most twelve bytes for each.
PIECE: Final = 400
# Pieces and names that go together, by the length of their JSON.
BODY_BYTES: Final = 5_000
NAMES: Final = 100

# What is passed on of a whisper: where it is, how much, whose; then kind, or entry and text.
Piece = list[Any]


class Previews:
    """Passes whispers on to other processes, and theirs to the streams here.

    Args:
        hub: of this process.
    """

    kind: Final = "previews"

    def __init__(self, hub: Hub, clock: Clock) -> None:
        self._hub = hub
        self._clock = clock
        self._soon: Callable[[float], None] = lambda _after_s: None
        self._wanted: dict[str, float] = {}  # session → until when
        self._names: dict[str, None] = {}  # sessions to ask for
        self._waiting: list[tuple[str, Whisper]] = []
        self._size = 0
        hub.pass_whispers_on(self)

    def attach(self, soon: Callable[[float], None]) -> None:
        """Have ``soon`` called with the seconds after which :meth:`say` should be."""
        self._soon = soon

    def whisper(self, session_id: str, whisper: Whisper) -> None:
        """Pass on a piece of a preview, if somebody elsewhere wants it."""
        until_s = self._wanted.get(session_id)
        if until_s is None:
            return
        if until_s < self._clock.monotonic():
            del self._wanted[session_id]
            return
        # What does not fit leaves a gap, which is seen.
        if self._size + whisper.size <= WAITING_LIMIT:
            self._waiting.append((session_id, whisper))
            self._size += whisper.size
            self._soon(GATHER_S)

    def awaited(self, session_id: str) -> None:
        """Ask the others for a session's previews."""
        self._names[session_id] = None
        self._soon(0.0)

    def renew(self, *, anew: bool) -> None:
        """Ask for all of them again, whether or not somebody new is there."""
        self._names = dict.fromkeys(self._hub.awaiting())
        now_s = self._clock.monotonic()
        self._wanted = {one: until for one, until in self._wanted.items() if until >= now_s}

    def lost(self) -> None:
        """Forget what waits: it is too late for it."""
        self._waiting, self._size = [], 0

    def say(self) -> list[Sequence[object]]:
        """Return and forget what is to be told now, each short enough for one notification."""
        names, self._names = list(self._names), {}
        waiting = self._waiting
        self.lost()
        asked = [["want", *names[at : at + NAMES]] for at in range(0, len(names), NAMES)]
        return [*asked, *_bodies(waiting)]

    def hear(self, body: Sequence[Any]) -> None:
        """Take in what another process told.

        Raises:
            ValueError, TypeError, LookupError: it is nothing that one of us says.
        """
        what, *rest = body
        if what == "want":
            until_s = self._clock.monotonic() + WANTED_S
            for session_id in rest:
                if session_id in self._wanted or len(self._wanted) < WANTED_LIMIT:
                    self._wanted[str(session_id)] = until_s
            return
        session_id, request_seq, *pieces = rest
        for piece in pieces:
            self._hub.overhear(str(session_id), _whisper(int(request_seq), piece))


def _bodies(waiting: Sequence[tuple[str, Whisper]]) -> Iterator[Sequence[object]]:
    """Gather whispers by request, which are in order among themselves."""
    requests: dict[tuple[str, int], list[Piece]] = {}
    for session_id, whisper in waiting:
        pieces = requests.setdefault((session_id, whisper.request_seq), [])
        for piece in _pieces(whisper):
            if pieces and _joined(pieces[-1], piece):
                continue
            pieces.append(piece)
    for (session_id, request_seq), pieces in requests.items():
        batch: list[Piece] = []
        size = 0
        for piece in pieces:
            size += _size(piece)
            if batch and size > BODY_BYTES:
                yield ["said", session_id, request_seq, *batch]
                batch, size = [], _size(piece)
            batch.append(piece)
        yield ["said", session_id, request_seq, *batch]


def _pieces(whisper: Whisper) -> Iterator[Piece]:
    event: Any = whisper.event
    if event["type"] == "event_start":
        yield [whisper.at, whisper.size, event["event"]["id"], whisper.kind]
        return
    entry, text = event["delta"]["index"], event["delta"]["content"]["text"]
    for at in range(0, len(text), PIECE):
        part = text[at : at + PIECE]
        yield [whisper.at + at, len(part), event["event_id"], entry, part]


def _joined(last: Piece, piece: Piece) -> bool:
    """Join a piece of text to the one before it if it goes on there; tell whether it did."""
    at, size, *whose = last[:4]
    if len(last) != len(piece) or len(piece) < 5 or whose != piece[2:4]:
        return False
    if at + size != piece[0] or size + piece[1] > PIECE:
        return False
    # Halves of a pair stay two characters here; JSON makes them one, so that the size goes along.
    last[1] += piece[1]
    last[4] += piece[4]
    return True


def _size(piece: Piece) -> int:
    return 100 + sum(12 if ord(c) > 0xFFFF else 6 if c < " " or c > "~" else 2 for c in piece[-1])


def _whisper(request_seq: int, piece: Piece) -> Whisper:
    at, size, event_id, *rest = piece
    if len(rest) == 1:
        start = {"type": "event_start", "event": {"type": str(rest[0]), "id": event_id}}
        return Whisper(request_seq, str(rest[0]), start, int(at), int(size))
    entry, text = rest
    delta = {
        "type": "content_delta",
        "index": int(entry),
        "content": {"type": "text", "text": str(text)},
    }
    event = {"type": "event_delta", "event_id": event_id, "delta": delta}
    return Whisper(request_seq, MESSAGE, event, int(at), int(size))

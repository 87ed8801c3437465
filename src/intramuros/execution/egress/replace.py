"""Replace byte strings in a stream, wherever its chunks are cut. Pure.

What could still become one of the strings is held back, and nothing else: a stream that is silent
after an event has let the whole event go.
"""

from collections.abc import Mapping


class Replacer:
    """One pass over one stream. ``feed`` returns what no later chunk can change.

    Strings are looked for from left to right; where two begin at the same byte the longer one is
    taken, once enough has come to tell.
    """

    def __init__(self, pairs: Mapping[bytes, bytes]) -> None:
        """Take what to replace by what; none of the keys is empty."""
        self._pairs = dict(sorted(pairs.items(), key=lambda pair: -len(pair[0])))
        self._held = b""
        self.found: set[bytes] = set()
        """Which of the strings were replaced at least once."""
        self.count = 0
        """How many replacements were made."""

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk and return what is settled."""
        data = self._held + chunk
        settled = min((self._open(data, key) for key in self._pairs), default=len(data))
        return self._advance(data, settled)

    def finish(self) -> bytes:
        """Return what was held back; the stream is over."""
        return self._advance(self._held, len(self._held))

    def whole(self, data: bytes) -> bytes:
        """Return a whole text with its strings replaced."""
        return self.feed(data) + self.finish()

    def _advance(self, data: bytes, settled: int) -> bytes:
        """Replace each string that begins before ``settled``; hold back the rest."""
        present = {key: at for key in self._pairs if 0 <= (at := data.find(key)) < settled}
        out: list[bytes] = []
        position = 0
        while present:
            # Of those that begin first, the longest comes first in the dictionary.
            key = min(present, key=lambda known: present[known])
            at = present[key]
            out += (data[position:at], self._pairs[key])
            self.found.add(key)
            self.count += 1
            position = at + len(key)
            present = _next(data, present, position, settled)
        # A string may have reached beyond the border.
        border = max(position, settled)
        out.append(data[position:border])
        self._held = data[border:]
        return b"".join(out)

    @staticmethod
    def _open(data: bytes, key: bytes) -> int:
        """Return where the data's end begins to look like the key, or the data's length."""
        at = data.find(key[:1], max(0, len(data) - len(key) + 1))
        while at >= 0:
            if key.startswith(data[at:]):
                return at
            at = data.find(key[:1], at + 1)
        return len(data)


def _next(
    data: bytes, present: Mapping[bytes, int], position: int, settled: int
) -> dict[bytes, int]:
    """Return where each string occurs next at or after a position."""
    following = {}
    for key, at in present.items():
        there = at if at >= position else data.find(key, position)
        if 0 <= there < settled:
            following[key] = there
    return following

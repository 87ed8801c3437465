"""Files on their way out: searched a window at a time, and copied with what is found masked.

A file that is no text is left out if anything is found in it: masked, it would be broken. What is
compressed or encrypted inside a file is not looked into.
"""

import codecs
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from intramuros.execution.outflow.findings import Action, Finding, Span, spans
from intramuros.execution.outflow.patterns import MAX_FINDINGS, TooMany
from intramuros.execution.outflow.results import MAX_DIGESTS, Eyes, Found

_WINDOW: Final = 4 * 1024 * 1024
# The longest secret that is found wherever the windows' borders are, encoded or not.
OVERLAP: Final = 64 * 1024
_CHUNK: Final = 1024 * 1024


@dataclass(frozen=True)
class Sifted:
    """What may leave of a file: size in bytes and SHA-256 in hex of what is to be sent."""

    size: int
    sha256: str
    found: Found
    masked: bool
    """Whether the target was written, and is what is to be sent."""
    withheld: str = ""
    """Why nothing of it may leave, for people; empty if it may."""

    @property
    def asks(self) -> bool:
        """Whether a person is to be asked about it; size and digest are the file's own then."""
        return not self.withheld and self.found.action is Action.ASK


def sift(source: Path, target: Path, eyes: Eyes, limit_bytes: int) -> Sifted:
    """Search a file; write a masked copy of it to ``target`` if that is what may leave.

    Raises:
        OSError: the disk refused.
        TooMany, PluginFailed: it could not be searched.
    """
    found: set[Finding] = set()
    judge = _Judge()
    digest, size = hashlib.sha256(), 0
    for offset, window, fresh in _windows(source):
        size += len(fresh)
        digest.update(fresh)
        judge.take(fresh)
        text = judge.text
        found.update(one.moved(offset) for one in eyes.find(window, text))
        if len(found) > MAX_FINDINGS:
            raise TooMany(next(iter(found)).rule)
    judge.close()
    places = spans(one for one in found if eyes.action(one.rule) is not Action.PASS)
    result = _found(source, found, eyes, len(places))
    why = ""
    if size > limit_bytes:
        why = f"larger than {limit_bytes} bytes"
    elif result.action is Action.BLOCK:
        why = f"matches rules of the operator: {result.named()}"
    elif places and not judge.text:
        why = f"not text, and matches rules of the operator: {result.named()}"
    if why or not places or result.action is Action.ASK:
        return Sifted(size, digest.hexdigest(), result, masked=False, withheld=why)
    return _masked(source, target, places, result)


class _Judge:
    """Tells whether bytes are text: UTF-8 without NUL."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = True

    def take(self, data: bytes) -> None:
        if not self.text:
            return
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError:
            self.text = False
        if b"\0" in data:
            self.text = False

    def close(self) -> None:
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            self.text = False


def _windows(source: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield where each window begins, what is in it, and what of that is new."""
    with source.open("rb") as file:
        held, offset = b"", 0
        while fresh := file.read(_WINDOW):
            window = held + fresh
            yield offset, window, fresh
            held = window[-OVERLAP:]
            offset += len(window) - len(held)


def _found(source: Path, found: set[Finding], eyes: Eyes, masked: int) -> Found:
    rules = Counter(one.rule for one in found)
    digests: dict[str, None] = {}
    if found:
        with source.open("rb") as file:
            for one in sorted(found)[:MAX_DIGESTS]:
                file.seek(one.start)
                digests[eyes.digest(file.read(one.end - one.start))] = None
    return Found(
        max((eyes.action(rule) for rule in rules), default=Action.PASS),
        dict(rules),
        tuple(digests),
        masked,
    )


def _masked(source: Path, target: Path, places: list[Span], found: Found) -> Sifted:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as file, target.open("wb") as out:
        for data in _pieces(file, places):
            digest.update(data)
            size += len(data)
            out.write(data)
    return Sifted(size, digest.hexdigest(), found, masked=True)


def _pieces(file: BinaryIO, places: list[Span]) -> Iterator[bytes]:
    position = 0
    for place in places:
        yield from _range(file, position, place.start)
        yield place.mask.encode()
        position = place.end
    yield from _range(file, position, None)


def _range(file: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    file.seek(start)
    left = end - start if end is not None else None
    while left is None or left > 0:
        data = file.read(_CHUNK if left is None else min(_CHUNK, left))
        if not data:
            return
        yield data
        left = None if left is None else left - len(data)

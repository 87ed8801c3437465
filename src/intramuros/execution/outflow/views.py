"""A text as it reads once an encoding in it is undone, and where each part of that stood. Pure.

Undone are base64 (both alphabets, wrapped or not), hex (with or without separators), escapes
(``%41``, ``\\u0041``, ``\\x41``, ``\\/``, ``&#65;``) and UTF-16: as far as they hold ASCII, which
is what secrets are made of. Nothing is unpacked or decrypted.
"""

import binascii
import bisect
import functools
import html
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import re2

Span = tuple[int, int]
# From the encoded bytes and a range of the decoded ones to a range of the encoded ones.
Where = Callable[[bytes, int, int], Span]

# Encodings within encodings that are undone.
MAX_DEPTH: Final = 3
# Stands between parts that have nothing to do with each other; no rule matches across.
_BREAK: Final = b"\n\0\n"


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a view: how many, and what they were in the text."""

    size: int
    start: int
    end: int
    where: Where | None
    """None where the bytes are the same."""


class View:
    """What a text reads as.

    Args:
        source: the text.
        data: what it reads as.
        parts: gives the parts of the view in their order; asked only if something is found in it.
    """

    def __init__(self, source: bytes, data: bytes, parts: Callable[[], Iterable[Part]]) -> None:
        self._source = source
        self.data = data
        self._give = parts
        self._parts: list[Part] = []
        self._starts: list[int] = []

    def place(self, start: int, end: int) -> Span:
        """Return where in the text a range of the view stood."""
        if not self._parts:
            self._parts = list(self._give())
            self._starts = list(itertools.accumulate((p.size for p in self._parts), initial=0))
        first = self._at(start, at_end=False)
        return first, max(self._at(end, at_end=True), first)

    def _at(self, position: int, *, at_end: bool) -> int:
        number = bisect.bisect_right(self._starts, position - at_end) - 1
        part = self._parts[min(number, len(self._parts) - 1)]
        inner = position - self._starts[number]
        if part.where is None:
            return part.start + inner
        encoded = self._source[part.start : part.end]
        if at_end:
            return part.start + part.where(encoded, inner - 1, inner)[1]
        return part.start + part.where(encoded, inner, inner + 1)[0]


def views(data: bytes) -> Iterator[View]:
    """Yield the views of a text."""
    for make in (_base64, _hex, _escaped, _wide):
        view = make(data)
        if view is not None:
            yield view


class _Build:
    """A view that is put together from runs that are few."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._pieces: list[bytes] = []
        self._runs: list[tuple[list[Span], int, int, Where]] = []

    def add(self, data: bytes, start: int, end: int, where: Where) -> None:
        """Append the ASCII in what a run reads as, apart from what comes before and after."""
        spans = [match.span() for match in _ASCII.finditer(data)]
        if spans:
            self._pieces += [data[first:last] for first, last in spans]
            self._runs.append((spans, start, end, where))

    def view(self) -> View | None:
        """Return the view; None if there is nothing in it."""
        if not self._pieces:
            return None
        return View(self._source, _BREAK.join([*self._pieces, b""]), self._parts)

    def _parts(self) -> Iterator[Part]:
        for spans, start, end, where in self._runs:
            for first, last in spans:
                yield Part(last - first, start, end, functools.partial(_shifted, where, first))
                yield Part(len(_BREAK), end, end, _nowhere)


# As much as five fours are, by which a run is known.
_ASCII: Final = re2.compile(rb"[\x00-\x7f]{15,}")


def _shifted(where: Where, by: int, encoded: bytes, start: int, end: int) -> Span:
    return where(encoded, start + by, end + by)


def _nowhere(encoded: bytes, start: int, end: int) -> Span:
    return 0, 0


_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_ANY64: Final = "[A-Za-z0-9+/_-]"


def _clear(bit: int) -> str:
    """Return the base64 letters in whose six bits this one is not set."""
    kept = [letter for value, letter in enumerate(_ALPHABET) if not value & bit]
    kept += ["-"] if "+" in kept else []
    kept += ["_"] if "/" in kept else []
    return "[" + "".join("\\" + c if c in "+/-_" else c for c in kept) + "]"


# Four letters are three bytes; bytes of ASCII have no highest bit, and in each of the first three
# letters another one of the six bits is the highest of a byte. Few texts are so by chance.
_FOUR: Final = f"{_clear(32)}{_clear(8)}{_clear(2)}{_ANY64}"
_WRAPS: Final = r"(?:\\r|\\n|[\r\n\t \"',\\])"
_WRAP: Final = f"{_WRAPS}{{1,40}}"
_FOURS: Final = re2.compile(f"(?:{_FOUR}{_WRAPS}*){{4}}{_FOUR}")
_ON64: Final = re2.compile(rf"{_ANY64}+(?:{_WRAP}{_ANY64}{{16,}})*(?:{_WRAP}{_ANY64}{{1,15}})?")
_BACK64: Final = re.compile(rb"[A-Za-z0-9+/_-]{0,4}\Z")
_LETTER64: Final = re.compile(rb"[A-Za-z0-9+/_-]")
_ESCAPE64: Final = re.compile(rb"\\[nr]")
_NOISE64: Final = b"\r\n\t \"',\\"
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _base64(data: bytes) -> View | None:
    build = _Build(data)
    for start, end in _runs(data, _FOURS, _BACK64, _ON64):
        raw = data[start:end]
        if b"\\" in raw:
            raw = _ESCAPE64.sub(b"", raw)
        letters = raw.translate(_STANDARD, delete=_NOISE64)
        # What precedes it may be letters, too: nobody says where the fours begin.
        reads = [_decoded(letters[skip:]) for skip in range(4)]
        # Where it reads as ASCII throughout, no other beginning is meant.
        plain = [skip for skip in range(4) if reads[skip][3:-3].isascii()]
        for skip in plain or range(4):
            build.add(reads[skip], start, end, _letters_of(skip))
    return build.view()


def _decoded(letters: bytes) -> bytes:
    # A lone letter at the end is no byte.
    return binascii.a2b_base64(letters[: len(letters) - (len(letters) % 4 == 1)] + b"===")


def _letters_of(skip: int) -> Where:
    def where(encoded: bytes, start: int, end: int) -> Span:
        at = _positions(_LETTER64, _ESCAPE64, encoded)
        return at[skip + start * 8 // 6], at[skip + (end * 8 - 1) // 6] + 1

    return where


_SEPARATOR: Final = r"(?:\\x|\\n|\\r|0x|[ :,\-\r\n\t])"
_ON16: Final = re2.compile(rf"[0-9A-Fa-f](?:{_SEPARATOR}{{0,4}}[0-9A-Fa-f])*")
_BACK16: Final = re.compile(rb"[0-9A-Fa-f]{0,2}\Z")
_PAIRS: Final = re2.compile(rf"(?:[2-7]{_SEPARATOR}{{0,4}}[0-9A-Fa-f]{_SEPARATOR}{{0,4}}){{10}}")
_DIGIT16: Final = re.compile(rb"[0-9A-Fa-f]")
_ESCAPE16: Final = re.compile(rb"\\[nrx]|0x")
_NOISE16: Final = b" :,-\r\n\t"


def _hex(data: bytes) -> View | None:
    build = _Build(data)
    for start, end in _runs(data, _PAIRS, _BACK16, _ON16):
        raw = data[start:end]
        digits = _ESCAPE16.sub(b"", raw).translate(None, delete=_NOISE16)
        for skip in range(2):
            body = digits[skip:]
            whole = body[: len(body) // 2 * 2]
            build.add(binascii.unhexlify(whole), start, end, _digits_of(skip))
    return build.view()


def _digits_of(skip: int) -> Where:
    def where(encoded: bytes, start: int, end: int) -> Span:
        at = _positions(_DIGIT16, _ESCAPE16, encoded)
        return at[skip + 2 * start], at[skip + 2 * end - 1] + 1

    return where


def _runs(data: bytes, sign: Any, back: re.Pattern[bytes], on: Any) -> Iterator[Span]:  # noqa: ANN401  re2 has no types
    """Yield the runs in which there is a sign of ASCII: from a little before it to their end."""
    position = 0
    while (hit := sign.search(data, position)) is not None:
        before = back.search(data, max(0, hit.start() - 4), hit.start())
        position = max(hit.end(), on.match(data, hit.start()).end())
        yield before.start() if before else hit.start(), position


def _positions(letter: re.Pattern[bytes], escape: re.Pattern[bytes], encoded: bytes) -> list[int]:
    """Return where the letters stand, those of escapes left out."""
    hidden = {at for match in escape.finditer(encoded) for at in range(*match.span())}
    return [m.start() for m in letter.finditer(encoded) if m.start() not in hidden]


_OTHER: Final = (
    r"\\u00[0-9A-Fa-f]{2}|\\x[0-9A-Fa-f]{2}|\\/"
    r"|&#(?:[0-9]{1,4}|[xX][0-9A-Fa-f]{1,3});|&(?:amp|lt|gt|quot|apos);"
)
_UNIT: Final = f"%[0-9A-Fa-f]{{2}}|{_OTHER}"
_RUN_OTHER: Final = re2.compile(_OTHER)
_RUN_ESCAPED: Final = re2.compile(_UNIT)
_UNITS: Final = re.compile(_UNIT.encode())


def _escaped(data: bytes) -> View | None:
    if _RUN_ESCAPED.search(data) is None:
        return None

    def parts() -> Iterator[Part]:
        position = 0
        for match in _UNITS.finditer(data):
            start, end = match.span()
            yield Part(start - position, position, start, None)
            yield Part(len(_unit(match.group())), start, end, _whole)
            position = end
        yield Part(len(data) - position, position, len(data), None)

    if _RUN_OTHER.search(data) is None:
        return View(data, unquote_to_bytes(data), parts)
    return View(data, _UNITS.sub(lambda match: _unit(match.group()), data), parts)


def _whole(encoded: bytes, start: int, end: int) -> Span:
    return 0, len(encoded)


@functools.lru_cache(maxsize=4096)
def _unit(unit: bytes) -> bytes:
    if unit[:1] == b"%":
        return bytes([int(unit[1:], 16)])
    if unit == b"\\/":
        return b"/"
    if unit[:1] == b"\\":
        return chr(int(unit[2:], 16)).encode()
    return html.unescape(unit.decode("ascii")).encode("utf-8", "replace")


_RUN_WIDE: Final = re2.compile(r"(?:[\t\r\n\x20-\x7e]\x00){6,}[\x20-\x7e]?")


def _wide(data: bytes) -> View | None:
    if b"\0" not in data:
        return None
    build = _Build(data)
    for match in _RUN_WIDE.finditer(data):
        start, end = match.span()
        build.add(data[start:end].replace(b"\0", b""), start, end, _every_other)
    return build.view()


def _every_other(encoded: bytes, start: int, end: int) -> Span:
    return 2 * start, min(2 * end, len(encoded))

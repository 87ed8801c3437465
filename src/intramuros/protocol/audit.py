"""The record format of every audit log, on each side of the wall.

A log is a sequence of JSON lines. Each line holds ``seq`` (from 1, gapless), ``prev`` (the hash of
the line before, 64 zeros for the first), ``at`` (RFC 3339), ``kind``, ``fields`` and ``hash``: the
SHA-256 over the canonical JSON of all the others. Changing, dropping or reordering a line breaks
the chain; only cutting the end leaves no trace inside the file, which is why heads are copied to
the other side of the wall.

Pure: no file, no clock.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

GENESIS: Final = "0" * 64


@dataclass(frozen=True)
class Head:
    """The end of a chain: the last sequence number and its hash."""

    seq: int = 0
    hash: str = GENESIS


@dataclass(frozen=True)
class AuditRecord:
    """One thing that is about to happen, or that happened.

    ``kind`` is a dotted constant such as ``tool.call``; ``fields`` hold ids, digests and sizes,
    never content and never a secret.
    """

    at: str
    kind: str
    fields: Mapping[str, object]


class BrokenChain(ValueError):
    """The log was changed, or a line of it is missing: ``seq`` says where."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(f"record {seq}: {why}")
        self.seq = seq


def seal(head: Head, record: AuditRecord) -> tuple[str, Head]:
    """Return the record's line (without newline) and the new head."""
    # The members in their canonical order; the hash has its place among them.
    before = f'{{"at":{_text(record.at)},"fields":{_text(dict(record.fields))}'
    after = f'"kind":{_text(record.kind)},"prev":{_text(head.hash)},"seq":{head.seq + 1}}}'
    digest = hashlib.sha256(f"{before},{after}".encode()).hexdigest()
    return f'{before},"hash":"{digest}",{after}', Head(head.seq + 1, digest)


def head_of(line: str) -> Head:
    """Return the head that a last line leaves behind.

    Raises:
        BrokenChain: the line is no record.
    """
    data = _parse(line, 0)
    return Head(_seq(data), str(data["hash"]))


def verify(lines: Iterable[str], head: Head | None = None) -> Head:
    """Check a chain from its first line, or from a known head, and return its end.

    Raises:
        BrokenChain: at the first record that does not fit.
    """
    head = head or Head()
    for line in lines:
        expected = head.seq + 1
        data = _parse(line, expected)
        claimed = data.pop("hash")
        if _seq(data) != expected:
            raise BrokenChain(expected, f"found sequence number {data['seq']}")
        if data["prev"] != head.hash:
            raise BrokenChain(expected, "does not continue the record before it")
        if hashlib.sha256(_canonical(data)).hexdigest() != claimed:
            raise BrokenChain(expected, "content does not match its hash")
        # A member written twice, or in another spelling, would read otherwise than it is hashed.
        if _canonical({**data, "hash": claimed}) != line.encode("utf-8", "surrogatepass"):
            raise BrokenChain(expected, "is not written as records are")
        head = Head(expected, str(claimed))
    return head


def _canonical(body: Mapping[str, object]) -> bytes:
    return _bytes(_text(body))


_text: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _parse(line: str, seq: int) -> dict[str, object]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BrokenChain(seq, "is no JSON") from error
    if not isinstance(data, dict) or set(data) != _KEYS:
        raise BrokenChain(seq, "has other members than a record")
    return data


def _seq(data: Mapping[str, object]) -> int:
    seq = data["seq"]
    if not isinstance(seq, int) or isinstance(seq, bool):
        raise BrokenChain(0, "has no whole sequence number")
    return seq


_KEYS: Final = {"seq", "prev", "at", "kind", "fields", "hash"}

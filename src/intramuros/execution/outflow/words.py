"""Fixed texts looked for all at once: an operator's dictionaries, and secrets that we hold."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

import ahocorasick_rs

from intramuros.execution.egress.secrets import MIN_SCRUB_BYTES, cores, forms
from intramuros.execution.outflow.findings import HELD, Finding
from intramuros.execution.outflow.patterns import MAX_FINDINGS, TooMany

MIN_HELD_BYTES: Final = MIN_SCRUB_BYTES
# A control plane says what is held, and each encoding of it takes memory.
MAX_ENCODED_BYTES: Final = 64 * 1024
# A table of all states is the fastest, and grows with every letter.
_MOST_BY_TABLE_BYTES: Final = 64 * 1024
_WORD: Final = re.compile(rb"[0-9A-Za-z_\x80-\xff]")


class Words:
    """Texts of one rule.

    Args:
        ignore_case: letters beyond ASCII are found in lower, upper and title case.
        whole: only where no letter or digit stands next to them.
    """

    def __init__(
        self, rule: str, terms: Iterable[str], *, ignore_case: bool = False, whole: bool = False
    ) -> None:
        self._rule = rule
        self._lower = ignore_case
        self._whole = whole
        self._automaton = _automaton(
            {form for term in terms for form in _spellings(term, ignore_case=ignore_case)}
        )

    def find(self, data: bytes) -> list[Finding]:
        """Return where they stand.

        Raises:
            TooMany: they do too often.
        """
        return [
            one
            for one in _find(self._automaton, data.lower() if self._lower else data, self._rule)
            if not self._whole or _alone(data, one)
        ]


class Held:
    """Secrets that the worker holds, in every encoding that a text may have them in.

    The shortest come first; beyond :data:`MAX_ENCODED_BYTES` of all, the rest is looked for as it
    is, and not encoded.
    """

    def __init__(self, values: Iterable[str]) -> None:
        terms: set[bytes] = set()
        seen = 0
        for value in sorted(values, key=len):
            plain = value.encode("utf-8", "surrogatepass")
            seen += len(plain)
            if len(plain) >= MIN_HELD_BYTES:
                terms |= encodings(value) if seen <= MAX_ENCODED_BYTES else {plain}
        self._automaton = _automaton(terms)

    def find(self, data: bytes) -> list[Finding]:
        """Return where they stand; errors as for :meth:`Words.find`."""
        return _find(self._automaton, data, HELD)


def encodings(value: str) -> set[bytes]:
    """Return the forms of a secret: plain, escaped, percent-encoded, hex, base64, UTF-16.

    One that is too short to be told from ordinary text has none.
    """
    plain = value.encode("utf-8", "surrogatepass")
    if len(plain) < MIN_HELD_BYTES:
        return set()
    wide = value.encode("utf-16-le", "surrogatepass")
    # Wide text in base64 is how shells hand scripts to other shells.
    found = forms(value) | cores(wide) | {wide, value.encode("utf-16-be", "surrogatepass")}
    found.add("".join(f"%{byte:02X}" for byte in plain).encode())
    found.add("".join(f"%{byte:02x}" for byte in plain).encode())
    found.add(quote(quote(plain, safe=""), safe="").encode())
    found.add(json.dumps(json.dumps(value)[1:-1])[1:-1].encode())
    return {form for form in found if len(form) >= MIN_HELD_BYTES}


def _automaton(terms: set[bytes]) -> ahocorasick_rs.BytesAhoCorasick | None:
    if not terms:
        return None
    kinds = ahocorasick_rs.Implementation
    small = sum(map(len, terms)) <= _MOST_BY_TABLE_BYTES
    return ahocorasick_rs.BytesAhoCorasick(
        sorted(terms),
        matchkind=ahocorasick_rs.MatchKind.LeftmostLongest,
        implementation=kinds.DFA if small else kinds.ContiguousNFA,
    )


def _find(
    automaton: ahocorasick_rs.BytesAhoCorasick | None, data: bytes, rule: str
) -> list[Finding]:
    if automaton is None:
        return []
    found: Sequence[tuple[int, int, int]] = automaton.find_matches_as_indexes(data)
    if len(found) > MAX_FINDINGS:
        raise TooMany(rule)
    return [Finding(start, end, rule) for _, start, end in found]


def _spellings(term: str, *, ignore_case: bool) -> set[bytes]:
    cases = {term, term.lower(), term.upper(), term.title()} if ignore_case else {term}
    texts = {unicodedata.normalize(form, case) for case in cases for form in ("NFC", "NFD")}
    return {(text.lower() if ignore_case else text) for text in map(str.encode, texts) if text}


def _alone(data: bytes, one: Finding) -> bool:
    before, after = data[max(0, one.start - 1) : one.start], data[one.end : one.end + 1]
    return not _WORD.match(before) and not _WORD.match(after)

"""Mask secrets in text, whole or as a stream.

A :class:`Redactor` knows patterns of well-known credentials and exact values that must never
leave. It replaces each with ``[masked <kind>]`` and counts them. :class:`StreamRedactor` gives the
same result for text that arrives in chunks, wherever the borders fall: it holds back what could
still become part of a secret.

Pure: no I/O. Every pattern is bounded in length, so both memory and time are.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

# The longest text any pattern below can match; a PEM key is the largest. The stream holds back
# this much, and an exact value must not be longer.
MAX_SECRET_CHARS: Final = 24_576

# Shorter exact values would mask ordinary words.
MIN_EXACT_CHARS: Final = 8


@dataclass(frozen=True)
class Pattern:
    """One kind of secret: ``regex`` must match at most :data:`MAX_SECRET_CHARS`."""

    kind: str
    regex: str


_PEM_LABEL = r"(?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?"
_PEM_SPACE = r"(?:\s|\\[nr]){1,4}"
# A whole key, or the readable part of one whose end was cut off.
_PEM = (
    rf"-----BEGIN {_PEM_LABEL}-----"
    rf"(?:{_PEM_SPACE}(?:Proc-Type|DEK-Info|Version|Comment):[^\n\\]{{0,120}}){{0,4}}"
    rf"(?:[^-]{{0,16384}}-----END {_PEM_LABEL}-----"
    rf"|(?:{_PEM_SPACE}[A-Za-z0-9+/=]{{16,76}}){{0,256}})"
)

# Formats that their issuers publish; each starts with a prefix that nothing else uses.
PATTERNS: Final = (
    Pattern("private key", _PEM),
    Pattern("jwt", r"(?<![\w-])eyJ[\w-]{8,4096}+\.eyJ[\w-]{4,8192}+\.[\w-]{8,2048}"),
    Pattern("api key", r"(?<![\w-])sk-[a-z]{2,12}(?:-[a-z]{2,8}\d{0,3})?-[\w-]{16,256}"),
    Pattern("api key", r"\bsk-[A-Za-z0-9]{32,128}\b"),
    Pattern("aws key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    Pattern(
        "aws secret",
        r"(?i:aws_?secret_?(?:access_?)?key)[\"']?\s{0,4}[:=]\s{0,4}[\"']?[A-Za-z0-9/+]{40}",
    ),
    Pattern("github token", r"\bgh[pousr]_[A-Za-z0-9]{36,255}"),
    Pattern("github token", r"\bgithub_pat_\w{22,255}"),
    Pattern("gitlab token", r"\bgl(?:pat|ptt|dt|rt|cbt|soat)-[\w-]{20,64}"),
    Pattern("slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}"),
    Pattern("google key", r"\bAIza[0-9A-Za-z_-]{35}"),
    Pattern("google token", r"(?<![\w-])ya29\.[0-9A-Za-z_-]{20,1024}"),
    Pattern("stripe key", r"\b[sr]k_(?:live|test)_[0-9A-Za-z]{16,247}"),
    Pattern("npm token", r"\bnpm_[A-Za-z0-9]{36}"),
    Pattern("pypi token", r"(?<![\w-])pypi-AgE[\w-]{50,1024}"),
    Pattern("hugging face token", r"\bhf_[A-Za-z0-9]{30,64}"),
    Pattern("webhook secret", r"\bwhsec_[A-Za-z0-9+/=]{20,128}"),
    Pattern("storage key", r"\bAccountKey=[A-Za-z0-9+/]{86}=="),
    Pattern("password in url", r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@\"']{1,64}:[^\s/@\"']{3,128}@"),
)


class Redactor:
    """Masks what its patterns match and its exact values; immutable and shareable."""

    def __init__(
        self, *, exact: Iterable[str] = (), patterns: Iterable[Pattern] = PATTERNS
    ) -> None:
        """Compile the patterns once.

        Raises:
            ValueError: an exact value is too short to be a secret, or too long to hold back.
        """
        values = sorted(set(exact), key=len, reverse=True)
        if any(not MIN_EXACT_CHARS <= len(value) <= MAX_SECRET_CHARS for value in values):
            raise ValueError(f"exact secrets have {MIN_EXACT_CHARS} to {MAX_SECRET_CHARS} chars")
        kinds = [*((re.escape(value), "credential") for value in values)]
        kinds += [(pattern.regex, pattern.kind) for pattern in patterns]
        # Groups are numbered, so that the match tells its kind without searching again.
        self._kinds = {f"k{number}": kind for number, (_, kind) in enumerate(kinds)}
        self._regex = re.compile(
            "|".join(f"(?P<k{number}>{regex})" for number, (regex, _) in enumerate(kinds))
            or r"(?!)",
            re.ASCII,
        )

    def text(self, text: str) -> tuple[str, int]:
        """Return the text with its secrets masked, and how many there were."""
        return self._regex.subn(self._mask, text)

    def stream(self) -> "StreamRedactor":
        """Return a fresh redactor for one stream of chunks."""
        return StreamRedactor(self._regex, self._mask_of)

    def _mask(self, match: re.Match[str]) -> str:
        return self._mask_of(match.lastgroup)

    def _mask_of(self, group: str | None) -> str:
        return f"[masked {self._kinds.get(group or '', 'secret')}]"


class StreamRedactor:
    """One pass over one stream. ``feed`` returns what is safe to let go; ``finish`` the rest."""

    def __init__(self, regex: re.Pattern[str], mask_of: Callable[[str | None], str]) -> None:
        self._regex = regex
        self._mask_of = mask_of
        self._held = ""
        # How much of the held text is context that has already been let go: patterns look one
        # character back for a word border.
        self._context = 0
        self.masked = 0

    def feed(self, chunk: str) -> str:
        """Take a chunk and return the text that no later chunk can change."""
        self._held += chunk
        # A match that starts before this point ends, at the latest, one character before the end,
        # so nothing that follows can lengthen it.
        return self._advance(len(self._held) - MAX_SECRET_CHARS - 1)

    def finish(self) -> str:
        """Return what was held back; the stream is over."""
        return self._advance(len(self._held))

    def _advance(self, settled: int) -> str:
        out: list[str] = []
        position = self._context
        while position < settled:
            match = self._regex.search(self._held, position)
            if match is None or match.start() >= settled:
                out.append(self._held[position:settled])
                position = settled
                break
            out += (self._held[position : match.start()], self._mask_of(match.lastgroup))
            self.masked += 1
            position = match.end()
        keep_from = max(0, position - 1)
        self._held = self._held[keep_from:]
        self._context = position - keep_from
        return "".join(out)

"""Placeholders inside, values outside: what is put into a request, and taken out of its answer.

A sandbox's environment holds a placeholder for each of the session's ``environment_variable``
credentials (R070). In a request to a host on the credential's list the placeholder is replaced in
header values and in the body, each if its flag is on; anywhere else it stays the literal text that
it is (R072): in paths and queries, header names, WebSocket messages, and whatever is compressed.

What goes in fits where it goes: inside a JSON body it is escaped as JSON, inside a form as a form,
and inside ``Authorization: Basic`` it is encoded again. A value that no header can hold is not put
into one: the request is refused.

Answers are searched for the values that the session knows, plain and in their usual encodings, and
the placeholder is put back (our choice; the product does not, R071).

**One header for one process.** To let a single command, such as a clone, use a credential that
nobody else in the sandbox may use, lend it a header::

    rule = HeaderRule("github.com", "/acme/app.git", "authorization", basic("x-access-token", pat))
    with gate.lend(rule) as lease:
        await sandbox.exec(["git", "-c", f"http.extraHeader={lease.header}", "clone", url, place])

The lease is a header with a random word that only this command is given. A request that carries it
loses it here, and gets the rule's header (in place of its own of that name) if it goes to the
rule's host and below its path; elsewhere it gets nothing. After the ``with`` the word means
nothing. ``lend(rule, admit=True)`` opens the host for as long, if the worker's own rules allow it.

What everybody in the sandbox may use, such as the ``origin`` of a session's repository, stands: the
header goes to the rule's host and path without a lease.

Pure.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, quote_plus

from intramuros.execution.egress.policy import Hosts
from intramuros.execution.egress.replace import Replacer

Headers = Sequence[tuple[bytes, bytes]]

PREFIX: Final = "INTRAMUROS_SECRET_"
LEASE_HEADER: Final = b"x-intramuros-lease"
# Shorter texts stand in ordinary answers by chance; taking them out would break those.
MIN_SCRUB_BYTES: Final = 8
# What frames a request, and what names its host: never a place for a secret.
_FIXED: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"}
)
_MASK: Final = b"[masked credential]"


class Unfit(Exception):
    """A secret cannot be put where its placeholder stands; ``name`` is the variable's."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the value of {name} cannot stand in a header")
        self.name = name


@dataclass(frozen=True, slots=True)
class Secret:
    """An ``environment_variable`` credential of a session, on the worker's side of the wall."""

    name: str
    """Of the variable."""
    value: str = field(repr=False)
    placeholder: str
    hosts: Hosts
    """Where it may be put in."""
    header: bool
    body: bool


def placeholder(key: bytes, session_id: str, credential_id: str) -> str:
    """Return what stands for a credential in one session's sandboxes.

    It says nothing, cannot be guessed without the key, and is another one in each session. Letters,
    digits and ``_`` alone, so that it reads the same in headers, JSON, forms and shells.

    Args:
        key: at least 32 random bytes, only known to this worker.
    """
    text = f"{session_id}\0{credential_id}".encode()
    digest = hmac.new(key, text, hashlib.sha256).digest()[:25]
    return PREFIX + base64.b32encode(digest).decode("ascii")


def basic(user: str, password: str) -> str:
    """Return the value of an ``Authorization: Basic`` header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """A header that requests to one host get below one path, if they hold a lease on it."""

    host: str
    path: str
    """Matches itself and what is below it: ``/a/b`` means ``/a/b`` and ``/a/b/…``."""
    name: str
    """Of the header, in lower case."""
    value: str = field(repr=False)
    label: str = "lent credential"
    """What records call it."""

    def covers(self, host: str, target: bytes) -> bool:
        """Tell whether a request is to the host and below the path.

        A target that servers may read in two ways is not: dots, empty segments, and escapes of
        what would be one of those.
        """
        path = target.partition(b"?")[0]
        plain = path.lower()
        if b"%2e" in plain or b"%2f" in plain or b"%5c" in plain or b"\\" in plain:
            return False
        segments = plain.split(b"/")[1:]
        if any(segment in (b".", b"..") for segment in segments) or b"" in segments[:-1]:
            return False
        prefix = self.path.rstrip("/").encode()
        return host == self.host and (path == prefix or path.startswith(prefix + b"/"))

    def values(self) -> list[str]:
        """Return the texts that must not come back: the value, and what is inside it."""
        scheme, _, credentials = self.value.partition(" ")
        found = [self.value, credentials]
        if scheme.lower() == "basic":
            plain = _decoded(credentials.encode())
            found += [] if plain is None else [plain.decode("utf-8", "replace").partition(":")[2]]
        return [text for text in found if text]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to a lent header; ``header`` is what the one process sends."""

    header: str = field(repr=False)


class Secrets:
    """All that one session's requests may carry; immutable."""

    def __init__(self, secrets: Iterable[Secret] = (), *, scrub: bool = True) -> None:
        """Take the session's credentials, in the order of its vaults.

        Args:
            scrub: whether answers are searched for values.
        """
        first: dict[str, Secret] = {}
        for secret in secrets:
            first.setdefault(secret.name, secret)
        self._secrets = tuple(first.values())
        self.scrub = scrub
        # Made once: every answer is searched for all of them.
        self._known = {
            form: secret.placeholder.encode()
            for secret in reversed(self._secrets if scrub else ())
            for form in forms(secret.value)
        }

    def environment(self) -> dict[str, str]:
        """Return the variables that sandboxes get: placeholders (R070)."""
        return {secret.name: secret.placeholder for secret in self._secrets}

    def __len__(self) -> int:
        return len(self._secrets)

    def bound_to(self, host: str) -> bool:
        """Tell whether any secret may be put into requests to a host."""
        return any(secret.hosts.covers(host) for secret in self._secrets)

    def into_headers(
        self, host: str, headers: Headers
    ) -> tuple[list[tuple[bytes, bytes]], set[str]]:
        """Return the headers with their placeholders replaced, and the names of what was used.

        Raises:
            Unfit: a value that no header can hold.
        """
        usable = [s for s in self._secrets if s.header and s.hosts.covers(host)]
        used: set[str] = set()
        changed = []
        for name, value in headers:
            if name not in _FIXED:
                for secret in usable:
                    fresh = _in_header(name, value, secret)
                    if fresh is not value:
                        used.add(secret.name)
                        value = fresh
            changed.append((name, value))
        return changed, used

    def into_body(self, host: str, content_type: bytes) -> "BodyFiller | None":
        """Return what replaces placeholders in a body, or None when none may be there."""
        usable = [s for s in self._secrets if s.body and s.hosts.covers(host)]
        return BodyFiller(usable, content_type) if usable else None

    def scrubber(self, more: Iterable[HeaderRule] = ()) -> Replacer | None:
        """Return what takes the values out of one answer, or None when there is nothing to take."""
        pairs = self._forms(more)
        return Replacer(pairs) if pairs else None

    def blotter(self, more: Iterable[HeaderRule] = ()) -> Replacer | None:
        """Return the same for a stream whose lengths must stay: each value becomes stars."""
        pairs = {form: b"*" * len(form) for form in self._forms(more)}
        return Replacer(pairs) if pairs else None

    def _forms(self, more: Iterable[HeaderRule]) -> dict[bytes, bytes]:
        if not self.scrub:
            return {}
        pairs = dict(self._known)
        for rule in more:
            for value in rule.values():
                for form in forms(value):
                    pairs.setdefault(form, _MASK)
        return pairs


class BodyFiller:
    """Replaces placeholders in one request's body."""

    def __init__(self, secrets: Sequence[Secret], content_type: bytes) -> None:
        self._names = {secret.placeholder.encode(): secret.name for secret in secrets}
        self._replacer = Replacer(
            {s.placeholder.encode(): _in_body(s.value, content_type) for s in secrets}
        )

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk and return what may go."""
        return self._replacer.feed(chunk)

    def finish(self) -> bytes:
        """Return what was held back."""
        return self._replacer.finish()

    @property
    def names(self) -> set[str]:
        """Return the names of what may be put in."""
        return set(self._names.values())

    @property
    def used(self) -> set[str]:
        """Return the names of what was put in so far."""
        return {self._names[found] for found in self._replacer.found}


def forms(value: str) -> set[bytes]:
    """Return how a value may stand in an answer: plain, escaped, percent-encoded, hex, base64."""
    plain = _raw(value)
    if len(plain) < MIN_SCRUB_BYTES:
        return set()
    quoted = quote(plain, safe="").encode()
    found = {
        plain,
        json.dumps(value)[1:-1].encode(),
        _raw(json.dumps(value, ensure_ascii=False)[1:-1]),
        quoted,
        quote(plain).encode(),
        quote_plus(plain).encode(),
        _lower_escapes(quoted),
        plain.hex().encode(),
        plain.hex().upper().encode(),
    }
    return {form for form in found | cores(plain) if len(form) >= MIN_SCRUB_BYTES}


def cores(plain: bytes) -> set[bytes]:
    """Return how bytes stand inside a longer text that is base64, such as ``user:value``.

    It is what does not depend on the bytes before and after them, in both alphabets.
    """
    found = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + plain)
        core = encoded[-(-offset * 8 // 6) : (offset + len(plain)) * 8 // 6]
        found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def _in_header(name: bytes, value: bytes, secret: Secret) -> bytes:
    needle = secret.placeholder.encode()
    if needle in value:
        return value.replace(needle, _header_value(secret))
    if name == b"authorization" and value[:6].lower() == b"basic ":
        plain = _decoded(value[6:].strip())
        if plain is not None and needle in plain:
            return b"Basic " + base64.b64encode(plain.replace(needle, _raw(secret.value)))
    return value


def _header_value(secret: Secret) -> bytes:
    value = _raw(secret.value)
    if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in value):
        raise Unfit(secret.name)
    return value


def _in_body(value: str, content_type: bytes) -> bytes:
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"application/json" or kind.endswith(b"+json"):
        return json.dumps(value)[1:-1].encode()
    if kind == b"application/x-www-form-urlencoded":
        return quote_plus(_raw(value)).encode()
    return _raw(value)


def _raw(text: str) -> bytes:
    # A lone surrogate is no reason to fail with the secret in the error.
    return text.encode("utf-8", "surrogatepass")


def _decoded(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None


def _lower_escapes(quoted: bytes) -> bytes:
    parts = quoted.split(b"%")
    return b"%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


def with_lease(
    headers: Headers,
    rules: Mapping[bytes, HeaderRule],
    host: str,
    target: bytes,
    standing: Sequence[HeaderRule] = (),
) -> tuple[list[tuple[bytes, bytes]], HeaderRule | None]:
    """Return the headers without their lease, and with the lent header if the lease is for this.

    Args:
        rules: by the words of their leases.
        target: the request's, in origin form.
        standing: what requests without a lease get.
    """
    words = [value for name, value in headers if name == LEASE_HEADER]
    kept = [(name, value) for name, value in headers if name != LEASE_HEADER]
    rule = rules.get(words[0]) if len(words) == 1 else None
    if not words:
        rule = next((one for one in standing if one.covers(host, target)), None)
    if rule is None or not rule.covers(host, target):
        return kept, None
    name = rule.name.encode()
    kept = [(known, value) for known, value in kept if known != name]
    return [*kept, (name, rule.value.encode())], rule

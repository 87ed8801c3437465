"""Statements that the control plane signs and an edge checks, so that no edge needs a database.

Each is a JSON Web Token over Ed25519 (RFC 8037, RFC 9864). The algorithm is pinned: a token that
names another one is refused before its signature is looked at. An edge holds the public key only.

=============  =====================================================  ==========
``typ``        says                                                   expires
=============  =====================================================  ==========
tunnel-token   the bearer may serve this tunnel                       never; by version
dial           this TLS connection may be joined to this host         after 30 s
call           requests to this host come from this session           after 60 s
fence          no token of this tunnel below a version is good        after 60 s
=============  =====================================================  ==========

A dial ticket is shown to the edge, a call ticket to the gateway inside the inner TLS, in the header
:data:`CALL_HEADER`: an edge that opens streams of its own has none, and is refused.

A tunnel token holds no time and no random part, and Ed25519 is deterministic, so control can mint
the same value again to reveal it and need not store it (contract 16, R305).

Pure: time is an argument, keys are arguments.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from intramuros.protocol.hostname import BadHost, check_host, is_under
from intramuros.protocol.who import MAX_PEOPLE, NOBODY_KNOWN, BadWho, Who, read_people

ALGORITHM: Final = "Ed25519"
# A dial line is at most 4 KiB; ours are about 700 bytes.
MAX_TOKEN_CHARS: Final = 3 * 1024
# A call ticket names people and their groups; it is one of the headers of a request, whose head
# may have 32 KiB.
MAX_CALL_CHARS: Final = 12 * 1024
DIAL_TTL_S: Final = 30
FENCE_TTL_S: Final = 60
CALL_TTL_S: Final = 60
CALL_HEADER: Final = "intramuros-call"
# How far the edge's clock may be behind ours before a statement counts as from the future.
LEEWAY_S: Final = 30
# No statement with a time limit is good for longer, whatever it says.
MAX_TTL_S: Final = 300
MAX_VERSION: Final = 2**31 - 1
# Ids travel on in OPEN frames and log lines: no blanks, no control characters.
_CONNECTION: Final = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_TEXT: Final = re.compile(r"[A-Za-z0-9_.:-]{0,128}\Z")


class TicketError(Exception):
    """A statement that proves nothing: mint a new one. ``code`` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class TunnelToken:
    """What a gateway shows an edge; ``version`` grows with each rotation."""

    tunnel: str
    domain: str
    version: int


@dataclass(frozen=True, slots=True)
class DialTicket:
    """What control shows an edge for one connection."""

    tunnel: str
    domain: str
    host: str
    version: int
    """The tunnel's current token version: no new link below it."""
    session: str = ""
    trace: str = ""
    floor: int | None = None
    """The lowest version whose open links may serve this dial; ``version`` when None."""
    connection: str = ""
    """The name of the TLS connection that it is shown on, and on which alone it is good; see
    :func:`~intramuros.protocol.dial.connection_name`. Empty from an older control plane."""

    @property
    def serves_from(self) -> int:
        """The lowest token version of a link that may carry this dial."""
        return self.version if self.floor is None else self.floor


@dataclass(frozen=True, slots=True)
class CallTicket:
    """What control shows a gateway with each request: whose it is, and who answers for it."""

    tunnel: str
    host: str
    session: str = ""
    trace: str = ""
    workspace: str = ""
    agent: str = ""
    agent_version: int = 0
    who: tuple[Who, ...] = ()


@dataclass(frozen=True, slots=True)
class Fence:
    """Control's word that tokens below ``version`` are no good; ``sever`` cuts open links too."""

    tunnel: str
    version: int
    sever: bool = False


class SigningKey:
    """The control plane's Ed25519 private key."""

    def __init__(self, pem: bytes) -> None:
        """Read a PKCS#8 PEM.

        Raises:
            TicketError: it is no Ed25519 private key.
        """
        self._key = _load(pem)
        if not self._key.is_private:
            raise TicketError("bad_key", "expected an Ed25519 private key in PEM")

    def public_pem(self) -> bytes:
        """Return the public half, which edges hold."""
        return self._key.as_pem(private=False)

    def mint_tunnel_token(self, token: TunnelToken) -> str:
        """Return the tunnel token; the same arguments always give the same text."""
        return self._sign(
            {
                "typ": "tunnel-token",
                "tunnel": token.tunnel,
                "domain": token.domain,
                "ver": token.version,
            }
        )

    def mint_dial_ticket(self, ticket: DialTicket, now_s: float) -> str:
        """Return a ticket good for ``DIAL_TTL_S`` seconds from ``now_s`` (epoch seconds)."""
        return self._sign(
            {
                "typ": "dial",
                "tunnel": ticket.tunnel,
                "domain": ticket.domain,
                "host": ticket.host,
                "ver": ticket.version,
                "floor": ticket.serves_from,
                "sid": ticket.session,
                "tid": ticket.trace,
                **({"con": ticket.connection} if ticket.connection else {}),
                "iat": int(now_s),
                "exp": int(now_s) + DIAL_TTL_S,
            }
        )

    def mint_call_ticket(self, ticket: CallTicket, now_s: float) -> str:
        """Return a ticket good for ``CALL_TTL_S`` seconds from ``now_s`` (epoch seconds).

        More people or groups than a ticket holds become one whom nobody knows.
        """
        if len(ticket.who) > MAX_PEOPLE:
            ticket = replace(ticket, who=(NOBODY_KNOWN,))
        text = self._call(ticket, now_s)
        if len(text) > MAX_CALL_CHARS:
            text = self._call(replace(ticket, who=(NOBODY_KNOWN,)), now_s)
        return text

    def _call(self, ticket: CallTicket, now_s: float) -> str:
        return self._sign(
            {
                "typ": "call",
                "tunnel": ticket.tunnel,
                "host": ticket.host,
                "sid": ticket.session,
                "tid": ticket.trace,
                "ws": ticket.workspace,
                "agent": ticket.agent,
                "agv": ticket.agent_version,
                "who": [who.claim() for who in ticket.who],
                "iat": int(now_s),
                "exp": int(now_s) + CALL_TTL_S,
            }
        )

    def mint_fence(self, fence: Fence, now_s: float) -> str:
        """Return a statement that edges apply at once, good for ``FENCE_TTL_S`` seconds."""
        return self._sign(
            {
                "typ": "fence",
                "tunnel": fence.tunnel,
                "ver": fence.version,
                "sever": fence.sever,
                "iat": int(now_s),
                "exp": int(now_s) + FENCE_TTL_S,
            }
        )

    def _sign(self, claims: dict[str, object]) -> str:
        return jwt.encode({"alg": ALGORITHM}, claims, self._key, algorithms=[ALGORITHM])


class VerifyingKey:
    """The control plane's public key, as edges and gateways hold it."""

    def __init__(self, pem: bytes) -> None:
        """Read a SubjectPublicKeyInfo PEM.

        Raises:
            TicketError: it is no Ed25519 public key (a private key is refused: whoever only checks
                must not be able to sign).
        """
        self._key = _load(pem)
        if self._key.is_private:
            raise TicketError("bad_key", "this is the private key; the public one is wanted")

    @property
    def fingerprint(self) -> str:
        """What the key is called in logs: the beginning of its PEM's SHA-256."""
        return sha256(self._key.as_pem(private=False)).hexdigest()[:16]

    def read_tunnel_token(self, text: str) -> TunnelToken:
        """Check a tunnel token.

        Raises:
            TicketError: not signed by control, or malformed.
        """
        claims = self._claims(text, "tunnel-token")
        domain = _host(claims, "domain")
        return TunnelToken(_text(claims, "tunnel"), domain, _version(claims, "ver"))

    def read_dial_ticket(self, text: str, now_s: float) -> DialTicket:
        """Check a dial ticket at a time in epoch seconds.

        Raises:
            TicketError: not signed by control, malformed, expired, or for a host outside the
                tunnel's domain.
        """
        claims = self._claims(text, "dial")
        _check_time(claims, now_s)
        domain, host = _host(claims, "domain"), _host(claims, "host")
        if not is_under(host, domain):
            raise TicketError("bad_ticket", "the ticket's host is not under the tunnel's domain")
        return DialTicket(
            tunnel=_text(claims, "tunnel"),
            domain=domain,
            host=host,
            version=_version(claims, "ver"),
            session=_text(claims, "sid", empty=True),
            trace=_text(claims, "tid", empty=True),
            floor=_version(claims, "floor"),
            connection=_connection(claims),
        )

    def read_call_ticket(self, text: str, now_s: float) -> CallTicket:
        """Check a call ticket at a time in epoch seconds.

        Raises:
            TicketError: not signed by control, malformed or expired.
        """
        claims = self._claims(text, "call", MAX_CALL_CHARS)
        _check_time(claims, now_s)
        # The later claims came later: a control plane of an older version does not send them.
        told = {"ws": "", "agent": "", "agv": 0, "who": None, **claims}
        try:
            people = read_people(told["who"])
        except BadWho as error:
            raise TicketError("bad_ticket", str(error)) from error
        return CallTicket(
            tunnel=_text(claims, "tunnel"),
            host=_host(claims, "host"),
            session=_text(claims, "sid", empty=True),
            trace=_text(claims, "tid", empty=True),
            workspace=_text(told, "ws", empty=True),
            agent=_text(told, "agent", empty=True),
            agent_version=_version(told, "agv"),
            who=people,
        )

    def read_fence(self, text: str, now_s: float) -> Fence:
        """Check a fence at a time in epoch seconds.

        Raises:
            TicketError: not signed by control, malformed or expired.
        """
        claims = self._claims(text, "fence")
        _check_time(claims, now_s)
        sever = claims.get("sever")
        if not isinstance(sever, bool):
            raise TicketError("bad_ticket", "claim 'sever' is no boolean")
        return Fence(_text(claims, "tunnel"), _version(claims, "ver"), sever)

    def _claims(
        self, text: str, typ: str, most_chars: int = MAX_TOKEN_CHARS
    ) -> Mapping[str, object]:
        if len(text) > most_chars or not text.isascii():
            raise TicketError("bad_ticket", "no token, or too long")
        try:
            token = jwt.decode(text, self._key, algorithms=[ALGORITHM])
        except (JoseError, ValueError, RecursionError) as error:
            raise TicketError("bad_signature", "not signed by this control plane") from error
        if token.claims.get("typ") != typ:
            raise TicketError("bad_ticket", f"this is no {typ}")
        return token.claims


def _load(pem: bytes) -> OKPKey:
    try:
        key = OKPKey.import_key(pem)
    except (JoseError, ValueError, TypeError) as error:
        raise TicketError("bad_key", "expected an Ed25519 key in PEM") from error
    if key.curve_name != "Ed25519":
        raise TicketError("bad_key", f"expected an Ed25519 key, got {key.curve_name}")
    return key


def _text(claims: Mapping[str, object], name: str, *, empty: bool = False) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not _TEXT.match(value) or (not value and not empty):
        raise TicketError("bad_ticket", f"claim {name!r} is missing or malformed")
    return value


def _connection(claims: Mapping[str, object]) -> str:
    if "con" not in claims:
        return ""
    value = claims["con"]
    if not isinstance(value, str) or _CONNECTION.match(value) is None:
        raise TicketError("bad_ticket", "claim 'con' names no connection")
    return value


def _host(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    try:
        return check_host(value if isinstance(value, str) else "")
    except BadHost as error:
        raise TicketError("bad_ticket", f"claim {name!r} is no host name") from error


def _version(claims: Mapping[str, object], name: str) -> int:
    value = claims.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_VERSION:
        raise TicketError("bad_ticket", f"claim {name!r} is no version")
    return value


def _check_time(claims: Mapping[str, object], now_s: float) -> None:
    issued, expires = _version(claims, "iat"), _version(claims, "exp")
    if not 0 < expires - issued <= MAX_TTL_S:
        raise TicketError("bad_ticket", "the ticket's validity is out of bounds")
    if now_s < issued - LEEWAY_S:
        behind = int(issued - now_s)
        raise TicketError(
            "clock_skew", f"the ticket is from the future; this clock is {behind} s behind"
        )
    if now_s >= expires:
        late = int(now_s - expires)
        raise TicketError(
            "expired", f"the ticket expired {late} s ago; check both clocks if it was just made"
        )

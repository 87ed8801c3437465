"""The lines that open a connection to an edge, before anything else is said on it.

ALPN decides who calls; the edge answers ``OK`` or ``ERR <code> <text>``::

    intramuros-link/1    gateway ▶ {"token": "…", "gateway": "…", "v": 1}
    intramuros-dial/1    control ▶ DIAL <ticket>
                         control ▶ FENCE <statement>

A dial ticket names the TLS connection that it is shown on (:func:`connection_name`), so that who
reads it there can use it on no other: not a second time, nor at another edge. A ticket that names
none comes from a control plane of an earlier version.

After OK a link carries frames (protocol/mux.py) and a dial carries the inner TLS. After ERR the
edge closes. A line is at most 4 KiB with its newline.

Pure: lines in, values out.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

LINK_ALPN: Final = "intramuros-link/1"
DIAL_ALPN: Final = "intramuros-dial/1"
MAX_LINE_BYTES: Final = 4 * 1024

_TOKEN: Final = re.compile(r"[A-Za-z0-9_.-]{1,3072}\Z")
_CODE: Final = re.compile(r"[a-z_]{1,40}\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{0,128}\Z")


_LABEL: Final = b"intramuros dial 1\0"


class BadLine(ValueError):
    """The line is none of ours."""


@dataclass(frozen=True, slots=True)
class LinkHello:
    """What a gateway says first."""

    token: str
    gateway: str
    """A name for logs, such as the host's; proves nothing."""


@dataclass(frozen=True, slots=True)
class Dial:
    """A request to be connected."""

    ticket: str


@dataclass(frozen=True, slots=True)
class FenceCall:
    """A request to apply a statement about token versions."""

    statement: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The edge's no: a stable code and a text for people."""

    code: str
    text: str


def connection_name(finished: bytes) -> str:
    """Return what a dial ticket calls the TLS connection that it is for.

    Args:
        finished: the caller's TLS Finished message, which is another on each connection, whoever
            is at its ends: a MAC over both ends' random numbers, keys and certificates.

    Returns:
        SHA-256 of a label and the message, in base64url without padding.

    Raises:
        ValueError: there is no such message, so nothing would be named.
    """
    if not finished:
        raise ValueError("the connection has no TLS that could be named")
    digest = hashlib.sha256(_LABEL + finished).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def encode_link_hello(hello: LinkHello) -> bytes:
    """Return the gateway's first line."""
    body = {"v": 1, "token": hello.token, "gateway": hello.gateway}
    return json.dumps(body, separators=(",", ":")).encode("ascii") + b"\n"


def parse_link_hello(line: bytes) -> LinkHello:
    """Read a gateway's first line, without its newline.

    Raises:
        BadLine: not one JSON object with a token and a gateway name of version 1.
    """
    try:
        body = json.loads(_text(line))
    except (ValueError, RecursionError) as error:
        raise BadLine("the first line is no JSON") from error
    if not isinstance(body, dict) or body.get("v") != 1:
        raise BadLine("the first line is no hello of version 1")
    token, gateway = body.get("token"), body.get("gateway")
    if not isinstance(token, str) or _TOKEN.match(token) is None:
        raise BadLine("the hello has no token")
    if not isinstance(gateway, str) or _NAME.match(gateway) is None:
        raise BadLine("the hello has no gateway name")
    return LinkHello(token, gateway)


def encode_call(call: Dial | FenceCall) -> bytes:
    """Return control's first line."""
    if isinstance(call, Dial):
        return f"DIAL {call.ticket}\n".encode("ascii")
    return f"FENCE {call.statement}\n".encode("ascii")


def parse_call(line: bytes) -> Dial | FenceCall:
    """Read control's first line, without its newline.

    Raises:
        BadLine: neither DIAL nor FENCE with one token.
    """
    verb, _, token = _text(line).partition(" ")
    if _TOKEN.match(token) is None:
        raise BadLine("expected DIAL or FENCE and one token")
    if verb == "DIAL":
        return Dial(token)
    if verb == "FENCE":
        return FenceCall(token)
    raise BadLine("expected DIAL or FENCE and one token")


def encode_reply(refusal: Refusal | None) -> bytes:
    """Return the edge's answer."""
    if refusal is None:
        return b"OK\n"
    return f"ERR {refusal.code} {_printable(refusal.text)}\n".encode("ascii")


def parse_reply(line: bytes) -> Refusal | None:
    """Read the edge's answer, without its newline; None means OK.

    Raises:
        BadLine: neither OK nor ERR.
    """
    text = _text(line)
    if text == "OK":
        return None
    verb, _, rest = text.partition(" ")
    code, _, message = rest.partition(" ")
    if verb != "ERR" or _CODE.match(code) is None:
        raise BadLine("the edge gave no answer of ours; is this an edge?")
    # It is shown on terminals, and an edge may be anyone's.
    return Refusal(code, _printable(message))


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:512])


def _text(line: bytes) -> str:
    if len(line) >= MAX_LINE_BYTES:
        raise BadLine("the line is too long")
    try:
        return line.decode("ascii")
    except UnicodeDecodeError as error:
        raise BadLine("the line is no ASCII") from error

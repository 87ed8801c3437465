"""Addresses of pages: one strict reading of them, and where texts name some. Pure.

What is checked must be what is fetched, so a URL is taken apart here and put together anew from the
parts; a spelling that two parsers could read differently is refused.
"""

import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin

import idna

# The documented limit on what a model may ask for; a redirect may lead to a longer one.
MAX_URL_CHARS: Final = 250
MAX_REDIRECT_CHARS: Final = 2_000
MAX_HOST_CHARS: Final = 253
_PORTS: Final = {"http": 80, "https": 443}

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[^\s/?#:@\[\]\\%]+)(?::(?P<port>\d{1,5}))?"
    r"(?P<path>/[^\s?#\\]*)?(?P<query>\?[^\s#\\]*)?(?:#\S*)?",
    re.IGNORECASE,
)
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# The last label of an address, in any spelling that some resolver takes: 127.1, 0x7f.1.
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*")
# What stays as it is in a path or query (RFC 3986); everything else is escaped.
_KEPT: Final = "/%:@!$&'()*+,;=~-._?"

_IN_TEXT: Final = re.compile(r"https?://[^\s<>\"`{}|\\^]+", re.IGNORECASE)
# A page named without its scheme, as people do: example.com/about.
_BARE: Final = re.compile(
    r"(?<![\w@/.:-])(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}(?![\w-])(?::\d+)?(?:/[^\s<>\"`{}|\\^]*)?",
    re.IGNORECASE,
)
# What may stand behind an address in a sentence, a list or Markdown.
_TAIL: Final = frozenset(".,;:!?'\")]}>*_~")
# A longer tail is no sentence's.
_MAX_TAIL: Final = 8


class BadUrl(ValueError):
    """Not the plain address of a page; the text says why, without repeating it."""


@dataclass(frozen=True)
class Target:
    """A page, in parts.

    Args:
        host: in lower case and ASCII; an IPv6 address without brackets.
        port: 1 to 65535.
        path: with the query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The page's one spelling."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address that the host is, if it is no name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def bare_path(self) -> str:
        """The path without the query, which may hold what is nobody's business."""
        return self.path.partition("?")[0]


def parse(text: str, max_chars: int = MAX_URL_CHARS) -> Target:
    """Return the page that a URL names.

    Args:
        text: an absolute URL; its fragment is dropped.

    Raises:
        BadUrl: anything but http or https, with a user, too long, or oddly spelt.
    """
    if len(text) > max_chars:
        raise BadUrl(f"the URL is longer than {max_chars} characters")
    match = _URL.fullmatch(text)
    if match is None or not text.isprintable():
        raise BadUrl("not an absolute http or https URL")
    scheme = match["scheme"].lower()
    port = int(match["port"] or _PORTS[scheme])
    if not 1 <= port <= 65_535:
        raise BadUrl("no such port")
    path = quote((match["path"] or "/") + (match["query"] or ""), safe=_KEPT)
    return Target(scheme, _host(match["host"].lower()), port, path)


def join(base: Target, location: str) -> Target:
    """Return the page that a redirect leads to.

    Raises:
        BadUrl: as for :func:`parse`.
    """
    try:
        joined = urljoin(base.url, location.strip())
    except ValueError as error:
        raise BadUrl("not an absolute http or https URL") from error
    return parse(joined, MAX_REDIRECT_CHARS)


def key(target: Target) -> str:
    """Return what two spellings of one page have in common."""
    path, mark, query = target.path.partition("?")
    return f"{target.host}:{target.port}{path.rstrip('/')}{mark}{query}"


def names(text: str, target: Target, *, bare: bool = False) -> bool:
    """Tell whether a text names a page.

    A page named with http may be fetched with https too.

    Args:
        bare: whether an address without scheme counts.
    """
    if "xn--" not in target.host and target.host not in text.lower():
        return False  # nearly all texts end here
    # What is escaped in the one may not be in the other; a plain path stands there as it is.
    path = target.bare_path.rstrip("/")
    plain = "" if "%" in path else path
    if plain not in text:
        return False
    wanted = {key(target)}
    if target.scheme == "https" and target.port == _PORTS["https"]:
        wanted.add(key(Target("http", target.host, _PORTS["http"], target.path)))
    return any(
        key(found) in wanted and (found.scheme == target.scheme or target.scheme == "https")
        for found in _found(text, plain, bare=bare)
    )


def _found(text: str, path: str, *, bare: bool) -> Iterator[Target]:
    """Yield the pages that a text names, of those that may have this path."""
    for match in _IN_TEXT.finditer(text):
        if path in match.group():
            yield from _readings(match.group())
    if bare:
        for match in _BARE.finditer(text):
            if path in match.group():
                yield from _readings(f"https://{match.group()}")
                yield from _readings(f"http://{match.group()}")


def _readings(text: str) -> Iterator[Target]:
    """Yield an address as it stands, and without what may be punctuation behind it."""
    for _ in range(_MAX_TAIL):
        with suppress(BadUrl):
            yield parse(text, MAX_REDIRECT_CHARS)
        # A bracket may close what surrounds an address, or belong to it.
        inner = text.partition("](")[0]
        if inner != text:
            yield from _readings(inner)
        if not text or text[-1] not in _TAIL:
            return
        text = text[:-1]


def _host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError as error:
            raise BadUrl("the host is no address") from error
    host = host.removesuffix(".")
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii").lower()
        except (idna.IDNAError, UnicodeError) as error:
            raise BadUrl("the host is no domain name") from error
    labels = host.split(".")
    if len(host) > MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadUrl("the host is no domain name")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise BadUrl("the host is neither a name nor a plainly written address") from error
    return host

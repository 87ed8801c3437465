"""What an address and its headers may be (contract-2 R379, R380). Pure."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

from intramuros.kernel.errors import InvalidRequest

TRACES_PATH: Final = "/v1/traces"
MAX_HEADERS: Final = 20
MAX_NAME_CHARS: Final = 128
MAX_VALUE_CHARS: Final = 4096
MAX_HEADER_BYTES: Final = 16_384

_LABELS: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z",
    re.IGNORECASE | re.ASCII,
)
_URL_TEXT: Final = re.compile(r"[\x21-\x7e]+\Z")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 5.6.2
_VALUE: Final = re.compile(r"[\x20-\x7e]+\Z")
# They frame the message, name who asks, or are ours to set.
_RESERVED: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "origin",
        "referer",
        "set-cookie",
        "te",
        "trailer",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
    }
)
_RESERVED_PREFIXES: Final = ("content-", "proxy-", "x-forwarded-", "anthropic-")


def check_url(name: str, url: str, *, any_port: bool = False) -> None:
    """Refuse what is no address of a collector.

    Args:
        name: the field, for the message.
        any_port: whether the operator's own networks may be meant, where collectors have any port.

    Raises:
        InvalidRequest: naming what is wrong; never what may be a secret in the address.
    """
    parts = _split(name, url)
    if parts.scheme.lower() != "https":
        raise InvalidRequest(f"{name}: must be https")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise InvalidRequest(f"{name}: must not have a user or a password")
    if parts.query or "?" in url or parts.fragment or "#" in url:
        raise InvalidRequest(f"{name}: must not have a query or a fragment")
    host = (parts.hostname or "").rstrip(".")
    if _is_address(host) or not _LABELS.match(host):
        raise InvalidRequest(f"{name}: must have a host name, not an address")
    try:
        port = parts.port
    except ValueError:
        raise InvalidRequest(f"{name}: the port is no port") from None
    if not any_port and (port not in (None, 443) or parts.netloc.endswith(":")):
        raise InvalidRequest(f"{name}: the port must be 443")


def origin(url: str) -> tuple[str, int]:
    """Return the host and port of a checked address."""
    parts = urlsplit(url)
    return (parts.hostname or "").lower().rstrip("."), parts.port or 443


def traces_url(endpoint_url: str, own: str | None) -> str:
    """Return where traces are posted to: the address for traces, or the path on the base one."""
    return own or endpoint_url.rstrip("/") + TRACES_PATH


def check_headers(headers: Mapping[str, str | None]) -> None:
    """Refuse names and values that could not be sent, or not by callers.

    Raises:
        InvalidRequest: naming the header, never its value.
    """
    seen: set[str] = set()
    for name, value in headers.items():
        shown = name[:MAX_NAME_CHARS]
        if not _NAME.match(name) or len(name) > MAX_NAME_CHARS:
            raise InvalidRequest(f"headers: {shown!r} is no header name")
        if name.lower() in seen:
            raise InvalidRequest(f"headers: {shown!r} is named twice")
        seen.add(name.lower())
        plain = name.lower().replace("_", "-")
        if plain in _RESERVED or plain.startswith(_RESERVED_PREFIXES):
            raise InvalidRequest(f"headers: {shown!r} is reserved")
        if value is None:
            continue
        if not _VALUE.match(value) or value != value.strip(" ") or len(value) > MAX_VALUE_CHARS:
            raise InvalidRequest(
                f"headers: the value of {shown!r} must be printable ASCII, at most "
                f"{MAX_VALUE_CHARS} characters, without a space at either end"
            )


def merge_headers(stored: Mapping[str, str], patch: Mapping[str, str | None]) -> dict[str, str]:
    """Return the headers after a patch: text sets, None removes, names compare without case.

    Raises:
        InvalidRequest: too many, or too much.
    """
    kept = {name.lower(): (name, value) for name, value in stored.items()}
    for name, value in patch.items():
        if value is None:
            kept.pop(name.lower(), None)
        else:
            kept[name.lower()] = (name, value)
    if len(kept) > MAX_HEADERS:
        raise InvalidRequest(f"headers: at most {MAX_HEADERS}")
    sets = {name.lower() for name, value in patch.items() if value is not None}
    if sets:
        # What the caller cannot read counts as the longest it may be.
        size = sum(
            len(name) + (len(value) if low in sets else MAX_VALUE_CHARS)
            for low, (name, value) in kept.items()
        )
        if size > MAX_HEADER_BYTES:
            raise InvalidRequest(
                f"headers: names and values together are over {MAX_HEADER_BYTES} bytes; a stored "
                f"value that is not sent again counts as {MAX_VALUE_CHARS}"
            )
    return dict(kept.values())


def _split(name: str, url: str) -> SplitResult:
    if not _URL_TEXT.match(url) or "\\" in url:
        raise InvalidRequest(f"{name}: must be ASCII without blanks")
    try:
        return urlsplit(url)
    except ValueError:
        raise InvalidRequest(f"{name}: is no URL") from None


def _is_address(host: str) -> bool:
    """Tell whether a host could be read as an IP address, in any spelling that resolvers know."""
    last = host.rpartition(".")[2]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last, re.IGNORECASE):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

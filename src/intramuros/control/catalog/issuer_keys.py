"""Issuers' public keys: inline, or fetched through a guarded connection and kept for a while."""

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpx2

from intramuros.control.catalog.assertions import Jwk, Refused, read_keys
from intramuros.control.catalog.service import Resource
from intramuros.control.mcp.guard import GuardedTransport, Resolver, system_resolver
from intramuros.kernel.addresses import Network
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, rfc3339

log = logger("federation")

FRESH_S: Final = 600.0
# Keys that could not be renewed are good for this long; then exchanges fail.
STALE_S: Final = 3600.0
# An unknown key id, or a failure, asks the issuer again no sooner than this.
RETRY_S: Final = 60.0
FETCH_TIMEOUT_S: Final = 5.0
MAX_DOCUMENT_BYTES: Final = 256 * 1024
_DISCOVERY: Final = "/.well-known/openid-configuration"


@dataclass
class _Entry:
    """What is known of one issuer's keys; ``source`` tells when its configuration changed."""

    source: str
    keys: Sequence[Jwk] = ()
    fetched_s: float | None = None
    tried_s: float | None = None
    fetched_at: datetime | None = None
    failures: int = 0
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class IssuerKeys:
    """Finds the key that signed an assertion.

    Args:
        clock: tells how old keys are.
        networks: the operator's own, in which issuers may live, at any port and name.
        resolver: turns names into addresses.
    """

    def __init__(
        self, clock: Clock, networks: Sequence[Network] = (), resolver: Resolver = system_resolver
    ) -> None:
        self._clock = clock
        self._networks = networks
        self._resolver = resolver
        self._entries: dict[str, _Entry] = {}

    async def find(self, issuer: Resource, kid: str) -> Jwk:
        """Return the issuer's key of that id.

        Raises:
            Refused: it has none, or its keys cannot be had.
        """
        jwks = issuer.body["jwks"]
        if jwks["type"] == "inline":
            return _named(jwks["keys"], kid) or _refuse("unknown_key")
        entry = self._entry(issuer)
        async with entry.lock:
            if self._age(entry.fetched_s) > FRESH_S or (
                _named(entry.keys, kid) is None and self._age(entry.tried_s) > RETRY_S
            ):
                await self._renew(entry, issuer)
        if self._age(entry.fetched_s) > STALE_S:
            raise Refused("keys_unavailable")
        return _named(entry.keys, kid) or _refuse("unknown_key")

    def status(self, issuer: Resource) -> dict[str, Any] | None:
        """Return how fetching goes, or None before the first time and for inline keys."""
        entry = self._entries.get(issuer.id)
        if entry is None or entry.tried_s is None:
            return None
        at = entry.fetched_at
        return {
            "consecutive_failures": entry.failures,
            "last_fetched_at": None if at is None else rfc3339(at),
            "next_poll_at": None,
        }

    def check_url(self, url: str) -> str | None:
        """Return why an address would never be dialed, or None (contract-2 R356)."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return "is no URL"
        if parts.scheme != "https" or not parts.hostname:
            return "must be https with a host name"
        if parts.username is not None or parts.fragment or parts.query:
            return "must not have a user, a query or a fragment"
        if not self._networks and (port not in (None, 443) or not _is_public(parts.hostname)):
            return "must have a public DNS name and port 443"
        return None

    def _entry(self, issuer: Resource) -> _Entry:
        source = json.dumps([issuer.body["issuer_url"], issuer.body["jwks"]], sort_keys=True)
        entry = self._entries.get(issuer.id)
        if entry is None or entry.source != source:
            entry = self._entries[issuer.id] = _Entry(source)
        return entry

    def _age(self, at_s: float | None) -> float:
        return float("inf") if at_s is None else self._clock.monotonic() - at_s

    async def _renew(self, entry: _Entry, issuer: Resource) -> None:
        if entry.failures and self._age(entry.tried_s) <= RETRY_S:
            return
        entry.tried_s = self._clock.monotonic()
        try:
            with anyio.fail_after(FETCH_TIMEOUT_S):
                entry.keys = await self._fetch(issuer.body["issuer_url"], issuer.body["jwks"])
        except (Refused, httpx2.HTTPError, OSError, ValueError) as error:
            entry.failures += 1
            log.warning("issuer_keys_failed", issuer=issuer.id, error=type(error).__name__)
            return
        entry.failures = 0
        entry.fetched_s, entry.fetched_at = self._clock.monotonic(), self._clock.now()

    async def _fetch(self, issuer_url: str, jwks: Mapping[str, Any]) -> Sequence[Jwk]:
        context = httpx2.create_ssl_context()
        if jwks.get("ca_cert_pem"):
            context = ssl.create_default_context(cadata=jwks["ca_cert_pem"])
        transport = GuardedTransport(self._networks, self._resolver, context)
        async with httpx2.AsyncClient(
            transport=transport, timeout=FETCH_TIMEOUT_S, follow_redirects=False, trust_env=False
        ) as client:
            if jwks["type"] == "explicit_url":
                return read_keys(await self._get(client, jwks["url"]))
            base = (jwks.get("discovery_base") or issuer_url).rstrip("/")
            document = await self._get(client, base + _DISCOVERY)
            url = document.get("jwks_uri") if isinstance(document, dict) else None
            if not isinstance(url, str):
                raise Refused("discovery")
            return read_keys(await self._get(client, url))

    async def _get(self, client: httpx2.AsyncClient, url: str) -> object:
        if self.check_url(url) is not None:
            raise Refused("address")
        body = bytearray()
        async with client.stream("GET", url, headers={"accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise Refused("status")
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise Refused("too_large")
        try:
            return json.loads(bytes(body))
        except RecursionError as error:
            raise Refused("malformed_keys") from error


def _named(keys: Sequence[Jwk], kid: str) -> Jwk | None:
    return next((key for key in keys if key.get("kid") == kid), None)


def _refuse(reason: str) -> Jwk:
    raise Refused(reason)


def _is_public(host: str) -> bool:
    """Return whether this could be a name of the public DNS; addresses are not."""
    label = host.rstrip(".").rpartition(".")
    return bool(label[0]) and any(c.isalpha() for c in label[2]) and ":" not in host

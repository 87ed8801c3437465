"""Assertions of foreign issuers: read within bounds, verified with the issuer's public keys."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from intramuros.protocol.resources.federation import MAX_ASSERTION_BYTES, MAX_KEYS

ALGORITHMS: Final = tuple(
    f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)
)
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
MAX_KID_CHARS: Final = 512
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Jwk = Mapping[str, Any]


class Refused(Exception):
    """An assertion or a key set that is not accepted; ``reason`` is for the audit log only."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Unverified:
    """What an assertion says of itself, before anything is believed."""

    kid: str
    algorithm: str
    issuer: str


def peek(assertion: str) -> Unverified:
    """Return what is needed to find the key.

    Raises:
        Refused: not an assertion that could be accepted (contract-2 R345, R346).
    """
    if len(assertion.encode()) > MAX_ASSERTION_BYTES:
        raise Refused("too_large")
    parts = assertion.split(".")
    if len(parts) != 3:
        raise Refused("malformed")
    header, claims = _part(parts[0]), _part(parts[1])
    kid, algorithm, issuer = header.get("kid"), header.get("alg"), claims.get("iss")
    if algorithm not in ALGORITHMS:
        raise Refused("algorithm")
    if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID_CHARS:
        raise Refused("missing_kid")
    if "crit" in header:
        raise Refused("critical_header")
    if not isinstance(issuer, str):
        raise Refused("missing_issuer")
    return Unverified(kid, str(algorithm), issuer)


def verify(assertion: str, key: Jwk, algorithm: str) -> Mapping[str, Any]:
    """Return the claims that the key vouches for.

    Raises:
        Refused: it does not.
    """
    if key.get("alg") not in (None, algorithm):
        raise Refused("key_algorithm")
    try:
        token = jwt.decode(assertion, import_key(key), algorithms=[algorithm])
    except (JoseError, ValueError, TypeError) as error:
        raise Refused("signature") from error
    if not isinstance(token.claims, dict):
        raise Refused("malformed")
    return token.claims


def import_key(key: Jwk) -> RSAKey | ECKey:
    """Return a public key.

    Raises:
        Refused: private or symmetric, of another type, too weak, or too large to verify with.
    """
    if _PRIVATE & set(key):
        raise Refused("private_key")
    if key.get("use") not in (None, "sig"):
        raise Refused("key_use")
    plain: dict[str, Any] = {
        k: v for k, v in key.items() if k in ("kty", "n", "e", "crv", "x", "y")
    }
    if any(not isinstance(v, str) or len(v) > MAX_RSA_BITS // 4 for v in plain.values()):
        raise Refused("malformed_key")
    try:
        if plain.get("kty") == "RSA":
            rsa = RSAKey.import_key(plain)
            if not MIN_RSA_BITS <= rsa.public_key.key_size <= MAX_RSA_BITS:
                raise Refused("key_size")
            return rsa
        if plain.get("kty") == "EC":
            return ECKey.import_key(plain)
    except (JoseError, ValueError, TypeError, KeyError, binascii.Error) as error:
        raise Refused("malformed_key") from error
    raise Refused("key_type")


def read_keys(document: object) -> Sequence[Jwk]:
    """Return the keys of a key set that have an id; others are left out, since none is looked up.

    Raises:
        Refused: no key set, or too many keys.
    """
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise Refused("malformed_keys")
    return [key for key in keys if isinstance(key, dict) and isinstance(key.get("kid"), str)]


def _part(text: str) -> Mapping[str, Any]:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused("malformed") from error
    if not isinstance(value, dict):
        raise Refused("malformed")
    return value

"""What an assertion must say: its times, its audience, and a rule's conditions on its claims."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

LEEWAY_S: Final = 30

# Issuers that sign for many tenants, the claims that name the tenant, and subjects that do.
_SHARED: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "https://token.actions.githubusercontent.com": (
        frozenset({"repository", "repository_id", "repository_owner", "repository_owner_id"}),
        r"repo:[^/*:]+/",
    ),
    "https://gitlab.com": (
        frozenset({"namespace_id", "namespace_path", "project_id", "project_path"}),
        r"project_path:[^/*:]+/",
    ),
    "https://agent.buildkite.com": (
        frozenset({"organization_id", "organization_slug", "pipeline_id"}),
        r"organization:[^:*]+:",
    ),
    "https://app.terraform.io": (
        frozenset({"terraform_organization_id", "terraform_organization_name"}),
        r"organization:[^:*]+:",
    ),
    "https://accounts.google.com": (frozenset({"email", "hd"}), r"[^*]+\Z"),
}


def pins_tenant(issuer_url: str, match: Mapping[str, Any]) -> bool:
    """Return whether a rule lets in one tenant only of an issuer that many share (R353)."""
    shared = _SHARED.get(issuer_url.rstrip("/"))
    if shared is None:
        return True
    names, subject = shared
    if names & set(match.get("claims") or {}):
        return True
    return re.match(subject, match.get("subject_prefix") or "") is not None


def is_sufficient(match: Mapping[str, Any]) -> bool:
    """Return whether a rule says whom it lets in; the audience alone does not (R350, R351)."""
    return bool(match.get("claims")) or (match.get("subject_prefix") or "*") != "*"


def check_times(claims: Mapping[str, Any], max_lifetime_s: int, now_s: float) -> str | None:
    """Return why an assertion is not good now, or None (R346, R347)."""
    issued, expires = _time(claims.get("iat")), _time(claims.get("exp"))
    if issued is None or expires is None:
        return "missing_times"
    if expires - issued > max_lifetime_s or expires <= issued:
        return "lifetime"
    if expires + LEEWAY_S <= now_s:
        return "expired"
    starts = _time(claims["nbf"]) if "nbf" in claims else issued
    if starts is None or max(starts, issued) - LEEWAY_S > now_s:
        return "not_yet_valid"
    return None


def check_match(
    claims: Mapping[str, Any], match: Mapping[str, Any], audiences: Collection[str]
) -> str | None:
    """Return which of a rule's conditions an assertion does not meet, or None.

    Args:
        audiences: accepted when the rule names none.
    """
    wanted = match.get("audience")
    accepted = set(audiences) if wanted is None else {wanted}
    if not accepted & _audiences(claims.get("aud")):
        return "match_audience"
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        return "missing_subject"
    prefix = match.get("subject_prefix")
    if prefix is not None and not _fits(subject, prefix):
        return "match_subject_prefix"
    for name, value in (match.get("claims") or {}).items():
        if not isinstance(claims.get(name), str) or claims[name] != value:
            return "match_claims"
    return None


def _fits(subject: str, prefix: str) -> bool:
    if prefix.endswith("*"):
        return subject.startswith(prefix[:-1])
    return subject == prefix


def _audiences(value: object) -> set[str]:
    values = value if isinstance(value, list) else [value]
    return {entry for entry in values if isinstance(entry, str)}


def _time(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Beyond this no calendar of ours reaches, and whole numbers would not fit in a float.
    return float(value) if 0 <= value < 2**53 and math.isfinite(value) else None

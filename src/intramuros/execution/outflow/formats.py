"""The secrets that are looked for when the operator names none: formats that issuers publish. Pure.

Each rule is a regular expression of RE2 over UTF-8, so that no text takes more than linear time.
What its first group matches is the secret; without a group, all of it is. A prefix that nothing
else uses needs no border on its left: in escaped texts an ``n`` or a ``t`` may stand there.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Format:
    """One kind of secret.

    Args:
        rule: names it in policies, masks and records.
        regex: of RE2.
        check: a last look at what the expression found; None takes everything.
        literal: whether bytes that are no text are searched, too.
    """

    rule: str
    regex: str
    check: Callable[[bytes], bool] | None = None
    literal: bool = True


# What egress puts into sandboxes in place of secrets says nothing, and agents need to see it.
_PLACEHOLDER: Final = b"INTRAMUROS_SECRET_"
_STAND_INS: Final = (
    b"$",
    b"<",
    b"{",
    b"%(",
    b"[masked",
    b"*",
    b"x" * 3,
    b"X" * 3,
    b"os.",
    b"process.",
)
MIN_KEYED_BITS: Final = 3.5


def bits(data: bytes) -> float:
    """Return the Shannon entropy of bytes, per byte."""
    size = len(data)
    return -sum(n / size * math.log2(n / size) for n in Counter(data).values()) if size else 0.0


def _given(value: bytes) -> bool:
    """Tell whether a value is one, and not the name of where it comes from."""
    return not value.startswith((_PLACEHOLDER, *_STAND_INS))


def _dense(value: bytes) -> bool:
    """Tell whether a value looks drawn by lot: letters, digits, and few repetitions."""
    letters, digits = any(c > 64 for c in value), any(48 <= c <= 57 for c in value)
    return letters and digits and _given(value) and bits(value) >= MIN_KEYED_BITS


def _worded(value: bytes) -> bool:
    return _given(value) and not value.isdigit() and value.lower() not in _WORDS


_WORDS: Final = {b"true", b"false", b"none", b"null", b"undefined", b"required", b"optional"}
_LEFT: Final = r"(?:^|[^0-9A-Za-z_-]|\\[nrt])"
_LABEL: Final = r"(?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?"
_GAP: Final = r"(?:\s|\\[nr]){1,4}"
# A whole key, or the readable part of one whose end was cut off.
_PEM: Final = (
    rf"-----BEGIN {_LABEL}-----"
    rf"(?:{_GAP}(?:Proc-Type|DEK-Info|Version|Comment):[^\n\\]*)*"
    rf"(?:[^-]*-----END {_LABEL}-----|(?:{_GAP}[A-Za-z0-9+/=]{{16,}})*)"
)
_KEYWORD: Final = (
    r"passw(?:or)?d|passphrase|secret|token|api[_-]?key|apikey|access[_-]?key|auth[_-]?key"
    r"|private[_-]?key|signing[_-]?key|encryption[_-]?key|credential"
)

FORMATS: Final = (
    Format("private key", _PEM),
    Format("private key", r"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    Format("jwt", _LEFT + r"(eyJ[\w-]{8,}\.eyJ[\w-]{4,}\.[\w-]{8,})"),
    Format("api key", _LEFT + r"(sk-[a-z]{2,12}(?:-[a-z]{2,8}\d{0,3})?-[\w-]{16,})"),
    Format("api key", _LEFT + r"(sk-[A-Za-z0-9]{32,})"),
    Format("api key", _LEFT + r"((?:gsk|xai|pplx|r8|nvapi|tvly|fc|exa)[-_][A-Za-z0-9]{32,})"),
    Format("aws key", r"(?:\b|\\[nrt])((?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16})\b"),
    Format(
        "aws secret",
        r"(?i:aws_?secret_?(?:access_?)?key)[\"'\\]{0,4}\s{0,4}[:=]\s{0,4}[\"'\\]{0,4}"
        r"([A-Za-z0-9/+]{40})",
    ),
    Format("aws bedrock key", r"\bABSK[A-Za-z0-9+/]{100,}={0,2}"),
    Format("github token", r"gh[pousr]_[A-Za-z0-9]{36,}"),
    Format("github token", r"github_pat_\w{22,}"),
    Format("gitlab token", r"gl(?:pat|ptt|dt|rt|cbt|soat|ft|imt|oas|agent|ffct)-[\w.-]{20,}"),
    Format("gitlab token", r"GR1348941[\w-]{20,}"),
    Format("slack token", r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    Format("slack token", r"xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+"),
    Format("slack webhook", r"hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9+/]{40,})"),
    Format("teams webhook", r"webhook\.office\.com/webhookb2/([0-9a-f@-]{60,}/[\w/@-]{60,})"),
    Format("discord webhook", r"discord(?:app)?\.com/api/webhooks/(\d{16,20}/[\w-]{60,})"),
    Format("google key", _LEFT + r"(AIza[0-9A-Za-z_-]{35})"),
    Format("google token", _LEFT + r"(ya29\.[0-9A-Za-z_-]{20,})"),
    Format("google token", r"GOCSPX-[\w-]{28}"),
    Format("stripe key", _LEFT + r"([sr]k_(?:live|test|prod)_[0-9A-Za-z]{16,})"),
    Format("npm token", r"npm_[A-Za-z0-9]{36}"),
    Format("pypi token", r"pypi-AgE[\w-]{50,}"),
    Format("rubygems key", r"rubygems_[0-9a-f]{48}"),
    Format("crates token", _LEFT + r"(cio[A-Za-z0-9]{32})\b"),
    Format("docker token", r"dckr_(?:pat|oat)_[\w-]{27,}"),
    Format("hugging face token", r"(?:hf|api_org)_[A-Za-z0-9]{30,}"),
    Format("webhook secret", _LEFT + r"(whsec_[A-Za-z0-9+/=]{20,})"),
    Format("storage key", r"AccountKey=([A-Za-z0-9+/]{86}==)"),
    Format("azure secret", r"(?:^|[^\w~.-])([\w~.]{3}\dQ~[\w~.-]{31,34})(?:$|[^\w~.-])"),
    Format("sas signature", r"[?&;]sig=((?:[A-Za-z0-9+/_-]|%[0-9A-Fa-f]{2}){40,}(?:=|%3[Dd])?)"),
    Format("digitalocean token", r"do[opr]_v1_[a-f0-9]{64}"),
    Format("cloudflare key", r"v1\.0-[a-f0-9]{24}-[a-f0-9]{146}"),
    Format("databricks token", _LEFT + r"(dapi[a-f0-9]{32}(?:-\d)?)"),
    Format("vault token", _LEFT + r"(hv[bsr]\.[\w-]{24,})"),
    Format("terraform token", r"[A-Za-z0-9]*\.atlasv1\.[\w=-]{60,}"),
    Format("grafana token", r"gl(?:c_[A-Za-z0-9+/]{32,}={0,3}|sa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8})"),
    Format("sendgrid key", _LEFT + r"(SG\.[\w-]{16,32}\.[\w-]{16,64})"),
    Format("mailgun key", _LEFT + r"(key-[0-9a-f]{32})\b"),
    Format("twilio key", r"\b(SK[0-9a-f]{32})\b"),
    Format("telegram token", r"\b(\d+:AA[\w-]{33})\b"),
    Format("shopify token", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    Format("square token", r"sq0[a-z]{3}-[\w-]{22,60}\b"),
    Format("atlassian token", _LEFT + r"(AT(?:ATT3|BB|CTT3)[\w=-]{24,})"),
    Format("linear key", r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}"),
    Format("notion token", r"\b(?:ntn_[A-Za-z0-9]{40,}|secret_[A-Za-z0-9]{43})\b"),
    Format("new relic key", r"NRAK-[A-Z0-9]{27}"),
    Format("dynatrace token", r"dt0[a-z]\d{2}\.[A-Z0-9]{24}\.[A-Z0-9]{64}"),
    Format("doppler token", r"dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[\w-]+\.)?[A-Za-z0-9]{40,}"),
    Format("pulumi token", r"pul-[a-f0-9]{40}"),
    Format("planetscale token", r"pscale_(?:tkn|pw|oauth)_[\w.=-]{32,}"),
    Format("postman key", r"PMAK-[a-f0-9]{24}-[a-f0-9]{34}"),
    Format("1password token", r"ops_eyJ[A-Za-z0-9+/_-]{80,}={0,3}"),
    Format("fly token", r"(?:fo1_[\w-]{43}|fm[12][ar]?_[A-Za-z0-9+/]{80,}={0,3})"),
    Format("artifactory key", r"\bAKCp[A-Za-z0-9]{60,}\b"),
    Format(
        "password in url",
        r"[A-Za-z0-9]://[^\s/:@\"']{0,64}:([^\s/@\"']{3,256})@",
        _given,
    ),
    Format(
        "authorization header",
        r"(?i:authorization)[\"'\\]{0,4}\s{0,3}[:=]\s{0,3}[\"'\\]{0,4}"
        r"(?i:bearer|basic|token)\s+([A-Za-z0-9+/_.~-]{8,}={0,2})",
        _given,
    ),
    Format(
        "environment secret",
        r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|PRIVATE_KEY|ACCESS_KEY)"
        r"=[\"']?([^\s\"'`;\\]{8,512})",
        _worded,
        literal=False,
    ),
    Format(
        "keyed secret",
        rf"(?i:{_KEYWORD})[A-Za-z0-9_.-]{{0,20}}[\"'\\]{{0,4}}\s{{0,3}}(?:=>|:=|=|:)\s{{0,3}}"
        r"[\"'\\]{0,4}([A-Za-z0-9+/_~-]{16,512}={0,2})",
        _dense,
        literal=False,
    ),
)
"""In the order in which a mask is named after them."""

"""E-mail addresses: what one may look like, and when two are the same. Pure.

We send no mail, so an address is a name that a person proves elsewhere (an identity provider).
Two spellings that a mail system or a reader would take for one person must be one here, or the
same person could be invited twice and be removed once.
"""

import unicodedata
from typing import Final

import idna

MAX_CHARS: Final = 254
MAX_LOCAL_BYTES: Final = 64
# Legal only inside quotes, which nobody's address has and which would let an address hold another.
_SPECIAL: Final = frozenset('()<>[]:;,\\"@')
# Controls, invisible formatting, private and unassigned characters, halves of characters, blanks.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})


def normal(email: str) -> str:
    """Return the form by which addresses are compared: no case, one spelling of each letter.

    Raises:
        ValueError: this is no address; the text says why.
    """
    text = email.strip()
    if len(text) > MAX_CHARS:
        raise ValueError(f"an address has at most {MAX_CHARS} characters")
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise ValueError("expected an address such as ada@example.com")
    return f"{_local(local)}@{_domain(domain)}"


def shown(email: str) -> str:
    """Return an address as it is kept for people to read."""
    return unicodedata.normalize("NFC", email.strip())


def _local(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if any(unicodedata.category(char) in _UNSEEN for char in folded + text):
        raise ValueError("the part before @ holds a character that cannot be seen")
    if not _SPECIAL.isdisjoint(folded):
        raise ValueError("the part before @ holds a character that needs quotes")
    if folded.startswith(".") or folded.endswith(".") or ".." in folded:
        raise ValueError("the part before @ has a dot at an end or two in a row")
    if len(folded.encode()) > MAX_LOCAL_BYTES:
        raise ValueError(f"the part before @ has more than {MAX_LOCAL_BYTES} bytes")
    return folded


def _domain(text: str) -> str:
    try:
        encoded = idna.encode(text, uts46=True, transitional=False).decode()
    except idna.IDNAError as error:
        raise ValueError("the part after @ is no domain name") from error
    labels = encoded.lower().split(".")
    if len(labels) < 2 or labels[-1].isdigit():
        raise ValueError("the part after @ is no domain name")
    return ".".join(labels)

"""Certificates for a session's sandbox: our own, under ``/x/``."""

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from intramuros.protocol.resources.base import Request
from intramuros.protocol.ssh import MAX_KEY_CHARS, MAX_LIFETIME_S

DEFAULT_TTL_S: Final = 300
MIN_TTL_S: Final = 30


class SshCertificateRequest(Request):
    """What is to be certified.

    Args:
        public_key: as a ``.pub`` file has it; the private half stays where it is.
        ttl_s: how long the certificate lets in, in seconds.
    """

    public_key: Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY_CHARS)]
    ttl_s: Annotated[int, Field(ge=MIN_TTL_S, le=MAX_LIFETIME_S)] = DEFAULT_TTL_S


class SshRevokeRequest(Request):
    """What is to be taken back.

    Args:
        serial: of one certificate of the session; all of them when not given.
    """

    serial: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,19}$")] | None = None

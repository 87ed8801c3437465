"""Where webhooks may go: https, a port of the operator's choice, a public host (R271).

A URL is judged twice. Here, when somebody configures it, by how it is written: a spelling that two
parsers could read differently is refused. And at each delivery by what its name resolves to
(kernel/addresses.py), because an answer of the name service may change at any time.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx2

from intramuros.kernel.addresses import Network, is_allowed
from intramuros.kernel.errors import InvalidRequest

HTTPS_PORT: Final = 443
MAX_HOST_CHARS: Final = 253

# Printable ASCII without what URLs must escape and without the backslash, which some read as "/".
_PLAIN: Final = re.compile(r"[!#-;=?-Z\[\]_a-z~%$&'()*+,]+\Z", re.ASCII)
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# The last label begins with a letter, so that no spelling of an IPv4 address is a name: not 127.1,
# not 0x7f.1, not 2130706433.
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?\Z")


@dataclass(frozen=True)
class Policy:
    """What the operator lets webhooks reach.

    Args:
        networks: private networks that may be reached all the same.
        ports: that URLs may name.
    """

    networks: Sequence[Network] = ()
    ports: Sequence[int] = (HTTPS_PORT,)

    def check(self, url: str) -> str:
        """Return the URL if webhooks may be sent there.

        Raises:
            InvalidRequest: they may not, by how it is written; what its name resolves to is seen
                when something is sent.
        """
        try:
            parsed = httpx2.URL(url)
            plain = _PLAIN.match(url) is not None and parsed.port != 0
        except (httpx2.InvalidURL, ValueError):
            plain = False
        if not plain:
            raise InvalidRequest("url: not a URL in printable ASCII")
        if not url.lower().startswith("https://") or parsed.scheme != "https":
            raise InvalidRequest("url: must be https")
        if parsed.userinfo or parsed.fragment or "#" in url or "@" in parsed.netloc.decode():
            raise InvalidRequest("url: must have neither user nor fragment")
        if (parsed.port or HTTPS_PORT) not in self.ports:
            allowed = " or ".join(map(str, self.ports))
            raise InvalidRequest(f"url: the port must be {allowed}")
        self._check_host(parsed.raw_host.decode("ascii"))
        return url

    def _check_host(self, host: str) -> None:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            self._check_name(host)
            return
        if "%" in host or not is_allowed(address, self.networks):
            raise InvalidRequest("url: the address is not public")

    def _check_name(self, host: str) -> None:
        if len(host) > MAX_HOST_CHARS or not _NAME.match(host):
            raise InvalidRequest("url: the host is neither a name nor a plainly written address")
        # Names of the operator's own networks may be short; the public ones never are.
        local = "." not in host or host.lower().endswith((".localhost", ".local", ".internal"))
        if local and not self.networks:
            raise InvalidRequest("url: the host is not public")

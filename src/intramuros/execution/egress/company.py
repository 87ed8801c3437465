"""A company's proxy between the worker and the internet: what sandboxes ask for goes through it.

Each connection is a tunnel (``CONNECT``) to the host's name, so the proxy's own rules see the name,
and TLS is still between worker and host. Resolution stays ours as far as it can: a host whose
address the worker can find out is refused if that is not public, as without a proxy. Where workers
cannot resolve public names at all, ``resolves`` leaves that to the proxy, and with it the judgement
of addresses. Hosts that the operator calls internal are dialled directly.
"""

import ssl
from dataclasses import dataclass

from intramuros.execution.egress.http1 import Place
from intramuros.execution.egress.leg import Leg
from intramuros.execution.egress.nested import within
from intramuros.kernel.forward_proxy import ForwardProxy, ask_tunnel


@dataclass(frozen=True)
class CompanyProxy:
    """The proxy, and what is left to it."""

    proxy: ForwardProxy
    resolves: bool = False
    """Whether names that the worker cannot resolve are left to the proxy."""


async def tunnel(proxy: ForwardProxy, leg: Leg, place: Place, context: ssl.SSLContext) -> Leg:
    """Ask a proxy that was dialled for a tunnel and return what leads to the place.

    Raises:
        ConnectFailed: it refuses, or speaks otherwise than a proxy does.
        ssl.SSLError: its certificate is not to be trusted.
    """
    if proxy.tls:
        await leg.secure(context, name=proxy.host)
        leg = within(leg)
    leg.held = await ask_tunnel(leg, proxy, place.name, place.port)
    return leg

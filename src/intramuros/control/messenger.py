"""Webhooks put together: where they may go, who keeps endpoints, who delivers."""

import os
import random
import socket
import ssl
from collections.abc import Callable, Mapping

import httpx2

from intramuros.control.api.services import Services
from intramuros.control.brain import networks_from
from intramuros.control.settings import ServerSettings
from intramuros.control.store.secrets import Sealer
from intramuros.control.webhooks.addresses import Policy
from intramuros.control.webhooks.deliver import Deliverer
from intramuros.control.webhooks.desk import Desk, Patience
from intramuros.control.webhooks.endpoints import Endpoints
from intramuros.control.webhooks.post import Post
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Task


def endpoints_from(
    settings: ServerSettings, sealer: Sealer, randbytes: Callable[[int], bytes]
) -> Endpoints:
    """Return what keeps webhook endpoints.

    Raises:
        OperatorError: a setting says no network, or no port.
    """
    networks = networks_from(settings.webhook_networks, "webhook_networks")
    if not all(0 < port < 65_536 for port in settings.webhook_ports):
        raise OperatorError("webhook_ports: no such port", "write it as 443,8443")
    return Endpoints(sealer, randbytes, Policy(networks, settings.webhook_ports))


def deliver(services: Services, settings: ServerSettings) -> Mapping[str, Task]:
    """Return the task that delivers webhooks.

    Raises:
        OperatorError: a setting makes no sense, or the CA file cannot be used.
    """
    patience = Patience(
        settings.webhook_retry_min_s,
        settings.webhook_retry_max_s,
        settings.webhook_disable_after_s,
    )
    if settings.webhook_timeout_s <= 0 or not 0 <= patience.retry_min_s <= patience.retry_max_s:
        raise OperatorError(
            "the webhook timings contradict each other",
            "check webhook_timeout_s, webhook_retry_min_s and webhook_retry_max_s",
        )
    networks = services.endpoints.policy.networks
    post = Post(networks, _context(settings), settings.webhook_timeout_s)
    desk = Desk(
        services.db,
        services.clock,
        services.hub,
        services.endpoints,
        post,
        patience,
        services.organization_id,
    )
    holder = f"{socket.gethostname()}/{os.getpid()}"
    return {"webhooks": Deliverer(desk, holder, random.random).run}


def _context(settings: ServerSettings) -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    if settings.webhook_ca_file is not None:
        try:
            context.load_verify_locations(cafile=settings.webhook_ca_file)
        except OSError as error:
            raise OperatorError(
                f"cannot use {settings.webhook_ca_file} ({error})", "check --webhook-ca-file"
            ) from error
    return context

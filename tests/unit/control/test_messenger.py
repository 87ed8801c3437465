import os
from pathlib import Path

import pytest

from intramuros.control.app import build_services
from intramuros.control.identity.installation import open_installation
from intramuros.control.messenger import deliver, endpoints_from
from intramuros.control.settings import ServerSettings
from intramuros.control.store.secrets import Sealer
from intramuros.kernel.errors import OperatorError
from tests.authorities import authority

pytestmark = pytest.mark.anyio

SEALER = Sealer(bytes(32), os.urandom)


def test_the_settings_say_where_webhooks_may_go() -> None:
    settings = ServerSettings(webhook_networks=("10.0.0.0/8",), webhook_ports=(443, 8443))
    made = endpoints_from(settings, SEALER, os.urandom)
    assert made.policy.check("https://10.1.2.3:8443/")
    assert ServerSettings().webhook_ports == (443,)


@pytest.mark.parametrize(
    "settings",
    [
        ServerSettings(webhook_networks=("ten",)),
        ServerSettings(webhook_ports=(0,)),
        ServerSettings(webhook_ports=(70_000,)),
    ],
)
def test_settings_that_mean_nothing_are_named(settings: ServerSettings) -> None:
    with pytest.raises(OperatorError, match="webhook_"):
        endpoints_from(settings, SEALER, os.urandom)


async def test_what_delivers_explains_what_it_cannot_use(tmp_path: Path) -> None:
    opened = await open_installation(tmp_path)
    try:
        services = await build_services(opened, ServerSettings(data_dir=tmp_path))
        ca, other = tmp_path / "ca.pem", tmp_path / "other.pem"
        ca.write_text(authority())
        other.write_text("no certificate")
        good = ServerSettings(webhook_ca_file=ca)
        assert list(deliver(services, good)) == ["webhooks"]
        for bad in (
            ServerSettings(webhook_ca_file=other),
            ServerSettings(webhook_ca_file=tmp_path / "none.pem"),
            ServerSettings(webhook_timeout_s=0),
            ServerSettings(webhook_retry_min_s=9, webhook_retry_max_s=8),
            ServerSettings(webhook_retry_min_s=-1),
        ):
            with pytest.raises(OperatorError, match="webhook"):
                deliver(services, bad)
    finally:
        opened.close()

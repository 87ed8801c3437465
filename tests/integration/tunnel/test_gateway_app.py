from datetime import timedelta
from pathlib import Path

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock
from intramuros.tunnel.certs import make_server_certificate
from intramuros.tunnel.gateway_app import GatewaySettings, serve_gateway
from tests.integration.tunnel.rig import DOMAIN, Rig

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("names", "age", "check"),
    [
        (["*.other.example"], timedelta(0), "san"),
        ([DOMAIN], timedelta(0), "san"),
        ([f"*.{DOMAIN}"], timedelta(days=91), "expired"),
        ([f"*.{DOMAIN}"], -timedelta(days=1), "not_yet_valid"),
    ],
)
async def test_a_bad_certificate_names_the_check_that_fails(
    tmp_path: Path, names: list[str], age: timedelta, check: str
) -> None:
    rig = Rig(tmp_path)
    now = SystemClock().now()
    rig.use_certificate(make_server_certificate(rig.ca, names, now - age))
    with pytest.raises(OperatorError, match=f"check '{check}'") as caught:
        await serve_gateway(rig.config([1], 1))
    assert "\n" not in str(caught.value)


async def test_wrong_files_are_named(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with pytest.raises(OperatorError, match=r"nowhere\.yaml"):
        await serve_gateway(GatewaySettings(tmp_path / "nowhere.yaml"))
    (tmp_path / "edge-ca.crt").write_text("nonsense")
    with pytest.raises(OperatorError, match="edge_ca_file"):
        await serve_gateway(rig.config([1], 1))
    rig.write("tls.key", (tmp_path / "edge.key").read_bytes())
    with pytest.raises(OperatorError, match=r"tls\.crt.*MISMATCH"):
        await serve_gateway(rig.config([1], 1))

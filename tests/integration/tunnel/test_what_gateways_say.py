"""What an operator reads in a gateway's log."""

from functools import partial
from pathlib import Path

import httpx2
import pytest
import yaml
from structlog.testing import capture_logs

from intramuros.kernel.timing import SystemClock
from intramuros.tunnel.certs import make_ca
from intramuros.tunnel.gateway_app import GatewaySettings
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    running_upstream,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio


def config_of(rig: Rig, edge_port: int, routes: dict[str, str], allowed: list[str]) -> Path:
    """Write a gateway's file, as an operator would."""
    config = {
        "tunnel_domain": DOMAIN,
        "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "routes": routes,
        "upstream": {"allowed_ips": allowed},
        "edge": [f"127.0.0.1:{edge_port}"],
        "edge_ca_file": "edge-ca.crt",
        "token_file": "tunnel-token",
        "control_key_file": "control.pub",
        "audit_file": "gateway-audit.jsonl",
    }
    return rig.write("gateway.yaml", yaml.safe_dump(config).encode())


async def test_R325_each_failure_has_a_line_of_its_own(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with running_upstream(Upstream().app) as upstream, running_edge(rig) as edge:
        routes = {"docs": f"http://127.0.0.1:{upstream}", "far": "http://10.9.9.9:80"}
        file = config_of(rig, edge, routes, ["127.0.0.1"])
        with capture_logs() as logs:
            async with (
                running_gateway(GatewaySettings(file)),
                client_of(rig, edge) as client,
            ):
                for label in ("docs", "unknown", "far"):
                    await client.get(f"https://{label}.{DOMAIN}/health")
                rig.ca = make_ca("somebody else", SystemClock().now())
                async with client_of(rig, edge) as stranger:
                    with pytest.raises(httpx2.ConnectError):
                        await stranger.get(f"https://docs.{DOMAIN}/health")
                await eventually(partial(said, logs, "inner_handshake_failed"), 30)
    told = {
        entry["event"]: entry
        for entry in logs
        if entry["event"] in ("no_route", "address_refused", "inner_handshake_failed")
    }
    assert set(told) == {"no_route", "address_refused", "inner_handshake_failed"}
    assert names(logs).count("no_route") == 1
    assert names(logs).count("address_refused") == 1
    assert told["no_route"]["host"] == f"unknown.{DOMAIN}"
    assert told["address_refused"]["route"] == "far"
    assert told["inner_handshake_failed"]["host"] == f"docs.{DOMAIN}"
    assert {entry["log_level"] for entry in told.values()} == {"warning"}


async def said(logs: list, event: str) -> bool:
    return event in names(logs)


def names(logs: list) -> list[str]:
    return [entry["event"] for entry in logs]

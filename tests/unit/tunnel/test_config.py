from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.config import GatewayConfig, load_config, parse_config
from intramuros.tunnel.dialer import EdgeAddress, Transport
from intramuros.tunnel.limits import RouteLimits
from intramuros.tunnel.routes import PRIVATE_NETWORKS, Upstream

GOOD = """
listen_addr: ":8080"
log_level: warn
shutdown_timeout: 1m30s
tunnel_domain: k3v9.tunnel.example
tls:
  cert_file: tls.crt
  key_file: /etc/keys/tls.key
routes:
  docs: http://10.0.0.5:8080
  wiki.k3v9.tunnel.example: https://wiki.corp:443
upstream:
  tls:
    include_system_cas: true
edge: [edge.example:443, "[fd00::1]:7844"]
token_file: tunnel-token
control_key_file: control.pub
audit_file: audit.jsonl
"""


def parse(text: str) -> GatewayConfig:
    return parse_config(text.encode(), Path("/etc/gateway"))


def change(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.rule("R314", "R316", "R317")
def test_the_products_own_file_is_read() -> None:
    config = parse(GOOD)
    assert config.edges == (EdgeAddress("edge.example", 443), EdgeAddress("fd00::1", 7844))
    assert config.cert_file == Path("/etc/gateway/tls.crt")
    assert config.key_file == Path("/etc/keys/tls.key")
    assert config.routes.routes["docs"] == Upstream("http", "10.0.0.5", 8080)
    assert config.addresses.networks == PRIVATE_NETWORKS
    assert config.upstream_tls.include_system_cas
    assert (config.log_level, config.shutdown_timeout_s) == ("warning", 90)


@pytest.mark.rule("R314")
def test_defaults() -> None:
    config = parse(change("log_level: warn\n", "").replace("shutdown_timeout: 1m30s\n", ""))
    assert (config.log_level, config.shutdown_timeout_s) == (None, 30)


def test_the_way_to_the_edge_may_be_told() -> None:
    config = parse(GOOD)
    assert (config.edge_transport, config.edge_proxy) == (Transport.AUTO, None)
    config = parse(
        GOOD + "edge_transport: websocket\nedge_proxy: http://proxy.example:3128\n"
        "edge_proxy_credentials_file: known\n"
    )
    assert config.edge_transport is Transport.WEBSOCKET
    assert config.edge_proxy == "http://proxy.example:3128"
    assert config.edge_proxy_credentials == Path("/etc/gateway/known")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "mapping"),
        (GOOD + "edge_transport: quic\n", "edge_transport"),
        ("- a", "mapping"),
        ("a: [", "YAML"),
        (change("  docs: http://10.0.0.5:8080\n  wiki.", "  - docs: a\n  - wiki."), "routes"),
        (change("docs: http://10.0.0.5:8080", "docs: http://10.0.0.5:8080/mcp"), "routes.docs"),
        (change("docs: http://10.0.0.5:8080", "docs: 5"), "routes.docs"),
        (change("docs:", "Docs:"), "Docs"),
        (change("    include_system_cas: true", "    {}"), "upstream.tls"),
        (change("include_system_cas: true", "include_system_cas: perhaps"), "include_system_cas"),
        (change("tunnel_domain: k3v9.tunnel.example\n", ""), "tunnel_domain"),
        (change("tunnel_domain: k3v9", "tunnel_domain: K3v9"), "tunnel_domain"),
        (change("  key_file: /etc/keys/tls.key\n", ""), "tls.key_file"),
        (change("token_file: tunnel-token\n", ""), "token_file"),
        (change("control_key_file: control.pub\n", ""), "control_key_file"),
        (change("cert_file: tls.crt", "cert_file: 5"), "tls.cert_file"),
        (change("edge: [edge.example:443", "edge: [edge.example"), "edge"),
        (change('edge: [edge.example:443, "[fd00::1]:7844"]\n', ""), "edge"),
        (change("log_level: warn", "log_level: loud"), "log_level"),
        (change("1m30s", "soon"), "shutdown_timeout"),
        (GOOD + "retries: 3\n", "retries"),
        (change("  tls:\n    incl", "  timeout: 3\n  tls:\n    incl"), "upstream.timeout"),
        (change("upstream:\n", "upstream:\n  allowed_ips: [10.0.0.1/8]\n"), "allowed_ips"),
        (change("upstream:\n", "upstream:\n  allowed_ips: []\n"), "allowed_ips"),
        (
            change(
                "upstream:\n",
                "upstream:\n  allowed_ips: [10.0.0.1]\n  disable_ip_validation: true\n",
            ),
            "exclude each other",
        ),
    ],
)
@pytest.mark.rule("R315", "R316", "R319", "R323")
def test_each_error_names_its_key_and_a_fix(text: str, key: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse(text)
    assert key in str(caught.value)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


@pytest.mark.rule("R324")
def test_https_upstreams_need_a_ca() -> None:
    with pytest.raises(OperatorError, match=r"wiki.*https.*ca_file"):
        parse(change("include_system_cas: true", "include_system_cas: false"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    assert load_config(path).token_file == tmp_path / "tunnel-token"


@given(st.text(max_size=200))
def test_arbitrary_text_gives_an_operator_error(text: str) -> None:
    with pytest.raises(OperatorError):
        parse(text)


NOTES = "routes:\n  notes: {command: [node], %s}\n"


@pytest.mark.parametrize(
    ("keys", "file"),
    [
        ("read: [/etc]", "/etc/gateway/tunnel-token"),
        ("read: [/etc/keys]", "/etc/keys/tls.key"),
        ("read: [.]", "/etc/gateway/tunnel-token"),
        ("read: [/etc/gateway/audit.jsonl]", "/etc/gateway/audit.jsonl"),
        ("read: [/run/x], secret_files: {K: /run/x/key}", "/run/x/key"),
        ("secret_files: {K: /usr/local/key}", "/usr/local/key"),
        ("write: [/etc/gateway/control.pub]", "/etc/gateway/control.pub"),
        ("write: [/srv/policies]", "/srv/policies/p.cedar"),
    ],
)
def test_no_program_is_shown_what_is_the_gateways_own(keys: str, file: str) -> None:
    text = change("routes:\n", NOTES % keys) + "policy_file: /srv/policies/p.cedar\n"
    with pytest.raises(OperatorError, match=rf"routes\.notes\..*own {file} lies"):
        parse(text)


def test_a_program_may_read_what_is_no_secret_and_links_hide_nothing(tmp_path: Path) -> None:
    shown = "read: [/srv/policies, /etc/gateway/control.pub]"
    parse(change("routes:\n", NOTES % shown) + "policy_file: /srv/policies/p.cedar\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "token").touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "token").symlink_to("data/token")
    for name in ("data", "link"):
        text = change("routes:\n", NOTES % f"read: [{tmp_path}/{name}]")
        text = text.replace("tunnel-token", f"{tmp_path}/token")
        with pytest.raises(OperatorError, match="own"):
            parse(text)


@pytest.mark.parametrize(
    "text",
    [
        change("docs: http://10.0.0.5:8080", "docs: http://u:planted@10.0.0.5:8080"),
        change("docs: http://10.0.0.5:8080", "docs: http://planted:u@p@10.0.0.5:8080/x"),
        GOOD + "secret: 'planted\n",
        GOOD + "secret: {planted: [planted\n",
        GOOD + "? {a: planted}\n: planted\n",
        change("docs: http://10.0.0.5:8080", "docs: [planted]"),
    ],
)
def test_an_error_does_not_repeat_what_may_be_a_secret(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse(text)
    assert "planted" not in str(caught.value)


def test_a_route_to_a_server_may_have_limits() -> None:
    text = GOOD.replace(
        "docs: http://10.0.0.5:8080",
        "docs: {url: http://10.0.0.5:8080, max_concurrent: 5, calls_per_minute: 600}",
    )
    found = parse(text).routes
    assert found.routes == parse(GOOD).routes.routes
    assert found.limits == {"docs": RouteLimits(5, 600)}
    route = found.match("docs.k3v9.tunnel.example")
    assert route is not None
    assert route.limits == RouteLimits(5, 600)
    for wrong, why in (
        ("max_body_bytes: 0", "routes.docs.max_body_bytes"),
        ("calls_per_minute: many", "routes.docs.calls_per_minute"),
        ("max_sessions: 3", "unknown key 'routes.docs.max_sessions'"),
        ("command: [node]", "unknown key 'routes.docs.command'"),
    ):
        with pytest.raises(OperatorError, match=why):
            parse(text.replace("calls_per_minute: 600", wrong))
    with pytest.raises(OperatorError, match="invalid upstream"):
        parse(text.replace("http://10.0.0.5:8080", "10.0.0.5"))

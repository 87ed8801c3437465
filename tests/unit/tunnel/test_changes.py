from dataclasses import fields
from pathlib import Path

import pytest

from intramuros.tunnel.changes import FIXED, LIVE, MAX_NAMES, Changes, compare
from intramuros.tunnel.config import GatewayConfig, parse_config

GOOD = """
listen_addr: ":8080"
tunnel_domain: k3v9.tunnel.example
tls: {cert_file: tls.crt, key_file: tls.key}
routes:
  docs: http://10.0.0.5:8080
  notes: {command: [node], variables: {PASSWORD: planted-secret}}
edge: [edge.example:443]
token_file: tunnel-token
control_key_file: control.pub
audit_file: audit.jsonl
log_level: warn
shutdown_timeout: 1m30s
upstream: {allowed_ips: [10.0.0.0/8], tls: {ca_file: ca.pem}}
"""


def parsed(old: str = "", new: str = "") -> GatewayConfig:
    assert old in GOOD
    return parse_config(GOOD.replace(old, new).encode(), Path("/etc/gateway"))


def test_each_member_counts_at_once_or_at_the_start_and_none_is_forgotten() -> None:
    assert {*LIVE, *FIXED} == {member.name for member in fields(GatewayConfig)}
    assert not {*LIVE} & {*FIXED}


def test_the_same_file_changes_nothing() -> None:
    assert compare(parsed(), parsed()) == Changes()
    # Neither does a comment, an order, or another spelling of the same.
    assert compare(parsed(), parsed("edge: [edge.example:443]", "edge: edge.example:443 #")) == (
        Changes()
    )


@pytest.mark.parametrize(
    ("old", "new", "member", "names"),
    [
        ("  docs:", "  wiki: http://10.0.0.6:80\n  docs:", "added", ["wiki"]),
        ("  docs: http://10.0.0.5:8080\n", "", "removed", ["docs"]),
        ("docs: http://10.0.0.5:8080", "docs: http://10.0.0.5:8081", "changed", ["docs"]),
        ("docs: http", "docs: https", "changed", ["docs"]),
        ("[node]", "[node, x]", "changed", ["notes"]),
        ("planted-secret", "another-planted-secret", "changed", ["notes"]),
        (
            ": http://10.0.0.5:8080",
            ": {url: http://10.0.0.5:8080, max_concurrent: 2}",
            "changed",
            ["docs"],
        ),
        ("[node],", "[node], max_sessions: 3,", "changed", ["notes"]),
        ("[node],", "[node], max_sessions_per_person: 3,", "changed", ["notes"]),
        ("[node],", "[node], calls_per_minute: 3,", "changed", ["notes"]),
        ("variables: {PASSWORD: planted-secret}", "network: true", "changed", ["notes"]),
        ("log_level: warn", "log_level: info", "settings", ["log_level"]),
        ("log_level: warn\n", "", "settings", ["log_level"]),
        ("1m30s", "30s", "settings", ["shutdown_timeout"]),
        ("10.0.0.0/8", "10.1.0.0/16", "settings", ["upstream"]),
        ("allowed_ips: [10.0.0.0/8]", "disable_ip_validation: true", "settings", ["upstream"]),
        ("ca.pem", "ca2.pem", "settings", ["upstream.tls"]),
    ],
)
def test_what_counts_at_once(old: str, new: str, member: str, names: list[str]) -> None:
    found = compare(parsed(), parsed(old, new))
    assert found.fields() == {member: names}
    assert found.fixed == ()
    # Neither the record nor the log may hold what a route was told in confidence.
    assert "planted" not in repr(found)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("tunnel_domain: k3v9", "tunnel_domain: k3v8", "tunnel_domain"),
        ("edge.example:443", "edge.example:444", "edge"),
        ("cert_file: tls.crt", "cert_file: other.crt", "tls.cert_file"),
        ("key_file: tls.key", "key_file: other.key", "tls.key_file"),
        ("token_file: tunnel-token", "token_file: other", "token_file"),
        ("control_key_file: control.pub", "control_key_file: other", "control_key_file"),
        ("audit_file: audit.jsonl", "audit_file: other", "audit_file"),
        ('":8080"', '":8081"', "listen_addr"),
        ("edge:", "policy_file: p.cedar\nedge:", "policy_file"),
        ("edge:", "health_port: 1\nedge:", "health_port"),
        ("edge:", "edge_ca_file: ca.pem\nedge:", "edge_ca_file"),
        ("edge:", "edge_transport: direct\nedge:", "edge_transport"),
        ("edge:", "edge_proxy: none\nedge:", "edge_proxy"),
        ("edge:", "edge_proxy_credentials_file: c\nedge:", "edge_proxy_credentials_file"),
    ],
)
def test_what_needs_a_restart_is_named_as_in_the_file(old: str, new: str, key: str) -> None:
    assert compare(parsed(), parsed(old, new)).fixed == (key,)


def test_everything_at_once_is_told_apart() -> None:
    text = GOOD.replace("docs:", "wiki:").replace("[node]", "[ruby]").replace("warn", "debug")
    text = text.replace("tls.crt", "new.crt").replace("edge.example", "edge2.example")
    found = compare(parsed(), parse_config(text.encode(), Path("/etc/gateway")))
    assert found == Changes(
        ("wiki",), ("docs",), ("notes",), ("log_level",), ("edge", "tls.cert_file")
    )


def test_a_record_names_a_bounded_number_of_routes() -> None:
    many = "".join(f"  r{n:04}: http://10.0.0.6:80\n" for n in range(500))
    found = compare(parsed(), parsed("  docs:", f"{many}  docs:")).fields()
    assert (len(found["added"]), found["added_count"]) == (MAX_NAMES, 500)  # type: ignore[arg-type]


def test_a_further_setting_is_named_once() -> None:
    found = Changes(settings=("upstream",)).with_setting("log_level").with_setting("log_level")
    assert found.settings == ("log_level", "upstream")

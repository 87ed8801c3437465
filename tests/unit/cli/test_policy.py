import json
from pathlib import Path

import pytest

from intramuros.protocol.audit import AuditRecord, Head, seal
from tests.unit.cli.conftest import Run

POLICY = """
@id("ops") permit(principal in Group::"g_ops", action, resource in Server::"docs");
@id("no-rm") forbid(principal, action, resource == Tool::"docs/rm");
"""
ANN = {"kind": "user", "id": "user_ann", "groups": [["g_ops", "Ops"]]}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "p.cedar"
    file.write_text(POLICY)
    return file


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """A record of: read by Ann, rm by Ann, read by nobody, an outcome, one denied before."""
    call = {"action": "call_tool", "route": "docs", "method": "tools/call"}
    records = [
        ("mcp.request", call | {"name": "read", "who": [ANN]}),
        ("mcp.request", call | {"name": "rm", "who": [ANN]}),
        ("mcp.request", call | {"name": "read", "who": []}),
        ("mcp.response", {"status": 200}),
        ("mcp.denied", call | {"name": "read", "who": [ANN], "decision": "deny"}),
    ]
    head, lines = Head(), []
    for kind, fields in records:
        line, head = seal(head, AuditRecord("2026-11-21T00:00:00Z", kind, fields))
        lines.append(line + "\n")
    file = tmp_path / "audit.jsonl"
    file.write_text("".join(lines))
    return file


def test_check_says_what_a_gateway_would_say(run: Run, policy: Path, tmp_path: Path) -> None:
    good = run("gateway", "policy", "check", str(policy))
    assert (good.status, good.out.split("\t")[1]) == (0, "2 policies")
    policy.write_text("permit(")
    bad = run("gateway", "policy", "check", str(policy))
    assert bad.status != 0
    assert "no Cedar policy" in bad.err
    assert run("gateway", "policy", "check", str(tmp_path / "none")).status != 0


def test_check_finds_servers_that_have_no_route(run: Run, policy: Path, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    text = """
        edge: [127.0.0.1:1]
        token_file: t
        control_key_file: k
        audit_file: a
        tunnel_domain: t.example
        tls: {cert_file: c, key_file: k}
        routes: {ROUTE: "http://10.0.0.1:80"}
    """
    config.write_text(text.replace("ROUTE", "docs"))
    check = ("gateway", "policy", "check", str(policy), "--config", str(config))
    assert run(*check).status == 0
    config.write_text(text.replace("ROUTE", "doc"))
    found = run(*check)
    assert found.status != 0
    assert "speaks of docs" in found.err


def test_explain_tries_a_policy_on_what_was_recorded(run: Run, policy: Path, audit: Path) -> None:
    explain = ("gateway", "policy", "explain", str(policy), "--audit", str(audit))
    rows = [line.split("\t") for line in run(*explain).out.splitlines()]
    assert [(row[0], row[3], *row[4:]) for row in rows] == [
        ("record 1", "allow", "permitted", "ops"),
        ("record 2", "deny (was allow)", "forbidden", "no-rm"),
        ("record 3", "deny (was allow)", "nobody"),
        ("record 5", "allow (was deny)", "permitted", "ops"),
    ]
    assert rows[0][1:3] == ["user:user_ann", "call_tool Tool::docs/read"]
    changed = run(*explain, "--changed").out.splitlines()
    assert [line.split("\t")[0] for line in changed] == ["record 2", "record 3", "record 5"]
    one = run(*explain, "--seq", "2").out.splitlines()
    assert [line.split("\t")[0] for line in one] == ["record 2"]
    assert run(*explain, "--seq", "4").status != 0


def test_explain_takes_no_record_that_was_changed(run: Run, policy: Path, audit: Path) -> None:
    audit.write_text(audit.read_text().replace("user_ann", "user_bob"))
    changed = run("gateway", "policy", "explain", str(policy), "--audit", str(audit))
    assert changed.status != 0
    assert "was changed" in changed.err
    assert not changed.out


def test_explain_answers_a_question_of_ones_own(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "p.cedar"
    file.write_text(
        'permit(principal, action, resource) when { context.arguments.path like "/srv/*" };'
    )
    question = json.dumps({"who": [ANN], "action": "call_tool", "route": "docs", "name": "read"})
    explain = ("gateway", "policy", "explain", str(file), "--question", question)
    bare = run(*explain)
    assert "policy_error" in bare.out
    assert "pass --arguments" in bare.err
    fits = run(*explain, "--arguments", '{"path": "/srv/x"}')
    assert "\tallow\t" in fits.out
    assert "--arguments" not in fits.err


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--question", "[]"],
        ["--question", "{"],
        ["--question", '{"who": []}'],
        ["--question", "{}", "--audit", "x"],
        ["--audit", "none"],
    ],
)
def test_explain_says_what_it_needs(run: Run, policy: Path, more: list[str]) -> None:
    asked = run("gateway", "policy", "explain", str(policy), *more)
    assert asked.status != 0
    assert "Traceback" not in asked.err

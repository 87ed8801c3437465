from pathlib import Path

from tests.unit.cli.conftest import Run, Served


def test_a_tunnel_its_token_and_its_certificates(run: Run, served: Served, tmp_path: Path) -> None:
    made = run("tunnel", "create", "--name", "office", *served.options)
    tunnel_id, domain = made.out.split()
    assert tunnel_id in run("tunnel", "list", *served.options).out
    assert domain.endswith(".tunnel.intramuros.internal")
    first = run("tunnel", "token", tunnel_id, *served.options).out
    assert first == run("tunnel", "token", tunnel_id, *served.options).out
    assert first != run("tunnel", "token", tunnel_id, "--rotate", *served.options).out
    assert run("tunnel", "certificate", tunnel_id, *served.options).out == ""
    (tmp_path / "bad.pem").write_text("no certificate")
    refused = run("tunnel", "certificate", tunnel_id, "--add", "bad.pem", *served.options)
    assert refused.status == 1
    assert refused.err.startswith("error: the server refused: ")
    absent = run("tunnel", "certificate", tunnel_id, "--add", "absent.pem", *served.options)
    assert absent.status == 2

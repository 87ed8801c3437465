from pathlib import Path

import pytest
import yaml
from cryptography import x509

from intramuros.tunnel.config import load_config
from intramuros.tunnel.programs import Program
from tests.unit.cli.conftest import Ran, Run, Served


@pytest.fixture
def tunnel_id(run: Run, served: Served) -> str:
    return run("tunnel", "create", *served.options).out.split()[0]


def init(run: Run, served: Served, tunnel_id: str, *more: str) -> Ran:
    edge, route = ("--edge", "127.0.0.1:7844"), ("--route", "bank=http://127.0.0.1:8080")
    return run("gateway", "init", tunnel_id, *edge, *route, "--dir", "gw", *more, *served.options)


def test_init_makes_what_a_gateway_loads(
    run: Run, served: Served, tunnel_id: str, tmp_path: Path
) -> None:
    made = init(run, served, tunnel_id, "--allow-ip", "127.0.0.1/32")
    assert made.status == 0, made.err
    assert made.out == ""
    config = load_config(tmp_path / "gw" / "gateway.yaml")
    assert set(config.routes.routes) == {"bank"}
    listed = run("tunnel", "certificate", tunnel_id, *served.options).out
    ca = x509.load_pem_x509_certificate((tmp_path / "gw" / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((tmp_path / "gw" / "tls.crt").read_bytes())
    server.verify_directly_issued_by(ca)
    assert len(listed.splitlines()) == 1
    for name in ("ca.key", "tls.key", "tunnel-token", "gateway.yaml"):
        assert (tmp_path / "gw" / name).stat().st_mode & 0o077 == 0


def test_a_second_init_registers_no_second_ca(
    run: Run, served: Served, tunnel_id: str, tmp_path: Path
) -> None:
    init(run, served, tunnel_id)
    ca = (tmp_path / "gw" / "ca.crt").read_bytes()
    assert init(run, served, tunnel_id).status == 0
    assert (tmp_path / "gw" / "ca.crt").read_bytes() == ca
    listed = run("tunnel", "certificate", tunnel_id, *served.options).out
    assert len(listed.splitlines()) == 1


def test_renew_issues_from_the_same_ca(
    run: Run, served: Served, tunnel_id: str, tmp_path: Path
) -> None:
    init(run, served, tunnel_id)
    before = (tmp_path / "gw" / "tls.crt").read_bytes()
    assert run("gateway", "renew", "--dir", "gw", "--days", "10").status == 0
    after = (tmp_path / "gw" / "tls.crt").read_bytes()
    assert after != before
    ca = x509.load_pem_x509_certificate((tmp_path / "gw" / "ca.crt").read_bytes())
    x509.load_pem_x509_certificate(after).verify_directly_issued_by(ca)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no configuration"),
        (("--config", "absent.yaml"), "absent.yaml"),
        (("renew", "--dir", "absent"), "gateway init"),
        (("init", "tnl_x", "--edge", "e:1", "--route", "bank"), "LABEL=http://HOST:PORT"),
    ],
)
def test_mistakes_are_one_line(run: Run, arguments: tuple[str, ...], says: str) -> None:
    ran = run("gateway", *arguments)
    assert ran.status == 2
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert says in ran.err


def test_the_file_keeps_no_secret(run: Run, served: Served, tunnel_id: str, tmp_path: Path) -> None:
    init(run, served, tunnel_id)
    token = (tmp_path / "gw" / "tunnel-token").read_text()
    text = (tmp_path / "gw" / "gateway.yaml").read_text()
    assert token not in text
    assert yaml.safe_load(text)["token_file"] == "tunnel-token"


def test_a_missing_edge_ca_is_told_before_anything_is_made(
    run: Run, served: Served, tunnel_id: str, tmp_path: Path
) -> None:
    made = init(run, served, tunnel_id, "--edge-ca-file", "nowhere.pem")
    assert (made.status, made.err.count("\n")) == (2, 1)
    assert "nowhere.pem" in made.err
    assert not (tmp_path / "gw").exists()
    assert run("tunnel", "certificate", tunnel_id, *served.options).out == ""


def test_R326_the_tunnel_is_named_or_found_or_made(
    run: Run, served: Served, tunnel_id: str, tmp_path: Path
) -> None:
    rest = ("--edge", "127.0.0.1:7844", "--route", "bank=http://127.0.0.1:8080", *served.options)

    def tunnel_of(directory: str, *arguments: str, **env: str) -> str:
        made = run("gateway", "init", *arguments, "--dir", directory, *rest, **env)
        assert made.status == 0, made.err
        return (tmp_path / directory / "tunnel-id").read_text()

    assert tunnel_of("by-flag", tunnel_id) == tunnel_id
    assert tunnel_of("by-env", INTRAMUROS_TUNNEL_ID=tunnel_id) == tunnel_id
    new = tunnel_of("new")
    assert new != tunnel_id
    assert tunnel_of("new") == new, "the one in the output is used again"
    listed = run("tunnel", "list", *served.options).out
    assert new in listed
    nowhere = ("--edge", "e:1", "--route", "bank=http://127.0.0.1:8080", "--dir", "x")
    refused = run("gateway", "init", *nowhere, "--url", "http://127.0.0.1:1", *served.options[2:])
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "the API at 127.0.0.1:1 is unreachable" in refused.err
    for made in (new, tunnel_id):  # an organization has only ten
        assert run("tunnel", "archive", made, *served.options).status == 0
    assert new not in run("tunnel", "list", *served.options).out


def test_routes_to_programs_stay_when_a_gateway_is_set_up_again(
    run: Run, served: Served, tunnel_id: str, tmp_path: Path
) -> None:
    config = tmp_path / "gw" / "gateway.yaml"
    assert init(run, served, tunnel_id).status == 0
    notes = "  notes:\n    command: [node, /srv/notes/index.js]\n    write: [/var/lib/notes]\n"
    config.write_text(config.read_text().replace("routes:\n", f"routes:\n{notes}"))
    before = load_config(config).routes.routes
    assert isinstance(before["notes"], Program)
    assert init(run, served, tunnel_id).status == 0
    assert load_config(config).routes.routes == before


def test_a_policy_stays_until_it_is_taken_away(
    run: Run, served: Served, tunnel_id: str, tmp_path: Path
) -> None:
    config = tmp_path / "gw" / "gateway.yaml"

    def named() -> Path | None:
        return load_config(config).policy_file

    assert init(run, served, tunnel_id).status == 0
    assert named() is None
    assert init(run, served, tunnel_id, "--policy-file", "p.cedar").status == 0
    assert named() == tmp_path / "gw" / "p.cedar"
    assert init(run, served, tunnel_id).status == 0
    assert named() == tmp_path / "gw" / "p.cedar"
    # What may have named one is not written over unread.
    config.write_text("{broken")
    broken = init(run, served, tunnel_id)
    assert broken.status != 0
    assert "may name a policy" in broken.err
    assert init(run, served, tunnel_id, "--policy-file", "").status == 0
    assert named() is None

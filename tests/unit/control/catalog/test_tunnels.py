import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from intramuros.control.catalog import certificates, service, tunnels
from intramuros.control.catalog.tunnels import Issuer
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.tunnels import Tunnel, TunnelCreate, TunnelToken
from intramuros.protocol.tickets import SigningKey, VerifyingKey
from tests.authorities import authority


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return Issuer(SigningKey(pem), "wall.test")


def make(tx: Tx, actor: Actor, issuer: Issuer) -> service.Resource:
    return tunnels.create(tx, actor, issuer, TunnelCreate())


@pytest.mark.rule("R299", "R301")
def test_every_tunnel_has_a_domain_of_its_own(tx: Tx, actor: Actor, issuer: Issuer) -> None:
    domains = {make(tx, actor, issuer).body["domain"] for _ in range(10)}
    assert len(domains) == 10
    assert all(domain.endswith(".tunnel.wall.test") for domain in domains)
    with pytest.raises(InvalidRequest, match="at most 10"):
        make(tx, actor, issuer)


@pytest.mark.rule("R305", "R306")
def test_tokens_are_signed_stable_and_versioned(tx: Tx, actor: Actor, issuer: Issuer) -> None:
    tunnel = make(tx, actor, issuer)
    first = tunnels.reveal_token(tx, actor, issuer, tunnel.id)
    TunnelToken.model_validate(first)
    assert tunnels.reveal_token(tx, actor, issuer, tunnel.id) == first
    rotated, version = tunnels.rotate_token(tx, actor, issuer, tunnel.id)
    assert version == 2
    assert rotated["id"] != first["id"]
    claims = VerifyingKey(issuer.key.public_pem()).read_tunnel_token(rotated["tunnel_token"])
    assert (claims.tunnel, claims.domain, claims.version) == (
        tunnel.id,
        tunnel.body["domain"],
        2,
    )
    kinds = [json.loads(line)["kind"] for line in audit.read_lines(tx)]
    assert kinds.count("tunnel_token.reveal") == 2
    assert kinds.count("tunnel_token.rotate") == 1
    assert first["tunnel_token"] not in "".join(audit.read_lines(tx))


@pytest.mark.rule("R305")
def test_answers_never_hold_the_token(tx: Tx, actor: Actor, issuer: Issuer) -> None:
    tunnel = make(tx, actor, issuer)
    shown = tunnels.present(tunnel)
    Tunnel.model_validate(shown)
    assert issuer.token(tunnel) not in json.dumps(shown)


@pytest.mark.rule("R304")
def test_archiving_takes_certificates_and_routes_along(
    tx: Tx, actor: Actor, issuer: Issuer
) -> None:
    tunnel = make(tx, actor, issuer)
    host = f"crm.{tunnel.body['domain']}"
    assert tunnels.route(tx, "wrkspc_test", host).ca_pems == ()
    pem = authority()
    made = certificates.create(tx, actor, tunnel.id, pem)
    found = tunnels.route(tx, "wrkspc_test", host)
    assert (found.tunnel_id, found.token_version, found.ca_pems) == (tunnel.id, 1, (pem,))
    archived = tunnels.archive(tx, actor, tunnel.id)
    assert tunnels.archive(tx, actor, tunnel.id) == archived
    assert tunnels.route(tx, "wrkspc_test", host) is None
    assert certificates.get(tx, "wrkspc_test", tunnel.id, made.id).archived_us is not None
    for act in (tunnels.reveal_token, tunnels.rotate_token):
        with pytest.raises(InvalidRequest, match="archived"):
            act(tx, actor, issuer, tunnel.id)


def test_t23_only_hosts_below_the_domain_are_routed(tx: Tx, actor: Actor, issuer: Issuer) -> None:
    domain = make(tx, actor, issuer).body["domain"]
    assert tunnels.route(tx, "wrkspc_test", f"A.{domain}.") is not None
    for host in (domain, f"x{domain}", "example.com", f"a.{domain}.evil.example"):
        assert tunnels.route(tx, "wrkspc_test", host) is None
    assert tunnels.route(tx, "wrkspc_other", f"a.{domain}") is None

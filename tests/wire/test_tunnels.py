"""Tunnels, tokens and certificates through the official SDK."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from intramuros.protocol.audit import verify
from tests.authorities import authority
from tests.engines import opened
from tests.wire.host import Server, running
from tests.wire.structure import check

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own: an organization has only ten tunnels."""
    with running(tmp_path_factory.mktemp("tunnels") / "data", base_domain="wall.test") as started:
        yield started


@pytest.mark.rule("R296", "R299", "R300", "R303", "R304")
def test_a_tunnels_life(client: Anthropic) -> None:
    tunnel = client.beta.tunnels.create(display_name="HQ")
    check(tunnel)
    assert tunnel.id.startswith("tnl_")
    assert tunnel.domain.endswith(".tunnel.wall.test")
    assert client.beta.tunnels.retrieve(tunnel.id) == tunnel
    other = client.beta.tunnels.create()
    check(other)
    assert (other.display_name, other.domain != tunnel.domain) == (None, True)
    archived = client.beta.tunnels.archive(other.id)
    check(archived)
    assert client.beta.tunnels.archive(other.id) == archived
    assert other.id not in [t.id for t in client.beta.tunnels.list()]
    assert other.id in [t.id for t in client.beta.tunnels.list(include_archived=True, limit=1)]


@pytest.mark.rule("R304", "R305", "R306")
def test_the_token_is_stable_until_it_is_rotated(client: Anthropic) -> None:
    tunnel = client.beta.tunnels.create()
    first = client.beta.tunnels.reveal_token(tunnel.id)
    check(first)
    assert client.beta.tunnels.reveal_token(tunnel.id) == first
    rotated = client.beta.tunnels.rotate_token(tunnel.id, reason="left on a train")
    check(rotated)
    assert (rotated.id != first.id, rotated.tunnel_token != first.tunnel_token) == (True, True)
    assert client.beta.tunnels.reveal_token(tunnel.id) == rotated
    client.beta.tunnels.archive(tunnel.id)
    for refused in (client.beta.tunnels.reveal_token, client.beta.tunnels.rotate_token):
        with pytest.raises(anthropic.BadRequestError, match="archived"):
            refused(tunnel.id)


@pytest.mark.rule("R303", "R304", "R310", "R311")
async def test_certificates(async_client: AsyncAnthropic) -> None:
    tunnels = async_client.beta.tunnels
    tunnel = await tunnels.create()
    pem = authority()
    first = await tunnels.certificates.create(tunnel.id, ca_certificate_pem=pem)
    check(first)
    der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    assert first.fingerprint == hashlib.sha256(der).hexdigest()
    with pytest.raises(anthropic.ConflictError):
        await tunnels.certificates.create(tunnel.id, ca_certificate_pem=pem)
    second = await tunnels.certificates.create(tunnel.id, ca_certificate_pem=authority())
    with pytest.raises(anthropic.BadRequestError, match="at most 2"):
        await tunnels.certificates.create(tunnel.id, ca_certificate_pem=authority())
    listed = [c.id async for c in tunnels.certificates.list(tunnel.id, limit=1)]
    assert listed == [second.id, first.id]
    archived = await tunnels.certificates.archive(first.id, tunnel_id=tunnel.id)
    check(archived)
    assert archived.archived_at is not None
    assert await tunnels.certificates.retrieve(first.id, tunnel_id=tunnel.id) == archived
    again = await tunnels.certificates.create(tunnel.id, ca_certificate_pem=pem)
    assert again.fingerprint == first.fingerprint
    await tunnels.archive(tunnel.id)
    kept = [c async for c in tunnels.certificates.list(tunnel.id, include_archived=True)]
    assert len(kept) == 3
    assert all(certificate.archived_at for certificate in kept)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        await tunnels.certificates.create(tunnel.id, ca_certificate_pem=authority())


def test_a_certificate_belongs_to_its_tunnel(client: Anthropic) -> None:
    mine, other = client.beta.tunnels.create(), client.beta.tunnels.create()
    certificate = client.beta.tunnels.certificates.create(mine.id, ca_certificate_pem=authority())
    with pytest.raises(anthropic.NotFoundError):
        client.beta.tunnels.certificates.retrieve(certificate.id, tunnel_id=other.id)
    with pytest.raises(anthropic.NotFoundError):
        client.beta.tunnels.certificates.list("tnl_none")
    for tunnel in (mine, other):
        client.beta.tunnels.archive(tunnel.id)


@pytest.mark.rule("R297")
def test_plain_keys_may_not_manage_tunnels(server: Server, client: Anthropic) -> None:
    made = client.post("/x/keys", body={"name": "plain"}, cast_to=object)
    assert isinstance(made, dict)
    with Anthropic(base_url=server.base_url, api_key=made["key"], max_retries=0) as plain:
        plain.beta.agents.list()
        with pytest.raises(anthropic.PermissionDeniedError, match="workspace:manage_tunnels"):
            plain.beta.tunnels.list()


@pytest.mark.rule("R301")
def test_an_organization_has_ten_active_tunnels(client: Anthropic) -> None:
    active = list(client.beta.tunnels.list())
    made = [client.beta.tunnels.create() for _ in range(10 - len(active))]
    with pytest.raises(anthropic.BadRequestError, match="at most 10"):
        client.beta.tunnels.create()
    for tunnel in made:
        client.beta.tunnels.archive(tunnel.id)


@pytest.mark.rule("R307")
def test_every_act_is_in_the_audit_chain_without_a_secret(
    server: Server, client: Anthropic
) -> None:
    tunnel = client.beta.tunnels.create()
    token = client.beta.tunnels.rotate_token(tunnel.id, reason="weekly").tunnel_token
    lines = audit_lines(server.data_dir)
    verify(lines)
    acts = [json.loads(line) for line in lines]
    rotated = [act for act in acts if act["kind"] == "tunnel_token.rotate"][-1]
    assert rotated["fields"]["tunnel_id"] == tunnel.id
    assert rotated["fields"]["reason"] == "weekly"
    assert rotated["fields"]["by"].startswith("apikey_")
    assert not any(secret in "".join(lines) for secret in (token, server.api_key))
    client.beta.tunnels.archive(tunnel.id)


def audit_lines(data_dir: Path) -> list[str]:
    with opened(data_dir) as db:
        return [row[0] for row in db.execute("SELECT line FROM audit ORDER BY seq")]

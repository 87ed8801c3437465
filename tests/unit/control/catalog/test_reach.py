"""Which way leads to a server, and what a dial's ticket says."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import insert

from intramuros.control.brain import edges_from, networks_from
from intramuros.control.catalog import certificates, tunnels
from intramuros.control.catalog.reach import ROTATION_GRACE, Reach
from intramuros.control.catalog.tunnels import Issuer
from intramuros.control.identity.actor import Actor
from intramuros.control.mcp.base import Caller, McpError, McpFailure, McpServer
from intramuros.control.mcp.guard import GuardedTransport
from intramuros.control.mcp.transport import TunnelTransport
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import metadata, workspaces
from intramuros.kernel.errors import NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, SystemClock
from intramuros.protocol.resources.tunnels import TunnelCreate
from intramuros.protocol.tickets import DialTicket, SigningKey, VerifyingKey
from tests.authorities import authority
from tests.engines import database_url

pytestmark = pytest.mark.anyio

OWN, OTHER = "wrkspc_own", "wrkspc_other"
CONNECTION = "c" * 43


class House:
    """A database with two workspaces, and a Reach over it."""

    def __init__(self, database: Database, ids: IdFactory) -> None:
        self.db = database
        self.clock = ManualClock(SystemClock().now())
        self.ids = ids
        key = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        self.issuer = Issuer(SigningKey(key), "intramuros.internal")
        edges = edges_from(["127.0.0.1:9"], None)
        self.reach = Reach(database, self.clock, self.issuer, edges)

    def actor(self, workspace: str) -> Actor:
        return Actor(self.clock, self.ids, workspace, "test")

    async def tunnel(self, workspace: str) -> tunnels.Resource:
        request = TunnelCreate(display_name=None)
        return await self.db.write(
            lambda tx: tunnels.create(tx, self.actor(workspace), self.issuer, request)
        )

    async def ticket(self, host: str, workspace: str = OWN) -> DialTicket:
        dialer = self.reach._dialer(Caller(workspace, "sesn_1"))
        public = VerifyingKey(self.issuer.key.public_pem())
        text = await dialer._mint(host, CONNECTION)
        return public.read_dial_ticket(text, self.clock.now().timestamp())


@pytest.fixture
def house(tmp_path: Path, ids: IdFactory) -> Iterator[House]:
    database = Database.open(database_url(tmp_path / "i.db"))
    with database.engine.begin() as connection:
        metadata.create_all(connection)
        for name in (OWN, OTHER):
            connection.execute(insert(workspaces).values(id=name, name=name, created_us=1))
    yield House(database, ids)
    database.close()


def server(host: str) -> McpServer:
    return McpServer("ledger", f"https://{host}/mcp")


async def test_a_public_host_is_reached_directly_under_guard(house: House) -> None:
    way = await house.reach.transport_for(Caller(OWN, "sesn_1"), server("mcp.example.com"))
    assert isinstance(way, GuardedTransport)


@pytest.mark.rule("R112")
async def test_a_host_of_an_own_tunnel_is_reached_through_it(house: House) -> None:
    tunnel = await house.tunnel(OWN)
    host = f"ledger.{tunnel.body['domain']}"
    way = await house.reach.transport_for(Caller(OWN, "sesn_1"), server(host.upper()))
    assert isinstance(way, TunnelTransport)


@pytest.mark.rule("R112")
async def test_t23_a_tunnel_of_another_workspace_looks_like_none_at_all(house: House) -> None:
    tunnel = await house.tunnel(OTHER)
    errors = []
    for host in (f"ledger.{tunnel.body['domain']}", "ledger.nobody.tunnel.intramuros.internal"):
        with pytest.raises(McpError) as caught:
            await house.reach.transport_for(Caller(OWN, "sesn_1"), server(host))
        assert caught.value.failure is McpFailure.CONNECTION
        errors.append(caught.value.message.replace(host, "HOST"))
    assert errors[0] == errors[1]


async def test_a_ticket_names_tunnel_host_session_and_version(house: House) -> None:
    tunnel = await house.tunnel(OWN)
    host = f"ledger.{tunnel.body['domain']}"
    ticket = await house.ticket(host)
    assert ticket.connection == CONNECTION
    assert (ticket.tunnel, ticket.host, ticket.session) == (tunnel.id, host, "sesn_1")
    assert ticket.version == 1


async def test_links_of_the_old_token_serve_for_a_while_after_a_rotation(house: House) -> None:
    tunnel = await house.tunnel(OWN)
    host = f"ledger.{tunnel.body['domain']}"

    def rotate(tx: Tx) -> int:
        return tunnels.rotate_token(tx, house.actor(OWN), house.issuer, tunnel.id)[1]

    assert await house.db.write(rotate) == 2
    soon = await house.ticket(host)
    assert (soon.version, soon.serves_from) == (2, 1)
    house.clock.advance((ROTATION_GRACE + timedelta(seconds=1)).total_seconds())
    later = await house.ticket(host)
    assert (later.version, later.serves_from) == (2, 2)


async def test_no_ticket_for_an_archived_tunnel(house: House) -> None:
    tunnel = await house.tunnel(OWN)
    await house.db.write(lambda tx: tunnels.archive(tx, house.actor(OWN), tunnel.id))
    with pytest.raises(NotFound):
        await house.ticket(f"ledger.{tunnel.body['domain']}")


async def test_only_active_authorities_are_trusted(house: House) -> None:
    tunnel = await house.tunnel(OWN)
    host = f"ledger.{tunnel.body['domain']}"
    pem = authority()
    made = await house.db.write(
        lambda tx: certificates.create(tx, house.actor(OWN), tunnel.id, pem)
    )
    dialer = house.reach._dialer(Caller(OWN, "sesn_1"))
    (trusted,) = await dialer._cas(host)
    assert x509.load_pem_x509_certificate(trusted.encode()).subject
    await house.db.write(lambda tx: certificates.archive(tx, house.actor(OWN), tunnel.id, made.id))
    assert not await dialer._cas(host)


async def test_an_edge_that_is_away_does_not_hold_up_a_rotation(house: House) -> None:
    await house.reach.fence("tnl_1", 2, sever=True)


@pytest.mark.parametrize(
    ("url", "carries"),
    [
        ("https://m.example/mcp", True),
        ("http://m.example/mcp", False),
        ("http://x.abc.tunnel.intramuros.internal/mcp", True),
        ("http://10.1.2.3:8000/mcp", True),
        ("http://10.2.2.3/mcp", False),
        ("http://[::1]/mcp", False),
        ("http://localhost/mcp", False),
        ("https://\u2603.example/mcp", False),
    ],
)
async def test_R076_credentials_go_over_tls_or_into_the_operators_networks(
    tmp_path: Path, url: str, *, carries: bool
) -> None:
    db = Database.open(database_url(tmp_path / "db"))
    house = House(db, IdFactory(ManualClock(), lambda count: b"x" * count))
    networks = networks_from(["10.1.0.0/16"])
    reach = Reach(db, house.clock, house.issuer, edges_from([], None), networks)
    assert reach.carries_secrets(url) is carries
    db.close()

"""Dial tickets that somebody captured: good for the connection that they were made for alone."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest

from intramuros.control.mcp.transport import TunnelTransport
from intramuros.kernel.wire import Wire, serve_tls
from intramuros.protocol.dial import (
    DIAL_ALPN,
    Dial,
    Refusal,
    connection_name,
    encode_call,
    encode_reply,
    parse_call,
    parse_reply,
)
from intramuros.protocol.tickets import DialTicket, VerifyingKey
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    running_edge,
    running_gateway,
    running_upstream,
    url,
)
from tests.integration.tunnel.test_edge import connected
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio
HOST = f"docs.{DOMAIN}"


async def show(rig: Rig, port: int, ticket: str, alpn: str = DIAL_ALPN) -> str:
    """Show a ticket on a connection of one's own; return the edge's answer."""
    async with connected(rig, port, alpn) as wire:
        return await answer_to(wire, ticket)


async def answer_to(wire: Wire, ticket: str) -> str:
    await wire.send(encode_call(Dial(ticket)))
    with anyio.fail_after(30):
        refusal = parse_reply(await wire.read_line(4096))
    return "OK" if refusal is None else refusal.code


class Captor:
    """An edge that somebody holds: it writes down what it is shown, and may use it first."""

    def __init__(self, rig: Rig, elsewhere: int | None = None) -> None:
        self.rig = rig
        self.elsewhere = elsewhere
        self.tickets: list[str] = []
        self.answers: list[str] = []

    async def handle(self, wire: Wire) -> None:
        call = parse_call(await wire.read_line(4096))
        assert isinstance(call, Dial)
        self.tickets.append(call.ticket)
        if self.elsewhere is not None:
            # While control waits: before anybody else has seen the ticket.
            self.answers.append(await show(self.rig, self.elsewhere, call.ticket))
        await wire.send(encode_reply(Refusal("no_link", "nobody")))


@asynccontextmanager
async def captured(rig: Rig, elsewhere: int | None = None) -> AsyncIterator[tuple[Captor, int]]:
    captor = Captor(rig, elsewhere)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([DIAL_ALPN])
    context.load_cert_chain(rig.home / "edge.crt", rig.home / "edge.key")
    async with anyio.create_task_group() as group:
        port: int = await group.start(_serve, captor, context)
        yield captor, port
        group.cancel_scope.cancel()


async def _serve(
    captor: Captor,
    context: ssl.SSLContext,
    *,
    task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    await serve_tls(
        captor.handle, host="127.0.0.1", port=0, context=context, task_status=task_status
    )


class Watched(Rig):
    """A rig that remembers the tickets that control made."""

    def __post_init__(self) -> None:
        self.made: list[str] = []
        super().__post_init__()

    async def mint(self, host: str, connection: str = "") -> str:
        self.made.append(await super().mint(host, connection))
        return self.made[-1]


def codes(rig: Rig, name: str = "edge-audit.jsonl") -> list[str]:
    return [r["fields"]["code"] for r in rig.audit(name) if r["kind"] == "dial.refused"]  # type: ignore[index]


async def test_a_ticket_that_was_used_opens_nothing_more(tmp_path: Path) -> None:
    rig, upstream = Watched(tmp_path), Upstream()
    other = Watched(tmp_path / "other", key=rig.key)
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as port,
        running_edge(other) as second,
    ):
        # Both edges have a link of the same tunnel.
        both = rig.config([port], upstream_port), other.config([second], upstream_port)
        async with (
            running_gateway(both[0]),
            running_gateway(both[1]),
            client_of(rig, port) as client,
        ):
            assert (await client.get(url("/echo"))).status_code == 200
            (ticket,) = rig.made
            # While the connection that it was made for is open, and at every edge.
            assert await show(rig, port, ticket) == "other_connection"
            assert await show(other, second, ticket) == "other_connection"
            assert (await client.get(url("/echo"))).status_code == 200
            await client.aclose()
            assert await show(rig, port, ticket) == "other_connection"
            # The token may be rotated: nothing becomes good by that.
            rig.version = 2
            assert await show(rig, port, ticket) == "other_connection"
            # Nor by time.
            late = rig.key.mint_dial_ticket(
                rig_ticket(rig, ticket), rig.clock.now().timestamp() - 60
            )
            assert await show(rig, port, late) == "expired"
    assert len(rig.made) == 1
    assert codes(rig) == ["other_connection"] * 3 + ["expired"]
    assert [r["kind"] for r in rig.audit("edge-audit.jsonl")].count("dial.opened") == 1


def rig_ticket(rig: Rig, text: str) -> DialTicket:
    key = VerifyingKey(rig.key.public_pem())
    return key.read_dial_ticket(text, rig.clock.now().timestamp())


async def test_an_edge_cannot_use_what_it_is_shown_at_another(tmp_path: Path) -> None:
    rig, upstream = Watched(tmp_path), Upstream()
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as port,
        running_gateway(rig.config([port], upstream_port)),
        captured(rig, port) as (captor, bad),
        client_of(rig, bad, port) as client,
    ):
        # The captor is tried first and says that it has no gateway; the call goes on elsewhere.
        assert (await client.get(url("/echo"))).status_code == 200
        assert captor.answers == ["other_connection"]
        assert await show(rig, port, captor.tickets[0]) == "other_connection"
    assert len(rig.made) == 2
    assert len(set(rig.made)) == 2


async def test_a_box_that_ends_tls_in_between_can_neither_pass_nor_replay(tmp_path: Path) -> None:
    rig, upstream = Watched(tmp_path), Upstream()
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as port,
        running_gateway(rig.config([port], upstream_port)),
    ):
        said: list[str] = []

        async def between(near: Wire) -> None:
            ticket = parse_call(await near.read_line(4096))
            assert isinstance(ticket, Dial)
            async with connected(rig, port, DIAL_ALPN) as far:
                said.append(await answer_to(far, ticket.ticket))
            await near.aclose()

        captor = Captor(rig)
        captor.handle = between  # type: ignore[method-assign]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([DIAL_ALPN])
        context.load_cert_chain(rig.home / "edge.crt", rig.home / "edge.key")
        async with anyio.create_task_group() as group:
            box: int = await group.start(_serve, captor, context)
            async with client_of(rig, box) as client:
                with pytest.raises(httpx2.ConnectError):
                    await client.get(url("/echo"))
            group.cancel_scope.cancel()
        assert set(said) == {"other_connection"}
    assert upstream.requests == []


async def test_tickets_of_the_release_before_are_taken_and_recorded_as_such(
    tmp_path: Path,
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()

    async def old(host: str, _connection: str) -> str:
        return await Rig.mint(rig, host)

    dialer = rig.dialer
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as port,
        running_gateway(rig.config([port], upstream_port)),
    ):
        made = dialer(port)
        made._mint = old
        async with httpx2.AsyncClient(transport=TunnelTransport(made)) as client:
            assert (await client.get(url("/echo"))).status_code == 200
        async with client_of(rig, port) as client:
            assert (await client.get(url("/echo"))).status_code == 200
    opened = [r["fields"] for r in rig.audit("edge-audit.jsonl") if r["kind"] == "dial.opened"]
    assert ["bound" in fields for fields in opened] == [True, False]  # type: ignore[operator]


async def test_a_ticket_for_each_connection_is_another_and_fits_its_line(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with running_edge(rig) as port:
        names = []
        for _ in range(3):
            async with connected(rig, port, DIAL_ALPN) as wire:
                names.append(connection_name(wire.finished))
                ticket = await rig.mint(HOST, names[-1])
                # On its own connection the ticket is judged by the rest: there is no gateway.
                assert await answer_to(wire, ticket) == "no_link"
        assert len(set(names)) == 3
        assert len(encode_call(Dial(ticket))) < 1024

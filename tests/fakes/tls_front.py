"""What ends TLS before a server that speaks plain HTTP on loopback, as in any real installation."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import trustme
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from tests.fakes.company_proxy import GONE


@asynccontextmanager
async def tls_front(authority: trustme.CA, name: str, port: int) -> AsyncIterator[int]:
    """Serve what listens at a local port under a name, in TLS; gives the port of that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)

    async def copy(
        one: anyio.abc.ByteStream, other: anyio.abc.ByteStream, scope: anyio.CancelScope
    ) -> None:
        try:
            while True:
                await other.send(await one.receive())
        except GONE:
            scope.cancel()

    async def serve(raw: SocketStream) -> None:
        try:
            async with (
                raw,
                await TLSStream.wrap(
                    raw, server_side=True, ssl_context=context, standard_compatible=False
                ) as here,
                await anyio.connect_tcp("127.0.0.1", port) as there,
                anyio.create_task_group() as group,
            ):
                group.start_soon(copy, here, there, group.cancel_scope)
                await copy(there, here, group.cancel_scope)
        except GONE:
            return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()

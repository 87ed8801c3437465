"""Messages on behalf of a caller: what goes to the provider as it is, and what is ours to do."""

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import anyio
import httpx2

from intramuros.control.catalog.reach import Reach
from intramuros.control.identity import audit
from intramuros.control.inference.hosted import ChatSource, RelaySource, told
from intramuros.control.inference.metered import Asker, Door, MeteredSource
from intramuros.control.inference.rounds import Emit, Json, Rounds, Source
from intramuros.control.inference.servers import Offered, TokenServer, Wanted, rewritten, wanted
from intramuros.control.inference.sources import ProviderSource, ScriptedSource
from intramuros.control.mcp.base import Caller, McpError, McpResult, McpServer
from intramuros.control.mcp.client import McpPool
from intramuros.control.metering.meter import Meter, estimate
from intramuros.control.metering.usage import Spender
from intramuros.control.model.anthropic import AnthropicModel
from intramuros.control.model.base import Block, ModelError
from intramuros.control.model.hosts import Host
from intramuros.control.model.registry import Models
from intramuros.control.model.scripted import PREFIX, ScriptedModel
from intramuros.control.model.upstream import Upstream
from intramuros.control.store.db import Database
from intramuros.control.tracing.recorder import Recorder
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import Clock

_MCP_BETAS: Final = "mcp-client-"


@dataclass(frozen=True)
class Ask:
    """One request of a caller.

    Args:
        data: the body as it came; ``body`` is the same, parsed.
        betas: what the caller opted into.
        service_account_id: whom a caller with a federated token acts as.
        told: headers that go with the answer.
    """

    workspace_id: str
    credential_id: str
    request_id: str
    data: bytes = field(repr=False)
    body: Json = field(repr=False)
    version: str | None = None
    betas: frozenset[str] = frozenset()
    service_account_id: str | None = None
    told: MutableMapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def scripted(self) -> bool:
        """Whether a script answers."""
        return str(self.body["model"]).startswith(PREFIX)

    @property
    def asker(self) -> Asker:
        """The caller as limits and reports know it."""
        account = self.service_account_id
        key = "" if account else self.credential_id
        spender = Spender(self.workspace_id, key, account or "")
        return Asker(spender, self.request_id, self.body, self.told)

    def headers(self, *, mcp: bool = True) -> dict[str, str]:
        """Return the headers that the provider gets; never the caller's credential."""
        # The token exchange is between the caller and us.
        betas = sorted(self.betas - {"oauth-2025-04-20"})
        betas = [b for b in betas if mcp or not b.startswith(_MCP_BETAS)]
        headers = {"anthropic-version": self.version or "2023-06-01"}
        return {**headers, "anthropic-beta": ",".join(betas)} if betas else headers


@dataclass(frozen=True)
class Voices:
    """Who answers besides the provider, what answers count against, and who is told of them."""

    scripts: ScriptedModel
    meter: Meter
    recorder: Recorder
    models: Models | None = None


class Inference:
    """The Messages API. :meth:`run` must be running while tunnelled servers are used."""

    def __init__(
        self, db: Database, clock: Clock, ids: IdFactory, reach: Reach, models: "Voices"
    ) -> None:
        self.door = Door(db, clock, models.meter, models.recorder)
        self._db = db
        self._clock = clock
        self._ids = ids
        self._reach = reach
        self._scripts = models.scripts
        self._models = models.models
        self._pool = McpPool(self._transport)

    async def run(self, stop: Stop) -> None:
        """Hold the sessions with tunnelled servers until a stop is asked for."""
        await self._pool.run(stop)

    def servers(self, ask: Ask) -> list[Wanted]:
        """Return the servers behind tunnels that a request names.

        Raises:
            InvalidRequest: an entry is wrong, or a model that is not the main provider's is to use
                servers that are not ours.
        """
        found = wanted(ask.body, self._reach.is_tunnel, ask.betas)
        listed = ask.body.get("mcp_servers") or []
        ours = ask.scripted or self.hosted(ask)
        if ours and not (isinstance(listed, list) and len(found) == len(listed)):
            raise InvalidRequest("mcp_servers: this model reaches servers behind tunnels only")
        return found

    def hosted(self, ask: Ask) -> bool:
        """Tell whether the models file gives the model to a provider of its own."""
        return self._host(ask) is not None

    async def count(self, ask: Ask, body: Json) -> int:
        """Return how many tokens a request to a hosted model has; a guess if nobody can count.

        Raises:
            DomainError: the provider refused or failed.
        """
        host = self._host(ask)
        if isinstance(host, AnthropicModel):
            try:
                counted = await host.count(body, ask.headers(mcp=False))
            except ModelError as error:
                raise told(error) from error
            if counted is not None:
                return counted
        return estimate((body.get("system"), body.get("messages"), body.get("tools")))

    def _host(self, ask: Ask) -> Host | None:
        return None if self._models is None else self._models.host(str(ask.body["model"]))

    def _voice(self, ask: Ask, upstream: Upstream, body: Json) -> Source:
        if ask.scripted:
            return ScriptedSource(self._scripts, self._ids)
        host, headers = self._host(ask), ask.headers(mcp="mcp_servers" in body)
        if host is None or self._models is None:
            return ProviderSource(upstream, headers)
        if isinstance(host, AnthropicModel):
            return RelaySource(host, headers)
        return ChatSource(host, self._models.known, lambda: self._ids.new("msg"))

    async def note(self, ask: Ask, kind: str, **fields: object) -> None:
        """Record what is about to happen, before it does.

        Args:
            kind: such as ``messages.create``.
        """
        body = {"request": ask.request_id, "credential": ask.credential_id, **fields}
        await self._db.write(
            lambda tx: audit.record(
                tx, self._clock, kind, workspace_id=ask.workspace_id, fields=body
            ),
            (),
        )

    async def prepare(
        self, ask: Ask, servers: Sequence[Wanted]
    ) -> tuple[dict[str, Any], dict[str, Offered]]:
        """Return the request with plain tools for the servers, and those tools by name.

        Raises:
            InvalidRequest: a server is away or refuses the caller's token.
        """
        if not servers:
            return dict(ask.body), {}
        found: dict[str, list[Offered]] = {}
        failed: list[McpError] = []
        caller = Caller(ask.workspace_id, ask.credential_id)

        async def look(one: Wanted) -> None:
            try:
                found[one.server.name] = one.offer(await self._pool.tools(caller, one.server))
            except McpError as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            for one in servers:
                group.start_soon(look, one)
        if failed:
            raise InvalidRequest(f"mcp_servers: {failed[0].server_name}: {failed[0].message}")
        offered = [tool for one in servers for tool in found[one.server.name]]
        return rewritten(ask.body, servers, offered), {tool.name: tool for tool in offered}

    async def message(
        self,
        ask: Ask,
        upstream: Upstream,
        prepared: tuple[Json, Mapping[str, Offered]],
        emit: Emit,
    ) -> dict[str, Any]:
        """Return one whole message, telling its events on the way.

        Raises:
            DomainError: the model cannot be reached, refused or failed.
        """
        body, tools = prepared
        source = MeteredSource(self._voice(ask, upstream, body), self.door, ask.asker)

        async def perform(calls: Sequence[tuple[Offered, Block]]) -> list[McpResult]:
            results: list[McpResult | None] = [None] * len(calls)

            async def call(index: int, tool: Offered, block: Block) -> None:
                results[index] = await self._call(ask, tool, block)

            async with anyio.create_task_group() as group:
                for index, (tool, block) in enumerate(calls):
                    group.start_soon(call, index, tool, block)
            return [result for result in results if result is not None]

        return await Rounds(source, tools, perform, emit).run(body)

    async def _call(self, ask: Ask, tool: Offered, block: Block) -> McpResult:
        arguments = block.get("input")
        named = {"call": block["id"], "server": tool.server.name, "tool": tool.tool}
        await self.note(ask, "messages.mcp_call", **named, **digest(arguments))
        caller = Caller(ask.workspace_id, ask.credential_id)
        try:
            result = await self._pool.call(
                caller, tool.server, tool.tool, arguments if isinstance(arguments, Mapping) else {}
            )
        except McpError as error:
            text = f"The MCP server {tool.server.name} could not be used: {error.message}"
            result = McpResult([{"type": "text", "text": text}], is_error=True)
        content = [dict(part) for part in result.content]
        await self.note(
            ask, "messages.mcp_result", **named, is_error=result.is_error, **digest(content)
        )
        return result

    async def _transport(self, caller: Caller, server: McpServer) -> httpx2.AsyncBaseTransport:
        transport = await self._reach.transport_for(caller, server)
        token = server.token if isinstance(server, TokenServer) else None
        return _Bearing(transport, token) if token else transport


def digest(value: object) -> dict[str, object]:
    """Return the size and digest of JSON, for the audit record."""
    data = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return {"bytes": len(data), "sha256": sha256(data).hexdigest()}


class _Bearing(httpx2.AsyncBaseTransport):
    """Adds the caller's token for the MCP server; only the tunnel's far end can read it."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, token: str) -> None:
        self._inner = inner
        self._token = token

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["authorization"] = f"Bearer {self._token}"
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()

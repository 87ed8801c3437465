"""Who may call what, through a whole tunnel, with real MCP servers and our own client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp

from intramuros.control.mcp.base import McpError, McpFailure, McpResult
from intramuros.control.mcp.transport import TunnelTransport
from intramuros.protocol.who import MAX_GROUPS, Group, Kind, Who
from intramuros.tunnel.exchange import DENIED
from tests.fakes.mcp_visitor import Visit, visit
from tests.integration.tunnel.rig import Rig, running_tunnel, url

pytestmark = [
    pytest.mark.anyio,
    # The transport of old servers is one of those under test.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
]

OPS, DEV = Group("rbac_group_ops", "Ops"), Group("rbac_group_dev", "Developers")
ANN = Who(Kind.USER, "user_ann", "ann.planted@example.com", (OPS,))
BOB = Who(Kind.USER, "user_bob", "bob.planted@example.com", (DEV,))
POLICY = """
@id("ops") permit(principal in Group::"rbac_group_ops", action, resource in Server::"docs");
@id("dev-connect") permit(
    principal in Group::"rbac_group_dev", action == Action::"connect", resource == Server::"docs"
);
@id("dev-read") permit(
    principal in Group::"rbac_group_dev",
    action == Action::"call_tool",
    resource == Tool::"docs/read"
) when { context.arguments has path && context.arguments.path like "/srv/*" };
@id("no-remove") forbid(principal, action, resource == Tool::"docs/remove");
"""


class Shelf:
    """A private server, and what was done on it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.server = MCPServer("shelf")

        @self.server.tool()
        def read(path: str) -> str:
            """Read a file."""
            self.done.append(f"read {path}")
            return f"content of {path}"

        @self.server.tool()
        def write(path: str) -> str:
            """Write a file."""
            self.done.append(f"write {path}")
            return "written"

        @self.server.tool()
        def remove(path: str) -> str:
            """Remove a file."""
            self.done.append(f"remove {path}")
            return "removed"

    def app(self, old: bool) -> ASGIApp:
        return self.server.sse_app() if old else self.server.streamable_http_app()


@pytest.fixture(params=["modern", "sse"])
def old(request: pytest.FixtureRequest) -> bool:
    return request.param == "sse"


@asynccontextmanager
async def visiting(rig: Rig, shelf: Shelf, *, old: bool) -> AsyncIterator[Visit]:
    async with running_tunnel(rig, shelf.app(old)) as (_, port):
        way = url("/sse" if old else "/mcp")
        async with visit(way, way=lambda: TunnelTransport(rig.dialer(port))) as visited:
            yield visited


def text_of(result: McpResult) -> str:
    (block,) = result.content
    return str(block["text"])


def records(rig: Rig, kind: str) -> list[Any]:
    return [r["fields"] for r in rig.audit("gateway-audit.jsonl") if r["kind"] == kind]


async def test_t31_t33_each_sees_and_calls_what_is_theirs(tmp_path: Path, old: bool) -> None:
    shelf, rig = Shelf(), Rig(tmp_path, who=(ANN,), policy=POLICY)
    async with visiting(rig, shelf, old=old) as visited:
        assert set(await visited.tools()) == {"read", "write"}
        assert text_of(await visited.call("write", path="/srv/a")) == "written"
    assert shelf.done == ["write /srv/a"]
    shelf, rig = Shelf(), Rig(tmp_path / "bob", who=(BOB,), policy=POLICY)
    async with visiting(rig, shelf, old=old) as visited:
        assert set(await visited.tools()) == {"read"}
        assert text_of(await visited.call("read", path="/srv/a")) == "content of /srv/a"
    calls = [r for r in records(rig, "mcp.request") if r["action"] == "call_tool"]
    assert [(r["name"], r["decision"], r["policies"]) for r in calls] == [
        ("read", "allow", ["dev-read"])
    ]
    assert calls[0]["who"] == [BOB.claim()]
    # An edge relays who is behind a call, and cannot tell.
    assert b"planted" not in rig.recorded()
    assert b"user_bob" not in rig.recorded()


async def test_what_is_refused_is_an_answer_and_the_session_goes_on(tmp_path: Path) -> None:
    shelf, rig = Shelf(), Rig(tmp_path, who=(BOB,), policy=POLICY)
    async with visiting(rig, shelf, old=False) as visited:
        for tool, path in (("read", "/etc/shadow"), ("write", "/srv/a"), ("remove", "/srv/a")):
            refused = await visited.call(tool, path=path)
            assert refused.is_error
            assert DENIED in text_of(refused)
        assert text_of(await visited.call("read", path="/srv/a")) == "content of /srv/a"
    assert shelf.done == ["read /srv/a"]
    denied = records(rig, "mcp.denied")
    assert [(r["name"], r["reason"], r["policies"]) for r in denied] == [
        ("read", "not_permitted", []),
        ("write", "not_permitted", []),
        ("remove", "forbidden", ["no-remove"]),
    ]


async def test_t33_a_changed_policy_counts_from_the_next_call(tmp_path: Path) -> None:
    shelf, rig = Shelf(), Rig(tmp_path, who=(ANN,), policy=POLICY)
    file = tmp_path / "policy.cedar"
    async with visiting(rig, shelf, old=False) as visited:
        assert not (await visited.call("write", path="/srv/a")).is_error
        file.write_text(POLICY.replace('in Server::"docs"', '== Tool::"docs/read"'))
        assert (await visited.call("write", path="/srv/b")).is_error
        file.write_text("permit(")
        assert (await visited.call("read", path="/srv/c")).is_error
        file.write_text(POLICY)
        assert not (await visited.call("write", path="/srv/d")).is_error
    assert shelf.done == ["write /srv/a", "write /srv/d"]


async def test_everybody_who_steers_a_session_must_be_permitted(tmp_path: Path) -> None:
    shelf, rig = Shelf(), Rig(tmp_path, who=(ANN, BOB), policy=POLICY)
    async with visiting(rig, shelf, old=False) as visited:
        assert set(await visited.tools()) == {"read"}
        assert (await visited.call("write", path="/srv/a")).is_error
        assert not (await visited.call("read", path="/srv/a")).is_error
    assert shelf.done == ["read /srv/a"]


@pytest.mark.parametrize("who", [(), (Who(Kind.API_KEY, "apikey_1"),)])
async def test_who_may_not_connect_is_refused_the_server(
    tmp_path: Path, old: bool, who: tuple[Who, ...]
) -> None:
    shelf, rig = Shelf(), Rig(tmp_path, who=who, policy=POLICY)
    async with visiting(rig, shelf, old=old) as visited:
        with pytest.raises(McpError) as caught:
            await visited.tools()
    assert caught.value.failure is McpFailure.AUTHENTICATION
    assert {r["action"] for r in records(rig, "mcp.denied")} == {"connect"}
    assert records(rig, "mcp.request") == []


async def test_t31_who_is_in_more_groups_than_a_ticket_names_is_nobody(tmp_path: Path) -> None:
    # The group that permits is among them; what is cut off might be one that forbids.
    for count, name in ((201, "in ticket"), (201, "x" * 60), (MAX_GROUPS + 1, "in ticket")):
        many = tuple(Group(f"rbac_group_{number}", name) for number in range(count - 1))
        eve = Who(Kind.USER, "user_eve", "eve@example.com", (*ANN.groups, *many))
        shelf, rig = Shelf(), Rig(tmp_path / f"{count}{name[:2]}", who=(eve,), policy=POLICY)
        async with visiting(rig, shelf, old=False) as visited:
            with pytest.raises(McpError) as caught:
                await visited.tools()
        assert caught.value.failure is McpFailure.AUTHENTICATION
        assert shelf.done == []
        assert records(rig, "mcp.request") == []
    shelf, rig = Shelf(), Rig(tmp_path / "most", policy=POLICY)
    most = tuple(Group(f"rbac_group_{number}", "g") for number in range(MAX_GROUPS - 1))
    rig.who = (Who(Kind.USER, "user_eve", "eve@example.com", (*ANN.groups, *most)),)
    async with visiting(rig, shelf, old=False) as visited:
        assert set(await visited.tools()) == {"read", "write"}


async def test_t31_who_leaves_a_group_loses_what_it_gave_with_the_next_ticket(
    tmp_path: Path,
) -> None:
    shelf, rig = Shelf(), Rig(tmp_path, who=(ANN,), policy=POLICY)
    async with running_tunnel(rig, shelf.app(old=False)) as (_, port):
        for who in (ANN, replace(ANN, groups=BOB.groups)):
            rig.who = (who,)
            # A new transport asks for a new ticket; one is used for half a minute at most.
            way = partial(TunnelTransport, rig.dialer(port))
            async with visit(url("/mcp"), way=way) as visited:
                assert (await visited.call("write", path="/srv/a")).is_error == (who is not ANN)
                assert not (await visited.call("read", path="/srv/b")).is_error
    assert shelf.done == ["write /srv/a", "read /srv/b", "read /srv/b"]

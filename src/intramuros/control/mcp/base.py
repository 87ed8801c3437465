"""What the loop needs of MCP servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from intramuros.kernel.errors import IntramurosError


@dataclass(frozen=True)
class McpServer:
    """A server as the agent declares it."""

    name: str
    url: str


@dataclass(frozen=True)
class McpTool:
    """A tool as the server describes it; the hints decide what recovery may repeat."""

    name: str
    description: str
    input_schema: Mapping[str, object]
    read_only: bool = False
    idempotent: bool = False


@dataclass(frozen=True)
class McpResult:
    """A call's outcome, in the contract's content blocks (R107)."""

    content: Sequence[Mapping[str, object]]
    is_error: bool = False


class McpFailure(StrEnum):
    """Why a server could not be used; values are the contract's error types (R102, R103)."""

    CONNECTION = "mcp_connection_failed_error"
    AUTHENTICATION = "mcp_authentication_failed_error"


class McpError(IntramurosError):
    """The server could not be used; the session goes on without it (R101, R104)."""

    def __init__(self, server_name: str, failure: McpFailure, message: str) -> None:
        super().__init__(message)
        self.server_name = server_name
        self.failure = failure
        self.message = message


@dataclass(frozen=True)
class Caller:
    """On whose behalf a call is made: names for tickets and audit."""

    workspace_id: str
    session_id: str


class Connector(Protocol):
    """Reaches MCP servers, directly or through a tunnel."""

    async def tools(self, caller: Caller, server: McpServer) -> Sequence[McpTool]:
        """Return the server's tools.

        Raises:
            McpError: the server is away or refuses us.
        """
        ...

    async def call(
        self,
        caller: Caller,
        server: McpServer,
        tool: str,
        arguments: Mapping[str, object],
    ) -> McpResult:
        """Call a tool once; never repeats a call by itself.

        Raises:
            McpError: the server is away or refuses us; whether the call ran is unknown.
        """
        ...

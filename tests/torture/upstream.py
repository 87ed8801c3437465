"""The private MCP server of the campaign: one tool, which notes each call before it answers."""

import logging

from mcp.server.mcpserver import MCPServer

from tests.torture.journal import Journal


def upstream(journal: Journal) -> object:
    """Return the ASGI application."""
    root = logging.getLogger()
    before = list(root.handlers)
    server = MCPServer("docs")
    root.handlers[:] = before  # it would speak for the whole process

    @server.tool()
    def touch(nonce: str) -> str:
        """Leave a mark."""
        journal.write("touched", nonce=nonce)
        return f"touched {nonce}"

    return server.streamable_http_app()

"""The private MCP server of the campaign: one tool, which notes each call before it answers."""

from mcp.server.mcpserver import MCPServer

from tests.torture.journal import Journal


def upstream(journal: Journal) -> object:
    """Return the ASGI application."""
    server = MCPServer("docs", log_level="ERROR")

    @server.tool()
    def touch(nonce: str) -> str:
        """Leave a mark."""
        journal.write("touched", nonce=nonce)
        return f"touched {nonce}"

    return server.streamable_http_app()

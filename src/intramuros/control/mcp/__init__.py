"""The MCP client side: sessions to servers, directly or through a tunnel."""

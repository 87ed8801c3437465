"""An MCP server of the official SDK over standard input and output, run as a program."""

import os
import sys
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("program")
count = 0


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def counted() -> int:
    """Count the calls of this process."""
    global count
    count += 1
    return count


@server.tool()
def told(name: str) -> str:
    """Return a variable of the environment."""
    return os.environ.get(name, "nothing")  # noqa: TID251  a program of its own


@server.tool()
def long(size: int) -> str:
    """Return so many characters."""
    return "x" * size


@server.tool()
def slow(seconds: float) -> str:
    """Take some time."""
    time.sleep(seconds)  # noqa: TID251  a program of its own
    return "done"


@server.tool()
def crash() -> str:
    """End the process."""
    os._exit(3)


@server.tool()
def secret_file() -> str:
    """Tell what is at a place of the host."""
    return Path("/etc/hostname").read_text()


if __name__ == "__main__":
    sys.stdout.write("this is no message of the protocol\n")
    sys.stdout.flush()
    sys.exit(server.run("stdio"))

"""The bank's private system: a database behind an MCP server that nobody here wrote.

``mcp-server-sqlite`` is one of the reference servers; it speaks over standard input and output.
``mcp-proxy`` serves it over HTTP. Both run in a virtual environment of their own, and listen on a
loopback port that stands in for the bank's network: only the gateway is told of it.
"""

import socket
from pathlib import Path
from typing import Final

from intramuros.cli.demo.data import Perimeter
from intramuros.cli.supervise import Program
from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError

LABEL: Final = "bank"
HOST: Final = "127.0.0.1"
_VENV: Final = ".venv-upstream"
# Where `make upstream` puts it in a checkout.
_CHECKOUT: Final = Path(__file__).parents[4]


def find_software() -> Path:
    """Return the directory of the private system's programs.

    Raises:
        OperatorError: it is not installed.
    """
    named = environment().get("INTRAMUROS_DEMO_UPSTREAM")
    for venv in (Path(named),) if named else (_CHECKOUT / _VENV, Path(_VENV).absolute()):
        programs = venv / "bin"
        if all((programs / name).exists() for name in ("mcp-proxy", "mcp-server-sqlite")):
            return programs
    raise OperatorError(
        "the demo's private system (mcp-proxy, mcp-server-sqlite) is not there",
        "run `make upstream`, or name its virtual environment in INTRAMUROS_DEMO_UPSTREAM",
    )


def private_system(perimeter: Perimeter, port: int, log_file: Path) -> Program:
    """Return the program that serves the database on a loopback port."""
    programs = find_software()
    serve = (str(programs / "mcp-proxy"), "--host", HOST, "--port", str(port), "--")
    return Program(
        name="bank",
        argv=(*serve, str(programs / "mcp-server-sqlite"), "--db-path", str(perimeter.database)),
        log_file=log_file,
        probe=lambda: f"http://{HOST}:{port}/mcp" if answers(HOST, port) else None,
        stop_s=2.0,
    )


def answers(host: str, port: int) -> bool:
    """Return whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False

"""The real server as a process of its own: ``python -m tests.wire.run_server SETTINGS_JSON``."""

import json
import sys
from pathlib import Path

import anyio

from intramuros.control.app import serve
from intramuros.control.settings import ServerSettings
from intramuros.kernel import telemetry
from intramuros.kernel.config import load
from intramuros.kernel.errors import OperatorError


def main() -> None:
    flags = json.loads(sys.argv[1])
    telemetry.configure(json=True, level=flags.pop("log_level", "info"))
    settings = load(ServerSettings, env={}, flags=flags).settings
    try:
        anyio.run(serve, settings, backend_options={"use_uvloop": True})
    except OperatorError as error:
        sys.exit(f"operator error: {error}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
    main()

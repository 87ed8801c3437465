"""A worker of the intranet, to be killed: ``python -m tests.e2e.web_worker SETTINGS_JSON``.

Every ``*.test`` is a host of this machine. Prints ``ready …`` as the command does.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.settings import WorkerSettings
from intramuros.execution.worker import serve_worker
from intramuros.kernel import telemetry


async def this_machine(name: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"] if name.endswith(".test") else []


def ready(environment: str) -> None:
    sys.stdout.write(f"ready {environment}\n")
    sys.stdout.flush()


async def main(given: str) -> None:
    said = json.loads(given)
    port, state = said.pop("origin_port"), Path(said.pop("state_dir"))
    settings = WorkerSettings(
        said["base_url"],
        Path(said["key_file"]),
        state,
        said["environment_id"],
        web_tools=("web_fetch",),
        web_allow=("intranet.test",),
        web_timeout_s=said["timeout_s"],
        egress_internal=("intranet.test",),
        egress_ports=(port,),
    )
    provider = BubblewrapProvider(state / "sandboxes")
    await serve_worker(settings, provider=provider, ready=ready, resolver=this_machine)


if __name__ == "__main__":
    telemetry.configure(json=True, level="info")
    anyio.run(main, sys.argv[1])

"""Programs behind routes under their system-call filter: escapes fail, real servers do not."""

import json
import os
import sys
from pathlib import Path
from typing import Final

import pytest

from intramuros.tunnel.programs import Program
from tests.integration.control.test_mcp_servers import text_of
from tests.integration.tunnel.test_program_routes import (
    MODULES,
    PYTHON,
    here,
    program,
    said,
    visited,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

NEW_USER: Final = 0x10000000
X86: Final = os.uname().machine == "x86_64"
# Name → number on x86_64, on aarch64, and what it is given. Nothing that worked would do harm.
ESCAPES: Final = {
    "user namespace": (272, 97, NEW_USER),
    "mount namespace": (272, 97, 0x20000),
    "clone into a user namespace": (56, 220, NEW_USER | 0x10000 | 17, 0, 0, 0, 0),
    "setns": (308, 268, 0, NEW_USER),
    "mount": (165, 40, 0, 0, 0, 0, 0),
    "umount": (166, 39, 0, 0),
    "new mounts": (430, 430, 0, 0),
    "pivot_root": (155, 41, 0, 0),
    "ptrace": (101, 117, 0, 0, 0, 0),
    "another's memory": (310, 270, 1, 0, 0, 0, 0, 0),
    "another's files": (438, 438, 0, 0, 0),
    "keyctl": (250, 219, 0, -3, 0, 0, 0),
    "add_key": (248, 217, 0, 0, 0, 0, 0),
    "bpf": (321, 280, 0, 0, 0),
    "perf_event_open": (298, 241, 0, 0, -1, -1, 0),
    "io_uring_setup": (425, 425, 0, 0),
    "io_uring_enter": (426, 426, -1, 0, 0, 0, 0, 0),
    "userfaultfd": (323, 282, 0),
    "open_by_handle_at": (304, 265, -1, 0, 0),
    "kexec": (246, 104, 0, 0, 0, 0),
    "a kernel module": (175, 105, 0, 0, 0),
    "TIOCSTI": (16, 29, 0, 0x5412, 0),
    "TIOCLINUX": (16, 29, 0, 0x541C, 0),
    "personality": (135, 92, 0x0040000),
}
# Refused as something that is not there, so that libraries take another way.
ABSENT: Final = {
    "clone3": (435, 435, 0, 0),
    "vsock": (41, 198, 40, 1, 0),
    "packets": (41, 198, 17, 3, 0),
    "netlink firewall": (41, 198, 16, 3, 12),
    "moving the memory map": (157, 167, 35, 0, 0, 0, 0),
}
NOT_THERE: Final = {"ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT", "EINVAL"}


def numbers(calls: dict[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: [x86 if X86 else arm, *given] for name, (x86, arm, *given) in calls.items()}


@pytest.mark.parametrize("network", [False, True])
async def test_a_program_cannot_ask_the_kernel_for_a_way_out(tmp_path: Path, network: bool) -> None:
    made = here(program(network=network, write=(tmp_path,) if network else ()))
    async with visited(tmp_path / "rig", made) as (_, found):
        status = await said(found, "read", path="/proc/self/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert (facts["Seccomp"], facts["NoNewPrivs"]) == ("2", "1")
        assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
        refused = json.loads(await said(found, "attempt", calls=numbers(ESCAPES)))
        assert refused == dict.fromkeys(ESCAPES, "EPERM")
        absent = json.loads(await said(found, "attempt", calls=numbers(ABSENT)))
        assert set(absent.values()) <= NOT_THERE, absent
        # It is there for what its children do as well, and cannot be taken away.
        allowed = {"getpid": (39, 172), "socket": (41, 198, 1, 1, 0)}
        done = json.loads(await said(found, "attempt", calls=numbers(allowed)))
        assert done == {"getpid": "ok", "socket": "ok"}


@pytest.mark.skipif(not MODULES.exists(), reason="NO REFERENCE SERVERS: run `make test`")
async def test_the_reference_server_of_everything_runs_under_the_filter(tmp_path: Path) -> None:
    server = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
    made = here(Program(("node", str(server), "stdio"), read=(MODULES,)))
    async with visited(tmp_path, made) as (_, found):
        assert len(await found.tools()) >= 8
        assert text_of(await found.call("echo", message="héllo")) == "Echo: héllo"
        done = await found.call("trigger-long-running-operation", duration=0.2, steps=2)
        assert "completed" in text_of(done).lower()


SERVER = '''
import asyncio, subprocess, threading
from concurrent.futures import ProcessPoolExecutor
from mcp.server.mcpserver import MCPServer

server = MCPServer("walled", log_level="ERROR")

@server.tool()
async def busy() -> str:
    """Use threads, processes, pipes and a loop of its own."""
    told = []
    thread = threading.Thread(target=lambda: told.append("thread"))
    thread.start()
    thread.join()
    with ProcessPoolExecutor(1) as pool:
        told.append(str(await asyncio.get_running_loop().run_in_executor(pool, sum, [40, 2])))
    told.append(subprocess.check_output(["/bin/echo", "child"], text=True).strip())
    return " ".join(told)

if __name__ == "__main__":
    server.run("stdio")
'''


async def test_a_server_of_the_official_python_sdk_runs_under_the_filter(tmp_path: Path) -> None:
    places = tmp_path / "server"
    places.mkdir()
    (places / "server.py").write_text(SERVER)
    packages = tuple(Path(place) for place in sys.path if place.endswith("site-packages"))
    made = here(
        Program(
            (sys.executable, str(places / "server.py")),
            read=(*PYTHON, *packages, places),
        )
    )
    async with visited(tmp_path / "rig", made) as (_, found):
        assert await said(found, "busy") == "thread 42 child"

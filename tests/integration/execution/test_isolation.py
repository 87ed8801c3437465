"""What a command inside a sandbox can reach, tried for real (anchors: the isolation battery)."""

import json
import os
import secrets
import socket
import subprocess
import tempfile
from pathlib import Path

import anyio
import pytest

from intramuros.execution.sandbox import bwrap
from intramuros.execution.sandbox.base import MIB, Limits, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.live import LiveSandbox

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SCRIPT = Path(__file__).with_name("attempts.py").read_text()
ABSENT = {"ENOENT", "EACCES", "EPERM"}
UNWRITABLE = {"EROFS", "EACCES", "EPERM", "ENOENT", "ETXTBSY"}
REFUSED = {"EPERM", "ENOSYS"}


class Listener:
    """A TCP and an abstract unix listener of the host; neither may ever be reached."""

    def __init__(self) -> None:
        self.abstract = f"intramuros-{secrets.token_hex(8)}"
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind("\0" + self.abstract)
        self.unix.listen()
        for sock in (self.tcp, self.unix):
            sock.setblocking(False)

    def given(self, canary: str) -> str:
        return json.dumps(
            {
                "port": self.tcp.getsockname()[1],
                "abstract": self.abstract,
                "canary": canary,
                "pid": os.getpid(),
            }
        )

    def close(self) -> None:
        self.tcp.close()
        self.unix.close()


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    value = f"canary-{secrets.token_hex(8)}"
    monkeypatch.setenv("INTRAMUROS_TEST_SECRET", value)
    return value


@pytest.fixture
def public_directory():
    """A directory any user may walk to; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="intramuros-test-") as made:
        yield Path(made)


def own_namespaces(names: list[str]) -> set[str]:
    return {str(Path(f"/proc/self/ns/{name}").readlink()) for name in names}


async def attempt(sandbox: LiveSandbox, listener: Listener, canary: str) -> dict:
    done = await sandbox.exec(["python3", "-c", SCRIPT, listener.given(canary)])
    assert done.exit_code == 0, done.stderr.decode()
    return json.loads(done.stdout)


async def test_every_attempt_is_refused(
    provider: BubblewrapProvider, canary: str, listener: Listener
) -> None:
    # The launcher starts with the first sandbox, so after the canary is in our environment.
    sandbox = await provider.create(SandboxSpec(), "sesn_try")
    report = await attempt(sandbox, listener, canary)

    let_through = {k: v for k, v in report["syscalls"].items() if v not in REFUSED}
    assert let_through == {}
    for name, outcome in report["files"].items():
        allowed = ABSENT if name.startswith("read") else UNWRITABLE
        assert outcome in allowed, (name, outcome)

    sockets = report["sockets"]
    assert sockets.pop("interfaces") == ["lo"]
    assert sockets.pop("routes") == 0
    assert sockets.pop("socket icmp") in {"EPERM", "EACCES"}
    for name, outcome in sockets.items():
        if name.startswith("socket"):
            assert outcome == "EAFNOSUPPORT", (name, outcome)
        elif name in ("connect host loopback", "connect host loopback 6", "connect abstract"):
            assert outcome in {"ECONNREFUSED", "EADDRNOTAVAIL"}, (name, outcome)
        else:
            assert outcome in {"ENETUNREACH", "EACCES"}, (name, outcome)
    for sock in (listener.tcp, listener.unix):
        with pytest.raises(BlockingIOError):
            sock.accept()


async def test_the_process_has_no_power_and_knows_no_secret(
    provider: BubblewrapProvider, canary: str, listener: Listener
) -> None:
    sandbox = await provider.create(SandboxSpec(), "sesn_try")
    facts = (await attempt(sandbox, listener, canary))["facts"]
    assert facts["uid"] == 1000
    assert set(facts["caps"]) == {"0" * 16}
    assert (facts["no_new_privs"], facts["seccomp"]) == ("1", "2")
    assert facts["canary"] == []
    assert facts["own environment"] == sorted(
        ["HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "USER"]
    )
    assert facts["pids"][0] == 1
    assert len(facts["pids"]) <= 3
    assert facts["kill host"] == "ESRCH"
    assert sorted(number for number, _ in facts["fds"] if number < 3) == [0, 1, 2]
    assert all(link.startswith("/proc/") for number, link in facts["fds"] if number > 2)
    assert facts["core limit"] == [0, 0]
    own = own_namespaces(facts["namespaces"])
    assert not own & set(facts["namespaces"].values())
    assert facts["hostname"] == "sandbox"
    assert facts["passwd"] == 3
    assert facts["setuid root"] is False


def test_the_checks_see_what_a_careless_sandbox_shows(
    working_host: None, canary: str, listener: Listener, public_directory: Path
) -> None:
    """Negative control: bwrap's own process 1, no filter, environment inherited."""
    binary = bwrap.copy_binary(bwrap.find_binary(), public_directory)
    argv = [str(binary), "--unshare-user", "--unshare-all", "--share-net", "--uid", "1000"]
    argv += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    argv += ["python3", "-c", SCRIPT, listener.given(canary)]
    user = 65534 if os.geteuid() == 0 else None
    done = subprocess.run(
        argv,
        env={"PATH": "/usr/bin:/bin", "INTRAMUROS_TEST_SECRET": canary},
        user=user,
        group=user,
        extra_groups=[] if user else None,
        cwd="/",
        capture_output=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert any(path.endswith("/environ") for path in report["facts"]["canary"])
    assert report["facts"]["seccomp"] == "0"
    assert report["files"]["rdwr /proc/1/mem"] == "ok"
    assert report["syscalls"]["unshare user"] == "ok"
    assert report["sockets"]["connect host loopback"] == "ok"
    assert report["sockets"]["connect abstract"] == "ok"


async def test_each_root_started_sandbox_has_a_uid_of_its_own(
    provider: BubblewrapProvider,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give each sandbox a host uid of its own")
    uids = set()
    for name in ("one", "two", "three"):
        sandbox = await provider.create(SandboxSpec(), name)
        status = await anyio.Path(f"/proc/{sandbox.host_pid}/status").read_text()
        uids.update(status.split("Uid:")[1].split("\n")[0].split())
    assert len(uids) == 3
    assert "0" not in uids


async def test_sandboxes_do_not_see_each_other(provider: BubblewrapProvider) -> None:
    first = await provider.create(SandboxSpec(), "first")
    second = await provider.create(SandboxSpec(), "second")
    await first.call("bash", {"command": "echo secret >/workspace/f; echo s >/tmp/f; sleep 60 &"})
    seen = await second.exec(
        ["/bin/sh", "-c", "cat /workspace/f /tmp/f; ls /proc | grep -c '^[0-9]'"]
    )
    assert b"secret" not in seen.stdout
    assert int(seen.stdout.split()[-1]) <= 5


async def test_process_1_outlives_attacks_from_inside(sandbox: LiveSandbox) -> None:
    script = "import os,signal\n"
    script += "for n in (9, 19, 15, 2, 1, 11, 13, 17, 25):\n    os.kill(1, n)\n"
    assert (await sandbox.exec(["python3", "-c", script])).exit_code == 0
    await sandbox.exec(["/bin/sh", "-c", "kill -9 -1"])
    outcome = await sandbox.call("read", {"file_path": "nothing"})
    assert outcome.content[0]["text"] == "read: nothing: no such file or directory"


SMALL = SandboxSpec(limits=Limits(memory_bytes=256 * MIB, pids=64, tmp_bytes=32 * MIB))


async def test_a_fork_bomb_is_stopped_at_the_limit(provider: BubblewrapProvider) -> None:
    sandbox = await provider.create(SMALL, "bomb")
    script = (
        "import os\nmade = 0\ntry:\n  while made < 5000:\n    if os.fork() == 0:\n"
        "      import time; time.sleep(60)\n    made += 1\n"
        "except OSError as e:\n  print(made, e.errno)\n"
    )
    done = await sandbox.exec(["python3", "-c", script])
    made, code = map(int, done.stdout.split())
    assert made < 70
    assert code == 11
    assert (await sandbox.call("bash", {"restart": True})).is_error in (True, False)


async def test_a_memory_bomb_ends_itself_only(provider: BubblewrapProvider) -> None:
    sandbox = await provider.create(SMALL, "bomb")
    script = "x = []\nwhile True:\n  x.append(bytearray(1 << 24))\n"
    done = await sandbox.exec(["python3", "-c", script])
    assert done.exit_code in (137, 1)
    outcome = await sandbox.call("bash", {"command": "echo alive"})
    assert outcome.content[0]["text"] == "alive"


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm", "/home/agent"])
async def test_temporary_file_systems_are_sized(provider: BubblewrapProvider, place: str) -> None:
    sandbox = await provider.create(SMALL, "fill")
    done = await sandbox.exec(["/bin/sh", "-c", f"head -c 100000000 /dev/zero >{place}/big"])
    assert b"No space left" in done.stderr
    inodes = (
        "import os\nn=0\ntry:\n  while n < 3_000_000:\n    os.close(os.open(f'%s/{n}',65)); n+=1\n"
    )
    inodes = inodes % place + "except OSError as e:\n  print(e.errno)\n"
    done = await sandbox.exec(["/bin/sh", "-c", f'rm {place}/big; exec python3 -c "$0"', inodes])
    assert done.stdout.strip() == b"28" or done.exit_code in (137, 1)


async def test_descriptors_run_out_at_the_limit(sandbox: LiveSandbox) -> None:
    script = "import os\nn=0\ntry:\n  while True:\n    os.dup(0); n+=1\n"
    script += "except OSError as e: print(n, e.errno)"
    count, code = map(int, (await sandbox.exec(["python3", "-c", script])).stdout.split())
    assert count <= 1024
    assert code == 24


async def test_daemons_end_with_the_sandbox(sandbox: LiveSandbox) -> None:
    marker = secrets.token_hex(8)
    command = f"(setsid nohup sh -c 'exec -a {marker} sleep 600' >/dev/null 2>&1 &) ; sleep 0.1"
    await sandbox.call("bash", {"command": command.replace("sh -c", "bash -c")})
    assert marker in _all_command_lines()
    await sandbox.destroy()
    assert marker not in _all_command_lines()


def _all_command_lines() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


async def test_devices_and_pipes_do_not_hang_the_file_tools(sandbox: LiveSandbox) -> None:
    await sandbox.exec(["/bin/sh", "-c", "mkfifo p; ln -s /dev/zero z; truncate -s 3G huge"])
    for tool, more in [("read", {}), ("edit", {"old_string": "a", "new_string": "b"})]:
        pipe = await sandbox.call(tool, {"file_path": "p", **more})
        assert pipe.content[0]["text"] == f"{tool}: p: not a regular file"
        assert (
            "outside" in (await sandbox.call(tool, {"file_path": "z", **more})).content[0]["text"]
        )
        assert (
            "exceeds"
            in (await sandbox.call(tool, {"file_path": "huge", **more})).content[0]["text"]
        )
    assert (await sandbox.call("write", {"file_path": "p", "content": "x"})).is_error
    assert not (await sandbox.call("grep", {"pattern": "x", "path": "p"})).is_error

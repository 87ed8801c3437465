import json
import os
import signal
import socket

import anyio
import pytest

from intramuros.execution.sandbox import launcher, zygote
from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.sandbox.records import identify
from intramuros.execution.sandbox.zygote import Request, Zygote
from tests.waiting import until

pytestmark = pytest.mark.anyio


def request(argv: list[str]) -> Request:
    user = 65534 if os.geteuid() == 0 else None
    return Request(argv, argv[0], {0: 0, 1: 1, 2: 1}, [], [], user, user)


@pytest.fixture
async def started():
    made = Zygote()
    yield made
    made.close()
    made.close()


async def run(started: Zygote, argv: list[str]) -> str:
    out = os.memfd_create("out")
    null = os.open("/dev/null", os.O_RDWR)
    try:
        _, pidfd = await started.launch(request(argv), [null, out])
        with anyio.fail_after(60):
            await anyio.wait_readable(pidfd)
        os.close(pidfd)
        return os.pread(out, 65536, 0).decode()
    finally:
        os.close(null)
        os.close(out)


async def test_what_it_starts_has_nothing_of_ours(started: Zygote, monkeypatch) -> None:
    monkeypatch.setenv("INTRAMUROS_TEST_SECRET", "canary")
    assert await run(started, ["/usr/bin/env"]) == ""
    assert (await run(started, ["/bin/ls", "/proc/self/fd"])).split() == ["0", "1", "2", "3"]
    status = await run(started, ["/bin/cat", "/proc/self/status"])
    uids = status.split("Uid:")[1].splitlines()[0].split()
    assert "0" not in uids
    assert len(set(uids)) == 1
    assert status.split("CapEff:")[1].splitlines()[0].strip() == "0" * 16


async def test_a_program_that_is_not_there_says_so_on_its_error_descriptor(started: Zygote) -> None:
    assert (await run(started, ["/no/such"])).startswith("launcher: [Errno 2]")


async def test_a_launcher_that_died_is_started_again(started: Zygote) -> None:
    assert await run(started, ["/bin/echo", "one"]) == "one\n"
    assert started._process
    started._process.send_signal(signal.SIGKILL)
    started._process.wait()
    assert await run(started, ["/bin/echo", "two"]) == "two\n"


async def test_what_it_started_dies_with_it(started: Zygote) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    _, pidfd = await started.launch(request(["/bin/sleep", "60"]), [null, null])
    os.close(null)
    started.close()
    with anyio.fail_after(60):
        await anyio.wait_readable(pidfd)
    os.close(pidfd)


async def test_requests_too_large_for_one_packet_are_refused(started: Zygote) -> None:
    with pytest.raises(SandboxError, match="too many mounts"):
        await started.launch(request(["/bin/true", "x" * launcher.MAX_PACKET]), [])


async def test_a_refusal_of_the_launcher_is_passed_on(
    started: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    monkeypatch.setattr(started, "_ensure", lambda: ours)
    theirs.send(json.dumps({"error": "no more processes"}).encode())
    with pytest.raises(SandboxError, match="no more processes"):
        await started.launch(request(["/bin/true"]), [])
    theirs.close()
    with pytest.raises(SandboxError, match="launcher died"):
        await started.launch(request(["/bin/true"]), [])
    ours.close()


def test_the_limits_of_both_sides_agree() -> None:
    assert zygote.launcher.MAX_FDS >= 8


async def test_a_process_that_we_get_no_descriptor_for_is_ended(
    started: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = socket.recv_fds
    pids = []

    def receive_none(*args: object) -> tuple[bytes, list[int], int, None]:
        answer, passed, _, _ = receive(*args)
        for fd in passed:
            os.close(fd)
        pids.append(json.loads(answer)["pid"])
        return answer, [], 0, None

    monkeypatch.setattr(socket, "recv_fds", receive_none)
    null = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(SandboxError, match="too many files open"):
        await started.launch(request(["/bin/sleep", "600"]), [null, null])
    os.close(null)
    await until(lambda: identify(pids[0]) is None)

"""Programs that are held: their streams, ends and limits, in real sandboxes."""

import anyio
import pytest

from intramuros.execution.sandbox.attachments import PLAIN, Attachable, Attaching, Terminal
from intramuros.execution.sandbox.base import SandboxError, SandboxGone, SandboxPaused
from intramuros.execution.sandbox.live import LiveSandbox

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


async def run(
    sandbox: LiveSandbox, argv: list[str], options: Attaching = PLAIN, given: tuple[bytes, ...] = ()
) -> tuple[bytes, bytes, int | None]:
    out, err = bytearray(), bytearray()
    async with sandbox.attach(argv, options) as held, anyio.create_task_group() as group:

        async def feed() -> None:
            for data in given:
                await held.send(data)
            await held.finish()

        group.start_soon(feed)
        while (got := await held.receive()) is not None:
            (err if got[1] else out).extend(got[0])
        group.cancel_scope.cancel()
    return bytes(out), bytes(err), held.exit_code


async def test_both_streams_and_the_end_are_told_apart(sandbox: LiveSandbox) -> None:
    assert isinstance(sandbox, Attachable)
    script = "cat; echo err >&2; echo $A; exit 3"
    options = Attaching(environment={"A": "b c"})
    done = await run(sandbox, ["/bin/sh", "-c", script], options, (b"in\n",))
    assert done == (b"in\nb c\n", b"err\n", 3)
    assert (await run(sandbox, ["/bin/sh", "-c", "kill -9 $$"]))[2] == 137
    assert (await run(sandbox, ["/no/such/program"]))[1:] == (
        b"/no/such/program: No such file or directory\n",
        127,
    )
    # It ended before it read: what was sent is dropped, and nobody waits for ever.
    assert (await run(sandbox, ["/bin/true"], given=(b"x" * 300_000,) * 8))[2] == 0


async def test_what_nobody_reads_waits_and_what_is_left_ends(sandbox: LiveSandbox) -> None:
    async with sandbox.attach(["/usr/bin/yes"]) as held:
        await held.receive()
        # Meanwhile everybody else is served.
        answer = await sandbox.call("bash", {"command": "sleep 0.3; echo served"})
        assert answer.content[0]["text"] == "served"
        waiting = sum(len(frame.get("out", b"")) for frame in held._wire.arrived)
        assert waiting <= 256 * 1024
    async with sandbox.attach(["/bin/sh", "-c", "sleep 500 & sleep 501"]):
        await anyio.sleep(0.1)
    with anyio.fail_after(60):
        while True:
            left = await sandbox.exec(["/bin/sh", "-c", "ps ax | grep -c '[s]leep 50'"])
            if left.stdout == b"0\n":
                break


async def test_large_streams_arrive_whole_both_ways(sandbox: LiveSandbox) -> None:
    out, _, code = await run(sandbox, ["/bin/sh", "-c", "head -c 5000000 /dev/zero; exit 4"])
    assert (len(out), code) == (5_000_000, 4)
    out, _, _ = await run(sandbox, ["/usr/bin/wc", "-c"], given=(b"x" * 100_000,) * 50)
    assert out == b"5000000\n"


async def test_a_terminal_can_change_size_and_take_signals(sandbox: LiveSandbox) -> None:
    script = (
        "trap 'stty size; exit 5' TERM; trap 'stty size' WINCH; echo up"
        "; while :; do sleep 0.05; done"
    )
    seen = b""
    async with sandbox.attach(["/bin/bash", "-c", script], Attaching(Terminal(30, 99))) as held:
        while b"up" not in seen:
            got = await held.receive()
            assert got is not None
            seen += got[0]
        await held.resize(Terminal(41, 70_000))
        while b"41 65535" not in seen:
            got = await held.receive()
            assert got is not None
            seen += got[0]
        await held.signal(15)
        while await held.receive() is not None:
            pass
    assert held.exit_code == 5


async def test_what_cannot_be_is_refused(sandbox: LiveSandbox) -> None:
    with pytest.raises(SandboxError, match="NUL"):
        async with sandbox.attach(["a\0b"]):
            pass
    async with sandbox.attach(["/bin/cat"]) as held:
        await sandbox.destroy()
        with pytest.raises(SandboxGone):
            await held.receive()
    with pytest.raises(SandboxGone):
        async with sandbox.attach(["/bin/cat"]):
            pass


async def test_a_paused_sandbox_lets_nobody_in(sandbox: LiveSandbox) -> None:
    await sandbox.pause()
    with pytest.raises(SandboxPaused):
        async with sandbox.attach(["/bin/cat"]):
            pass
    await sandbox.resume()

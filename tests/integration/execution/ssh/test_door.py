"""OpenSSH's own clients against the door of a real sandbox."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import asyncssh
import pytest
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType

from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.ssh.authority import Authority, Permit, private_pem
from intramuros.execution.ssh.revoked import Revoked
from tests.integration.execution.ssh.rig import SESSION, Rig
from tests.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        shutil.which("ssh") is None, reason="NO SSH CLIENT: apt install openssh-client"
    ),
]


@pytest.fixture
async def rig(provider: BubblewrapProvider, tmp_path: Path) -> AsyncIterator[Rig]:
    sandbox = await provider.create(SandboxSpec(), SESSION)
    async with Rig(tmp_path, sandbox).open() as made:
        yield made


@pytest.fixture
async def near(provider: BubblewrapProvider, tmp_path: Path) -> AsyncIterator[Rig]:
    """A door at a port of this machine."""
    made = Rig(tmp_path, await provider.create(SandboxSpec(), SESSION))
    made.manner = replace(made.manner, address=("127.0.0.1", 0))
    async with made.open():
        yield made


async def test_commands_run_inside_with_the_sandbox_s_limits(rig: Rig) -> None:
    script = (
        "id -u; pwd; hostname; cat; echo err >&2; grep -E '^(Seccomp|NoNewPrivs|CapEff):'"
        " /proc/self/status; ulimit -n; echo $SSH_AUTH_SOCK$SSH_CLIENT; exit 7"
    )
    done = await rig.ssh(SESSION, script, stdin=b"typed\n")
    assert (done.status, done.err) == (7, "err\n")
    assert done.out.split("\n") == [
        *("1000", "/workspace", "sandbox", "typed"),
        *("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "1024", "", ""),
    ]


async def test_a_terminal_is_one_and_is_recorded(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    sandbox = await provider.create(SandboxSpec(), SESSION)
    rig = Rig(tmp_path, sandbox)
    rig.casts = tmp_path / "casts"
    rig.casts.mkdir()
    async with rig.open():
        done = await rig.ssh("-tt", SESSION, stdin=b"tty; echo $TERM; stty size\nexit 3\n")
        assert done.status == 3
        assert "/dev/pts/0" in done.out
    [cast] = rig.casts.iterdir()
    assert cast.stat().st_mode & 0o777 == 0o600
    head, *events = [json.loads(line) for line in cast.read_text().splitlines()]
    assert head["version"] == 2
    seen = "".join(event[2] for event in events if event[1] == "o")
    typed = "".join(event[2] for event in events if event[1] == "i")
    assert "/dev/pts/0" in seen
    assert "stty size" in typed
    records = rig.records()
    [recorded] = [one for one in records if one["kind"] == "ssh.recorded"]
    assert recorded["bytes"] == cast.stat().st_size


async def test_files_travel_both_ways(rig: Rig, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)
    me = rig.identity()
    done = await rig.run("scp", str(tmp_path / "up"), f"{SESSION}:up", me=me)
    assert (done.status, done.err) == (0, "")
    digest = await rig.ssh(
        SESSION, "wc -c <up; mkdir d; echo x >d/y; ln -s /etc/passwd link", me=me
    )
    assert digest.out == "3000000\n"
    done = await rig.run("scp", "-r", f"{SESSION}:/workspace/", str(tmp_path / "down"), me=me)
    assert done.status == 0, done.err
    assert (tmp_path / "down/up").read_bytes() == data
    assert (tmp_path / "down/d/y").read_text() == "x\n"
    batch = tmp_path / "batch"
    batch.write_text(
        "pwd\nls -la\nmkdir e\nput up e/again\nrename e/again e/moved\nchmod 600 e/moved\n"
        "ln -s moved e/soft\nls -l e\nget e/soft soft\nrm e/soft\nrm e/moved\nrmdir e\n"
        f"lcd {tmp_path}\n".replace("put up", f"put {tmp_path}/up").replace(
            "get e/soft soft", f"get e/soft {tmp_path}/soft"
        )
    )
    done = await rig.run("sftp", "-b", str(batch), SESSION, me=me)
    assert done.status == 0, done.err
    assert "Remote working directory: /workspace" in done.out
    assert (tmp_path / "soft").read_bytes() == data


async def test_transfer_sees_the_sandbox_s_files_and_no_others(rig: Rig, tmp_path: Path) -> None:
    me = rig.identity()
    (tmp_path / "secret").write_text("of the host")
    for place in (str(tmp_path / "secret"), f"../../../..{tmp_path}/secret", "/etc/shadow"):
        done = await rig.run("scp", f"{SESSION}:{place}", str(tmp_path / "got"), me=me)
        assert done.status != 0
        assert not (tmp_path / "got").exists()
    done = await rig.run("scp", f"{SESSION}:/etc/passwd", str(tmp_path / "passwd"), me=me)
    assert (tmp_path / "passwd").read_text().count("\n") == 3
    await rig.ssh(SESSION, f"ln -s {tmp_path}/secret out; ln -s /proc/1/root/etc/shadow two", me=me)
    for name in ("out", "two"):
        done = await rig.run("scp", f"{SESSION}:{name}", str(tmp_path / "got"), me=me)
        assert done.status != 0
    done = await rig.run("scp", str(tmp_path / "secret"), f"{SESSION}:/usr/x", me=me)
    assert done.status != 0


async def test_tunnels_end_in_the_sandbox(near: Rig, tmp_path: Path) -> None:
    assert near.sandbox is not None
    serve = "python3 -m http.server 8123 --bind 127.0.0.1"
    await near.sandbox.call("bash", {"command": f"echo within >page; {serve} >/dev/null 2>&1 &"})
    me = near.identity()
    host = socket.create_server(("127.0.0.1", 0))
    host.settimeout(0.2)
    port = host.getsockname()[1]
    config = str(me / "config")
    async with asyncssh.connect(**_options(near, me)) as connection:
        for name in ("127.0.0.1", "localhost"):
            with anyio.fail_after(60):
                while True:
                    reader, writer = await connection.open_connection(name, 8123)
                    writer.write(b"GET /page HTTP/1.0\r\n\r\n")
                    answer = await reader.read()
                    if answer:
                        break
                    await anyio.sleep(0.05)
            assert answer.endswith(b"within\n")
        # The host's loopback is another: nobody listens there on this port.
        reader, writer = await connection.open_connection("127.0.0.1", port)
        writer.write(b"hello?")
        assert await reader.read() == b""
        for name in ("169.254.169.254", "10.0.0.1", "198.18.0.1", socket.gethostname(), "0.0.0.0"):
            with pytest.raises(asyncssh.ChannelOpenError, match="sandbox itself"):
                await connection.open_connection(name, port)
    with pytest.raises(TimeoutError):
        host.accept()
    host.close()
    # OpenSSH's -L, too.
    with socket.create_server(("127.0.0.1", 0)) as free:
        local = free.getsockname()[1]
    argv = ["ssh", "-F", config, "-N", "-L", f"127.0.0.1:{local}:localhost:8123", SESSION]
    with subprocess.Popen(argv) as client:  # noqa: ASYNC220 - ends below
        try:
            assert b"within" in await to_thread.run_sync(_fetch, local)
        finally:
            client.terminate()


def _fetch(port: int) -> bytes:
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                sock.sendall(b"GET /page HTTP/1.0\r\n\r\n")
                parts = []
                while part := sock.recv(4096):
                    parts.append(part)
                return b"".join(parts)
        except ConnectionRefusedError:
            import time

            time.sleep(0.05)  # noqa: TID251  a client that is not up yet
    raise AssertionError("the tunnel did not come up")


async def test_nothing_is_carried_the_other_way(near: Rig) -> None:
    me = near.identity()
    done = await near.ssh(
        "-N", "-o", "ExitOnForwardFailure=yes", "-R", "9999:localhost:22", SESSION
    )
    assert done.status != 0
    assert "remote port forwarding failed" in done.err
    done = await near.ssh("-N", "-o", "ExitOnForwardFailure=yes", "-R", "/tmp/s:/tmp/t", SESSION)
    assert done.status != 0
    async with asyncssh.connect(**_options(near, me)) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_unix_connection("/run/docker.sock")
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.start_server(lambda *_: None, "", 0)
        agent = await connection.run('echo "[$SSH_AUTH_SOCK$DISPLAY]"; ls /tmp')
        assert agent.stdout == "[]\n"
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process("true", x11_forwarding=True)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process(subsystem="netconf")


def _options(near: Rig, me: Path, **changes: object) -> dict[str, object]:
    known = asyncssh.import_known_hosts((me / "known_hosts").read_text())
    return {
        "host": "127.0.0.1",
        "port": int((near.state / "address").read_text().rpartition(":")[2]),
        "username": SESSION,
        "client_keys": [(str(me / "id"), str(me / "id-cert.pub"))],
        "known_hosts": known,
        "host_key_alias": "intramuros-worker",
        "agent_path": None,
        "config": None,
        **changes,
    }


def _write(me: Path, key: Ed25519PrivateKey, certificate: bytes) -> None:
    (me / "id").write_bytes(private_pem(key))
    (me / "id-cert.pub").write_bytes(certificate + b"\n")


async def test_who_has_no_certificate_for_this_session_stays_out(near: Rig, tmp_path: Path) -> None:
    now = near.clock.now().timestamp()
    key = Ed25519PrivateKey.generate()
    stranger = Authority.opened(tmp_path / "stranger")
    permit = Permit(SESSION, "mallory", 60)
    me = near.identity()

    def built(**changes: object) -> bytes:
        builder = SSHCertificateBuilder().public_key(key.public_key()).serial(1).key_id(b"x")
        builder = builder.type(changes.get("kind", SSHCertificateType.USER))  # type: ignore[arg-type]
        builder = builder.valid_after(int(now) - 60)
        builder = builder.valid_before(int(changes.get("until", now + 60)))  # type: ignore[call-overload]
        who = changes.get("principals", [SESSION.encode()])
        builder = builder.valid_principals(who) if who else builder.valid_for_all_principals()  # type: ignore[arg-type]
        return builder.sign(near.authority._key).public_bytes()

    refused = {
        "another authority": stranger.certify(key.public_key(), permit, now),
        "expired": near.authority.certify(key.public_key(), permit, now - 3600),
        "not yet": near.authority.certify(key.public_key(), permit, now + 3600),
        "another session": near.authority.certify(key.public_key(), Permit("sesn_b", "b", 60), now),
        "a host's": near.authority.certify_host(key.public_key()),
        "host's kind": built(kind=SSHCertificateType.HOST),
        "nobody's": built(principals=[]),
        "a pattern": built(principals=[b"*"]),
        "too long": built(until=now + 86_400),
    }
    for name, certificate in refused.items():
        _write(me, key, certificate)
        done = await near.ssh(SESSION, "true", me=me)
        assert (name, done.status) == (name, 255)
        assert "Permission denied" in done.err
    _write(me, key, built())
    assert (await near.ssh(SESSION, "true", me=me)).status == 0
    # A name that is a pattern is nobody's, whatever the certificate says.
    for name in ("*", "sesn_ss?", "!x", "", "../x"):
        with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost)):
            await asyncssh.connect(**_options(near, me, username=name))
    # The bare key, and passwords.
    with pytest.raises(asyncssh.PermissionDenied):
        options = _options(
            near, me, client_keys=[asyncssh.import_private_key(private_pem(key))], password="x"
        )
        await asyncssh.connect(**options)
    assert near.guests.all() == []
    opened = near.records()
    assert [one["who"] for one in opened if one["kind"] == "ssh.open"] == ["x"]


async def test_one_that_is_taken_back_is_out_at_once_and_stays_out(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    file = tmp_path / "revoked"
    file.write_text("")
    rig = Rig(tmp_path, await provider.create(SandboxSpec(), SESSION))
    rig.manner = replace(rig.manner, address=("127.0.0.1", 0), revoked=Revoked(file))
    async with rig.open():
        me, another = rig.identity(), rig.identity(name="another")
        async with (
            asyncssh.connect(**_options(rig, me)) as first,
            asyncssh.connect(**_options(rig, another)) as second,
        ):
            await until(lambda: len(rig.guests.all()) == 2, 30)
            serial = rig.records()[0]["serial"]
            file.write_text(f"serial: {serial}\n")
            await until(lambda: len(rig.guests.all()) == 1, 30)
            assert (await second.run("echo on")).stdout == "on\n"
            with anyio.fail_after(30):
                await first.wait_closed()
        done = await rig.ssh(SESSION, "true", me=me)
        assert (done.status, "Permission denied" in done.err) == (255, True)
        assert (await rig.ssh(SESSION, "true", me=another)).status == 0
        file.write_text("serial: all\n")
        assert (await rig.ssh(SESSION, "true", me=another)).status == 255, "nobody knows"
    [why] = [one["why"] for one in rig.records() if "revoked" in str(one.get("why"))]
    assert why == "the certificate is revoked"


async def test_certificates_can_allow_less(near: Rig) -> None:
    now, key, me = near.clock.now().timestamp(), Ed25519PrivateKey.generate(), near.identity()
    builder = SSHCertificateBuilder().public_key(key.public_key()).serial(1).key_id(b"x")
    builder = builder.type(SSHCertificateType.USER).valid_principals([SESSION.encode()])
    builder = builder.valid_after(int(now) - 5).valid_before(int(now) + 60)
    builder = builder.add_critical_option(b"force-command", b"echo forced")
    _write(me, key, builder.sign(near.authority._key).public_bytes())
    done = await near.ssh(SESSION, "cat /etc/passwd", me=me)
    assert done.out == "forced\n"
    done = await near.ssh("-tt", SESSION, "tty", me=me)
    assert "pts" not in done.out
    async with asyncssh.connect(**_options(near, me)) as connection:
        with pytest.raises(asyncssh.ChannelOpenError, match="not permitted"):
            await connection.open_connection("localhost", 8123)
        with pytest.raises(asyncssh.SFTPError):
            await connection.start_sftp_client()


async def test_the_worker_proves_who_it_is(rig: Rig, tmp_path: Path) -> None:
    me = rig.identity()
    other = Authority.opened(tmp_path / "other")
    (me / "known_hosts").write_text(f"@cert-authority intramuros-worker {other.public_line}\n")
    done = await rig.ssh(SESSION, "true", me=me)
    assert done.status == 255
    assert "Host key verification failed" in done.err


async def test_without_a_sandbox_nobody_comes_in_and_none_is_made(rig: Rig) -> None:
    rig.sandbox = None
    done = await rig.ssh(SESSION, "true")
    assert done.status == 69
    assert "no running sandbox" in done.err
    other = rig.identity("sesn_other", "other")
    assert (await rig.ssh("sesn_other", "true", me=other)).status == 69


async def test_who_is_asked_to_leave_leaves_and_what_they_ran_ends(rig: Rig) -> None:
    assert rig.sandbox is not None
    results = []
    async with anyio.create_task_group() as group:

        async def stay() -> None:
            results.append(await rig.ssh(SESSION, "exec sleep 500"))

        group.start_soon(stay)
        await until(lambda: rig.guests.of(SESSION) == 1)
        await until(lambda: any(one["kind"] == "ssh.run" for one in rig.records()))
        await rig.guests.evict(SESSION, "the session rests")
        assert rig.guests.of(SESSION) == 0
    assert results[0].status == 255
    with anyio.fail_after(60):
        while True:
            shown = await rig.sandbox.exec(["/bin/sh", "-c", "ps ax | grep -c '[s]leep 500'"])
            if shown.stdout == b"0\n":
                break
    closed = rig.records()
    assert [one["why"] for one in closed if one["kind"] == "ssh.close"] == ["the session rests"]


async def test_a_connection_ends_when_idle_and_when_it_is_old(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    sandbox = await provider.create(SandboxSpec(), SESSION)
    for name, command in (("idle", "sleep 500"), ("old", "while :; do echo x; sleep 0.05; done")):
        folder = tmp_path / name
        folder.mkdir()
        rig = Rig(folder, sandbox)
        idle, total = (0.3, 60) if name == "idle" else (60, 0.6)
        rig.manner = replace(rig.manner, idle_s=idle, total_s=total)
        async with rig.open():
            with anyio.fail_after(60):
                done = await rig.ssh(SESSION, command)
            assert done.status == 255
        why = "nothing happened" if name == "idle" else "as long as it may"
        assert any(why in one.get("why", "") for one in rig.records())


async def test_a_record_that_cannot_be_written_keeps_everybody_out(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_lines: list[str]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.record, "_append", full)
    assert (await rig.ssh(SESSION, "true")).status == 255
    assert rig.guests.all() == []


async def test_floods_stay_small_and_ends_are_seen(rig: Rig) -> None:
    done = await rig.ssh(
        SESSION, "yes | head -c 20000000 | wc -c; head -c 5000000 /dev/zero | wc -c"
    )
    assert done.out == "20000000\n5000000\n"
    big = await rig.ssh(SESSION, "head -c 8000000 /dev/zero | tr '\\0' x")
    assert len(big.out) == 8_000_000
    up = await rig.ssh(SESSION, "wc -c", stdin=b"y" * 8_000_000)
    assert up.out == "8000000\n"


async def test_a_certificate_that_can_be_taken_back_needs_word_that_it_was_not(rig: Rig) -> None:
    """Without anybody who says so, only what cannot be taken back lets in."""
    me, now = rig.identity(), rig.clock.now().timestamp()
    for revocable, status in ((True, 255), (False, 0)):
        key = Ed25519PrivateKey.generate()
        permit = Permit(SESSION, "ada", 300, revocable)
        _write(me, key, rig.authority.certify(key.public_key(), permit, now))
        assert (await rig.ssh(SESSION, "true", me=me)).status == status

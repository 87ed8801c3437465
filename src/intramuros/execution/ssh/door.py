"""The way in for people: an SSH server on this host alone, with certificates and nothing else.

The user name is the session's id. Whoever comes needs a certificate of an authority that the worker
trusts, for exactly that session. Agent and X11 forwarding, listening on the person's behalf, and
every address but the sandbox's own loopback are refused.
"""

import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import asyncssh
from asyncssh.stream import SSHTCPStreamSession
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from intramuros.execution.guests import Guest, Guests
from intramuros.execution.record import INWARD, RecordFailed
from intramuros.execution.ssh.authority import Authority, private_pem
from intramuros.execution.ssh.bulletin import UNKNOWN, Bulletin
from intramuros.execution.ssh.revoked import Papers, Revoked
from intramuros.execution.ssh.visits import LOOPBACK, Rooms, Visit
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.protocol.ssh import MAX_LIFETIME_S, SKEW_S, is_revocable

log = logger("ssh")

MAX_CONNECTIONS: Final = 64
MAX_OF_ONE_SESSION: Final = 8
MAX_CHANNELS: Final = 32
"""Of one connection, over its whole life at a time."""
_LOGIN_S: Final = 15.0
_LOOK_S: Final = 0.5
_KEEPALIVE_S: Final = 30.0
# The name goes into a list of patterns: nothing that means more than itself.
_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Manner:
    """How people may come in."""

    address: tuple[str, int] | Path
    """A loopback address, or the path of a socket that only this user can reach."""
    directory: Path
    """Where the address is written down."""
    idle_s: float
    total_s: float
    revoked: Revoked = field(default_factory=Revoked)
    bulletin: Bulletin | None = None
    """Without one, nobody comes in by what its authority could take back."""

    def refuses(self, papers: Papers) -> str | None:
        """Return why such papers let nobody in, or None."""
        if self.revoked.refuses(papers):
            return "the operator's list"
        if self.bulletin is None:
            return UNKNOWN if papers.revocable else None
        return self.bulletin.refuses(papers)

    def ends(self, papers: Papers) -> str | None:
        """Return why whoever came with such papers is to leave, or None."""
        if self.revoked.holds(papers):
            return "the certificate is revoked"
        return None if self.bulletin is None else self.bulletin.ends(papers)


@dataclass(frozen=True)
class Trusted:
    """An authority whose certificates are taken; ``suffix`` follows the session's id in them."""

    public_line: str
    suffix: str = ""


class Door:
    """The SSH server of one worker.

    Args:
        trusted: whose certificates let in.
    """

    def __init__(
        self,
        manner: Manner,
        authority: Authority,
        trusted: tuple[Trusted, ...],
        rooms: Rooms,
        guests: Guests,
    ) -> None:
        self.manner = manner
        self.rooms = rooms
        self.guests = guests
        self.trusted = trusted
        self.connections = 0
        self.papers: dict[Guest, Papers] = {}
        """With which everybody came."""
        key = Ed25519PrivateKey.generate()
        certificate = authority.certify_host(key.public_key())
        # In memory alone: it is gone with this process.
        self._host_key = (
            asyncssh.import_private_key(private_pem(key)),
            asyncssh.import_certificate(certificate),
        )

    async def serve(self, stop: Stop) -> None:
        """Let people in until a stop is asked for, and see them out then."""
        async with self.opened():
            while not stop.requested:
                self._see_out()
                with anyio.move_on_after(_LOOK_S):
                    await stop.wait()
            for guest in self.guests.all():
                guest.close("the worker stops")
            with anyio.move_on_after(_LOOK_S * 4, shield=True):
                for guest in self.guests.all():
                    await self.guests.empty(guest.session_id)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[str, int] | Path]:
        """Listen until the block ends; gives where.

        Raises:
            OperatorError: it cannot listen there.
        """
        sock = _listen(self.manner.address)
        acceptor = await asyncssh.listen(
            sock=sock,
            server_factory=lambda: _Visitor(self),
            server_host_keys=[self._host_key],
            server_version="intramuros",
            encoding=None,
            line_editor=False,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_scp=False,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            login_timeout=_LOGIN_S,
            keepalive_interval=_KEEPALIVE_S,
            compression_algs=None,
            config=None,
        )
        address = self.manner.address
        if not isinstance(address, Path):
            host, port = sock.getsockname()[:2]
            address = (host, port)
        shown = str(address) if isinstance(address, Path) else f"{host}:{port}"
        log.info("ssh_listens", at=shown)
        try:
            # For `intramuros ssh`, which looks here.
            self.manner.directory.joinpath("address").write_text(f"{shown}\n", encoding="utf-8")
            yield address
        finally:
            self.manner.directory.joinpath("address").unlink(missing_ok=True)
            acceptor.close()
            with anyio.CancelScope(shield=True), anyio.move_on_after(_LOOK_S):
                await acceptor.wait_closed()
            if isinstance(self.manner.address, Path):
                self.manner.address.unlink(missing_ok=True)

    def _see_out(self) -> None:
        now = self.rooms.clock.monotonic()
        for guest in self.guests.all():
            papers = self.papers.get(guest)
            why = None if papers is None else self.manner.ends(papers)
            if why is not None:
                guest.close(why)
            elif now - guest.since_s > self.manner.total_s:
                guest.close("the connection was open for as long as it may be")
            elif now - guest.seen_s > self.manner.idle_s:
                guest.close("nothing happened for too long")


class _Visitor(asyncssh.SSHServer):
    """One connection, from its first byte to its last."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._connection: Any = None
        self._certificate: Any = None
        self._guest: Guest | None = None
        self._session_id = ""
        self._why = "left"
        self._channels = 0
        self._judged = anyio.Event()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Somebody knocks."""
        self._connection = conn
        self._door.connections += 1
        if self._door.connections > MAX_CONNECTIONS:
            log.warning("ssh_full", connections=self._door.connections)
            conn.abort()
        self._keep_certificate()

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody is gone."""
        self._door.connections -= 1
        guest = self._guest
        if guest is None:
            return
        self._guest = None
        self._door.guests.leave(guest)
        self._door.papers.pop(guest, None)
        rooms = self._door.rooms
        rooms.record.note(
            "ssh.close",
            session_id=guest.session_id,
            who=guest.who,
            bytes_in=guest.bytes_in,
            bytes_out=guest.bytes_out,
            seconds=round(rooms.clock.monotonic() - guest.since_s, 3),
            why=self._why if exc is None else type(exc).__name__,
        )

    def _keep_certificate(self) -> None:
        """Have a look at each certificate that the library accepts.

        It tells nobody what is in one. Should it one day ask elsewhere, there is no certificate
        here, and nobody comes in.
        """
        judge: Callable[[str, Any], Awaitable[Any]] = self._connection._validate_openssh_certificate

        async def look(username: str, certificate: Any) -> Any:  # noqa: ANN401  the library's own
            key = await judge(username, certificate)
            lifetime_s = certificate._valid_before - certificate._valid_after
            if key is not None and lifetime_s > MAX_LIFETIME_S + 2 * SKEW_S:
                log.warning("ssh_certificate_too_long", session_id=username)
                return None
            why = None if key is None else self._door.manner.refuses(_papers(certificate))
            if why is not None:
                serial = str(certificate._serial)
                log.warning("ssh_certificate_revoked", session_id=username, serial=serial, why=why)
                return None
            self._certificate = certificate if key is not None else None
            return key

        self._connection._validate_openssh_certificate = look

    def begin_auth(self, username: str) -> bool:
        """Say who may come in under this name: holders of certificates for exactly it."""
        if not _SESSION.fullmatch(username):
            return True
        self._session_id = username
        lines = [
            f'cert-authority,principals="{username}{one.suffix}" {one.public_line}'
            for one in self._door.trusted
        ]
        keys = asyncssh.import_authorized_keys("\n".join(lines) + "\n")
        self._connection.set_authorized_keys(keys)
        return True

    async def auth_completed(self) -> None:
        """Write down who came; whatever they ask for waits for that."""
        try:
            await self._judge()
        finally:
            self._judged.set()

    async def _judge(self) -> None:
        rooms, conn = self._door.rooms, self._connection
        certificate, self._certificate = self._certificate, None
        if certificate is None or self._door.guests.of(self._session_id) >= MAX_OF_ONE_SESSION:
            conn.abort()
            return
        now = rooms.clock.monotonic()
        who = str(certificate._key_id)[:256]
        guest = Guest(self._session_id, who, self._end, now, now)
        peer = conn.get_extra_info("peername")
        try:
            await rooms.record.write(
                "ssh.open",
                direction=INWARD,
                session_id=self._session_id,
                who=who,
                serial=str(certificate._serial),
                key=certificate.key.get_fingerprint(),
                authority=certificate.signing_key.get_fingerprint(),
                peer=f"{peer[0]}:{peer[1]}" if peer else "socket",
            )
        except RecordFailed:
            conn.abort()
            return
        self._guest = guest
        self._door.papers[guest] = _papers(certificate)
        self._door.guests.enter(guest)

    def _end(self, why: str) -> None:
        """End the connection, soon."""
        if self._connection is not None and self._why == "left":
            self._why = why
            self._connection.disconnect(asyncssh.DISC_BY_APPLICATION, why)

    async def session_requested(self) -> "_Process":
        """A shell, a command or file transfer; which one comes later."""
        # The library awaits what comes of this, though its types do not say so: that is needed,
        # since it does not wait for `auth_completed`.
        guest = await self._admitted()
        return _Process(lambda process: self._run(Visit(self._door.rooms, guest).process(process)))

    async def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> SSHTCPStreamSession[bytes]:
        """A tunnel: to the sandbox itself, or not at all."""
        if dest_host not in LOOPBACK or not 0 < dest_port < 65_536:
            log.info("ssh_forward_refused", session_id=self._session_id, port=dest_port)
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
                "only ports of the sandbox itself can be reached",
            )
        guest = await self._admitted()

        async def carry(reader: Any, writer: Any) -> None:  # noqa: ANN401  the library's own
            try:
                await self._run(Visit(self._door.rooms, guest).tunnel(dest_port, reader, writer))
            finally:
                writer.close()

        return SSHTCPStreamSession(carry)

    async def _run(self, visit: Awaitable[None]) -> None:
        try:
            await visit
        finally:
            self._channels -= 1

    async def _admitted(self) -> Guest:
        with anyio.move_on_after(_LOGIN_S):
            await self._judged.wait()
        if self._guest is None or self._channels >= MAX_CHANNELS:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "no more channels"
            )
        self._channels += 1
        return self._guest


class _Process(asyncssh.SSHServerProcess[bytes]):
    """Lets file transfer be a program like any other; the library would serve the host's files."""

    def __init__(
        self, run: "Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]]"
    ) -> None:
        super().__init__(run, None, 3, False)
        self._run = run

    def subsystem_requested(self, subsystem: str) -> bool:
        """Only file transfer."""
        return subsystem == "sftp"

    def session_started(self) -> None:
        """Run it."""
        chan, conn = self._chan, self._conn
        if chan is None or conn is None:
            return
        self._stdin = asyncssh.SSHReader[bytes](self, chan)
        self._stdout = asyncssh.SSHWriter[bytes](self, chan)
        self._stderr = asyncssh.SSHWriter[bytes](self, chan, asyncssh.EXTENDED_DATA_STDERR)
        conn.create_task(self._run(self), self._stdin.logger)


def _papers(certificate: Any) -> Papers:  # noqa: ANN401  the library's own
    return Papers(
        certificate._serial,
        str(certificate._key_id),
        certificate.key.get_fingerprint(),
        certificate.signing_key.get_fingerprint(),
        is_revocable(certificate.public_data),
        float(certificate._valid_before),
    )


def _listen(address: tuple[str, int] | Path) -> socket.socket:
    try:
        if not isinstance(address, Path):
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            return socket.create_server(address, family=family)
        address.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        address.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        # A socket's path may be 107 bytes long and no longer, unless it is spelled like this.
        directory = os.open(address.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Nobody else, from the first moment on.
        before = os.umask(0o177)
        try:
            sock.bind(f"/proc/self/fd/{directory}/{address.name}")
        finally:
            os.umask(before)
            os.close(directory)
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        raise OperatorError(
            f"cannot listen for SSH at {address} ({error.strerror or error})",
            "choose another --ssh-listen",
        ) from error
    return sock

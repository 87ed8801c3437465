"""The worker's side of the joiner process: sockets inside a sandbox's network, held outside."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from intramuros.execution.egress import joiner
from intramuros.execution.egress.addresses import NETWORK
from intramuros.execution.sandbox.base import RESOLVER, Finding, Level, SandboxError

_ANSWER_S: Final = 10.0
_TRIAL_S: Final = 10.0
_OWN: Final = 3  # the name server's two, and the proxy's
_MAX_FDS: Final = joiner.MAX_PORTS + _OWN


@dataclass(frozen=True)
class Sockets:
    """What is listened on in one network; whoever gets them closes them."""

    streams: dict[int, socket.socket]
    """A listener by its port, on every address of the network."""
    datagrams: socket.socket
    """The name server's, for queries in one packet."""
    names: socket.socket
    """The name server's listener."""
    proxy: socket.socket
    """The listener for programs that ask for a proxy."""

    def close(self) -> None:
        """Close all of them: connections are refused from now on. Idempotent."""
        for sock in (*self.streams.values(), self.datagrams, self.names, self.proxy):
            sock.close()


class Joiner:
    """Starts the joiner when first needed, again should it die, and asks it for sockets."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._lock = anyio.Lock()

    async def open(self, network: int, ports: Iterable[int]) -> Sockets:
        """Open the sockets of one sandbox.

        Args:
            network: descriptor of its network namespace, which stays the caller's.
            ports: TCP ports to listen on, besides the name server's.

        Raises:
            SandboxError: they could not be opened; the text names the step.
        """
        wanted = sorted(set(ports) - {joiner.DNS_PORT, joiner.PROXY_PORT})
        if len(wanted) > joiner.MAX_PORTS:
            raise SandboxError(f"more than {joiner.MAX_PORTS} ports cannot be listened on")
        request = {
            "network": [str(NETWORK.network_address), NETWORK.prefixlen],
            "resolver": RESOLVER,
            "ports": wanted,
        }
        answer, opened = await self._ask(json.dumps(request).encode(), network)
        if len(opened) != len(wanted) + _OWN:
            for sock in opened:
                sock.close()
            said = json.loads(answer).get("error") if answer else "its helper died"
            raise SandboxError(f"the sandbox's network cannot be joined ({said})")
        return Sockets(dict(zip(wanted, opened, strict=False)), *opened[-_OWN:])

    async def _ask(self, request: bytes, network: int) -> tuple[bytes, list[socket.socket]]:
        async with self._lock:
            channel = self._ensure()
            whole = False
            try:
                # Its answer must not be left behind for the next request to read.
                with anyio.fail_after(_ANSWER_S, shield=True):
                    await anyio.wait_writable(channel)
                    socket.send_fds(channel, [request], [network])
                    await anyio.wait_readable(channel)
                    answer, fds, _, _ = socket.recv_fds(channel, joiner.MAX_PACKET, _MAX_FDS)
                whole = bool(answer)
            except (OSError, TimeoutError) as error:
                raise SandboxError("the sandbox's network cannot be joined") from error
            finally:
                if not whole:
                    self.close()
        opened = [socket.socket(fileno=fd) for fd in fds]
        for sock in opened:
            sock.setblocking(False)
            sock.set_inheritable(False)
        return answer, opened

    def _ensure(self) -> socket.socket:
        # Started from the event loop's thread: the joiner dies with the thread that made it.
        if self._channel is not None and self._process is not None and self._process.poll() is None:
            return self._channel
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own file
                [sys.executable, "-I", "-S", str(Path(joiner.__file__)), str(theirs.fileno())],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.setblocking(False)
        self._channel = ours
        return ours

    def close(self) -> None:
        """End the joiner; the sockets it opened stay open. Idempotent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def probe() -> Finding:
    """Tell whether this host lets us catch what sandboxes connect to; starts one tiny process."""
    argv = [sys.executable, "-I", "-S", str(Path(joiner.__file__)), "rehearse"]
    try:
        done = subprocess.run(  # noqa: S603 - our own file
            argv, env={}, capture_output=True, text=True, timeout=_TRIAL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    else:
        if done.returncode == 0:
            return Finding(Level.OK, "connections of sandboxes can be caught, by name")
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return Finding(
        Level.WARNING,
        f"sandboxes can have no network here, by name or otherwise ({said})",
        "allow this user network namespaces (as for sandboxes) and a kernel with CONFIG_NET_NS",
    )

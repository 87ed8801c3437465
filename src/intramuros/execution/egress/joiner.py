"""A small process that opens sockets inside the networks of sandboxes, and hands them out.

A socket belongs to the network it was created in, whoever holds it. So a child of this process
joins a sandbox's network for a moment, routes the addresses that stand for names to the loopback
device, opens what shall be listened on, passes the descriptors back and ends: nothing of it stays
in the sandbox, and the worker answers from outside. Joining as an ordinary user goes by way of the
user namespace that owns the network, which only a process with a single thread may enter; the
worker has many.

Runs alone (``python -I -S joiner.py FD``) with the standard library only. One packet in (JSON, the
network's descriptor beside it), one packet out (``{}`` with a descriptor of each port in the order
given, then the name server's for datagrams and for streams, and the proxy's, or ``{"error"}``).
Run as ``joiner.py rehearse`` it tries what needs the host's permission, in namespaces of its own,
and ends.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

MAX_PACKET = 16 * 1024
MAX_PORTS = 64
"""Listened on in one sandbox; a packet carries at most 253 descriptors."""
BACKLOG = 256
DNS_PORT = 53
PROXY_PORT = 3128
"""At the name server's address, for programs that insist on a proxy."""
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_NS_GET_USERNS = 0xB701
_PR_SET_PDEATHSIG = 1
_RTM_NEWLINK, _RTM_NEWROUTE, _NLMSG_ERROR = 16, 24, 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_CREATE = 1, 4, 0x100, 0x400
_IFF_UP = 1
_RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL = 255, 3, 254, 2
_RTA_DST, _RTA_OIF = 1, 4
_LOOPBACK = 1  # the index of lo in every network
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def join(network: int) -> None:
    """Enter a network, if need be as the owner of its user namespace.

    Raises:
        OSError: it is our own, or the host does not let us.
    """
    ours = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.sameopenfile(ours, network):
            raise OSError(0, "that is the host's own network")
    finally:
        os.close(ours)
    if _libc.setns(network, _CLONE_NEWNET) == 0:
        return
    owner = fcntl.ioctl(network, _NS_GET_USERNS)
    _check(_libc.setns(owner, _CLONE_NEWUSER), "enter the sandbox's user namespace")
    os.close(owner)
    _check(_libc.setns(network, _CLONE_NEWNET), "enter the sandbox's network")


def _ask(link: socket.socket, kind: int, flags: int, body: bytes) -> None:
    """Send one netlink request and insist on its acknowledgement."""
    header = struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0)
    link.send(header + body)
    answer = link.recv(4096)
    what, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if what != _NLMSG_ERROR or code != 0:
        raise OSError(-code, f"netlink request {kind}: {os.strerror(-code)}")


def route(network: str, bits: int) -> None:
    """Raise lo and make every address of a network this one's own; harmless when they are."""
    family = socket.AF_NETLINK
    with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as link:
        link.settimeout(5)
        link.bind((0, 0))
        up = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, _LOOPBACK, _IFF_UP, _IFF_UP)
        _ask(link, _RTM_NEWLINK, 0, up)
        body = struct.pack(
            "=BBBBBBBBI",
            *(socket.AF_INET, bits, 0, 0),
            *(_RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL, 0),
        )
        body += struct.pack("=HH", 8, _RTA_DST) + socket.inet_aton(network)
        body += struct.pack("=HHi", 8, _RTA_OIF, _LOOPBACK)
        _ask(link, _RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, body)


def _listen(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    made.listen(BACKLOG)
    return made


def open_sockets(resolver: str, ports: list[int]) -> list[socket.socket]:
    """Open a listener on every address for each port, the name server's two, and the proxy's."""
    opened = [_listen("0.0.0.0", port) for port in ports]  # noqa: S104 - of the sandbox's network
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    datagrams.bind((resolver, DNS_PORT))
    return [*opened, datagrams, _listen(resolver, DNS_PORT), _listen(resolver, PROXY_PORT)]


def _serve_child(channel: socket.socket, request: dict[str, Any], network: int) -> NoReturn:
    """Do it all in this forked child; never returns."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.alarm(10)
        join(network)
        address, bits = request["network"]
        route(address, bits)
        opened = open_sockets(request["resolver"], request["ports"])
        socket.send_fds(channel, [b"{}"], [sock.fileno() for sock in opened])
        os._exit(0)
    except Exception as error:  # noqa: BLE001 - reported, and this process ends
        channel.send(json.dumps({"error": str(error)}).encode())
        os._exit(0)
    finally:
        os._exit(125)


def _serve_once(channel: socket.socket) -> bool:
    """Answer one request; False when the worker is gone."""
    data, fds, _, _ = socket.recv_fds(channel, MAX_PACKET, 4)
    if not data:
        return False
    try:
        request = json.loads(data)
        if len(fds) != 1 or not isinstance(request, dict):
            raise ValueError("a request comes with one descriptor")
        pid = os.fork()
        if pid == 0:
            _serve_child(channel, request, fds[0])
        if os.waitpid(pid, 0)[1] != 0:
            raise ValueError("joining the sandbox's network was cut short")
    except (OSError, ValueError) as error:
        channel.send(json.dumps({"error": str(error)}).encode())
    finally:
        for fd in fds:
            os.close(fd)
    return True


def main(fd: int) -> None:
    """Serve requests on an inherited packet socket until the worker closes it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the worker decides when it ends
    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    while _serve_once(channel):
        pass


def rehearse() -> None:
    """Do all of it in a network of this process's own, to see whether the host lets us.

    Raises:
        OSError: it does not; the text names the step.
    """
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    _check(_libc.unshare(flags), "make a network")
    route("198.18.0.0", 15)
    for made in open_sockets("198.18.0.1", [80, 443]):
        made.close()


if __name__ == "__main__":
    if sys.argv[1] != "rehearse":
        main(int(sys.argv[1]))
    else:
        try:
            rehearse()
        except OSError as failure:
            sys.exit(f"joiner: {failure}")

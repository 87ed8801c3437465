"""A small process that shows more of the host in a sandbox that runs already.

A sandbox from the warm pool was started before anyone knew whose it would be; what its session has
mounted comes later. A mount can be taken off one tree, detached, and put into another one by
whoever rules both. As an ordinary user that goes by way of the user namespace that the sandbox
was made in, which only a process with a single thread may enter; the worker has many.

Nothing of the model's may have run in the sandbox yet: paths inside are followed.

Runs alone (``python -I -S grafter.py FD``) with the standard library only. One packet in (JSON,
beside it descriptors of the mount namespace to change and of the user namespace it was made in),
one packet out (``{}`` or ``{"error"}``).
"""

import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

MAX_PACKET = 128 * 1024
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_PR_SET_PDEATHSIG = 1
# The same numbers on every architecture that came after them.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_EMPTY_PATH, _AT_FDCWD = 1, 0x8000, 0x1000, -100
_MOVE_MOUNT_F_EMPTY_PATH = 4
_RDONLY, _NOSUID, _NODEV, _MS_PRIVATE = 1, 2, 4, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(what: str, number: int, *arguments: Any) -> int:  # noqa: ANN401  as ctypes takes them
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return int(result)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _detached(path: str, *, recursive: bool) -> int:
    """Return a descriptor of a copy of the mount at ``path`` that hangs nowhere."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    arguments = (ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_uint(flags))
    return _call(f"take {path}", _OPEN_TREE, *arguments)


def _set(tree: int, attributes: int, cleared: int = 0) -> None:
    wanted = struct.pack("=QQQQ", attributes, cleared, _MS_PRIVATE, 0)
    flags = ctypes.c_uint(_AT_EMPTY_PATH | (0 if cleared else _AT_RECURSIVE))
    what = "set what a mount allows"
    _call(what, _MOUNT_SETATTR, ctypes.c_int(tree), b"", flags, wanted, ctypes.c_size_t(32))


def take(mounts: list[dict[str, Any]]) -> list[int]:
    """Return a detached copy of each source, set as it is to be."""
    taken = []
    for mount in mounts:
        tree = _detached(mount["source"], recursive=True)
        _set(tree, _NOSUID | _NODEV | (_RDONLY if mount["read_only"] else 0))
        taken.append(tree)
    return taken


def enter(space: int) -> None:
    """Enter the sandbox's mount namespace.

    Raises:
        OSError: it is our own, or the host does not let us.
    """
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    same = os.path.sameopenfile(ours, space)
    os.close(ours)
    if same:
        raise OSError(0, "that is the host's own mount namespace")
    _check(_libc.setns(space, _CLONE_NEWNS), "enter the sandbox's mounts")


def _make_place(target: str, directory: bool) -> None:
    """Make what a mount is put on; the root itself is read-only to everybody in there."""
    missing = []
    parent = target
    while not os.path.lexists(parent):
        missing.append(parent)
        parent = parent.rpartition("/")[0] or "/"
    if not missing:
        return
    try:
        _make(missing, directory, None)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        root = _detached("/", recursive=False)
        _set(root, 0, cleared=_RDONLY)
        _make(missing, directory, root)
        os.close(root)


def _make(missing: list[str], directory: bool, root: int | None) -> None:
    for path in reversed(missing):
        name = path if root is None else path.lstrip("/")
        if path is missing[0] and not directory:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=root))
        else:
            os.mkdir(name, 0o755, dir_fd=root)


def put(mounts: list[dict[str, Any]], taken: list[int], uid: int | None) -> None:
    """Put detached mounts where they belong, in the namespace that we are in."""
    if uid is not None:
        # Files of a sandbox's own file systems can belong to its user alone.
        _libc.setfsgid(uid)
        _libc.setfsuid(uid)
    for mount, tree in zip(mounts, taken, strict=True):
        directory = os.fstat(tree).st_mode & 0o170000 == 0o040000
        _make_place(mount["target"], directory)
        _call(
            f"show {mount['target']}",
            _MOVE_MOUNT,
            ctypes.c_int(tree),
            b"",
            ctypes.c_int(_AT_FDCWD),
            os.fsencode(mount["target"]),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        )


def graft(request: dict[str, Any], space: int, owner: int) -> None:
    """Do all of it, in this process.

    Raises:
        OSError: the text names the step.
    """
    mounts = request["mounts"]
    if request["uid"] is None:
        _check(_libc.setns(owner, _CLONE_NEWUSER), "enter the sandbox's user namespace")
        _check(_libc.unshare(_CLONE_NEWNS), "unshare mounts")
    taken = take(mounts)
    enter(space)
    put(mounts, taken, request["uid"])


def _serve_child(channel: socket.socket, request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Do it in this forked child; never returns."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.alarm(10)
        graft(request, *fds)
        channel.send(b"{}")
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
        if len(fds) != 2 or not isinstance(request, dict):
            raise ValueError("a request comes with two descriptors")
        pid = os.fork()
        if pid == 0:
            _serve_child(channel, request, fds)
        if os.waitpid(pid, 0)[1] != 0:
            raise ValueError("showing mounts was cut short")
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


if __name__ == "__main__":
    main(int(sys.argv[1]))

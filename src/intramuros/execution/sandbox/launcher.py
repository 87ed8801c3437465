"""A small process that starts sandboxes for a worker, as the uid each is to have.

Between fork and exec a sandbox's first process must show itself the host files it needs (a uid of
its own cannot walk into a private data directory, so they are bound to a place it can reach, in a
mount namespace of its own), make the temporary file systems (bwrap cannot limit their number of
files) and give up every privilege. Doing that in the worker, which
has threads, could deadlock; so this single-threaded process does it. It also is the parent of all
sandboxes: they die with it, and it dies with the worker. Before it does, it lets go of those that
are frozen: no signal ends a process in a frozen control group.

A container's runtime must be root to work, and is: of a user namespace with two ids, made here, in
which neither is the host's root. What is to have no namespaces at all is just started.

Runs alone (``python -I -S launcher.py FD``) with the standard library only. One packet in
(JSON, descriptors beside it), one packet out (``{"pid"}`` with a pidfd, or ``{"error"}``). Run as
``launcher.py rehearse [UID]`` it tries what needs the host's permission, and ends.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

MAX_PACKET = 128 * 1024
MAX_FDS = 32
AGENT_ID = 1000
STAGE = "/tmp"  # noqa: S108 - covered by a private tmpfs before anything is put there
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 2, 4, 4096, 16384, 1 << 19
_MS_NOATIME = 1024
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Sent to us by the kernel when the worker's thread that made us is gone.
_ORPHANED = signal.SIGUSR1
_SIGNALS = (
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGXFSZ,
    _ORPHANED,
)
_THAW = (("freezer.state", "THAWED"), ("cgroup.freeze", "0"))
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    options = None if data is None else data.encode()
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), options), f"mount {source} on {target}")


def _unshare(uid: int | None) -> None:
    """Get a mount namespace of our own; an ordinary user gets it by way of a user namespace."""
    if uid is not None:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare mounts")
        return
    own_uid, own_gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare user and mounts")
    maps = {"setgroups": "deny", "uid_map": f"{own_uid} {own_uid} 1"}
    for name, text in {**maps, "gid_map": f"{own_gid} {own_gid} 1"}.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _stage(
    sources: list[str],
    scratch: list[str],
    overlays: Sequence[Sequence[int]] = (),
    drive: str | None = None,
) -> None:
    """Show each source as STAGE/<number>, after them fresh tmpfs with the given options, and then
    overlays of sources, uppermost first, read-only. A source that is no absolute path is a
    directory of the drive.
    """
    _mount("none", "/", None, _MS_REC | _MS_SLAVE, None)
    # Opened before STAGE is covered: a source may lie below it.
    found = {
        source: os.open(source, os.O_PATH | os.O_CLOEXEC) for source in sources if source[:1] == "/"
    }
    found |= _open_drive(drive, [source for source in sources if source[:1] != "/"])
    opened = [found[source] for source in sources]
    _mount("tmpfs", STAGE, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for number, fd in enumerate(opened):
        target = f"{STAGE}/{number}"
        if os.stat(fd).st_mode & 0o170000 == 0o040000:
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{fd}", target, None, _MS_BIND | _MS_REC, None)
    for fd in found.values():
        os.close(fd)
    for number, options in enumerate(scratch, len(opened)):
        target = f"{STAGE}/{number}"
        os.mkdir(target)
        _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    for number, layers in enumerate(overlays, len(opened) + len(scratch)):
        target = f"{STAGE}/{number}"
        os.mkdir(target)
        lower = ":".join(f"{STAGE}/{layer}" for layer in layers)
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
        _mount("overlay", target, "overlay", flags, f"lowerdir={lower}")


def _open_drive(device: str | None, names: list[str]) -> dict[str, int]:
    """Mount a device where STAGE will cover it, and open directories of it."""
    if device is None:
        return {}
    _mount(device, STAGE, "ext4", _MS_NOSUID | _MS_NODEV | _MS_NOATIME, None)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return {name: os.open(f"{STAGE}/{name}", flags) for name in names}


def _contain(request: dict[str, Any], turn: socket.socket) -> None:
    """Become root of a user namespace with two ids, with everything staged.

    Root stages first, while it may reach every source, and takes the id that will be root inside
    before it makes the namespace. An ordinary user can only stage in a namespace of his own.
    """
    ids = request["contain"]
    if os.geteuid() == 0:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare mounts")
        _show(request)
        _drop(ids["uids"][0], ids["gids"][0])
        _check(_libc.unshare(_CLONE_NEWUSER), "unshare user")
        _await_map(turn)
    else:
        _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare user and mounts")
        _await_map(turn)
        os.setresgid(0, 0, 0)  # of the namespace; files made by an id without a number there fail
        _show(request)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _show(request: dict[str, Any]) -> None:
    _mount("none", "/", None, _MS_REC | _MS_SLAVE, None)
    for point in request["hide"]:
        # In a user namespace what the host mounted can be covered, but not taken away.
        _mount("tmpfs", point, "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "size=4k,mode=0555")
    _stage(request["stage"], request["scratch"], request["overlays"], request["drive"])


def _await_map(turn: socket.socket) -> None:
    turn.send(b"m")
    if turn.recv(1) != b"m":
        raise OSError(0, "the ids of the namespace could not be set")


def _map(pid: int, ids: dict[str, Any]) -> None:
    """Give a child's new user namespace its ids: 0 and AGENT_ID.

    Raises:
        OSError: the host does not let us.
    """
    for kind, tool in zip(("uid", "gid"), ids["tools"] or (None, None), strict=True):
        root, agent = ids[f"{kind}s"]
        if tool is None:
            with open(f"/proc/{pid}/{kind}_map", "w") as file:
                file.write(f"0 {root} 1\n{AGENT_ID} {agent} 1\n")
            continue
        argv = [tool, str(pid), "0", str(root), "1", str(AGENT_ID), str(agent), "1"]
        done = os.waitpid(os.posix_spawn(tool, argv, {}), 0)[1]
        if done != 0:
            raise OSError(0, f"{tool} refused (status {done})")


def _drop(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if 0 in os.getresuid() or 0 in os.getresgid():
        raise OSError(0, "still root after giving it up")


def _enter(cgroups: list[str]) -> None:
    for procs in cgroups:
        with open(procs, "w") as file:
            file.write("0")


def _arrange(fds: dict[int, int]) -> None:
    """Give each descriptor the number the new program expects, and close all others."""
    top = max([*fds, *fds.values(), 2]) + 1
    copies = {target: fcntl.fcntl(source, fcntl.F_DUPFD, top) for target, source in fds.items()}
    for target, copy in copies.items():
        os.dup2(copy, target, inheritable=True)
    at = 3
    for target in sorted(fds):
        if target > at:
            os.closerange(at, target)
        at = max(at, target + 1)
    os.closerange(at, top + 2 * len(fds) + 64)


def _become(request: dict[str, Any], fds: list[int], parent: int, turn: socket.socket) -> NoReturn:
    """Turn this forked child into the program asked for; never returns."""
    wanted = {int(target): fds[index] for target, index in request["fds"].items()}
    errors = wanted[2]
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if request["contain"] is not None:
            _enter(request["cgroups"])
            _contain(request, turn)
        else:
            if not request["bare"]:
                _unshare(request["uid"])
                _stage(request["stage"], request["scratch"], (), request["drive"])
            # Late: the kernel gets ready for it meanwhile.
            _enter(request["cgroups"])
            if request["uid"] is not None:
                _drop(request["uid"], request["gid"])
        # Changing identity clears it, so it comes after; the parent may have died meanwhile.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(125)
        if request["processes"] is not None:
            resource.setrlimit(resource.RLIMIT_NPROC, (request["processes"],) * 2)
        os.umask(0o022)
        os.chdir("/")
        _arrange(wanted)
        errors = 2
        os.execve(request["program"], request["argv"], request["env"])  # noqa: S606 - the whole point; no shell
    except Exception as error:  # noqa: BLE001 - reported, and this process ends
        os.write(errors, f"launcher: {error}\n".encode())
    finally:
        os._exit(125)


def _fork(request: dict[str, Any], fds: list[int]) -> tuple[int, int]:
    """Start one program; return its pid and a pidfd, which the caller closes."""
    parent = os.getpid()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            pid = os.fork()
            if pid == 0:
                ours.close()
                _become(request, fds, parent, theirs)
            # Nobody else reaps while we are here, so the number is still its.
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                raise
        try:
            if request["contain"] is not None and ours.recv(1):
                _map(pid, request["contain"])
                ours.send(b"m")
        except OSError:
            os.close(pidfd)
            raise
    return pid, pidfd


def _serve_once(channel: socket.socket, groups: set[str]) -> bool:
    """Answer one request; False when the worker is gone."""
    data, fds, _, _ = socket.recv_fds(channel, MAX_PACKET, MAX_FDS)
    if not data:
        return False
    try:
        request = json.loads(data)
        _remember(groups, request["cgroups"])
        pid, pidfd = _fork(request, fds)
        try:
            socket.send_fds(channel, [json.dumps({"pid": pid}).encode()], [pidfd])
        finally:
            os.close(pidfd)
    except (OSError, ValueError) as error:
        channel.send(json.dumps({"error": str(error)}).encode())
    finally:
        for fd in fds:
            os.close(fd)
    return True


def _reap() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def _remember(groups: set[str], entered: list[str]) -> None:
    """Keep the control groups of what was started, and forget those that are gone."""
    groups.difference_update([path for path in groups if not os.path.isdir(path)])
    groups.update(os.path.dirname(procs) for procs in entered)


def _let_go(groups: set[str]) -> None:
    """Thaw what is frozen, so that it dies with us."""
    for path in groups:
        for name, value in _THAW:
            try:
                fd = os.open(f"{path}/{name}", os.O_WRONLY)
            except OSError:
                continue  # the other version's, or gone
            with contextlib.suppress(OSError), os.fdopen(fd, "w") as file:
                file.write(value)


def main(fd: int) -> None:
    """Serve requests on an inherited packet socket until the worker closes it."""
    groups: set[str] = set()

    def orphaned(*_: object) -> NoReturn:
        # Whatever we were waiting for: nobody wants it any more.
        _let_go(groups)
        os._exit(0)

    worker = os.getppid()
    signal.signal(_ORPHANED, orphaned)
    _libc.prctl(_PR_SET_PDEATHSIG, _ORPHANED, 0, 0, 0)
    if os.getppid() != worker:
        return
    # Processes that outlive their sandbox's outer process come to us, and are reaped at once.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the worker decides when sandboxes end
    read, write = os.pipe()
    for end in (read, write):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(read, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == read:
                os.read(read, 4096)
                _reap()
            elif not _serve_once(channel, groups):
                _let_go(groups)
                return


def rehearse(uid: int | None) -> None:
    """Do all that comes before exec, in this process, to see whether the host lets us.

    Raises:
        OSError: it does not; the text names the step.
    """
    _unshare(uid)
    _stage(["/usr"], ["mode=0755,size=16k,nr_inodes=16"])
    if uid is not None:
        _drop(uid, uid)


if __name__ == "__main__":
    if sys.argv[1] != "rehearse":
        main(int(sys.argv[1]))
    else:
        try:
            rehearse(int(sys.argv[2]) if len(sys.argv) > 2 else None)
        except OSError as failure:
            sys.exit(f"launcher: {failure}")

"""File transfer: version 3 of the SSH File Transfer Protocol, on standard input and output.

A program of its own, run in the sandbox: ``main([])``. It is the sandbox's user with the sandbox's
view, so a path means what it means in there and reaches what that user reaches; nothing here runs
outside. Layout of packets and numbers: draft-ietf-secsh-filexfer-02.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from time import localtime, strftime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = 3
MAX_PACKET = 256 * 1024 + 1024
MAX_READ = 256 * 1024
MAX_HANDLES = 256
_LISTED = 100
_INIT, _VERSION = 1, 2
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS = 101, 102, 103, 104, 105
_OK, _EOF, _NO_SUCH_FILE, _DENIED, _FAILURE, _BAD, _UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
_SIZE, _OWNER, _MODE, _TIMES = 1, 2, 4, 8
_READ, _WRITE, _APPEND, _CREATE, _TRUNCATE, _EXCLUSIVE = 1, 2, 4, 8, 16, 32
_STATUS_OF = {
    errno.ENOENT: _NO_SUCH_FILE,
    errno.ENOTDIR: _NO_SUCH_FILE,
    errno.ELOOP: _NO_SUCH_FILE,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
}


class Broken(Exception):
    """The client does not speak the protocol: there is no going on."""


class Body:
    """The rest of one packet."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise Broken("packet cut short")
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self) -> int:
        """Return the next 32-bit number."""
        return int.from_bytes(self._take(4), "big")

    def large(self) -> int:
        """Return the next 64-bit number."""
        return int.from_bytes(self._take(8), "big")

    def text(self) -> bytes:
        """Return the next string."""
        return self._take(self.number())

    def path(self) -> bytes:
        """Return the next string as a path; the empty one is the working directory."""
        path = self.text()
        if b"\0" in path:
            raise OSError(errno.EINVAL, "a path cannot hold a NUL byte")
        return path or b"."

    def attributes(self) -> dict[str, tuple[int, ...]]:
        """Return the attributes that are given, by what they are."""
        flags = self.number()
        found: dict[str, tuple[int, ...]] = {}
        if flags & _SIZE:
            found["size"] = (self.large(),)
        if flags & _OWNER:
            found["owner"] = (self.number(), self.number())
        if flags & _MODE:
            found["mode"] = (self.number(),)
        if flags & _TIMES:
            found["times"] = (self.number(), self.number())
        return found


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _text(value: bytes) -> bytes:
    return _number(len(value)) + value


def _attributes(info: os.stat_result) -> bytes:
    return struct.pack(
        ">IQIIIII",
        _SIZE | _OWNER | _MODE | _TIMES,
        info.st_size,
        info.st_uid,
        info.st_gid,
        info.st_mode,
        int(info.st_atime) & 0xFFFFFFFF,
        int(info.st_mtime) & 0xFFFFFFFF,
    )


def _named(name: bytes, info: os.stat_result) -> bytes:
    when = strftime("%b %d  %Y", localtime(info.st_mtime))
    kind = stat.filemode(info.st_mode)
    line = f"{kind} {info.st_nlink:4} {info.st_uid:<8} {info.st_gid:<8} {info.st_size:8} {when} "
    return _text(name) + _text(line.encode() + name) + _attributes(info)


class Server:
    """Answers packets.

    Args:
        umask_mode: mode of files made without one.
    """

    def __init__(self) -> None:
        self._handles: dict[bytes, int | tuple[bytes, Iterator[os.DirEntry[bytes]]]] = {}
        self._made = 0
        self._serve: dict[int, Callable[[Body], tuple[int, bytes]]] = {
            3: self._open,
            4: self._close,
            5: self._read,
            6: self._write,
            7: self._lstat,
            8: self._fstat,
            9: self._setstat,
            10: self._fsetstat,
            11: self._opendir,
            12: self._readdir,
            13: self._remove,
            14: self._mkdir,
            15: self._rmdir,
            16: self._realpath,
            17: self._stat,
            18: self._rename,
            19: self._readlink,
            20: self._symlink,
            200: self._extended,
        }

    def answer(self, packet: bytes) -> bytes:
        """Return the packet that answers one.

        Raises:
            Broken: it is none.
        """
        if not packet:
            raise Broken("empty packet")
        kind, body = packet[0], Body(packet[1:])
        if kind == _INIT:
            extension = _text(b"posix-rename@openssh.com") + _text(b"1")
            return bytes((_VERSION,)) + _number(VERSION) + extension
        number = _number(body.number())
        operation = self._serve.get(kind)
        try:
            if operation is None:
                answered, content = self._status(_UNSUPPORTED, "not supported")
            else:
                answered, content = operation(body)
        except OSError as error:
            code = _STATUS_OF.get(error.errno or 0, _FAILURE)
            answered, content = self._status(code, error.strerror or "failure")
        except (KeyError, OverflowError, ValueError):
            answered, content = self._status(_FAILURE, "no such handle, or a value that cannot be")
        return bytes((answered,)) + number + content

    def _status(self, code: int, text: str) -> tuple[int, bytes]:
        return _STATUS, _number(code) + _text(text.encode()) + _text(b"en")

    def _done(self) -> tuple[int, bytes]:
        return self._status(_OK, "done")

    def _keep(self, thing: int | tuple[bytes, Iterator[os.DirEntry[bytes]]]) -> tuple[int, bytes]:
        self._made += 1
        name = b"%d" % self._made
        self._handles[name] = thing
        return _HANDLE, _text(name)

    def _room(self) -> None:
        if len(self._handles) >= MAX_HANDLES:
            raise OSError(errno.EMFILE, "too many open handles")

    def _file(self, body: Body) -> int:
        thing = self._handles[body.text()]
        if not isinstance(thing, int):
            raise OSError(errno.EISDIR, "that is a directory")
        return thing

    def _open(self, body: Body) -> tuple[int, bytes]:
        self._room()
        path, wanted, given = body.path(), body.number(), body.attributes()
        both = _READ | _WRITE
        flags = os.O_RDWR if wanted & both == both else os.O_WRONLY if wanted & _WRITE else 0
        for bit, flag in (
            (_APPEND, os.O_APPEND),
            (_CREATE, os.O_CREAT),
            (_TRUNCATE, os.O_TRUNC),
            (_EXCLUSIVE, os.O_EXCL),
        ):
            flags |= flag if wanted & bit else 0
        # A pipe or a device must not hold us up.
        flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        mode = given.get("mode", (0o666,))[0] & 0o777
        return self._keep(os.open(path, flags, mode))

    def _close(self, body: Body) -> tuple[int, bytes]:
        thing = self._handles.pop(body.text())
        if isinstance(thing, int):
            os.close(thing)
        return self._done()

    def _read(self, body: Body) -> tuple[int, bytes]:
        file, offset, length = self._file(body), body.large(), body.number()
        data = os.pread(file, min(length, MAX_READ), offset)
        return (_DATA, _text(data)) if data else self._status(_EOF, "end of file")

    def _write(self, body: Body) -> tuple[int, bytes]:
        file, offset, data = self._file(body), body.large(), body.text()
        view = memoryview(data)
        while view:
            count = os.pwrite(file, view, offset)
            view, offset = view[count:], offset + count
        return self._done()

    def _lstat(self, body: Body) -> tuple[int, bytes]:
        return _ATTRS, _attributes(os.lstat(body.path()))

    def _stat(self, body: Body) -> tuple[int, bytes]:
        return _ATTRS, _attributes(os.stat(body.path()))

    def _fstat(self, body: Body) -> tuple[int, bytes]:
        return _ATTRS, _attributes(os.fstat(self._file(body)))

    def _setstat(self, body: Body) -> tuple[int, bytes]:
        path = body.path()
        self._change(path, body.attributes())
        return self._done()

    def _fsetstat(self, body: Body) -> tuple[int, bytes]:
        file = self._file(body)
        self._change(file, body.attributes())
        return self._done()

    def _change(self, what: bytes | int, given: dict[str, tuple[int, ...]]) -> None:
        if "size" in given:
            os.truncate(what, given["size"][0])
        if "mode" in given:
            os.chmod(what, given["mode"][0] & 0o777)
        if "owner" in given:
            os.chown(what, *given["owner"])
        if "times" in given:
            accessed, modified = given["times"]
            os.utime(what, (accessed, modified))

    def _opendir(self, body: Body) -> tuple[int, bytes]:
        self._room()
        path = body.path()
        return self._keep((path, os.scandir(path)))

    def _readdir(self, body: Body) -> tuple[int, bytes]:
        thing = self._handles[body.text()]
        if isinstance(thing, int):
            raise OSError(errno.ENOTDIR, "that is a file")
        found = []
        for entry in thing[1]:
            try:
                found.append(_named(entry.name, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue
            if len(found) == _LISTED:
                break
        if not found:
            return self._status(_EOF, "no more entries")
        return _NAME, _number(len(found)) + b"".join(found)

    def _remove(self, body: Body) -> tuple[int, bytes]:
        os.unlink(body.path())
        return self._done()

    def _mkdir(self, body: Body) -> tuple[int, bytes]:
        path, given = body.path(), body.attributes()
        os.mkdir(path, given.get("mode", (0o777,))[0] & 0o777)
        return self._done()

    def _rmdir(self, body: Body) -> tuple[int, bytes]:
        os.rmdir(body.path())
        return self._done()

    def _realpath(self, body: Body) -> tuple[int, bytes]:
        full = os.path.realpath(body.path())
        return _NAME, _number(1) + _text(full) + _text(full) + _number(0)

    def _rename(self, body: Body) -> tuple[int, bytes]:
        old, new = body.path(), body.path()
        # Version 3 does not replace; a link fails where something is.
        if os.path.lexists(new):
            raise OSError(errno.EEXIST, "it exists")
        os.rename(old, new)
        return self._done()

    def _readlink(self, body: Body) -> tuple[int, bytes]:
        target = os.readlink(body.path())
        return _NAME, _number(1) + _text(target) + _text(target) + _number(0)

    def _symlink(self, body: Body) -> tuple[int, bytes]:
        # The other way round than the draft has it, as every client does.
        target, link = body.path(), body.path()
        os.symlink(target, link)
        return self._done()

    def _extended(self, body: Body) -> tuple[int, bytes]:
        if body.text() != b"posix-rename@openssh.com":
            return self._status(_UNSUPPORTED, "not supported")
        old, new = body.path(), body.path()
        os.replace(old, new)
        return self._done()


def _read_exactly(fd: int, count: int) -> bytes | None:
    parts = []
    while count:
        data = os.read(fd, min(count, 65536))
        if not data:
            return None
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def serve(source: int, sink: int) -> None:
    """Answer packets until the client is gone.

    Raises:
        Broken: it does not speak the protocol.
    """
    server = Server()
    while True:
        head = _read_exactly(source, 4)
        if head is None:
            return
        length = int.from_bytes(head, "big")
        if not 0 < length <= MAX_PACKET:
            raise Broken(f"packet of {length} bytes")
        packet = _read_exactly(source, length)
        if packet is None:
            return
        answer = server.answer(packet)
        view = memoryview(_number(len(answer)) + answer)
        while view:
            view = view[os.write(sink, view) :]


def main(_arguments: list[str]) -> None:
    """Serve one client, and end with status 1 if it is none."""
    try:
        serve(0, 1)
    except Broken as error:
        sys.exit(f"sftp: {error}")
    except BrokenPipeError:
        return

"""A file of the host as a file system of its own: a loop device, and a mount that hangs nowhere.

Nothing here outlives who made it: the mount is in no namespace and lives as long as a descriptor
of it, or as long as a sandbox that has mounted the same device; the device is given back by the
kernel with its last mount. And nobody can mount a file twice over: whoever attaches it locks it,
and the lock lives as long as the device has the file.

Linux 5.8 and root of the host. Every function blocks.
"""

import ctypes
import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

# The same numbers on every architecture that came after them.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC: Final = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_ATTRIBUTES: Final = 2 | 4 | 0x10
"""No set-user-id, no devices, no times of access."""
_LOOP_MAJOR: Final = 7
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR: Final = 4
_FITRIM: Final = 0xC0185879
_ATTEMPTS: Final = 64
# struct loop_config: descriptor, block size, struct loop_info64, reserved.
_CONFIG: Final = struct.Struct("=II QQQQQ IIII 64s64s32s 2Q 8Q")
_CONTROL: Final = "/dev/loop-control"
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def attach(image: int) -> tuple[str, int]:
    """Make a loop device of a file that is open for reading and writing.

    Returns:
        The device's path, and a descriptor of it that keeps it until the caller closes it.

    Raises:
        BlockingIOError: the file is attached already.
        OSError: the host has no loop devices for us.
    """
    fcntl.flock(image, fcntl.LOCK_EX | fcntl.LOCK_NB)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            _show(path, number)
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, _config(image, number))
            except OSError as error:
                os.close(device)
                # Somebody else was given the same number, and was faster.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return path, device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device is free")


def _show(path: str, number: int) -> None:
    """Make a device's node where nobody does: a container's own ``/dev`` is not the kernel's."""
    if not Path(path).exists():
        with suppress(FileExistsError):
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(_LOOP_MAJOR, number))


def _config(image: int, number: int) -> bytes:
    info = (0, 0, 0, 0, 0, number, 0, 0, _AUTOCLEAR, b"", b"", b"", 0, 0)
    return _CONFIG.pack(image, 0, *info, *(0,) * 8)


def mount(device: str, kind: str, options: tuple[str, ...]) -> int:
    """Mount a device nowhere; returns a descriptor of its root that keeps it mounted.

    Raises:
        OSError: it is no such file system, or the host does not let us.
    """
    context = _call("fsopen", _FSOPEN, kind.encode(), ctypes.c_uint(_CLOEXEC))
    try:
        _configure(context, _SET_STRING, b"source", device.encode())
        for option in options:
            _configure(context, _SET_FLAG, option.encode(), None)
        _configure(context, _CREATE, None, None)
        flags = ctypes.c_uint(_CLOEXEC)
        return _call("fsmount", _FSMOUNT, ctypes.c_int(context), flags, ctypes.c_uint(_ATTRIBUTES))
    finally:
        os.close(context)


def _configure(context: int, what: int, key: bytes | None, value: bytes | None) -> None:
    arguments = (ctypes.c_int(context), ctypes.c_uint(what), key, value, ctypes.c_int(0))
    _call("mount", _FSCONFIG, *arguments)


def trim(root: int) -> None:
    """Give what a mounted file system does not use back to the disk that holds its file.

    Raises:
        OSError: that disk takes nothing back.
    """
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        fcntl.ioctl(fd, _FITRIM, struct.pack("=QQQ", 0, 2**64 - 1, 0))
    finally:
        os.close(fd)


def _call(what: str, number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return int(result)

"""read, write and edit, as they run inside a sandbox (contract 23.11 to 23.18).

Each function takes the call's fields and returns the answer's; a ToolError carries what the model
is to read. They run in a child of process 1, so blocking or dying here harms nobody else.
"""

from __future__ import annotations

import os
import stat

from intramuros.execution.sandbox.inside.paths import Policy, ToolError, descend, failure, open_at

MAX_TEXT = 256 * 1024
MAX_IMAGE = 5 * 1024 * 1024 // 4 * 3
"""5 MiB once encoded as base64."""
MAX_PDF = 20 * 1024 * 1024
_CHUNK = 64 * 1024
_MEDIA = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".pdf": "application/pdf",
}


def _target(policy: Policy, op: str, path: str) -> str:
    try:
        return policy.resolve(path)
    except ValueError as error:
        raise ToolError(f"{op}: {error}") from error


def _open_regular(op: str, target: str, path: str) -> tuple[int, int]:
    """Return a descriptor and the size of a regular file; never blocks on a pipe or device."""
    fd = open_at(target, os.O_RDONLY | os.O_NONBLOCK)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise ToolError(f"{op}: {path}: not a regular file")
    return fd, info.st_size


def _check_regular(op: str, target: str, path: str) -> int:
    """Return the size before opening, so that devices and sockets are named, not touched."""
    fd = open_at(target, os.O_PATH)
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISREG(info.st_mode):
        raise ToolError(f"{op}: {path}: not a regular file")
    return info.st_size


def _read_all(op: str, target: str, path: str, limit: int) -> bytes:
    fd, _ = _open_regular(op, target, path)
    parts = []
    left = limit + 1
    with os.fdopen(fd, "rb", buffering=0) as file:
        while left > 0:
            chunk = file.read(min(left, 1024 * 1024))
            if not chunk:
                break
            parts.append(chunk)
            left -= len(chunk)
    if left <= 0:
        raise ToolError(f"{op}: {path} grew past the {limit}-byte limit while it was read")
    return b"".join(parts)


def read(policy: Policy, call: dict[str, bytes]) -> dict[str, bytes]:
    """Return a file's text, a range of its lines, or the bytes and media type of a picture or PDF.

    Fields: ``file_path``; ``view_range`` optional, integers separated by blanks.
    """
    path = call["file_path"].decode()
    view = [int(word) for word in call.get("view_range", b"").split()]
    target = _target(policy, "read", path)
    if view and len(view) != 2:
        raise ToolError("read: view_range must be [start_line, end_line]")
    try:
        size = _check_regular("read", target, path)
        media = _MEDIA.get(os.path.splitext(target)[1].lower())
        if media is not None:
            return _read_media(target, path, size, media, view)
        if size > MAX_TEXT:
            return {"text": _read_range_of_large(target, path, size, view)}
        data = _read_all("read", target, path, MAX_TEXT)
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(
            f"read: {path}: not valid UTF-8 text"
            " (binary files are only supported for image/PDF extensions)"
        ) from error
    except OSError as error:
        raise failure("read", path, error) from error
    if not view:
        return {"text": data}
    lines = text.split("\n")
    end = view[1] if view[1] > 0 else len(lines)
    return {"text": "\n".join(lines[max(0, view[0] - 1) : end]).encode()}


def _read_media(target: str, path: str, size: int, media: str, view: list[int]) -> dict[str, bytes]:
    if view:
        raise ToolError("read: view_range is not supported for image/PDF files")
    limit = MAX_PDF if media == "application/pdf" else MAX_IMAGE
    if size > limit:
        raise ToolError(
            f"read: {path} is {size} bytes, exceeds {limit}-byte limit for image/PDF files."
        )
    return {"media": media.encode(), "data": _read_all("read", target, path, limit)}


def _read_range_of_large(target: str, path: str, size: int, view: list[int]) -> bytes:
    if not view:
        raise ToolError(
            f"read: {path} is {size} bytes, exceeds {MAX_TEXT}-byte limit."
            " Use the view_range parameter to read specific line ranges, e.g. view_range: [1, 500]."
        )
    start, end = max(0, view[0] - 1), view[1] if view[1] > 0 else None
    if end is not None and end <= start:
        return b""
    picked = bytearray()
    line = 0
    fd, _ = _open_regular("read", target, path)
    with os.fdopen(fd, "rb", buffering=0) as file:
        while end is None or line < end:
            chunk = file.read(_CHUNK)
            if not chunk:
                break
            line = _pick(chunk, line, start, end, picked)
            if len(picked) > MAX_TEXT:
                raise _range_too_large(path, view, start, end)
    picked.decode("utf-8")
    return bytes(picked)


def _pick(chunk: bytes, line: int, start: int, end: int | None, picked: bytearray) -> int:
    """Add the part of ``chunk`` that lies in lines [start, end) and return the line reached."""
    at = 0
    while at < len(chunk) and (end is None or line < end):
        newline = chunk.find(b"\n", at)
        stop = len(chunk) if newline < 0 else newline
        if line >= start:
            picked += chunk[at:stop]
            if newline >= 0 and (end is None or line + 1 < end):
                picked += b"\n"
            if len(picked) > MAX_TEXT:
                break
        if newline < 0:
            break
        line += 1
        at = newline + 1
    return line


def _range_too_large(path: str, view: list[int], start: int, end: int | None) -> ToolError:
    if end is not None and end - start == 1:
        return ToolError(
            f"read: line {start + 1} of {path} alone exceeds {MAX_TEXT}-byte limit. The read tool"
            " cannot return part of a line, so view_range cannot narrow this further."
        )
    return ToolError(
        f"read: view_range [{view[0]}, {view[1]}] of {path} exceeds {MAX_TEXT}-byte limit."
        " Narrow the view_range to read a smaller portion."
    )


def write(policy: Policy, call: dict[str, bytes]) -> dict[str, bytes]:
    """Replace a file's content, making missing directories. Fields: ``file_path``, ``content``."""
    path, content = call["file_path"].decode(), call["content"]
    target = _target(policy, "write", path)
    policy.reject_read_only("write", target, path)
    try:
        _store("write", target, path, content, make=True)
    except OSError as error:
        raise failure("write", path, error) from error
    # Characters, although it says bytes: the official tool counts so (contract 23.16).
    return {"text": f"wrote {len(content.decode('utf-8'))} bytes to {path}".encode()}


def _store(op: str, target: str, path: str, content: bytes, make: bool = False) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    directory, name = descend(target, make)
    try:
        fd = os.open(name, flags, 0o666, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ToolError(f"{op}: {path}: not a regular file")
        os.ftruncate(fd, 0)
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def edit(policy: Policy, call: dict[str, bytes]) -> dict[str, bytes]:
    """Replace text in a file.

    Fields: ``file_path``, ``old_string``, ``new_string``, ``replace_all`` ("1" or absent).
    """
    path = call["file_path"].decode()
    old, new = call["old_string"].decode(), call["new_string"].decode()
    every = call.get("replace_all") == b"1"
    target = _target(policy, "edit", path)
    policy.reject_read_only("edit", target, path)
    try:
        size = _check_regular("edit", target, path)
        if size > MAX_TEXT:
            raise ToolError(
                f"edit: {path} is {size} bytes, exceeds {MAX_TEXT}-byte limit."
                " The edit tool loads the whole file and cannot modify a file this large."
            )
        text = _read_all("edit", target, path, MAX_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"edit: {path}: not valid UTF-8 text (cannot edit binary files)") from error
    except OSError as error:
        raise failure("edit", path, error) from error
    count = text.count(old)
    if count == 0:
        raise ToolError(f"edit: old_string not found in {path}")
    if not every and count > 1:
        raise ToolError(f"edit: old_string appears {count} times in {path} (must be unique)")
    updated = text.replace(old, new) if every else text.replace(old, new, 1)
    try:
        _store("edit", target, path, updated.encode())
    except OSError as error:
        raise failure("edit", path, error) from error
    return {"text": f"edited {path} ({count if every else 1} replacement(s))".encode()}

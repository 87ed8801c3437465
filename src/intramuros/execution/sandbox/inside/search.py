"""glob and grep, as they run inside a sandbox (contract 23.19 to 23.21)."""

from __future__ import annotations

import os
import re
import stat
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from intramuros.execution.sandbox.inside import deep
from intramuros.execution.sandbox.inside.paths import Policy, ToolError, canonical, open_at, within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ENTRIES = 50_000
MAX_GLOB_RESULTS = 200
MAX_OUTPUT = 100 * 1024
MAX_LINE = 2000
_QUIETLY = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_SKIPPED = (".git", "node_modules")


def _root(policy: Policy, op: str, path: str) -> str:
    if not path:
        return os.path.realpath(policy.workdir)
    try:
        return policy.resolve(path)
    except ValueError as error:
        raise ToolError(f"{op}: {error}") from error


def glob(policy: Policy, call: dict[str, bytes]) -> dict[str, bytes]:
    """Return the newest files a pattern matches. Fields: ``pattern``, ``path`` optional."""
    pattern, path = call["pattern"].decode(), call.get("path", b"").decode()
    if pattern.startswith("/"):
        raise ToolError(
            "glob: absolute pattern not permitted; pass a relative pattern (and optionally path)"
        )
    if ".." in PurePosixPath(pattern).parts:
        raise ToolError("glob: '..' is not permitted in the pattern")
    root = _root(policy, "glob", path)
    parts = PurePosixPath(pattern).parts
    if len(parts) == 2 and parts[0] == "**" and "*" in parts[1] and "**" not in parts[1]:
        found = deep.find(root, parts[1], MAX_ENTRIES)
    else:
        found = _match(root, pattern)
    if not found:
        return {"text": b"no matches"}
    found.sort(key=_age)
    newest = [path for _, path in found[:MAX_GLOB_RESULTS]]
    return {"text": os.fsencode("\n".join(newest))}


def _match(root: str, pattern: str) -> list[tuple[float, str]]:
    """Return the time of the last change and the path of each match, however the pattern looks."""
    try:
        matches = [str(match) for match in islice(Path(root).glob(pattern), MAX_ENTRIES)]
    except (ValueError, OSError, NotImplementedError) as error:
        raise ToolError(f"glob: {error}") from error
    kept = _Kept(root)
    try:
        for match in matches:
            kept.consider(match)
    finally:
        kept.close()
    return kept.found


def _age(found: tuple[float, str]) -> float:
    return -found[0]


class _Kept:
    """What a pattern matched, without what a link in mid-pattern led to outside of the root.

    Whoever else writes here may swap links while we look, so a match must be found again from its
    real directory, which is opened once, without following any.
    """

    def __init__(self, root: str) -> None:
        self.found: list[tuple[float, str]] = []
        self._root = root
        self._parent = ""
        self._fd = -1

    def consider(self, match: str) -> None:
        """Keep a match, with the time of its last change, if it is inside."""
        parent, _, name = match.rpartition("/")
        if parent != self._parent:
            self._enter(parent)
        if self._fd < 0 and match != self._root:
            return
        try:
            info = os.lstat(name, dir_fd=self._fd) if match != self._root else os.lstat(match)
            if not stat.S_ISLNK(info.st_mode):
                self.found.append((info.st_mtime, match))
            elif within(canonical(match), self._root):
                self.found.append((deep.mtime(match), match))
        except OSError:
            return

    def close(self) -> None:
        """Close the directory that was looked at last."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _enter(self, parent: str) -> None:
        self.close()
        self._parent = parent
        try:
            real = canonical(parent)
            if within(real, self._root):
                self._fd = open_at(real, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return


def grep(policy: Policy, call: dict[str, bytes]) -> dict[str, bytes]:
    """Return the lines a regular expression matches. Fields: ``pattern``, ``path`` optional."""
    pattern, path = call["pattern"].decode(), call.get("path", b"").decode()
    root = _root(policy, "grep", path)
    ripgrep = find_ripgrep(policy)
    if ripgrep is not None:
        return {"text": _run_ripgrep(ripgrep, pattern, root)}
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ToolError(f"grep: invalid regex: {error}") from error
    hits = Hits()
    if os.path.isfile(root):
        _scan(expression, root, hits, lambda: open_at(root, _QUIETLY))
    else:
        _walk(expression, root, hits)
    return {"text": hits.text()}


def find_ripgrep(policy: Policy) -> str | None:
    """Return the first ``rg`` on PATH that the file tools cannot have written."""
    for entry in os.get_exec_path():
        candidate = os.path.join(entry, "rg")
        usable = entry.startswith("/") and os.access(candidate, os.X_OK)
        if usable and not policy.allows(os.path.realpath(candidate)):
            return candidate
    return None


def _run_ripgrep(ripgrep: str, pattern: str, root: str) -> bytes:
    argv = [ripgrep, "--no-config", "-n", "--no-heading", "-e", pattern, "--", root]
    out_read, out_write = os.pipe()
    errors = os.memfd_create("rg")
    actions = [
        (os.POSIX_SPAWN_DUP2, out_write, 1),
        (os.POSIX_SPAWN_DUP2, errors, 2),
    ]
    pid = os.posix_spawn(ripgrep, argv, os.environ, file_actions=actions)  # noqa: TID251 - the sandbox's own environment
    os.close(out_write)
    limit = 4 * MAX_OUTPUT  # UTF-8 needs at most four bytes for a character
    data = bytearray()
    while len(data) <= limit:
        chunk = os.read(out_read, 65536)
        if not chunk:
            break
        data += chunk
    os.close(out_read)
    _, status = os.waitpid(pid, 0)
    code = 0  # we stopped reading: how it met the closed pipe says nothing
    if len(data) <= limit:
        code = os.waitstatus_to_exitcode(status)
    if code == 1:
        return b"no matches"
    if code != 0:
        message = os.pread(errors, 4096, 0).decode("utf-8", "replace")
        raise ToolError(f"grep: rg failed: {message}")
    text = data.decode("utf-8", "replace")
    if len(text) > MAX_OUTPUT:
        text = text[:MAX_OUTPUT] + f"\n[output truncated at {MAX_OUTPUT} bytes]"
    return text.encode()


class Hits:
    """Matching lines up to the output limit."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._budget = MAX_OUTPUT

    def push(self, line: str) -> bool:
        """Add a line; False when the limit is reached and the search must end."""
        self._budget -= len(line) + 1
        if self._budget < 0:
            self._lines.append(f"[output truncated at {MAX_OUTPUT} bytes]")
            return False
        self._lines.append(line)
        return True

    def text(self) -> bytes:
        """Return the answer."""
        joined = "\n".join(self._lines) if self._lines else "no matches"
        return joined.encode("utf-8", "surrogateescape")


def _walk(expression: re.Pattern[str], root: str, hits: Hits) -> None:
    """Search a directory, from descriptor to descriptor: links that come meanwhile lead nowhere."""
    seen = 0
    try:
        top = open_at(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        # Its own check of the top is for paths; this one is a descriptor, and stays what it is.
        for below, names, files, fd in os.fwalk(".", dir_fd=top):
            names[:] = [name for name in names if name not in _SKIPPED]
            place = os.path.normpath(os.path.join(root, below))
            for name in files:
                if not _is_plain(name, fd):
                    continue
                seen += 1
                if seen > MAX_ENTRIES:
                    return
                opener = partial(os.open, name, _QUIETLY | os.O_NOFOLLOW, dir_fd=fd)
                if not _scan(expression, f"{place}/{name}", hits, opener):
                    return
    except RecursionError:
        return  # nested without end: what was found stands
    finally:
        os.close(top)


def _is_plain(name: str, directory: int) -> bool:
    """Return whether it is a regular file itself: links lead out, pipes block for ever."""
    try:
        return stat.S_ISREG(os.lstat(name, dir_fd=directory).st_mode)
    except OSError:
        return False


def _scan(expression: re.Pattern[str], path: str, hits: Hits, opener: Callable[[], int]) -> bool:
    """Search one file; False when the output limit is reached."""
    try:
        with open(opener(), "rb") as file:
            if b"\0" in file.read(512):
                return True
            file.seek(0)
            number = 0
            while True:
                raw = file.readline(MAX_LINE + 1)
                if not raw:
                    return True
                number += 1
                # Long lines are skipped: the pattern is the model's and may backtrack for ever.
                if len(raw) > MAX_LINE:
                    while raw and not raw.endswith(b"\n"):
                        raw = file.readline(65536)
                    continue
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if expression.search(line) and not hits.push(f"{path}:{number}:{line}"):
                    return False
    except OSError:
        return True

"""The directory every sandbox sees part of: our in-sandbox library and a made-up /etc.

Built once per version of those files and interpreter; compiled ahead, because compiling takes a
sandbox longer than starting.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anyio

from intramuros.execution.sandbox import bwrap, inside
from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.rootfs import (
    LIBRARY_TARGET,
    MADE_UP,
    PYTHON_TARGET,
    RESOLVING,
    Python,
)

_PACKAGE = ("intramuros", "execution", "sandbox", "inside")
_COMPILE_S = 60
_COMPILE = """
import _ctypes, fcntl, resource, select
import os, py_compile, sys
root, shown = sys.argv[1:]
for folder, _, names in os.walk(root):
    for name in names:
        if name.endswith(".py"):
            path = os.path.join(folder, name)
            py_compile.compile(
                path, dfile=shown + path[len(root):], doraise=True, optimize=0,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
"""
BOOT = (
    "import sys; sys.path.append({library!r});"
    " from intramuros.execution.sandbox.inside.supervisor import main; main(3)"
)
"""What the sandbox's Python runs as process 1; the channel is descriptor 3."""


def command(python: Python, library: str = LIBRARY_TARGET) -> list[str]:
    """Return the command line of process 1.

    Args:
        library: where it finds our in-sandbox library.
    """
    boot = BOOT.format(library=library)
    return [*python.loader, python.inside, "-S", "-E", "-I", "-B", "-X", "utf8", "-c", boot]


def contained_command(python: Python) -> list[str]:
    """Return the command line of process 1 where the channel is descriptor 0."""
    *start, boot = command(python)
    return [*start, f"import os; os.dup2(0, 3); {boot}"]


@dataclass(frozen=True)
class Runtime:
    """A built runtime."""

    directory: Path
    binary: Path
    """The bwrap to run: a copy in ``directory``, or the system's own."""


async def build(directory: Path, python: Python, binary: Path) -> Runtime:
    """Return the runtime for ``python``, built in ``directory`` unless it exists.

    Raises:
        SandboxUnavailable: the interpreter is missing or lacks a module process 1 needs.
    """
    sources = {path.name: path.read_text() for path in _sources()}
    info = await anyio.Path(binary).stat()
    about = [python.inside, str(python.host_prefix), str(binary), info.st_size, info.st_mtime_ns]
    described = json.dumps([sources, MADE_UP, RESOLVING, about])
    target = directory / hashlib.sha256(described.encode()).hexdigest()[:16]
    if target.is_dir():
        return _existing(target, binary)
    draft = Path(tempfile.mkdtemp(prefix="new-", dir=directory))
    try:
        _write(draft, sources)
        await _compile(draft / "lib", python)
        bwrap.copy_binary(binary, draft / "bwrap")
        _publish(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _existing(target, binary)


def _existing(target: Path, binary: Path) -> Runtime:
    copies = list(target.glob("bwrap/*/*/bwrap"))
    return Runtime(target, copies[0] if copies else binary)


def _publish(draft: Path, target: Path) -> None:
    """Make it readable to sandboxes and give it its name; another worker may have been first."""
    for folder, _, _ in os.walk(draft):
        Path(folder).chmod(0o755)
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _sources() -> list[Path]:
    return sorted(Path(inside.__path__[0]).glob("*.py"))


def _write(draft: Path, sources: dict[str, str]) -> None:
    (draft / "etc").mkdir()
    (draft / "resolving").mkdir()
    for folder, files in (("etc", MADE_UP), ("resolving", RESOLVING)):
        for name, text in files.items():
            (draft / folder / name).write_text(text)
    package = draft / "lib"
    for part in _PACKAGE:
        package /= part
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    for name, text in sources.items():
        (package / name).write_text(text)


async def _compile(library: Path, python: Python) -> None:
    host = python.inside
    if python.host_prefix is not None:
        host = str(python.host_prefix) + python.inside.removeprefix(PYTHON_TARGET)
    argv = [host, "-S", "-E", "-I", "-c", _COMPILE, str(library), LIBRARY_TARGET]
    fix = "install Python 3.9 or newer with its standard library as /usr/bin/python3"
    try:
        with anyio.fail_after(_COMPILE_S):
            result = await anyio.run_process(argv, check=False, env={})
    except (OSError, TimeoutError) as error:
        raise SandboxUnavailable(f"the sandboxes' Python {host} does not run", fix) from error
    if result.returncode != 0:
        last = (result.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason"])[-1]
        raise SandboxUnavailable(f"the sandboxes' Python {host} lacks something ({last})", fix)

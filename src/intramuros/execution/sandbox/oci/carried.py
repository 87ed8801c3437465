"""An interpreter and a shell of the host's that run on any image, whatever is in it.

Process 1 is Python and the agent's shell is bash; an image may have neither, or others, or another
C library. So copies of the host's are shown inside together with every library that they need, and
started by way of their own loader. An image's own programs come first wherever it has them.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from intramuros.execution.sandbox import trees
from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.rootfs import PYTHON_TARGET, Python

BASH: Final = Path("/bin/bash")
_LAYOUT_VERSION: Final = 1
_TRIAL_S: Final = 60
_LEFT_OUT: Final = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3")
_LIBRARY: Final = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_ABOUT: Final = (
    "import json, os, sys, select; print(json.dumps([os.path.realpath(sys.executable),"
    " os.path.dirname(os.path.realpath(os.__file__)), '%d.%d' % sys.version_info[:2],"
    " getattr(select, '__file__', '')]))"
)
_FIX: Final = "install Python 3.9 or newer with its standard library, and bash, on the host"


@dataclass(frozen=True)
class Carried:
    """Where they are on the host, and how they are started inside."""

    directory: Path
    python: Python
    bash: str
    """A script that starts the shell, for ``/bin/bash`` of images without."""


def carry(directory: Path, python: Python) -> Carried:
    """Return the copies, made in ``directory`` unless they are there. Takes its time at first.

    Args:
        python: the interpreter that sandboxes over the host's /usr use.

    Raises:
        SandboxUnavailable: the host's interpreter or shell cannot be carried.
    """
    host = python.inside
    if python.host_prefix is not None:
        host = str(python.host_prefix / "bin" / Path(python.inside).name)
    try:
        binary, library, version, module = json.loads(_run([host, "-I", "-S", "-c", _ABOUT]))
        facts = [str(Path(path).stat().st_mtime_ns) for path in (binary, library, BASH)]
        described = json.dumps([_LAYOUT_VERSION, binary, library, version, *facts])
        target = directory / f"carried-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
        if not target.is_dir():
            modules = Path(module).parent if module else None
            _make(target, Path(binary), Path(library), version, modules)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"the host's {host} cannot be carried ({error})", _FIX) from error
    return Carried(target, _started_by_loader(target), _script("bash"))


def has_program(rootfs: Path, name: str) -> bool:
    """Return whether an image has a program where shells are; links are not followed outside."""
    folders = [rootfs / "usr/bin"]
    if not (rootfs / "bin").is_symlink():
        folders.append(rootfs / "bin")
    return any(os.path.lexists(folder / name) for folder in folders)


def _started_by_loader(target: Path) -> Python:
    loader = (f"{PYTHON_TARGET}/lib/loader", "--library-path", f"{PYTHON_TARGET}/lib")
    return Python(f"{PYTHON_TARGET}/libexec/python3", target, loader)


def _script(name: str) -> str:
    start = f"{PYTHON_TARGET}/lib/loader --library-path {PYTHON_TARGET}/lib"
    return f'#!/bin/sh\nexec {start} --argv0 "$0" {PYTHON_TARGET}/libexec/{name} "$@"\n'


def _make(target: Path, binary: Path, library: Path, version: str, modules: Path | None) -> None:
    draft = Path(tempfile.mkdtemp(prefix="new-", dir=target.parent))
    try:
        for part in ("bin", "lib", "libexec"):
            (draft / part).mkdir()
        for name, source in (("python3", binary), ("bash", BASH)):
            shutil.copyfile(source, draft / "libexec" / name)
        (draft / "bin/python3").write_text(_script("python3").replace(' --argv0 "$0"', ""))
        inside = draft / f"lib/python{version}"
        skipped = shutil.ignore_patterns(*_LEFT_OUT, "dist-packages", "site-packages", "config-*")
        shutil.copytree(library, inside, ignore=skipped, copy_function=shutil.copyfile)
        objects = [binary, BASH, *inside.glob("lib-dynload/*.so")]
        if modules is not None and not (inside / "lib-dynload").exists():
            shutil.copytree(modules, inside / "lib-dynload", copy_function=shutil.copyfile)
            objects += inside.glob("lib-dynload/*.so")
        _copy_libraries(objects, draft / "lib")
        for path in [draft, *draft.rglob("*")]:
            path.chmod(0o755)
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # else another worker was first
            raise
    finally:
        trees.remove(os.fspath(draft))


def _copy_libraries(objects: Iterable[Path], folder: Path) -> None:
    """Copy what programs and modules are linked with, the loader as ``loader``."""
    listed = _run(["/usr/bin/ldd", *map(str, objects)], check=False)
    for name, path in _LIBRARY.findall(listed):
        wanted = Path(name or path).name
        if not name and wanted.startswith("ld"):
            shutil.copyfile(path, folder / "loader")
        if not (folder / wanted).exists():
            shutil.copyfile(path, folder / wanted)
    if not (folder / "loader").exists():
        raise FileNotFoundError("its loader was not found")


def _run(argv: list[str], *, check: bool = True) -> str:
    done = subprocess.run(  # noqa: S603 - the host's own programs
        argv,
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TRIAL_S,
        check=check,
    )
    return done.stdout

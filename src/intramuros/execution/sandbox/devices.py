"""GPUs of the host, as device files that a sandbox may be shown."""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from intramuros.execution.sandbox.base import SandboxUnavailable

ALL: Final = "all"
_GPU: Final = re.compile(
    r"nvidia(\d+|ctl|-uvm|-uvm-tools|-modeset)|nvidia-caps/\S+|dri/renderD\d+|kfd|dxg"
)
_CONTROL: Final = re.compile(r"nvidia(ctl|-uvm|-uvm-tools|-modeset)")
"""Belong to no single GPU, and each needs them."""


def find_gpus(wanted: Sequence[str], dev: Path = Path("/dev")) -> tuple[Path, ...]:
    """Return the device files that ``wanted`` means, with those that they cannot do without.

    Args:
        wanted: ``all``, or device files of GPUs below ``/dev``.
        dev: where they are.

    Raises:
        SandboxUnavailable: the host has none, one of them is none, or the agent could not use it.
    """
    there = [path for path in sorted(dev.rglob("*")) if _is_gpu(path, dev)]
    if list(wanted) == [ALL]:
        if not there:
            raise SandboxUnavailable(
                "sandboxes shall have GPUs and this host shows none in /dev",
                "install the driver, or leave gpus out",
            )
        return _usable(there)
    chosen = []
    for text in wanted:
        path = Path(text)
        if path not in there:
            raise SandboxUnavailable(
                f"{text!r} is no GPU of this host", f"name of {_named(there)}, or {ALL!r} alone"
            )
        chosen.append(path)
    shared = [path for path in there if _CONTROL.fullmatch(path.name)]
    nvidia = any(path.name.startswith("nvidia") for path in chosen)
    return _usable(sorted({*chosen, *(shared if nvidia else [])}))


def _is_gpu(path: Path, dev: Path) -> bool:
    if not _GPU.fullmatch(str(path.relative_to(dev))):
        return False
    try:
        return stat.S_ISCHR(path.lstat().st_mode)
    except OSError:
        return False


def _usable(paths: Sequence[Path]) -> tuple[Path, ...]:
    for path in paths:
        mode = path.stat().st_mode
        # As root each sandbox has an id of its own; as anybody else, the worker's.
        open_to_us = os.geteuid() != 0 and os.access(path, os.R_OK | os.W_OK)
        if mode & 0o006 != 0o006 and not open_to_us:
            raise SandboxUnavailable(
                f"{path} is closed to the users that sandboxes run as",
                f"let others use it (chmod o+rw {path}, and a udev rule for the next start)",
            )
    return tuple(paths)


def _named(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "none"

"""What an operator shows sandboxes of his host: mounts, and variables of their environment."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from intramuros.execution.sandbox.base import Mount
from intramuros.kernel.errors import OperatorError

_HOST_S_OWN: Final = tuple(
    map(Path, ("/", "/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/run"))
)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS: Final = ("ANTHROPIC_", "INTRAMUROS_", "LD_")
_TAKEN: Final = frozenset({"HOME", "LOGNAME", "PATH", "PWD", "SHELL", "USER"})
_TARGET: Final = re.compile(r"/[^\0:]+")


def parse_mount(text: str, hidden: Iterable[Path | None]) -> Mount:
    """Parse ``source:target[:ro|:rw]``.

    Args:
        hidden: files that no mount may show, where there are such.

    Raises:
        OperatorError: it has another form, or would show what no sandbox may see.
    """
    parts = text.split(":")
    mode = parts.pop() if len(parts) == 3 else "ro"
    if len(parts) != 2 or mode not in ("ro", "rw") or not _TARGET.fullmatch(parts[1]):
        raise OperatorError(f"mount {text!r} is malformed", "write SOURCE:TARGET or …:rw")
    source, target = Path(parts[0]).expanduser(), parts[1]
    if ".." in Path(target).parts:
        raise OperatorError(f"mount target {target!r} contains '..'", "write a plain path")
    if not source.is_absolute() or not source.exists():
        raise OperatorError(
            f"mount source {parts[0]!r} does not exist", "name an existing absolute path"
        )
    check_hidden(source, hidden)
    return Mount(source, target, read_only=mode == "ro")


def check_hidden(source: Path, hidden: Iterable[Path | None]) -> None:
    """Refuse to show what is the worker's own.

    Raises:
        OperatorError: the source holds one of the files.
    """
    place = source.resolve()
    for file in hidden:
        if file is not None and file.resolve().is_relative_to(place):
            raise OperatorError(
                f"mount source {source} would show {file} to sandboxes",
                "keep the worker's keys and settings outside of every mounted directory",
            )


def check_source(source: Path, state_dir: Path) -> None:
    """Refuse to show what belongs to the host or to other sessions.

    Raises:
        OperatorError: it does.
    """
    place, ours = source.resolve(), state_dir.resolve()
    if ours.is_relative_to(place) or place.is_relative_to(ours):
        raise OperatorError(
            f"mount source {source} would show the worker's state to sandboxes",
            "keep what is mounted outside of the state directory",
        )
    for part in _HOST_S_OWN:
        if place == part or (part != Path("/") and place.is_relative_to(part)):
            raise OperatorError(
                f"mount source {source} belongs to the host itself", "mount a directory of data"
            )


def parse_variable(text: str) -> tuple[str, str]:
    """Parse ``NAME=value``.

    Raises:
        OperatorError: it has another form, or the name belongs to the worker.
    """
    name, sign, value = text.partition("=")
    if not sign or not _VARIABLE.fullmatch(name) or "\0" in value:
        raise OperatorError(f"variable {name!r} is malformed", "write NAME=value")
    if name.startswith(_OURS) or name in _TAKEN:
        raise OperatorError(f"variable {name!r} is not for sandboxes", "choose another name")
    return name, value

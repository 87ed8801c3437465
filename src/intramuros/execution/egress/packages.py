"""An environment's packages: what each manager is asked to do, and where programs find it. Pure.

Everything is installed by the sandbox's own user below one directory of the workspace, so that it
lasts as long as the session does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from intramuros.execution.sandbox.base import WORKSPACE

ORDER: Final = ("apt", "cargo", "gem", "go", "npm", "pip")
ROOT: Final = f"{WORKSPACE}/.intramuros/packages"
MAX_PACKAGES: Final = 1000
_MAX_CHARS: Final = 255

Packages = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Step:
    """What one manager is asked to do: its commands, one after the other."""

    manager: str
    count: int
    """How many packages."""
    commands: tuple[tuple[str, ...], ...]


def read_packages(raw: object) -> dict[str, tuple[str, ...]]:
    """Read an environment's ``packages``, which is foreign: managers with something to install.

    What could be taken for an option of its manager, or is no one word, is left out.
    """
    if not isinstance(raw, Mapping):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for manager in ORDER:
        listed: Any = raw.get(manager)
        names = listed[:MAX_PACKAGES] if isinstance(listed, list) else []
        kept = tuple(name for name in names if _is_name(name))
        if kept:
            found[manager] = kept
    return found


def plan(packages: Packages) -> tuple[Step, ...]:
    """Return what is to be done, in the order of the contract (R386)."""
    return tuple(
        Step(manager, len(packages[manager]), _COMMANDS[manager](tuple(packages[manager])))
        for manager in ORDER
        if packages.get(manager)
    )


def variables(packages: Packages) -> dict[str, str]:
    """Return the variables by which programs find what is installed."""
    places = {
        "gem": {"GEM_PATH": f"{ROOT}/gem"},
        "npm": {"NODE_PATH": f"{ROOT}/npm/lib/node_modules"},
        "pip": {"PYTHONPATH": f"{ROOT}/pip"},
    }
    return {k: v for manager in packages for k, v in places.get(manager, {}).items()}


def search_path(packages: Packages) -> tuple[str, ...]:
    """Return the directories of the programs that are installed."""
    return tuple(f"{ROOT}/{manager}/bin" for manager in ORDER[1:] if packages.get(manager))


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= _MAX_CHARS
        and not name.startswith("-")
        and name.isprintable()
        and " " not in name
    )


def _go(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    # One at a time: several must be of one module. A version is not optional outside of one.
    full = (name if "@" in name else f"{name}@latest" for name in names)
    return tuple(("go", "install", name) for name in full)


_COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], tuple[tuple[str, ...], ...]]]] = {
    "apt": lambda names: (
        ("apt-get", "update", "-q"),
        ("apt-get", "install", "-qy", "--no-install-recommends", "--", *names),
    ),
    "cargo": lambda names: (("cargo", "install", "--root", f"{ROOT}/cargo", *names),),
    "gem": lambda names: (
        (
            *("gem", "install", "--no-document", "--install-dir", f"{ROOT}/gem"),
            *("--bindir", f"{ROOT}/gem/bin", *names),
        ),
    ),
    "go": _go,
    "npm": lambda names: (
        ("npm", "install", "--global", "--prefix", f"{ROOT}/npm", "--no-audit", "--", *names),
    ),
    "pip": lambda names: (
        ("python3", "-m", "pip", "install", "--quiet", "--target", f"{ROOT}/pip", "--", *names),
    ),
}

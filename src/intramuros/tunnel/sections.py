"""Sections of a YAML file: every key is taken once, and what remains is refused by name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from intramuros.kernel.errors import OperatorError

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?\Z")


class Section:
    """A mapping of the file; every key is taken once, what remains is unknown."""

    def __init__(self, name: str, data: object, directory: Path) -> None:
        if not isinstance(data, Mapping):
            what = f"key {name!r}" if name else "the configuration"
            raise OperatorError(f"{what} must be a mapping", "write `key: value` lines")
        self._prefix = f"{name}." if name else ""
        self._data = dict(data)
        self._directory = directory

    def key(self, name: str) -> str:
        """Return the key's full name, for messages."""
        return f"{self._prefix}{name}"

    def take(self, name: str) -> object:
        """Return a value, or None, and count the key as known."""
        return self._data.pop(name, None)

    def names(self) -> tuple[str, ...]:
        """Return the keys that nobody took yet."""
        return tuple(map(str, self._data))

    def section(self, name: str, *, required: bool = False) -> "Section":
        """Return a section below; an absent one is empty, unless it is required.

        Raises:
            OperatorError: it is missing or no mapping.
        """
        value = self.take(name)
        if value is None and required:
            raise OperatorError(
                f"key {self.key(name)!r} is missing", "add it with cert_file and key_file below"
            )
        return Section(self.key(name), {} if value is None else value, self._directory)

    def text(self, name: str) -> str | None:
        """Return a text, or None; raises OperatorError for anything else."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise OperatorError(f"key {self.key(name)!r} must be text", "put it in quotes")
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return true or false; raises OperatorError for anything else."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise OperatorError(f"key {self.key(name)!r} must be a boolean", "write true or false")
        return value

    def port(self, name: str) -> int | None:
        """Return a TCP port, or None; raises OperatorError for anything else."""
        value = self.take(name)
        if value is not None and (type(value) is not int or not 0 <= value < 65536):
            raise OperatorError(f"key {self.key(name)!r} is {value!r}", "write a TCP port")
        return value

    def path(self, name: str) -> Path | None:
        """Return a path, or None; relative ones count from the file's directory."""
        value = self.text(name)
        return self._directory / value if value else None

    def needed_path(self, name: str) -> Path:
        """Return a path; raises OperatorError when there is none."""
        value = self.path(name)
        if value is None:
            raise OperatorError(f"key {self.key(name)!r} is missing", "add the path of the file")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, empty when absent; raises OperatorError for anything else."""
        value = self.take(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise OperatorError(
                f"key {self.key(name)!r} must be a list of texts", 'write it as ["one", "two"]'
            )
        return tuple(value)

    def paths(self, name: str) -> tuple[Path, ...]:
        """Return a list of paths, each as :meth:`path` reads one."""
        return tuple(self._directory / item for item in self.texts(name))

    def mapping(self, name: str) -> dict[str, str]:
        """Return names with a text each, empty when absent; raises OperatorError otherwise."""
        value = self.take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(
            isinstance(part, str) for pair in value.items() for part in pair
        ):
            raise OperatorError(
                f"key {self.key(name)!r} must hold names with a text each",
                "put values such as 1 or true in quotes",
            )
        return dict(value)

    def count(self, name: str, default: int, most: int) -> int:
        """Return a whole number from 1 to ``most``; raises OperatorError for anything else."""
        value = self.take(name)
        if value is None:
            return default
        if type(value) is not int or not 1 <= value <= most:
            raise OperatorError(
                f"key {self.key(name)!r} is {value!r}", f"write a whole number from 1 to {most}"
            )
        return value

    def count_if_any(self, name: str, most: int) -> int | None:
        """Return a whole number as :meth:`count` does, or None when absent."""
        return None if self._data.get(name) is None else self.count(name, 1, most)

    def has(self, name: str) -> bool:
        """Whether a key is there that nobody took yet."""
        return name in self._data

    def duration_s(self, name: str, default_s: float) -> float:
        """Return a time in seconds, written as ``30s`` or ``1m30s``; raises OperatorError."""
        text = self.text(name)
        if text is None:
            return default_s
        match = _DURATION.match(text)
        if match is None or not text:
            raise OperatorError(f"key {self.key(name)!r} is {text!r}", "write it as 30s or 1m30s")
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds

    def refuse_unknown(self) -> None:
        """Raise OperatorError for a key that nobody took."""
        if self._data:
            name = self.key(str(next(iter(self._data))))
            raise OperatorError(f"unknown key {name!r}", "remove it, or check its spelling")

"""Definitions of tools that somebody has read and approved; what differs from them is held back.

A model acts by what a server says of its tools, and a server may say another thing tomorrow. The
file (``tools_file``) names, for each route that is in it, its tools and the digests of their
approved definitions::

    {"docs": {"search": ["5f0c…"], "fetch": ["09ab…", "77d1…"]}}

At such a route a tool that is not in the file, or is defined otherwise, is left out of lists, and
calls of it are refused; once one was defined otherwise, until the file is written again. Routes
that are not in the file are as they were. A file that is gone or unreadable approves nothing.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Final

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.guard import Stamp, stamp_of

log = logger("definitions")

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
# A longer definition is on record by its digest alone.
MAX_TOLD_CHARS: Final = 16 * 1024
# Of one route, until the file is written again: a server may make up a new name for each list.
MAX_TOLD: Final = 1000
_MAX_NAME_CHARS: Final = 256
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")

CHANGED: Final = "tool_changed"
NOT_APPROVED: Final = "tool_not_approved"
NO_FILE: Final = "no_definitions"

Approved = Mapping[str, Mapping[str, frozenset[str]]]
Tell = Callable[[Mapping[str, object]], None]


def canonical(tool: Mapping[str, object]) -> str:
    """Return a definition as it is digested: JSON, members sorted, without ``_meta``.

    What a server keeps in ``_meta`` is for programs and may be different each time.
    """
    shown = {key: value for key, value in tool.items() if key != "_meta"}
    return json.dumps(shown, sort_keys=True, separators=(",", ":"))


def digest_of(tool: Mapping[str, object]) -> str:
    """Return what a definition is approved by: SHA-256 of its canonical text, in hexadecimal."""
    return hashlib.sha256(canonical(tool).encode()).hexdigest()


def parse_approved(text: bytes) -> Approved:
    """Read a file of approved definitions.

    Raises:
        ValueError: it is none; says what is wrong.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object of routes")
    return {route: _tools(route, tools) for route, tools in found.items()}


def load_approved(file: Path) -> Approved:
    """Read a file of approved definitions.

    Raises:
        OperatorError: it cannot be read, or is none.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ValueError("it is larger than 4 MiB")
        return parse_approved(text)
    except OSError as error:
        raise OperatorError(
            f"cannot read the approved tools {file} ({error.strerror})",
            "check the path and its mode; {} approves and holds back nothing",
        ) from error
    except ValueError as error:
        raise OperatorError(
            f"the approved tools {file} cannot be used: {error}",
            "write it with `intramuros gateway tools approve`",
        ) from error


class Definitions:
    """Knows the approved definitions as the file has them now, and what was seen instead."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            OperatorError: it cannot be read, or is none; a gateway must not start so.
        """
        self._file = file
        # Long lists are looked at on threads.
        self._lock = Lock()
        self._stamp: Stamp | None = stamp_of(file)
        self._approved: Approved | None = load_approved(file)
        self._changed: set[tuple[str, str]] = set()
        self._told: set[tuple[str, str, str]] = set()
        self._count: Counter[str] = Counter()

    def check(self, act: Act) -> str | None:
        """Return why a call is refused, or None if it is not."""
        if act.action is not Action.CALL_TOOL:
            return None
        with self._lock:
            approved = self._current()
            if approved is None:
                return NO_FILE
            tools = approved.get(act.server)
            if tools is None:
                return None
            if act.name is None or act.name not in tools:
                return NOT_APPROVED
            return CHANGED if (act.server, act.name) in self._changed else None

    def screen(self, route: str, tell: Tell) -> "Screen | None":
        """Return what a route's lists go through, or None if its tools need no approval.

        Args:
            route: its key.
            tell: takes what is to be recorded of a tool that is held back.
        """
        with self._lock:
            approved = self._current()
        if approved is not None and route not in approved:
            return None
        return Screen(self, route, tell)

    def sound(
        self, route: str, tools: Sequence[Mapping[str, object]]
    ) -> tuple[list[bool], list[dict[str, object]]]:
        """Say which definitions are approved, and what is to be recorded of others.

        Args:
            route: its key.
            tools: as the server gave them; each has a name.
        """
        with self._lock:
            approved = self._current()
            known = {} if approved is None else approved.get(route)
            if known is None:
                return [True] * len(tools), []
            found = [self._look(route, known, tool) for tool in tools]
        return [each is None for each in found], [each for each in found if each]

    def _look(
        self, route: str, known: Mapping[str, frozenset[str]], tool: Mapping[str, object]
    ) -> dict[str, object] | None:
        """Return None for an approved definition, else what to record: nothing the second time."""
        name, text = str(tool["name"]), canonical(tool)
        digest = hashlib.sha256(text.encode()).hexdigest()
        reason = NOT_APPROVED if self._approved is not None else NO_FILE
        if name in known:
            if digest in known[name]:
                return None
            self._changed.add((route, name))
            reason = CHANGED
        key = route, name, digest
        if key in self._told or self._count[route] >= MAX_TOLD:
            return {}
        self._told.add(key)
        self._count[route] += 1
        shown = name.encode("utf-8", "replace").decode()[:_MAX_NAME_CHARS]
        told: dict[str, object] = {"route": route, "name": shown, "reason": reason}
        told |= {"sha256": digest, "approved": sorted(known.get(name, ()))}
        if len(text) <= MAX_TOLD_CHARS:
            told["definition"] = text
        return told

    def _current(self) -> Approved | None:
        """Return what is approved as the file has it now; asking costs one look at the file."""
        stamp = stamp_of(self._file)
        if stamp != self._stamp:
            self._stamp = stamp
            self._changed.clear()
            self._told.clear()
            self._count.clear()
            try:
                self._approved = load_approved(self._file)
                log.info("definitions_loaded", routes=sorted(self._approved))
            except OperatorError as error:
                self._approved = None
                log.error("definitions_unreadable", reason=str(error))
        return self._approved


class Screen:
    """What the lists of one route's answers go through."""

    def __init__(self, definitions: Definitions, route: str, tell: Tell) -> None:
        self._definitions = definitions
        self._route = route
        self._tell = tell
        self._waiting: list[dict[str, object]] = []

    def sound(self, tools: Sequence[Mapping[str, object]]) -> list[bool]:
        """Say which tools of a list may be shown; may be asked on any thread."""
        shown, told = self._definitions.sound(self._route, tools)
        self._waiting += told
        return shown

    def report(self) -> None:
        """Tell what was held back since the last report; on the event loop's thread."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            self._tell(each)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names something twice")
    return found


def _tools(route: str, tools: object) -> dict[str, frozenset[str]]:
    if not isinstance(tools, dict):
        raise ValueError(f"route {route!r} is no object of tools")
    return {name: _digests(route, name, digests) for name, digests in tools.items()}


def _digests(route: str, name: str, digests: object) -> frozenset[str]:
    if not isinstance(digests, list) or not all(
        isinstance(each, str) and _DIGEST.match(each) for each in digests
    ):
        raise ValueError(f"tool {name!r} of {route!r} is no list of SHA-256 digests")
    return frozenset(digests)

"""Routes to programs: MCP servers that speak over their pipes, which the gateway runs itself.

In the configuration such a route is a mapping instead of an address::

    routes:
      notes:
        command: [node, /srv/notes/index.js]
        read: [/srv/notes]            # what it may read, besides the system's own programs
        write: [/var/lib/notes]       # what it may also change
        network: false                # its own network: none
        variables: {LOG_LEVEL: info}
        secret_files: {DB_PASSWORD: notes-password}

Pure: nothing is looked up and nothing is run.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.sections import Section

SESSIONS: Final = 32
MAX_SESSIONS: Final = 1000
IDLE_S: Final = 600.0
# What each sandbox shows whatever its route says.
SYSTEM: Final = Path("/usr")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


@dataclass(frozen=True)
class Program:
    """A private server that is a program of the gateway's own."""

    command: tuple[str, ...]
    """The program, by name or absolute path, and its arguments."""
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    network: bool = False
    confined: bool = True
    """Whether it runs in a sandbox; without one it may do what the gateway may."""
    variables: Mapping[str, str] = field(default_factory=dict)
    secret_files: Mapping[str, Path] = field(default_factory=dict)
    """Variables whose values are read at each start."""
    sessions: int = field(default=SESSIONS, compare=False)
    """How many run at once: each MCP session has a program of its own. Another number is no other
    program."""
    sessions_per_person: int | None = field(default=None, compare=False)
    """How many of them one person may have; None for three quarters."""
    idle_s: float = IDLE_S
    """A session that nobody asked anything for so long is ended."""

    scheme: ClassVar[str] = "http"
    host: ClassVar[str] = "localhost"
    port: ClassVar[int] = 80
    """As a request to it would be addressed; nothing dials it."""

    @property
    def per_person(self) -> int:
        """How many sessions one person may have: never all of them, unless that was written."""
        if self.sessions_per_person is not None:
            return self.sessions_per_person
        return -(-self.sessions * 3 // 4)

    @property
    def authority(self) -> str:
        """What the ``Host`` header says."""
        return self.host

    def __str__(self) -> str:
        return f"program:{PurePosixPath(self.command[0]).name}"


def read_program(section: Section) -> Program:
    """Read a route's mapping.

    Raises:
        OperatorError: names the key that is wrong and what to write instead.
    """
    command = section.texts("command")
    if not command or not command[0] or any("\0" in word for word in command):
        raise OperatorError(
            f"key {section.key('command')!r} must name a program",
            "write it as a list: [program, argument, ...]",
        )
    if "/" in command[0] and not command[0].startswith("/"):
        raise OperatorError(
            f"key {section.key('command')!r} begins with {command[0]!r}",
            "write the program's absolute path, or its name alone",
        )
    secrets = section.section("secret_files")
    program = Program(
        command=command,
        read=section.paths("read"),
        write=section.paths("write"),
        network=section.flag("network"),
        confined=section.flag("sandbox", default=True),
        variables=section.mapping("variables"),
        secret_files={name: secrets.needed_path(name) for name in secrets.names()},
        sessions=section.count("max_sessions", SESSIONS, MAX_SESSIONS),
        sessions_per_person=section.count_if_any("max_sessions_per_person", MAX_SESSIONS),
        idle_s=section.duration_s("idle_timeout", IDLE_S),
    )
    section.refuse_unknown()
    _check(section, program)
    return program


def _check(section: Section, program: Program) -> None:
    for name in (*program.variables, *program.secret_files):
        if _NAME.match(name) is None:
            raise OperatorError(
                f"{section.key('variables')} or secret_files has the name {name!r}",
                "write names of letters, digits and _",
            )
    twice = set(program.variables) & set(program.secret_files)
    if twice:
        raise OperatorError(
            f"{section.key('variables')} and secret_files both set {min(twice)!r}", "keep one"
        )
    if not program.confined and (program.read or program.write or program.network):
        raise OperatorError(
            f"{section.key('sandbox')} is false, so read, write and network mean nothing",
            "remove them, or keep the sandbox",
        )
    if program.idle_s <= 0:
        raise OperatorError(f"key {section.key('idle_timeout')!r} is 0", "write it as 10m")

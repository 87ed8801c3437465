"""Which MCP servers a worker wraps: one file of the operator's, read once and strictly.

Only tools that are listed can be called. Credentials are named by file, and stay on this side: a
server that runs in sandboxes can have none.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from intramuros.execution.loopback import is_local
from intramuros.kernel.errors import OperatorError

MAX_SERVERS: Final = 32
MAX_TOOLS: Final = 128
_MAX_FILE_BYTES: Final = 256 * 1024
_MAX_SECRET_BYTES: Final = 8192
_MAX_RESULT_BYTES: Final = 16 * 1024 * 1024
_TIMEOUT_S: Final = 60.0
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_TOOL: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_PLACES: Final = ("worker", "sandbox")
_MEMBERS: Final = frozenset({
    "url", "command", "place", "tools", "header_files", "variables", "variable_files",
    "timeout_s", "max_bytes", "allow_plaintext",
})  # fmt: skip


@dataclass(frozen=True)
class Wrapped:
    """One MCP server, and which of its tools agents may call under which names."""

    name: str
    tools: Mapping[str, str]
    """The server's own names of tools, by the names that agents declare."""
    url: str | None = None
    """Of its streamable HTTP endpoint; else it is a program."""
    command: tuple[str, ...] = ()
    inside: bool = False
    """Whether the program runs in the session's sandbox, anew for each call."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What of those came from files."""
    files: tuple[Path, ...] = ()
    """Where those lie."""
    timeout_s: float = _TIMEOUT_S
    max_bytes: int = _MAX_RESULT_BYTES
    """Of one message of the server's."""


def read_servers(file: Path | None, taken: Iterable[str]) -> tuple[Wrapped, ...]:
    """Return the servers of a file.

    Args:
        taken: names of tools that are somebody else's.

    Raises:
        OperatorError: it cannot be read, or something in it cannot be.
    """
    if file is None:
        return ()
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise ValueError(f"it is longer than {_MAX_FILE_BYTES} bytes")
        said = yaml.safe_load(raw)
        top = _mapping("the file", said, {"servers"})
        servers = _mapping("servers", top.get("servers"))
        if not 0 < len(servers) <= MAX_SERVERS:
            raise ValueError(f"servers: name 1 to {MAX_SERVERS}")
        found = tuple(_server(name, each, file.parent) for name, each in servers.items())
    except OSError as error:
        # Of what the file names, too: credentials lie in files of their own.
        at = error.filename or file
        raise OperatorError(f"cannot read {at} ({error.strerror})", "check path, mode") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise OperatorError(f"MCP servers of {file}: {why}", "see docs/how-to/tools.md") from error
    seen = set(taken)
    for server in found:
        for tool in server.tools:
            if tool in seen:
                raise OperatorError(
                    f"MCP servers of {file}: two tools are named {tool!r}", "rename one of them"
                )
            seen.add(tool)
    return found


def _server(name: object, raw: object, folder: Path) -> Wrapped:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("names of servers are letters, digits, _ and -")
    said = _mapping(name, raw, _MEMBERS)
    url, command, place = said.get("url"), said.get("command"), said.get("place", "worker")
    if (url is None) == (command is None):
        raise ValueError(f"{name}: give either url or command")
    if place not in _PLACES or (place == "sandbox" and command is None):
        raise ValueError(f"{name}: place is worker, or for a command sandbox")
    header_files = _texts(f"{name}.header_files", said.get("header_files"), _HEADER)
    variable_files = _texts(f"{name}.variable_files", said.get("variable_files"), _VARIABLE)
    if (header_files and url is None) or (said.get("variables") and command is None):
        raise ValueError(f"{name}: headers are for a url, variables for a command")
    if variable_files and (command is None or place == "sandbox"):
        raise ValueError(f"{name}: variable_files are for a command beside the worker alone")
    headers = {key: _secret(folder / path) for key, path in header_files.items()}
    secrets = {key: _secret(folder / path) for key, path in variable_files.items()}
    if url is not None:
        _check_url(name, url, plain=bool(headers) and said.get("allow_plaintext") is not True)
    return Wrapped(
        name,
        _tools(name, said.get("tools")),
        url,
        _command(name, command),
        place == "sandbox",
        headers,
        _texts(f"{name}.variables", said.get("variables"), _VARIABLE) | secrets,
        tuple(_known(value) for value in (*headers.values(), *secrets.values())),
        tuple(folder / path for path in (*header_files.values(), *variable_files.values())),
        _number(name, "timeout_s", said.get("timeout_s", _TIMEOUT_S), 3600),
        int(_number(name, "max_bytes", said.get("max_bytes", _MAX_RESULT_BYTES), 31 << 20)),
    )


def _tools(name: str, raw: object) -> dict[str, str]:
    """Return the tools by the names that agents declare, from a list or a mapping of names."""
    if isinstance(raw, list):
        raw = {tool: tool for tool in raw if isinstance(tool, str)} if _words(raw) else None
    if not isinstance(raw, dict) or not 0 < len(raw) <= MAX_TOOLS:
        raise ValueError(f"{name}.tools: name 1 to {MAX_TOOLS}")
    for declared, own in raw.items():
        if not isinstance(declared, str) or not _TOOL.fullmatch(declared):
            raise ValueError(f"{name}.tools: agents declare letters, digits, _ and -")
        if not isinstance(own, str) or not 0 < len(own) <= 128:
            raise ValueError(f"{name}.tools: the server's name of {declared} is missing")
    return raw


def _command(name: str, raw: object) -> tuple[str, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list) or not raw or not _words(raw):
        raise ValueError(f"{name}.command: write a list of words")
    if any("\0" in word for word in raw):
        raise ValueError(f"{name}.command: a NUL byte is not allowed")
    return tuple(raw)


def _check_url(name: str, url: object, *, plain: bool) -> None:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name}.url: write http(s)://host[:port]/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{name}.url: it holds credentials; use header_files")
    if plain and parts.scheme == "http" and not is_local(parts.hostname):
        raise ValueError(f"{name}.url: credentials would go unencrypted; use https")


def _mapping(what: str, raw: object, members: Iterable[str] | None = None) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{what} must be a mapping")
    unknown = set() if members is None else set(raw) - set(members)
    if unknown:
        raise ValueError(f"{what}: unknown {sorted(map(str, unknown))[0]!r}")
    return raw


def _texts(what: str, raw: object, names: re.Pattern[str]) -> dict[str, str]:
    found = {} if raw is None else _mapping(what, raw)
    for name, value in found.items():
        if not isinstance(name, str) or not names.fullmatch(name) or not isinstance(value, str):
            raise ValueError(f"{what}: write NAME: text")
        if "\0" in value:
            raise ValueError(f"{what}: a NUL byte is not allowed")
    return found


def _words(raw: list[Any]) -> bool:
    return all(isinstance(word, str) and word for word in raw)


def _number(name: str, key: str, raw: object, most: float) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw <= most:
        raise ValueError(f"{name}.{key}: use a number above 0, at most {most:g}")
    return raw


def _secret(path: Path) -> str:
    """Return what a file of one line holds."""
    with path.open("rb") as stream:
        raw = stream.read(_MAX_SECRET_BYTES + 1)
        mode = path.stat().st_mode
    if mode & 0o077:
        raise ValueError(f"others may read {path}: run chmod 600")
    try:
        text = raw.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or len(raw) > _MAX_SECRET_BYTES:
        raise ValueError(f"{path} holds no credential: write it alone, on one line")
    return text


def _known(value: str) -> str:
    """Return what of a header's value is secret: not the scheme before it."""
    return value.rpartition(" ")[2]

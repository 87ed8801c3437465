"""Ask a policy about a call that a gateway has recorded, or that somebody made up. Pure.

A record holds everything that a policy is told but the call's arguments, of which it has only a
digest; whoever asks gives them again.
"""

from collections.abc import Mapping
from typing import Any, Final

from intramuros.protocol.who import BadWho, read_people
from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.policy import Asked

KINDS: Final = frozenset({"mcp.request", "mcp.denied"})


class BadQuestion(ValueError):
    """The members are not those of a recorded call."""


def question_of(fields: Mapping[str, Any], arguments: Mapping[str, object] | None = None) -> Asked:
    """Return the question that a record's fields stand for.

    Args:
        fields: as in records of the kinds ``mcp.request`` and ``mcp.denied``; needed are ``who``,
            ``action`` and ``route``.
        arguments: the call's.

    Raises:
        BadQuestion: something is missing or malformed.
    """
    try:
        who = read_people(fields.get("who"))
        action = Action(_text(fields, "action"))
    except BadWho as error:
        raise BadQuestion(str(error).replace("claim ", "")) from error
    except ValueError as error:
        raise BadQuestion(f"'action' is none of {', '.join(Action)}") from error
    version = fields.get("agent_version", 0)
    if not isinstance(version, int):
        raise BadQuestion("'agent_version' is no number")
    act = Act(
        action,
        _text(fields, "route"),
        _text(fields, "name") or None,
        _text(fields, "method"),
        _text(fields, "http_method") or "POST",
        _text(fields, "path") or "/",
        arguments or {},
    )
    if not act.server:
        raise BadQuestion("'route' is missing")
    host, session, workspace, agent = (
        _text(fields, name) for name in ("host", "session", "workspace", "agent")
    )
    return Asked(who, act, host, session, workspace, agent, version)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise BadQuestion(f"{name!r} is no text")
    return value

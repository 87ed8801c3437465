"""What a request to a private server would do, in the words that policies are written in. Pure.

==================  =================================================================
action              requests
==================  =================================================================
``connect``         opening and keeping a session: ``initialize``, ``server/discover``,
                    ``ping``, ``logging/setLevel``, notifications, lists (which are
                    filtered by what may be used), event streams, ending a session
``call_tool``       ``tools/call``
``read_resource``   ``resources/read``, ``resources/subscribe``
``get_prompt``      ``prompts/get``
``complete``        ``completion/complete``
``respond``         answers to what the server asked (sampling, elicitation, roots)
``http``            whatever is not MCP, such as an authorization server's endpoints
``other``           every other method
==================  =================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from intramuros.tunnel.calls import Summary
from intramuros.tunnel.http_rules import Headers


class Action(StrEnum):
    """What policies allow or forbid."""

    CONNECT = "connect"
    CALL_TOOL = "call_tool"
    READ_RESOURCE = "read_resource"
    GET_PROMPT = "get_prompt"
    COMPLETE = "complete"
    RESPOND = "respond"
    HTTP = "http"
    OTHER = "other"


class Target(StrEnum):
    """The Cedar type of what is acted upon."""

    SERVER = "Server"
    TOOL = "Tool"
    RESOURCE = "Resource"
    PROMPT = "Prompt"


# What each kind of list holds: the member of the result, and the action that using an item is.
LISTS: Final = {
    "tools": Action.CALL_TOOL,
    "prompts": Action.GET_PROMPT,
    "resources": Action.READ_RESOURCE,
    "resourceTemplates": Action.READ_RESOURCE,
}
TARGETS: Final = {
    Action.CALL_TOOL: Target.TOOL,
    Action.READ_RESOURCE: Target.RESOURCE,
    Action.GET_PROMPT: Target.PROMPT,
}
LIST_METHODS: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list"}
)
_METHODS: Final = {
    "tools/call": Action.CALL_TOOL,
    "resources/read": Action.READ_RESOURCE,
    "resources/subscribe": Action.READ_RESOURCE,
    "resources/unsubscribe": Action.CONNECT,
    "prompts/get": Action.GET_PROMPT,
    "completion/complete": Action.COMPLETE,
    "initialize": Action.CONNECT,
    "server/discover": Action.CONNECT,
    "ping": Action.CONNECT,
    "logging/setLevel": Action.CONNECT,
    "response": Action.RESPOND,
} | dict.fromkeys(LIST_METHODS, Action.CONNECT)
LAST_EVENT: Final = b"last-event-id"
_NOTIFICATION: Final = "notifications/"


@dataclass(frozen=True)
class Act:
    """What a request would do.

    Args:
        server: the route's key, as in the gateway's file.
        name: of the tool or prompt, or the resource's URI; None where there is none.
        method: of JSON-RPC; empty when the request is none.
        path: of the request's target, as sent and without the query.
        arguments: the tool's or prompt's, as parsed from JSON.
    """

    action: Action
    server: str
    name: str | None = None
    method: str = ""
    http_method: str = "POST"
    path: str = "/"
    arguments: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def target(self) -> Target:
        """What is acted upon: the named thing, or else the server."""
        return TARGETS.get(self.action, Target.SERVER) if self.name else Target.SERVER

    @property
    def target_id(self) -> str:
        """The Cedar id of what is acted upon."""
        return f"{self.server}/{self.name}" if self.target is not Target.SERVER else self.server


def act_of(server: str, http_method: str, target: str, headers: Headers, found: Summary) -> Act:
    """Return what a checked request would do.

    Args:
        server: the route's key.
        target: the request's target.
        headers: names in lower case.
        found: what its body holds.
    """
    path = target.partition("?")[0]
    if found.method is None:
        action = Action.CONNECT if _is_stream(http_method, headers) else Action.HTTP
        return Act(action, server, http_method=http_method, path=path)
    if http_method != "POST":
        return Act(Action.OTHER, server, None, found.method, http_method, path)
    action = _METHODS.get(found.method, Action.OTHER)
    if found.method.startswith(_NOTIFICATION):
        action = Action.CONNECT
    return Act(action, server, found.name, found.method, http_method, path, found.arguments)


def _is_stream(http_method: str, headers: Headers) -> bool:
    """Whether a request without a body opens a server's event stream, or ends a session."""
    named = dict(headers)
    if http_method == "GET":
        # A stream that goes on may hold lists, whatever form its reader asks for.
        return b"text/event-stream" in named.get(b"accept", b"") or LAST_EVENT in named
    return http_method == "DELETE" and b"mcp-session-id" in named

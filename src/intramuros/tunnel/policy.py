"""Cedar policies over calls of private servers. Pure.

Default deny, and closed on every error: Cedar leaves a policy out that errs while it is evaluated,
which would open what a failing ``forbid`` guards, so any error refuses the call. A call for which
several people answer is allowed only if each of them may make it.

Principals are ``User`` (in their ``Group`` and ``Workspace``; ``email``, ``groups`` by name),
``ServiceAccount``, ``Key`` and ``Deployment``. Resources are ``Tool``, ``Prompt`` and ``Resource``
(in their ``Server``), and ``Server``. Actions are those of ``acts.py``. The context has
``session``, ``agent.id``, ``agent.version``, ``host``, ``method``, ``http_method``, ``path`` and
``arguments``.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import cedarpy

from intramuros.protocol.who import Kind, Who
from intramuros.tunnel.acts import LISTS, TARGETS, Act, Action, Target
from intramuros.tunnel.cedar_values import Unjudgeable, cedar_record

MAX_POLICY_BYTES: Final = 1024 * 1024
_TYPES: Final = {
    Kind.USER: "User",
    Kind.SERVICE_ACCOUNT: "ServiceAccount",
    Kind.API_KEY: "Key",
    Kind.DEPLOYMENT: "Deployment",
}
_KNOWN_TYPES: Final = frozenset(
    {*_TYPES.values(), *(target.value for target in Target), "Group", "Workspace", "Action"}
)
_KNOWN_ACTIONS: Final = frozenset(action.value for action in Action)
_ARGUMENTS: Final = "arguments"

Json = dict[str, Any]


class BadPolicy(ValueError):
    """The text is no set of policies that could do what it says."""


@dataclass(frozen=True)
class Asked:
    """One question: may these do that?"""

    who: tuple[Who, ...]
    act: Act
    host: str = ""
    session: str = ""
    workspace: str = ""
    agent: str = ""
    agent_version: int = 0

    def fields(self) -> dict[str, object]:
        """Return members for an audit record: all of the question but the call's own arguments."""
        found: dict[str, object] = {
            "action": self.act.action.value,
            "route": self.act.server,
            "path": self.act.path,
            "workspace": self.workspace,
            "agent": self.agent,
            "agent_version": self.agent_version,
            "who": [who.claim() for who in self.who],
        }
        return found


@dataclass(frozen=True)
class Ruling:
    """What a policy says of one question.

    ``reason`` is ``permitted``, ``forbidden``, ``not_permitted``, ``policy_error``,
    ``unjudgeable`` (the arguments), ``nobody`` (no one answers for the call),
    ``nameless`` (it does not say which tool) or ``no_policy`` (there is none that can be read).
    """

    allowed: bool
    reason: str
    policies: tuple[str, ...] = ()
    """Ids of those that decided: an ``@id`` annotation, or ``policy0`` by position."""
    errors: tuple[str, ...] = field(default=())

    def fields(self) -> dict[str, object]:
        """Return members for an audit record."""
        found: dict[str, object] = {
            "decision": "allow" if self.allowed else "deny",
            "reason": self.reason,
            "policies": list(self.policies),
        }
        return found | ({"errors": list(self.errors)} if self.errors else {})


class Policy:
    """A parsed set of policies."""

    def __init__(self, text: bytes) -> None:
        """Read policies in Cedar's language.

        Raises:
            BadPolicy: too large, no Cedar, a template, or a name that no call ever has.
        """
        if len(text) > MAX_POLICY_BYTES:
            raise BadPolicy("the policy is larger than 1 MiB")
        try:
            written = text.decode()
            parsed: Json = json.loads(cedarpy.policies_to_json_str(written))
            self._policies = cedarpy.PolicySet.from_str(written)
            self._look_into(parsed)
        except BadPolicy:
            raise
        except (ValueError, RecursionError) as error:
            raise BadPolicy(f"this is no Cedar policy: {error}") from error
        self.size = len(parsed["staticPolicies"])
        self.digest = hashlib.sha256(text).hexdigest()[:16]

    def _look_into(self, parsed: Json) -> None:
        _check_names(parsed)
        self.servers = {id for type, id in _spoken(parsed) if type == "Server" and id}
        """The servers that it speaks of by name."""
        self.looks_at_arguments = _mentions(parsed, _ARGUMENTS)
        self._for_lists = cedarpy.PolicySet.from_json_str(json.dumps(_without_arguments(parsed)))

    def judge(self, asked: Asked) -> Ruling:
        """Say whether everybody who answers for a call may make it."""
        if not asked.who or any(who.kind not in _TYPES for who in asked.who):
            return Ruling(False, "nobody")
        if asked.act.action in TARGETS and not asked.act.name:
            return Ruling(False, "nameless")
        try:
            questions = [self._question(asked, who, asked.act) for who in asked.who]
        except Unjudgeable as error:
            return Ruling(False, "unjudgeable", errors=(str(error),))
        rulings = [
            _ruling(cedarpy.is_authorized(question, self._policies, entities))
            for question, entities in questions
        ]
        refused = [ruling for ruling in rulings if not ruling.allowed]
        if refused:
            return refused[0]
        deciding = dict.fromkeys(id for ruling in rulings for id in ruling.policies)
        return Ruling(True, "permitted", tuple(deciding))

    def usable(self, asked: Asked, member: str, names: Sequence[str]) -> list[bool]:
        """Say which items of a list could be used with some arguments; the others are hidden.

        Args:
            asked: the request for the list.
            member: of the list's result; a key of ``acts.LISTS``.
            names: of the items.
        """
        if not asked.who or any(who.kind not in _TYPES for who in asked.who):
            return [False] * len(names)
        action = LISTS[member]
        usable = [True] * len(names)
        for who in asked.who:
            for index, name in enumerate(names):
                act = replace(
                    asked.act, action=action, name=name, method=_METHODS[action], arguments={}
                )
                question, entities = self._question(asked, who, act)
                result = cedarpy.is_authorized(question, self._for_lists, entities)
                usable[index] = usable[index] and _ruling(result).allowed
        return usable

    def _question(self, asked: Asked, who: Who, act: Act) -> tuple[Json, list[Json]]:
        principal = {"type": _TYPES[who.kind], "id": who.id}
        resource = {"type": act.target.value, "id": act.target_id}
        context: Json = {
            "host": asked.host,
            "session": asked.session,
            "agent": {"id": asked.agent, "version": asked.agent_version},
            "method": act.method,
            "http_method": act.http_method,
            "path": act.path,
            _ARGUMENTS: cedar_record(act.arguments) if self.looks_at_arguments else {},
        }
        question = {
            "principal": principal,
            "action": {"type": "Action", "id": act.action.value},
            "resource": resource,
            "context": context,
        }
        return question, [_principal(principal, who, asked.workspace), _resource(resource, act)]


_METHODS: Final = {
    Action.CALL_TOOL: "tools/call",
    Action.GET_PROMPT: "prompts/get",
    Action.READ_RESOURCE: "resources/read",
}


def _principal(uid: Json, who: Who, workspace: str) -> Json:
    attributes: Json = {"workspace": workspace}
    if who.kind is Kind.USER:
        attributes |= {"email": who.email, "groups": [group.name for group in who.groups]}
    parents = [{"type": "Group", "id": group.id} for group in who.groups]
    if workspace:
        parents.append({"type": "Workspace", "id": workspace})
    return {"uid": uid, "attrs": attributes, "parents": parents}


def _resource(uid: Json, act: Act) -> Json:
    if act.target is Target.SERVER:
        return {"uid": uid, "attrs": {"name": act.server}, "parents": []}
    server = {"type": Target.SERVER.value, "id": act.server}
    return {"uid": uid, "attrs": {"name": act.name, "server": act.server}, "parents": [server]}


def _ruling(result: cedarpy.AuthzResult) -> Ruling:
    diagnostics = result.diagnostics
    named = diagnostics.id_annotations_by_reason
    deciding = tuple(named.get(id) or id for id in diagnostics.reasons)
    errors = tuple(str(error)[:500] for error in diagnostics.errors[:8])
    if errors or result.decision is cedarpy.Decision.NoDecision:
        return Ruling(False, "policy_error", deciding, errors)
    if result.allowed:
        return Ruling(True, "permitted", deciding)
    return Ruling(False, "forbidden" if deciding else "not_permitted", deciding)


def _check_names(parsed: Json) -> None:
    """Refuse what no call ever has: a ``forbid`` with a misspelled name would guard nothing."""
    if parsed.get("templates"):
        raise BadPolicy("templates are not supported; write out the policies")
    for type, id in _spoken(parsed):
        if type not in _KNOWN_TYPES:
            raise BadPolicy(f"there is no type {type!r}; known are {_listed(_KNOWN_TYPES)}")
        if type == "Action" and id is not None and id not in _KNOWN_ACTIONS:
            raise BadPolicy(f"there is no action {id!r}; known are {_listed(_KNOWN_ACTIONS)}")


def _spoken(parsed: Json) -> Iterator[tuple[str, str | None]]:
    """Give each type and id that policies name; what annotations say means nothing to Cedar."""
    for policy in parsed["staticPolicies"].values():
        yield from _entities({**policy, "annotations": None})


def _entities(node: object) -> Iterator[tuple[str, str | None]]:
    """Give each type and id that policies name."""
    if isinstance(node, Mapping):
        type, id = node.get("type"), node.get("id")
        if isinstance(type, str) and isinstance(id, str):
            yield type, id
        named = node.get("entity_type")
        if isinstance(named, str):
            yield named, None
        for item in node.values():
            yield from _entities(item)
    elif isinstance(node, list):
        for item in node:
            yield from _entities(item)


def _mentions(node: object, word: str) -> bool:
    """Whether policies speak of a member: as an attribute, with ``has``, or in a record."""
    if isinstance(node, Mapping):
        return word in node or any(_mentions(item, word) for item in node.values())
    if isinstance(node, list):
        return any(_mentions(item, word) for item in node)
    return node == word


def _without_arguments(parsed: Json) -> Json:
    """Return policies that allow whatever these could allow with some arguments."""
    kept = {}
    for id, policy in parsed["staticPolicies"].items():
        free = [one for one in policy["conditions"] if not _mentions(one, _ARGUMENTS)]
        if policy["effect"] == "permit" or len(free) == len(policy["conditions"]):
            kept[id] = {**policy, "conditions": free}
    return {**parsed, "staticPolicies": kept}


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))

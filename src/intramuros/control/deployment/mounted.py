"""What a deployment's sessions mount: kept without tokens, which lie sealed beside it (R208)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from intramuros.control.identity.actor import Actor
from intramuros.control.store import repository_tokens
from intramuros.control.store.db import Tx
from intramuros.control.store.repository_tokens import Tokens
from intramuros.protocol.resources.repositories import RepositoryParam
from intramuros.protocol.resources.sessions import ResourceParam

Body = dict[str, Any]

# Names the row of a resource's token; never shown.
_ROW: Final = "_token_id"


def stored(actor: Actor, param: ResourceParam) -> Body:
    """Return a resource as a deployment keeps it."""
    if not isinstance(param, RepositoryParam):
        return param.model_dump(mode="json")
    body = param.model_dump(mode="json", exclude={"authorization_token"})
    return body if param.authorization_token is None else body | {_ROW: actor.ids.new("rtok")}


def keep_tokens(
    tx: Tx,
    tokens: Tokens,
    deployment_id: str,
    bodies: Sequence[Mapping[str, Any]],
    params: Sequence[ResourceParam] | None,
) -> None:
    """Keep the tokens of a deployment's resources, in place of all that it had.

    Args:
        bodies: what :func:`stored` made of ``params``, in order.
    """
    repository_tokens.wipe_deployment(tx, deployment_id)
    for body, param in zip(bodies, params or (), strict=True):
        if isinstance(param, RepositoryParam) and param.authorization_token is not None:
            tokens.put(tx, body[_ROW], param.authorization_token, deployment_id=deployment_id)


def opened(tx: Tx, tokens: Tokens, bodies: Sequence[Mapping[str, Any]]) -> list[Body]:
    """Return resources as a session is asked for them, tokens included.

    Raises:
        OperatorError: a token was sealed by another master key.
    """
    out: list[Body] = []
    for body in bodies:
        asked = {name: value for name, value in body.items() if name != _ROW}
        if _ROW in body:
            asked["authorization_token"] = tokens.open(tx, body[_ROW])
        out.append(asked)
    return out

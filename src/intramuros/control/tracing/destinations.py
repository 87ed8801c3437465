"""Destinations as administrators configure them (contract-2 R378 to R381)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, tuple_, update

from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import telemetry_destinations, telemetry_spans
from intramuros.control.store.secrets import Sealer
from intramuros.control.tracing import coverage
from intramuros.control.tracing.endpoints import check_headers, check_url, merge_headers, origin
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.telemetry import (
    DestinationCreate,
    DestinationUpdate,
    TracesRequest,
)

Shown = dict[str, Any]

MAX_DESTINATIONS: Final = 10
CALLER: Final = "caller"
_DEFAULTS: Final[Mapping[str, Any]] = {
    "content_mode": "metadata_only",
    "enabled": True,
    "endpoint_url": None,
    "max_content_bytes": None,
}


@dataclass(frozen=True)
class Rules:
    """What the installation adds to the contract.

    Args:
        sealer: of header values.
        any_port: whether collectors may have another port than 443.
    """

    sealer: Sealer
    any_port: bool = False


def create(tx: Tx, actor: Actor, rules: Rules, request: DestinationCreate) -> Shown:
    """Register a destination, enabled.

    Raises:
        InvalidRequest: there are too many, or something of it cannot be.
    """
    if (tx.scalar(select(func.count()).select_from(telemetry_destinations)) or 0) >= (
        MAX_DESTINATIONS
    ):
        raise InvalidRequest(
            f"an organization has at most {MAX_DESTINATIONS} telemetry destinations; delete one"
        )
    check_headers(request.headers)
    headers = merge_headers({}, request.headers)
    config = {
        "display_name": request.display_name,
        "endpoint_url": request.endpoint_url,
        "header_names": list(headers),
        "traces": _traces(_DEFAULTS, request.traces),
    }
    _check_urls(rules, config)
    destination_id = actor.ids.new("tdst")
    now_us = to_micros(actor.clock.now())
    _audit(tx, actor, "telemetry_destination.create", destination_id, names=list(headers))
    tx.execute(
        insert(telemetry_destinations).values(
            id=destination_id,
            config=config,
            coverage=request.workspaces.type,
            sealed=_seal(rules, destination_id, headers),
            created_us=now_us,
            updated_us=now_us,
            version=1,
            sent_seq=_newest_span(tx),
            attempts=0,
            due_us=now_us,
        )
    )
    coverage.replace(tx, destination_id, request.workspaces, now_us)
    return get(tx, destination_id)


def configure(
    tx: Tx,
    actor: Actor,
    rules: Rules,
    destination_id: str,
    change: tuple[int, DestinationUpdate],
) -> Shown:
    """Change a destination.

    Args:
        change: the version that the caller's request met when it came in, and the request.

    Raises:
        NotFound: no such destination.
        Conflict: another request has changed it meanwhile.
        InvalidRequest: nothing to change, or the result cannot be.
    """
    version, request = change
    row = find_row(tx, destination_id)
    if row.version != version:
        raise Conflict("the destination was changed by another request; read it again")
    if not request.model_fields_set:
        raise InvalidRequest("send at least one field")
    now_us = max(to_micros(actor.clock.now()), row.updated_us)
    config, headers = _merged(rules, row, request)
    values: dict[str, Any] = {"config": config, "coverage": row.coverage, "disabled": row.disabled}
    if headers is not None:
        values["sealed"] = _seal(rules, destination_id, headers)
    if request.sent("state"):
        values |= _state(tx, row, request.state.type)
    changed = any(values[name] != getattr(row, name) for name in ("config", "disabled"))
    changed = changed or any(value is not None for value in request.headers.values())
    if request.sent("workspaces"):
        values["coverage"] = request.workspaces.type
        changed |= coverage.change(tx, row, request.workspaces, now_us)
    _audit(
        tx,
        actor,
        "telemetry_destination.update",
        destination_id,
        fields=sorted(request.model_fields_set),
        names=list(request.headers),
    )
    if changed:
        values["updated_us"] = max(now_us, row.updated_us + 1)
    _write(tx, row, values)
    return get(tx, destination_id)


def remove(tx: Tx, actor: Actor, destination_id: str) -> Shown:
    """Delete a destination and its list.

    Raises:
        NotFound: no such destination.
    """
    find_row(tx, destination_id)
    _audit(tx, actor, "telemetry_destination.delete", destination_id)
    coverage.clear(tx, destination_id)
    tx.execute(delete(telemetry_destinations).where(telemetry_destinations.c.id == destination_id))
    return {"id": destination_id, "type": "telemetry_destination_deleted"}


def list_workspace(tx: Tx, actor: Actor, destination_id: str, workspace_id: str) -> Shown:
    """Put a workspace on a destination's list; if it is on it, nothing changes.

    Raises:
        NotFound: no such destination or workspace.
        InvalidRequest: there is no list, it is full, or the workspace is archived.
    """
    row = find_row(tx, destination_id)
    now_us = to_micros(actor.clock.now())
    kind = "telemetry_destination.add_workspace"
    _audit(tx, actor, kind, destination_id, workspace=workspace_id[:80])
    entry = coverage.add(tx, row, workspace_id, now_us)
    _write(tx, row, {})
    return entry


def unlist_workspace(tx: Tx, actor: Actor, destination_id: str, workspace_id: str) -> Shown:
    """Take a workspace off a destination's list.

    Raises:
        NotFound: no such destination, or the workspace is not on its list.
        InvalidRequest: there is no list.
    """
    row = find_row(tx, destination_id)
    kind = "telemetry_destination.remove_workspace"
    _audit(tx, actor, kind, destination_id, workspace=workspace_id[:80])
    gone = coverage.remove(tx, row, workspace_id)
    _write(tx, row, {})
    return gone


def find(
    tx: Tx, limit: int, after: tuple[int, str] | None, workspace_ids: Sequence[str] | None
) -> tuple[list[Row[Any]], bool]:
    """Return a page of destinations, newest first, and whether there is more.

    Args:
        after: (created_us, id) of the last one shown.
        workspace_ids: only those that cover one of these.
    """
    table = telemetry_destinations.c
    which = [] if workspace_ids is None else [coverage.covers(workspace_ids)]
    if after is not None:
        which.append(tuple_(table.created_us, table.id) < after)
    query = select(telemetry_destinations).where(*which)
    rows = tx.execute(query.order_by(table.created_us.desc(), table.id.desc()).limit(limit + 1))
    found = list(rows.all())
    return found[:limit], len(found) > limit


def get(tx: Tx, destination_id: str) -> Shown:
    """Return a destination as shown.

    Raises:
        NotFound: no such destination.
    """
    return shown(find_row(tx, destination_id))


def find_row(tx: Tx, destination_id: str) -> Row[Any]:
    """Return a destination's row.

    Raises:
        NotFound: no such destination.
    """
    which = telemetry_destinations.c.id == destination_id
    row = tx.execute(select(telemetry_destinations).where(which)).first()
    if row is None:
        raise NotFound(f"no telemetry destination {destination_id[:80]!r}")
    return row


def headers_of(rules: Rules, row: Row[Any]) -> dict[str, str]:
    """Return the headers to send; never to be shown or logged."""
    opened: dict[str, str] = json.loads(rules.sealer.open(_sealed_name(row.id), row.sealed))
    return opened


def forget_headers(tx: Tx, actor: Actor, rules: Rules, row: Row[Any]) -> None:
    """Disable a destination whose headers no key opens any more, and forget them."""
    had = sorted(row.config.get("header_names", []))
    _audit(tx, actor, "telemetry_destination.update", row.id, fields=["headers"], names=had)
    values: Shown = {
        "config": {**row.config, "header_names": []},
        "sealed": _seal(rules, row.id, {}),
        "disabled": row.disabled or CALLER,
        "updated_us": max(to_micros(actor.clock.now()), row.updated_us + 1),
    }
    _write(tx, row, values)


def shown(row: Row[Any]) -> Shown:
    """Return a destination as the API shows it: never a header's value."""
    state: Shown = {"type": "enabled"}
    if row.disabled is not None:
        state = {"type": "disabled", "reason": {"type": row.disabled}}
    return {
        "id": row.id,
        "type": "telemetry_destination",
        "created_at": _at(row.created_us),
        "updated_at": _at(row.updated_us),
        "delivery_health": {
            "last_error": row.last_error,
            "last_error_at": _at(row.last_error_us),
            "last_success_at": _at(row.last_success_us),
        },
        **row.config,
        "state": state,
        "workspaces": {"type": row.coverage},
    }


def _merged(
    rules: Rules, row: Row[Any], request: DestinationUpdate
) -> tuple[Shown, dict[str, str] | None]:
    """Return the configuration after an update, and the headers if they change."""
    check_headers(request.headers)
    sets = any(value is not None for value in request.headers.values())
    if sets and not request.sent("endpoint_url"):
        raise InvalidRequest("headers: send endpoint_url together with a header's value")
    config = dict(row.config)
    if request.sent("display_name"):
        config["display_name"] = request.display_name
    if request.sent("traces"):
        stored = _DEFAULTS if request.traces is None else config["traces"]
        config["traces"] = _traces(stored, request.traces or TracesRequest())
    moved = False
    if request.sent("endpoint_url"):
        check_url("endpoint_url", request.endpoint_url, any_port=rules.any_port)
        moved = origin(request.endpoint_url) != origin(config["endpoint_url"])
        config["endpoint_url"] = request.endpoint_url
    _check_urls(rules, config)
    if not (moved or request.headers):
        return config, None
    # Who could point a destination elsewhere must not get the secrets of the old place there.
    stored_headers = {} if moved else headers_of(rules, row)
    headers = merge_headers(stored_headers, request.headers)
    config["header_names"] = list(headers)
    return config, headers


def _traces(stored: Mapping[str, Any], request: TracesRequest) -> Shown:
    sent = {name: getattr(request, name) for name in request.model_fields_set}
    if "content_mode" in sent and sent["content_mode"] is None:
        sent["content_mode"] = "metadata_only"
    return {**_DEFAULTS, **stored, **sent}


def _check_urls(rules: Rules, config: Mapping[str, Any]) -> None:
    check_url("endpoint_url", config["endpoint_url"], any_port=rules.any_port)
    own = config["traces"]["endpoint_url"]
    if own is not None:
        check_url("traces.endpoint_url", own, any_port=rules.any_port)
        if origin(own) != origin(config["endpoint_url"]):
            raise InvalidRequest(
                "traces.endpoint_url: must have the host and port of endpoint_url; send both, or "
                "null for this one"
            )


def _state(tx: Tx, row: Row[Any], wanted: str) -> Shown:
    if wanted == "disabled":
        return {"disabled": row.disabled or CALLER}
    if row.disabled is None:
        return {}
    # What happened while it was disabled is not delivered later.
    return {
        "disabled": None,
        "sent_seq": _newest_span(tx),
        "attempts": 0,
        "due_us": 0,
        "failing_us": None,
    }


def _write(tx: Tx, row: Row[Any], values: Shown) -> None:
    tx.execute(
        update(telemetry_destinations)
        .where(telemetry_destinations.c.id == row.id)
        .values(version=row.version + 1, **values)
    )


def _newest_span(tx: Tx) -> int:
    """Return a number that every span of later is above."""
    newest = tx.scalar(select(func.max(telemetry_spans.c.seq)))
    sent = tx.scalar(select(func.max(telemetry_destinations.c.sent_seq)))
    return max(newest or 0, sent or 0)


def _seal(rules: Rules, destination_id: str, headers: Mapping[str, str]) -> bytes:
    return rules.sealer.seal(_sealed_name(destination_id), json.dumps(dict(headers)).encode())


def _sealed_name(destination_id: str) -> str:
    return f"telemetry/{destination_id}"


def _at(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(from_micros(at_us))


def _audit(tx: Tx, actor: Actor, kind: str, destination_id: str, **fields: object) -> None:
    body = {"id": destination_id, "by": actor.by, **fields}
    audit.record(tx, actor.clock, kind, workspace_id=actor.workspace_id, fields=body)

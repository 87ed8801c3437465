from typing import Any

import pytest
from sqlalchemy import insert, select, update

from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import telemetry_destinations, telemetry_spans
from intramuros.control.tracing import destinations
from intramuros.control.tracing.destinations import Rules, configure, create, headers_of
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.telemetry import (
    Destination,
    DestinationCreate,
    DestinationUpdate,
)

URL = "https://collector.example/otlp"


def made(tx: Tx, actor: Actor, rules: Rules, **more: Any) -> Any:
    body = {"endpoint_url": URL, "workspaces": {"type": "all"}, **more}
    return create(tx, actor, rules, DestinationCreate.model_validate(body))


def changed(tx: Tx, actor: Actor, rules: Rules, id: str, **body: Any) -> Any:
    version = destinations.find_row(tx, id).version
    request = DestinationUpdate.model_validate(body)
    return configure(tx, actor, rules, id, (version, request))


def stored(tx: Tx, rules: Rules, id: str) -> dict[str, str]:
    return headers_of(rules, destinations.find_row(tx, id))


def test_R380_values_lie_sealed_and_only_names_are_shown(
    tx: Tx, actor: Actor, rules: Rules
) -> None:
    shown = made(tx, actor, rules, headers={"authorization": "top-secret-value"})
    Destination.model_validate(shown)
    assert shown["header_names"] == ["authorization"]
    assert "top-secret-value" not in str(shown)
    row = destinations.find_row(tx, shown["id"])
    assert b"top-secret-value" not in row.sealed
    assert stored(tx, rules, shown["id"]) == {"authorization": "top-secret-value"}
    assert "top-secret-value" not in "".join(audit.read_lines(tx))
    request = DestinationCreate.model_validate(
        {"endpoint_url": URL, "workspaces": {"type": "all"}, "headers": {"a": "top-secret-value"}}
    )
    assert "top-secret-value" not in repr(request)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://collector.example/elsewhere", True),
        ("https://COLLECTOR.example:443/x", True),
        ("https://other.example/otlp", False),
        ("https://collector.example.evil.example/otlp", False),
    ],
)
def test_R380_another_host_drops_the_headers(
    tx: Tx, actor: Actor, rules: Rules, url: str, kept: bool
) -> None:
    id = made(tx, actor, rules, headers={"a": "secret"})["id"]
    shown = changed(tx, actor, rules, id, endpoint_url=url)
    assert (shown["header_names"] == ["a"]) is kept
    assert bool(stored(tx, rules, id)) is kept


def test_R380_another_port_drops_them_too_and_new_ones_may_come_along(
    tx: Tx, actor: Actor, rules: Rules
) -> None:
    lax = Rules(rules.sealer, any_port=True)
    id = made(tx, actor, lax, headers={"a": "secret", "b": "secret"})["id"]
    url = "https://collector.example:4318/otlp"
    changed(tx, actor, lax, id, endpoint_url=url, headers={"a": "new"})
    assert stored(tx, lax, id) == {"a": "new"}
    with pytest.raises(InvalidRequest, match="443"):
        changed(tx, actor, rules, id, endpoint_url=url)


def test_R380_a_value_wants_the_address_with_it(tx: Tx, actor: Actor, rules: Rules) -> None:
    id = made(tx, actor, rules, headers={"a": "1", "b": "2"})["id"]
    with pytest.raises(InvalidRequest, match="endpoint_url together"):
        changed(tx, actor, rules, id, headers={"a": "3"})
    assert changed(tx, actor, rules, id, headers={"a": None})["header_names"] == ["b"]
    changed(tx, actor, rules, id, headers={"B": "4"}, endpoint_url=URL)
    assert stored(tx, rules, id) == {"B": "4"}


def test_setting_the_same_value_changes_the_time_and_nothing_else_does(
    tx: Tx, actor: Actor, rules: Rules, clock: ManualClock
) -> None:
    first = made(tx, actor, rules, headers={"a": "1"})
    same = changed(tx, actor, rules, first["id"], display_name=None, state={"type": "enabled"})
    assert same["updated_at"] == first["updated_at"]
    again = changed(tx, actor, rules, first["id"], headers={"a": "1"}, endpoint_url=URL)
    assert again["updated_at"] > first["updated_at"]
    listed = changed(tx, actor, rules, first["id"], workspaces={"type": "include"})
    before = listed["updated_at"]
    destinations.list_workspace(tx, actor, first["id"], "wrkspc_test")
    assert destinations.get(tx, first["id"])["updated_at"] == before
    clock.advance(1)
    body = {"type": "include", "workspace_ids": ["wrkspc_test"]}
    assert changed(tx, actor, rules, first["id"], workspaces=body)["updated_at"] == before
    emptied = changed(
        tx, actor, rules, first["id"], workspaces={"type": "include", "workspace_ids": []}
    )
    assert emptied["updated_at"] > before


def test_R381_what_changed_meanwhile_is_a_conflict(tx: Tx, actor: Actor, rules: Rules) -> None:
    id = made(tx, actor, rules)["id"]
    version = destinations.find_row(tx, id).version
    request = DestinationUpdate.model_validate({"display_name": "x"})
    configure(tx, actor, rules, id, (version, request))
    with pytest.raises(Conflict):
        configure(tx, actor, rules, id, (version, request))


def test_traces_keep_what_was_not_sent_and_null_resets_them(
    tx: Tx, actor: Actor, rules: Rules
) -> None:
    own = f"{URL}/mine"
    traces = {"content_mode": "content", "max_content_bytes": 5, "endpoint_url": own}
    id = made(tx, actor, rules, traces=traces)["id"]
    shown = changed(tx, actor, rules, id, traces={"enabled": False, "max_content_bytes": None})
    assert shown["traces"] == {
        "content_mode": "content",
        "enabled": False,
        "endpoint_url": own,
        "max_content_bytes": None,
    }
    with pytest.raises(InvalidRequest, match="host and port"):
        changed(tx, actor, rules, id, endpoint_url="https://other.example")
    moved = changed(
        tx, actor, rules, id, endpoint_url="https://other.example", traces={"endpoint_url": None}
    )
    assert moved["traces"]["endpoint_url"] is None
    mode = changed(tx, actor, rules, id, traces={"content_mode": None})["traces"]["content_mode"]
    assert mode == "metadata_only"
    reset = changed(tx, actor, rules, id, traces=None)
    assert reset["traces"]["enabled"] is True


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"headers": None},
        {"state": None},
        {"workspaces": None},
        {"traces": {"enabled": None}},
        {"traces": {"max_content_bytes": 0}},
        {"display_name": ""},
        {"endpoint_url": ""},
        {"endpoint_url": "http://x"},
        {"state": {"type": "paused"}},
    ],
)
def test_what_cannot_be_is_refused(
    tx: Tx, actor: Actor, rules: Rules, body: dict[str, Any]
) -> None:
    id = made(tx, actor, rules)["id"]
    before = destinations.get(tx, id)
    with pytest.raises((InvalidRequest, ValueError)):
        changed(tx, actor, rules, id, **body)
    assert destinations.get(tx, id) == before


def test_spans_of_the_time_before_and_while_disabled_are_not_for_it(
    tx: Tx, actor: Actor, rules: Rules
) -> None:
    def span() -> int:
        row = {"workspace_id": "w", "at_us": 0, "span": {}}
        return int(tx.execute(insert(telemetry_spans).values(**row)).inserted_primary_key[0])

    before = span()
    id = made(tx, actor, rules)["id"]
    assert destinations.find_row(tx, id).sent_seq == before
    changed(tx, actor, rules, id, state={"type": "disabled"})
    meanwhile = span()
    shown = changed(tx, actor, rules, id, state={"type": "enabled"})
    assert shown["state"] == {"type": "enabled"}
    assert destinations.find_row(tx, id).sent_seq == meanwhile


def test_a_reason_of_ours_is_kept_until_it_is_enabled(tx: Tx, actor: Actor, rules: Rules) -> None:
    id = made(tx, actor, rules)["id"]
    tx.execute(update(telemetry_destinations).values(disabled="redirect"))
    shown = changed(tx, actor, rules, id, state={"type": "disabled"})
    assert shown["state"] == {"type": "disabled", "reason": {"type": "redirect"}}


def test_what_is_gone_is_not_found(tx: Tx, actor: Actor, rules: Rules) -> None:
    id = made(tx, actor, rules, workspaces={"type": "include", "workspace_ids": ["wrkspc_test"]})[
        "id"
    ]
    assert destinations.remove(tx, actor, id)["id"] == id
    with pytest.raises(NotFound):
        destinations.get(tx, id)
    assert tx.execute(select(telemetry_destinations)).all() == []

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from intramuros.control.catalog import workspaces
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.metering import spend_limits
from intramuros.control.metering.spend_limits import Query, reached, set_limit, spent
from intramuros.control.metering.usage import NANO, Spender, Use, record
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.model.cost import Tokens
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.limits import SpendLimitSet, SpendLimitShown
from intramuros.protocol.resources.organization import WorkspaceCreate

ORG: Any = {"type": "organization"}
HERE: Any = {"type": "workspace", "workspace_id": "wrkspc_test"}
# A cent's worth: 400 output tokens at 25 dollars a million.
CENT = Use("claude-opus-5", Tokens(output=400))


def body(amount: str | None, scope: Any = ORG, **more: str) -> SpendLimitSet:
    return SpendLimitSet.model_validate({"amount": amount, "scope": scope, **more})


def at(text: str) -> int:
    return to_micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def spend(tx: Tx, known: Catalogue, time: str, cents: int = 1, ws: str = "wrkspc_test") -> None:
    for _ in range(cents):
        record(tx, known, at(time), Spender(ws), CENT)


def test_R372_setting_a_limit_again_overwrites_it(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    made = set_limit(tx, actor, body("500"))
    SpendLimitShown.model_validate(made)
    assert (made["amount"], made["period"], made["scope"]) == ("500", "monthly", ORG)
    clock.advance(5)
    again = set_limit(tx, actor, body(None))
    assert (again["id"], again["amount"]) == (made["id"], None)
    assert again["updated_at"] > again["created_at"] == made["created_at"]
    daily = set_limit(tx, actor, body("0", period="daily"))
    own = set_limit(tx, actor, body("7", HERE))
    assert len({made["id"], daily["id"], own["id"]}) == 3
    assert spend_limits.get(tx, own["id"]) == own
    assert spend_limits.remove(tx, actor, own["id"]) == {
        "id": own["id"],
        "type": "spend_limit_deleted",
    }
    with pytest.raises(NotFound):
        spend_limits.get(tx, own["id"])
    kinds = [json.loads(line)["kind"] for line in audit.read_lines(tx)]
    assert kinds == ["spend_limit.set"] * 4 + ["spend_limit.delete"]


@pytest.mark.parametrize("amount", ["-1", "1.5", "01", "", "1e3", " 1", "\uff11", "1" * 11])
def test_R372_an_amount_is_whole_cents_as_text(amount: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        body(amount)


def test_scopes_of_other_organizations_are_refused(tx: Tx, actor: Actor) -> None:
    with pytest.raises(InvalidRequest, match="limits itself and its workspaces"):
        set_limit(tx, actor, body("1", {"type": "user", "user_id": "user_1"}))
    with pytest.raises(NotFound):
        set_limit(tx, actor, body("1", {"type": "workspace", "workspace_id": "organization"}))
    with pytest.raises(InvalidRequest, match="seat_tier"):
        spend_limits.find(tx, Query(10, scope_types=["seat_tier"]))


def test_lists_are_newest_first_and_by_scope(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    made = []
    for scope, period in ((ORG, "daily"), (HERE, "daily"), (ORG, "weekly")):
        clock.advance(1)
        made.append(set_limit(tx, actor, body("1", scope, period=period))["id"])

    def ids(**query: Any) -> list[str]:
        return [row.id for row in spend_limits.find(tx, Query(10, **query))[0]]

    assert ids() == made[::-1]
    assert ids(scope_types=["workspace"]) == [made[1]]
    assert ids(scope_types=["usage_tier"]) == []
    assert ids(scope_types=["organization", "usage_tier"]) == [made[2], made[0]]
    assert ids(workspace_id="wrkspc_test") == [made[1]]
    assert ids(workspace_id="organization") == []
    first, more = spend_limits.find(tx, Query(2))
    last = first[-1]
    rest, over = spend_limits.find(tx, Query(2, (last.created_us, last.id)))
    assert ([r.id for r in rest], more, over) == ([made[0]], True, False)


def test_a_limit_is_reached_when_it_is_used_up_and_not_before(
    tx: Tx, actor: Actor, known: Catalogue
) -> None:
    limit = set_limit(tx, actor, body("3"))
    now = at("2026-11-21T12:00:00")
    spend(tx, known, "2026-11-01T00:00:00", 2)
    assert reached(tx, "wrkspc_test", now) is None
    record(tx, known, now, Spender("wrkspc_test"), Use("claude-opus-5", Tokens(output=399)))
    assert reached(tx, "wrkspc_test", now) is None
    record(tx, known, now, Spender("wrkspc_test"), Use("claude-opus-5", Tokens(output=1)))
    found = reached(tx, "wrkspc_test", now)
    assert found is not None
    assert found.id == limit["id"]
    assert found.message == (
        "You have reached your specified API usage limits. "
        "You will regain access on 2026-12-01 at 00:00 UTC."
    )
    assert reached(tx, "wrkspc_elsewhere", now) == found  # the organization's is everybody's


def test_the_next_month_starts_with_nothing_spent(tx: Tx, actor: Actor, known: Catalogue) -> None:
    set_limit(tx, actor, body("1"))
    spend(tx, known, "2026-11-30T23:59:59.999999")
    assert reached(tx, "wrkspc_test", at("2026-11-30T23:59:59.999999")) is not None
    assert reached(tx, "wrkspc_test", at("2026-12-01T00:00:00")) is None
    assert spent(tx, "organization", "monthly", at("2026-12-01T00:00:00")) == 0


def test_a_workspaces_own_limit_holds_for_it_alone(
    tx: Tx, actor: Actor, known: Catalogue, clock: ManualClock
) -> None:
    clock.advance(1)
    other = workspaces.create(tx, actor, WorkspaceCreate(name="other"))["id"]
    set_limit(tx, actor, body("2", {"type": "workspace", "workspace_id": other}, period="daily"))
    now = at("2026-11-21T12:00:00")
    spend(tx, known, "2026-11-21T01:00:00", 2, other)
    assert reached(tx, "wrkspc_test", now) is None
    found = reached(tx, other, now)
    assert found is not None
    assert found.message.startswith("You have reached your specified workspace API usage limits. ")
    assert "2026-11-22 at 00:00 UTC" in found.message
    assert spent(tx, "organization", "daily", now) == spent(tx, other, "daily", now) == 2 * NANO


def test_a_limit_lowered_below_what_was_spent_is_reached_at_once(
    tx: Tx, actor: Actor, known: Catalogue
) -> None:
    now = at("2026-11-21T12:00:00")
    set_limit(tx, actor, body("100"))
    spend(tx, known, "2026-11-02T12:00:00", 5)
    assert reached(tx, "wrkspc_test", now) is None
    set_limit(tx, actor, body("4"))
    assert reached(tx, "wrkspc_test", now) is not None
    set_limit(tx, actor, body(None))
    assert reached(tx, "wrkspc_test", now) is None
    assert not spend_limits.any_set(tx)
    set_limit(tx, actor, body("0", period="weekly"))
    assert spend_limits.any_set(tx)
    assert reached(tx, "wrkspc_nothing_spent", now) is not None


def test_R033_the_operators_cap_goes_before_all_limits_and_is_read_only(
    tx: Tx, actor: Actor, known: Catalogue, clock: ManualClock
) -> None:
    assert spend_limits.tier(tx, 0) is None
    cap = spend_limits.tier(tx, 1)
    assert cap is not None
    clock.advance(1)
    own = set_limit(tx, actor, body("0"))
    shown = spend_limits.get(tx, cap.id, cap)
    SpendLimitShown.model_validate(shown)
    assert (shown["scope"], shown["amount"]) == ({"type": "usage_tier"}, "1")
    with pytest.raises(InvalidRequest, match="operator"):
        spend_limits.remove(tx, actor, cap.id, cap)
    with pytest.raises(NotFound):
        spend_limits.get(tx, cap.id)
    first, more = spend_limits.find(tx, Query(1), cap)
    assert ([x.id for x in first], more) == ([own["id"]], True)
    after = (first[-1].created_us, first[-1].id)
    rest, over = spend_limits.find(tx, Query(1, after), cap)
    assert ([x.id for x in rest], over) == ([cap.id], False)
    assert spend_limits.find(tx, Query(1, (cap.created_us, cap.id)), cap) == ([], False)
    assert spend_limits.find(tx, Query(9, scope_types=["organization"]), cap)[0] == first
    assert spend_limits.find(tx, Query(9, scope_types=["usage_tier"]), cap)[0] == [cap]
    assert spend_limits.find(tx, Query(9, workspace_id="wrkspc_test"), cap)[0] == []
    now = at("2026-11-21T12:00:00")
    spend(tx, known, "2026-11-02T12:00:00")
    found = reached(tx, "wrkspc_test", now, cap)
    assert found is not None
    assert (found.id, found.tier) == (cap.id, True)
    assert "2026-12-01 at 00:00 UTC" in found.message

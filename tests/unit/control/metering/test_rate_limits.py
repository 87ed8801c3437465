import json
from collections.abc import Mapping
from typing import Any

import pytest

from intramuros.control.catalog import workspaces
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.metering.groups import Groups
from intramuros.control.metering.rate_limits import change, entries, of_workspace, overrides
from intramuros.control.metering.rates import Rates
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound, RateLimited
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.limits import RateLimitUpdate
from intramuros.protocol.resources.organization import WorkspaceCreate

MODEL = "claude-opus-5"


@pytest.fixture
def rates(clock: ManualClock, groups: Groups) -> Rates:
    return Rates(clock, groups)


@pytest.fixture
def workspace(tx: Tx, actor: Actor, clock: ManualClock) -> str:
    clock.advance(1)
    made: str = workspaces.create(tx, actor, WorkspaceCreate(name="w"))["id"]
    return made


def update(**limits: int | None) -> RateLimitUpdate:
    named = [{"type": name, "value": value} for name, value in limits.items()]
    return RateLimitUpdate.model_validate({"limits": named})


def values(entry: Mapping[str, Any]) -> dict[str, int]:
    return {limit["type"]: limit["value"] for limit in entry["limits"]}


def test_R371_only_the_named_limiters_change_and_null_clears(
    tx: Tx, actor: Actor, rates: Rates, groups: Groups, workspace: str
) -> None:
    group = groups.of_model(MODEL)
    target = (workspace, group.entry_id)
    first = change(
        tx, actor, rates, target, update(requests_per_minute=1, output_tokens_per_minute=5)
    )
    assert first["rate_limit_id"] == group.entry_id
    assert first["limits"][0] == {
        "type": "output_tokens_per_minute",
        "value": 5,
        "org_limit": None,
        "source": {"type": "workspace"},
    }
    changed = change(tx, actor, rates, target, update(requests_per_minute=2))
    assert values(changed) == {"requests_per_minute": 2, "output_tokens_per_minute": 5}
    cleared = change(tx, actor, rates, target, update(output_tokens_per_minute=None))
    assert values(cleared) == {"requests_per_minute": 2}
    assert [values(e) for e in of_workspace(tx, groups, workspace, None, inherited=False)] == [
        {"requests_per_minute": 2}
    ]
    assert of_workspace(tx, groups, workspace, "files", inherited=False) == []
    # It is kept from the commit on, and not before.
    for _ in range(3):
        rates.admit(workspace, group)
    for hook in tx.hooks:
        hook()
    rates.admit(workspace, group)
    rates.admit(workspace, group)
    with pytest.raises(RateLimited):
        rates.admit(workspace, group)
    assert list(overrides(tx).values()) == [2]
    kinds = [json.loads(line)["kind"] for line in audit.read_lines(tx)]
    assert kinds.count("rate_limit.update") == 3


def test_R370_a_model_filter_finds_one_entry_or_is_not_found(groups: Groups) -> None:
    (found,) = entries(groups, None, "claude-opus-4-5-20251101")
    assert found["group"]["display_name"] == "Claude Opus 4.x"
    assert len(entries(groups, None, None)) == len(groups.all)
    assert [e["models"] for e in entries(groups, "skills", None)] == [None]
    for group_type, model in ((None, "gpt-9"), ("files", MODEL)):
        with pytest.raises(NotFound):
            entries(groups, group_type, model)


def test_what_cannot_be_limited_is_refused(
    tx: Tx, actor: Actor, rates: Rates, groups: Groups, workspace: str
) -> None:
    entry = groups.of_model(MODEL).entry_id
    one = update(requests_per_minute=1)
    with pytest.raises(NotFound, match="no workspace"):
        change(tx, actor, rates, ("wrkspc_no", entry), one)
    with pytest.raises(NotFound, match="no rate limit"):
        change(tx, actor, rates, (workspace, "rl_no"), one)
    with pytest.raises(InvalidRequest, match="default workspace"):
        change(tx, actor, rates, ("wrkspc_test", entry), one)
    files = groups.of_type("files").entry_id
    with pytest.raises(InvalidRequest, match="a files group has requests_per_minute"):
        change(tx, actor, rates, (workspace, files), update(tokens_per_day=1))
    workspaces.archive(tx, actor, workspace)
    with pytest.raises(InvalidRequest, match="archived"):
        change(tx, actor, rates, (workspace, entry), one)
    assert overrides(tx) == {}

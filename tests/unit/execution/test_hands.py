from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from intramuros.execution.egress.base import Passage
from intramuros.execution.egress.names import WEB_PORTS
from intramuros.execution.guests import Guest
from intramuros.execution.hands import Hands
from intramuros.execution.sandbox.base import (
    Mount,
    SandboxBusy,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from tests.fakes.sandbox import FakeProvider, FakeSandbox

pytestmark = pytest.mark.anyio


def hands(provider: FakeProvider, keep: int = 0) -> Hands:
    return Hands(provider, SandboxSpec(), lambda: 0.0, keep=keep)


async def test_a_session_has_one_sandbox() -> None:
    provider = FakeProvider()
    pool = hands(provider)
    assert await pool.take("a") is await pool.take("a")
    assert await pool.take("b") is not await pool.take("a")
    await pool.aclose()
    assert provider.live == {}


async def test_a_dead_sandbox_is_replaced() -> None:
    provider = FakeProvider()
    pool = hands(provider)
    first = await pool.take("a")
    provider.live["a"].alive = False
    assert await pool.take("a") is not first
    assert provider.destroyed == ["a"]


async def test_without_keeping_a_resting_sandbox_is_destroyed() -> None:
    provider = FakeProvider(pause=True)
    pool = hands(provider)
    await pool.take("a")
    await pool.rest("a")
    await pool.rest("never taken")
    assert provider.destroyed == ["a"]


async def test_kept_sandboxes_wait_paused_and_the_oldest_goes_first() -> None:
    provider = FakeProvider(pause=True)
    pool = hands(provider, keep=2)
    for name in "abc":
        await pool.take(name)
        await pool.rest(name)
    assert provider.destroyed == ["a"]
    assert all(sandbox.paused for sandbox in provider.live.values())
    kept = provider.live["b"]
    assert await pool.take("b") is kept
    assert not kept.paused
    await pool.aclose()
    assert provider.live == {}


async def test_nothing_is_kept_where_nothing_can_be_paused() -> None:
    provider = FakeProvider(pause=False)
    pool = hands(provider, keep=2)
    await pool.take("a")
    await pool.rest("a")
    assert provider.destroyed == ["a"]


async def test_a_sandbox_that_does_not_resume_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FakeProvider(pause=True)
    pool = hands(provider, keep=1)
    first = await pool.take("a")
    await pool.rest("a")

    async def stuck(_self: FakeSandbox) -> None:
        raise SandboxError("stuck")

    monkeypatch.setattr(FakeSandbox, "resume", stuck)
    assert await pool.take("a") is not first


async def test_a_sandbox_that_does_not_pause_is_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FakeProvider(pause=True)
    pool = hands(provider, keep=1)
    await pool.take("a")

    async def stuck(_self: FakeSandbox) -> None:
        raise SandboxError("stuck")

    monkeypatch.setattr(FakeSandbox, "pause", stuck)
    await pool.rest("a")
    assert provider.destroyed == ["a"]


async def test_an_id_that_is_still_going_away_is_waited_for() -> None:
    provider = FakeProvider()
    await provider.create(SandboxSpec(), "a")
    pool = hands(provider)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(pool.take, "a")
            await anyio.sleep(0.01)
            await provider.live["a"].destroy()
    assert "a" in provider.live


async def test_an_id_that_stays_busy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intramuros.execution.hands._BUSY_ATTEMPTS", 2)
    provider = FakeProvider()
    await provider.create(SandboxSpec(), "a")
    with pytest.raises(SandboxBusy):
        await hands(provider).take("a")


async def test_forgetting_removes_the_workspace_too() -> None:
    provider = FakeProvider()
    pool = hands(provider)
    await pool.take("a")
    await pool.forget("a")
    assert (provider.destroyed, provider.forgotten) == (["a"], ["a"])


async def test_a_second_item_of_a_session_waits_its_turn() -> None:
    pool = hands(FakeProvider())
    order: list[str] = []

    async def item(name: str) -> None:
        async with pool.turn("a"):
            order.append(f"{name} in")
            await anyio.sleep(0.01)
            order.append(f"{name} out")

    async with anyio.create_task_group() as group:
        for name in ("first", "second", "third"):
            group.start_soon(item, name)
    assert order == [f"{n} {w}" for n in ("first", "second", "third") for w in ("in", "out")]


async def test_a_failing_destroy_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FakeProvider()
    pool = hands(provider)
    for name in "ab":
        await pool.take(name)
    tried: list[str] = []

    async def broken(self: FakeSandbox, **_: Mapping[str, Any]) -> None:
        tried.append(self.sandbox_id)
        raise SandboxError("no")

    monkeypatch.setattr(FakeSandbox, "destroy", broken)
    await pool.aclose()
    assert tried == ["a", "b"]


async def test_a_session_is_shown_what_it_was_equipped_with() -> None:
    provider = FakeProvider(pause=True)
    pool = hands(provider, keep=1)
    mount = Mount(Path("/srv/skills"), "/workspace/skills")
    pool.equip("a", (mount,))
    await pool.take("a")
    await pool.take("b")
    assert [spec.mounts for spec, _ in provider.created] == [(mount,), ()]
    await pool.rest("a")
    assert (pool.rests("a"), pool.rests("b")) == (True, False)
    pool.equip("a", ())
    await pool.drop("a")
    await pool.take("a")
    assert provider.created[-1][0].mounts == ()


class Anything:
    def admits(self, name: str) -> bool:
        return True

    def ports(self) -> frozenset[int]:
        return WEB_PORTS


class NoGate:
    async def serve(self, stream: Any, name: str, port: int) -> None:
        await stream.aclose()


class FakeCaptures:
    """Notes what is attached to what."""

    def __init__(self) -> None:
        self.now: dict[str, Passage] = {}
        self.log: list[str] = []
        self.fails = False

    async def attach(self, sandbox: Any, passage: Passage) -> None:
        if self.fails:
            raise SandboxError("the sandbox's network cannot be joined")
        assert sandbox.alive
        self.log.append(f"attach {sandbox.sandbox_id}")
        self.now[sandbox.sandbox_id] = passage

    async def detach(self, sandbox_id: str) -> None:
        self.log.append(f"detach {sandbox_id}")
        self.now.pop(sandbox_id, None)


PASSAGE = Passage(Anything(), NoGate(), Path("/ca.pem"), {"TOKEN": "placeholder"})


def caught(provider: FakeProvider, captures: FakeCaptures, keep: int = 0) -> Hands:
    made: Any = captures
    spec = SandboxSpec(environment={"A": "1"})
    return Hands(provider, spec, lambda: 0.0, keep=keep, captures=made)


async def test_without_a_passage_a_sandbox_has_no_network() -> None:
    provider, captures = FakeProvider(egress=True), FakeCaptures()
    pool = caught(provider, captures)
    await pool.take("a")
    [(spec, _)] = provider.created
    assert (spec.egress, spec.trust, dict(spec.environment)) == ("none", None, {"A": "1"})
    assert captures.now == {}


async def test_with_a_passage_it_is_caught_before_it_is_used_and_until_it_goes() -> None:
    provider, captures = FakeProvider(egress=True), FakeCaptures()
    pool = caught(provider, captures)
    pool.equip("a", (), PASSAGE)
    await pool.take("a")
    [(spec, _)] = provider.created
    assert (spec.egress, spec.trust) == ("names", Path("/ca.pem"))
    assert dict(spec.environment) == {"A": "1", "TOKEN": "placeholder"}
    assert captures.now == {"a": PASSAGE}
    await pool.drop("a")
    assert captures.now == {}
    assert captures.log[-1] == "detach a"
    assert provider.destroyed == ["a"]


async def test_a_sandbox_that_cannot_be_caught_is_not_used() -> None:
    provider, captures = FakeProvider(egress=True), FakeCaptures()
    pool = caught(provider, captures)
    pool.equip("a", (), PASSAGE)
    captures.fails = True
    for _ in range(2):
        with pytest.raises(SandboxError, match="joined"):
            await pool.take("a")
    captures.fails = False
    await pool.take("a")
    assert captures.now == {"a": PASSAGE}


async def test_a_provider_that_cannot_hold_it_to_names_says_so() -> None:
    for provider, captures in ((FakeProvider(), FakeCaptures()), (FakeProvider(egress=True), None)):
        pool = Hands(provider, SandboxSpec(), lambda: 0.0, captures=captures)  # type: ignore[arg-type]
        pool.equip("a", (), PASSAGE)
        with pytest.raises(SandboxUnavailable, match="held to names"):
            await pool.take("a")
        assert provider.created == []


async def test_a_resumed_sandbox_reaches_what_its_session_may_now() -> None:
    provider, captures = FakeProvider(egress=True, pause=True), FakeCaptures()
    pool = caught(provider, captures, keep=1)
    pool.equip("a", (), PASSAGE)
    first = await pool.take("a")
    await pool.rest("a")
    pool.equip("a", ())
    assert captures.now == {"a": PASSAGE}
    stricter = Passage(Anything(), NoGate())
    pool.equip("a", (), stricter)
    assert await pool.take("a") is first
    assert captures.now == {"a": stricter}
    await pool.rest("a")
    pool.equip("a", ())
    assert await pool.take("a") is first
    assert captures.now == {}


async def test_closing_detaches_every_sandbox() -> None:
    provider, captures = FakeProvider(egress=True, pause=True), FakeCaptures()
    pool = caught(provider, captures, keep=1)
    for name in "ab":
        pool.equip(name, (), PASSAGE)
        await pool.take(name)
    await pool.rest("a")
    await pool.aclose()
    assert captures.now == {}
    assert sorted(provider.destroyed) == ["a", "b"]


async def test_a_sandbox_reaches_what_it_may_before_it_runs_again() -> None:
    provider, captures = FakeProvider(egress=True, pause=True), FakeCaptures()
    pool = caught(provider, captures, keep=1)
    pool.equip("a", (), PASSAGE)
    sandbox = await pool.take("a")
    await pool.rest("a")
    seen: list[object] = []

    async def resume() -> None:
        seen.append(captures.now.get("a"))

    sandbox.resume = resume  # type: ignore[method-assign]
    pool.equip("a", ())
    assert await pool.take("a") is sandbox
    assert seen == [None]


async def test_a_guest_finds_the_live_sandbox_thawed_and_makes_none() -> None:
    provider = FakeProvider(pause=True)
    pool = hands(provider)
    assert await pool.visit("a") is None
    assert provider.created == []
    sandbox = await pool.take("a")
    assert await pool.freeze("a")
    assert provider.live["a"].paused
    assert await pool.visit("a") is sandbox
    assert not provider.live["a"].paused
    told: list[str] = []
    guest = Guest("a", "ann", told.append, 0.0, 0.0)
    pool.guests.enter(guest)
    # Nothing stands still under somebody's hands.
    with anyio.move_on_after(0.02):
        await pool.freeze("a")
    assert not provider.live["a"].paused
    async with anyio.create_task_group() as group:
        group.start_soon(pool.drop, "a")
        await anyio.wait_all_tasks_blocked()
        assert told == ["the sandbox ends"]
        assert provider.destroyed == []
        pool.guests.leave(guest)
    assert provider.destroyed == ["a"]
    assert await pool.visit("a") is None

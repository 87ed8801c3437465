"""Which of several replicas reads a list, and what happens if it does not."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from intramuros.control.store import standbys as module
from intramuros.control.store.arrival import Position
from intramuros.control.store.drivers import Elsewhere
from intramuros.control.store.standby import Ask
from intramuros.control.store.standbys import Standbys

pytestmark = pytest.mark.anyio

HERE = Position(7, 1, 100)


class Fake:
    """A replica that does with a list what a test says."""

    def __init__(self, act: Any = lambda ask: ask.done.set_result("list")) -> None:
        self.act = act
        self.waiting = 0
        self.is_ready = True
        self.asked: list[Ask[Any]] = []
        self.outcomes: Counter[str] = Counter()

    def ready(self) -> bool:
        return self.is_ready

    def put(self, ask: Ask[Any]) -> None:
        self.asked.append(ask)
        self.act(ask)

    def drop(self, ask: Ask[Any]) -> str:
        ask.dropped.set()
        return "slow" if ask.taken else "busy"

    def count(self, outcome: str, error: Elsewhere | None = None) -> None:
        self.outcomes[outcome] += 1


def of(*fakes: Fake) -> Standbys:
    made = Standbys((), 0)
    made.all.extend(fakes)  # type: ignore[arg-type]  # has what is used of it
    return made


async def ask(found: Standbys) -> object:
    return await found.read(lambda tx: SimpleNamespace(tx=tx), HERE)


async def test_the_one_with_least_to_do_reads() -> None:
    busy, free = Fake(), Fake()
    busy.waiting = 3
    assert await ask(of(busy, free)) == "list"
    assert (len(busy.asked), len(free.asked)) == (0, 1)
    assert free.asked[0].position == HERE


async def test_one_that_is_not_ready_is_not_asked() -> None:
    away, here = Fake(), Fake()
    away.is_ready, here.waiting = False, 9
    assert await ask(of(away, here)) == "list"
    assert not away.asked


async def test_if_none_is_ready_the_primary_is_to_be_asked_and_that_is_counted() -> None:
    away = Fake()
    away.is_ready = False
    found = of(away)
    assert not found.any_ready()
    assert away.outcomes == {"resting": 1}
    with pytest.raises(Elsewhere, match="resting"):
        await ask(found)


async def test_what_the_list_itself_raises_is_told() -> None:
    failing = Fake(lambda one: one.done.set_exception(LookupError("no such session")))
    with pytest.raises(LookupError, match="no such session"):
        await ask(of(failing))


async def test_one_that_has_too_many_waiting_says_so() -> None:
    def refuse(_ask: Ask[Any]) -> None:
        raise Elsewhere("busy")

    full = Fake(refuse)
    with pytest.raises(Elsewhere, match="busy"):
        await ask(of(full))
    assert full.outcomes == {"busy": 1}


@pytest.mark.parametrize(("taken", "why"), [(True, "slow"), (False, "busy")])
async def test_one_that_does_not_begin_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
    taken: bool,
    why: str,
) -> None:
    monkeypatch.setattr(module, "PROMPT_S", 0.01)
    monkeypatch.setattr(module, "_LATE_S", 3600.0)
    frozen = Fake(lambda one: setattr(one, "taken", taken))
    with pytest.raises(Elsewhere, match=why):
        await ask(of(frozen))
    assert frozen.asked[0].dropped.is_set()


async def test_one_that_reads_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROMPT_S", 0.01)
    asked: list[Ask[Any]] = []

    def begin(one: Ask[Any]) -> None:
        one.taken = one.begun = True
        asked.append(one)

    async with anyio.create_task_group() as group:

        async def finish() -> None:
            await anyio.sleep(0.05)
            asked[0].done.set_result("list")

        group.start_soon(finish)
        assert await ask(of(Fake(begin))) == "list"


async def test_a_client_that_leaves_takes_its_list_along() -> None:
    fake = Fake(lambda _: None)
    with anyio.move_on_after(0.01):
        await ask(of(fake))
    assert fake.asked[0].dropped.is_set()

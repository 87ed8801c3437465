import anyio
import pytest

from intramuros.execution.guests import Guest, Guests

pytestmark = pytest.mark.anyio


def guest(session_id: str, told: list[str]) -> Guest:
    return Guest(session_id, "somebody", told.append, 0.0, 0.0)


async def test_everybody_in_one_sandbox_is_seen_out_and_nobody_else() -> None:
    guests, told, others = Guests(), [], []
    here = [guest("sesn_1", told), guest("sesn_1", told)]
    other = guest("sesn_2", others)
    for one in (*here, other):
        guests.enter(one)
    assert (guests.of("sesn_1"), guests.of("sesn_2"), guests.of("sesn_3")) == (2, 1, 0)
    async with anyio.create_task_group() as group:
        group.start_soon(guests.evict, "sesn_1", "it ends")
        await anyio.wait_all_tasks_blocked()
        assert told == ["it ends", "it ends"]
        for one in here:
            guests.leave(one)
            guests.leave(one)
    assert guests.all() == [other]
    assert others == []


async def test_who_does_not_leave_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intramuros.execution.guests._LEAVE_S", 0.01)
    guests, told = Guests(), []
    guests.enter(guest("sesn_1", told))
    with anyio.fail_after(60):
        await guests.evict("sesn_1", "it ends")
    assert guests.of("sesn_1") == 1
    await guests.evict("sesn_2", "nobody there")
    assert not await guests.emptied("sesn_2")

import gc
import os
import signal

import anyio
import pytest

from intramuros.kernel.service import Leave, Stop, run_service, settle

pytestmark = pytest.mark.anyio


async def test_it_ends_when_every_task_has_ended() -> None:
    done = []

    async def task(_: Stop) -> None:
        done.append(True)

    with anyio.fail_after(60):
        await run_service({"a": task, "b": task}, drain_s=3600)
    assert done == [True, True]


async def test_a_stop_lets_tasks_finish() -> None:
    stop, log = Stop(), []

    async def task(stop: Stop) -> None:
        log.append("up")
        await stop.wait()
        log.append("drained")

    async def stopper(stop: Stop) -> None:
        stop.request()

    with anyio.fail_after(60):
        await run_service({"task": task, "stopper": stopper}, drain_s=3600, stop=stop)
    assert log == ["up", "drained"]
    assert stop.requested


async def test_a_task_that_does_not_drain_is_cut_off() -> None:
    cancelled = anyio.Event()

    async def stubborn(stop: Stop) -> None:
        stop.request()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    with anyio.fail_after(60):
        await run_service({"stubborn": stubborn}, drain_s=0.01)
    assert cancelled.is_set()


async def test_a_failing_task_stops_the_others_and_names_its_cause() -> None:
    cancelled = anyio.Event()

    async def bystander(_: Stop) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async def failing(_: Stop) -> None:
        raise ConnectionError("gone")

    with anyio.fail_after(60), pytest.raises(ConnectionError, match="gone"):
        await run_service({"bystander": bystander, "failing": failing}, drain_s=3600)
    assert cancelled.is_set()


async def test_several_failures_stay_a_group() -> None:
    together = anyio.Event()

    async def first(_: Stop) -> None:
        try:
            await together.wait()
        finally:
            raise ValueError("first")

    async def second(_: Stop) -> None:
        raise ConnectionError("second")

    with anyio.fail_after(60), pytest.raises(ExceptionGroup) as caught:
        await run_service({"first": first, "second": second}, drain_s=3600)
    assert caught.group_contains(ConnectionError, match="second")
    assert caught.group_contains(ValueError, match="first")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains(number: signal.Signals) -> None:
    drained = []

    async def task(stop: Stop) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()
        drained.append(True)

    with anyio.fail_after(60):
        await run_service({"task": task}, drain_s=3600)
    assert drained == [True]


async def test_who_leaves_first_tells_others_and_goes_on() -> None:
    told = anyio.Event()

    async def task(stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await told.wait()
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()

    with anyio.fail_after(60):
        await run_service({"task": task}, drain_s=3600, leave=Leave(3600, told.set))


async def test_who_has_left_stops() -> None:
    async def task(stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()

    with anyio.fail_after(60):
        await run_service({"task": task}, drain_s=3600, leave=Leave(0.01, lambda: None))


async def test_the_second_signal_does_not_wait() -> None:
    async def task(stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep_forever()

    with anyio.fail_after(60):
        await run_service({"task": task}, drain_s=3600)


def test_what_was_loaded_is_not_collected_again() -> None:
    kept: list[object] = [[]]
    try:
        settle()
        assert all(kept is not tracked for tracked in gc.get_objects())
        assert gc.isenabled()
    finally:
        gc.unfreeze()
    assert any(kept is tracked for tracked in gc.get_objects())

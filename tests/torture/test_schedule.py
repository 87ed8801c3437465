"""Schedules: the same for the same seed, in order, and played again from their text."""

from pathlib import Path

from tests.torture.schedule import Schedule, Targets, draw

EVERYTHING = Targets(
    programs=("server.0", "worker.0"),
    links=("client-server.0",),
    database=True,
    clocks=("server.0",),
    disks=("worker.0",),
    networks=("worker.0",),
)


def test_a_seed_says_everything() -> None:
    assert draw(7, 60, EVERYTHING) == draw(7, 60, EVERYTHING)
    assert draw(7, 60, EVERYTHING) != draw(8, 60, EVERYTHING)


def test_faults_come_in_order_and_in_time() -> None:
    for seed in range(50):
        times = [fault.at_s for fault in draw(seed, 30, EVERYTHING).faults]
        assert times == sorted(times)
        assert all(0 < at < 31 for at in times)


def test_every_fault_is_drawn_in_the_end_and_only_where_it_can_be_done() -> None:
    drawn = {fault.kind for seed in range(60) for fault in draw(seed, 60, EVERYTHING).faults}
    assert drawn == {
        *("kill", "freeze", "restart", "cut", "blackhole", "slow", "flaky", "crash", "disconnect"),
        *("tardy", "overloaded", "garbage", "skew", "full", "loss", "unplug"),
    }
    poor = Targets(programs=("server.0",), links=())
    kinds = {fault.kind for seed in range(60) for fault in draw(seed, 60, poor).faults}
    assert not kinds & {"blackhole", "crash", "skew", "full", "loss"}


def test_a_printed_schedule_is_the_schedule() -> None:
    schedule = draw(3, 20, EVERYTHING)
    assert Schedule.load(schedule.dump()) == schedule


def test_what_once_found_something_can_be_played_again() -> None:
    kept = sorted((Path(__file__).parent / "schedules").glob("*.json"))
    assert len(kept) > 3
    for file in kept:
        schedule = Schedule.load(file.read_text())
        assert schedule.faults
        assert all(0 < fault.at_s < schedule.seconds for fault in schedule.faults)

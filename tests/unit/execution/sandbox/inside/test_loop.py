import os

from intramuros.execution.sandbox.inside.loop import READ, WRITE, Loop, exit_code


def test_handlers_run_when_descriptors_are_ready(loop: Loop) -> None:
    read, write = os.pipe()
    seen = []
    loop.watch(read, READ, lambda fd: seen.append(os.read(fd, 10)))
    os.write(write, b"x")
    loop.once()
    assert seen == [b"x"]
    loop.unwatch(read)
    loop.unwatch(read)
    loop.watch(write, WRITE, lambda fd: seen.append(fd))
    loop.once()
    assert seen == [b"x", write]
    loop.unwatch(write)
    os.close(read)
    os.close(write)


def test_a_handler_may_forget_another_that_is_ready(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    seen = []

    def first_come(fd: int) -> None:
        seen.append(fd)
        for read, _ in pipes:
            loop.unwatch(read)

    for read, write in pipes:
        loop.watch(read, READ, first_come)
        os.write(write, b"x")
    loop.once()
    assert len(seen) == 1
    for fd in sum(pipes, ()):
        os.close(fd)


def test_alarms_ring_once_unless_disarmed(loop: Loop) -> None:
    rung = []
    loop.alarm("a", 5.0, lambda: rung.append("a"))
    loop.alarm("b", 0.0, lambda: loop.disarm("a"))
    loop.alarm("c", 0.05, lambda: rung.append("c"))
    while "c" not in rung:
        loop.once()
    assert rung == ["c"]


def test_far_alarms_do_not_overflow_the_wait(loop: Loop) -> None:
    loop.alarm("far", 1e12, lambda: None)
    loop.alarm("near", 0.0, lambda: None)
    loop.once()


def test_children_and_orphans_are_reaped(loop: Loop) -> None:
    ended = []
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    loop.on_exit(pid, lambda status: ended.append(exit_code(status)))
    while not ended:
        loop.once()
    assert ended == [7]
    os.close(read)
    os.close(write)


def test_a_signal_counts_as_128_more(loop: Loop) -> None:
    ended = []
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), 9)
    loop.on_exit(pid, lambda status: ended.append(exit_code(status)))
    while not ended:
        loop.once()
    assert ended == [137]

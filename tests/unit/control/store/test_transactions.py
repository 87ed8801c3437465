"""Which work is run again, alone or never; the database is a double that fails as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import StaticPool
from structlog.testing import capture_logs

from intramuros.control.store.drivers import Keys, LostTransaction
from intramuros.control.store.transactions import ATTEMPTS, Health, Job, Queue, Reader, Writer
from intramuros.control.store.tx import Tx
from intramuros.kernel.errors import Unavailable


class Met(Exception):
    """Another transaction was in the way."""


class Backend:
    """Counts transactions; those that are listed fail at their commit."""

    lanes, reading, looks_here, shared_url = 1, 1, False, None

    def __init__(self) -> None:
        self.engine: Engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        self.readers = self.engine
        self.begun: list[Keys | None] = []
        self.committed = 0
        self.commits: list[BaseException | None] = []
        self.turns = 0
        self.free = True
        self.undone = 0

    @contextmanager
    def transaction(self, connection: Connection, keys: Keys | None) -> Iterator[None]:
        self.begun.append(keys)
        yield
        error = self.commits.pop(0) if self.commits else None
        if error is not None:
            raise error
        self.committed += 1

    @contextmanager
    def apart(self, connection: Connection, *, only: bool) -> Iterator[None]:
        yield

    @contextmanager
    def snapshot(self, connection: Connection) -> Iterator[None]:
        yield

    def begin_now(self, connection: Connection) -> bool:
        return self.free

    def roll_back(self, connection: Connection) -> None:
        self.undone += 1

    def take_turn(self, connection: Connection) -> None:
        self.turns += 1

    def passing(self, error: BaseException) -> bool:
        return isinstance(error, Met)

    def verdict(self, error: BaseException) -> BaseException:
        return Unavailable("told otherwise") if isinstance(error, KeyError) else error

    def lost(self, connection: Connection) -> bool:
        return False


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.engine.dispose()


def serve(backend: Backend, *jobs: Job[Any], alone: bool = False) -> None:
    queue = Queue()
    for job in (*jobs, None):
        queue.put(job)
    thread = threading.Thread(target=Writer(backend, queue, alone=alone, limit=8).run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def fail(error: BaseException, times: int = 1000):
    left = [times]

    def work(_: Tx) -> str:
        if left[0]:
            left[0] -= 1
            raise error
        return "done"

    return work


def test_what_waits_shares_a_transaction_with_all_its_keys(backend: Backend) -> None:
    jobs = [Job(lambda _: 1, ("b", "a")), Job(lambda _: 2, ()), Job(lambda _: 3, ("a",))]
    serve(backend, *jobs)
    assert [job.done.result()[0] for job in jobs] == [1, 2, 3]
    assert (backend.begun, backend.committed) == ([["a", "b"]], 1)


def test_alone_there_are_no_keys_and_no_turns(backend: Backend) -> None:
    job = Job(lambda tx: tx.take_turn(), ("a",))
    serve(backend, job, alone=True)
    serve(backend, Job(lambda tx: tx.take_turn(), ("a",)))
    assert backend.begun == [None, ["a"]]
    assert backend.turns == 1


def test_a_group_of_which_one_met_others_runs_again_one_by_one(backend: Backend) -> None:
    jobs = [Job(lambda _: 1), Job(fail(Met(), times=2)), Job(fail(LookupError()))]
    serve(backend, *jobs)
    assert [jobs[0].done.result()[0], jobs[1].done.result()[0]] == [1, "done"]
    assert isinstance(jobs[2].done.exception(), LookupError)
    assert backend.committed == 2


def test_a_commit_that_met_others_is_tried_again(backend: Backend) -> None:
    backend.commits = [Met(), None]
    job = Job(lambda _: 1)
    serve(backend, job)
    assert job.done.result()[0] == 1


def test_who_meets_others_all_the_time_is_told(backend: Backend) -> None:
    work = Job(fail(Met()))
    serve(backend, work)
    assert isinstance(work.done.exception(), Unavailable)
    assert len(backend.begun) == 1 + ATTEMPTS


def test_a_commit_that_fails_is_everybodys(backend: Backend) -> None:
    backend.commits = [OSError("disk")]
    jobs = [Job(lambda _: 1), Job(fail(LookupError()))]
    serve(backend, *jobs)
    with pytest.raises(Unavailable, match="nothing was changed") as told:
        jobs[0].done.result()
    assert isinstance(told.value.__cause__, OSError)
    assert backend.committed == 0


def test_a_transaction_that_the_engine_ended_is_nobodys_success(backend: Backend) -> None:
    jobs = [Job(lambda _: 1), Job(fail(LostTransaction()))]
    serve(backend, *jobs)
    for job in jobs:
        assert isinstance(job.done.exception(), Unavailable)


def test_callers_are_told_the_backends_verdict(backend: Backend) -> None:
    single = Job(fail(KeyError()))
    serve(backend, single)
    with pytest.raises(Unavailable, match="told otherwise"):
        single.done.result()
    backend.commits = [KeyError()]
    job = Job(lambda _: 1)
    serve(backend, job)
    with pytest.raises(Unavailable, match="told otherwise"):
        job.done.result()


def test_a_read_that_lost_its_connection_is_tried_once_more(backend: Backend) -> None:
    queue = Queue()
    jobs = [Job(fail(Met(), times=1)), Job(fail(Met())), Job(lambda _: 3)]
    for job in (*jobs, None):
        queue.put(job)
    Reader(backend, queue).run()
    assert jobs[0].done.result()[0] == "done"
    told = jobs[1].done.exception()
    assert isinstance(told, Unavailable)
    assert isinstance(told.__cause__, Met)
    assert jobs[2].done.result()[0] == 3


def test_a_read_is_answered_before_its_snapshot_ends(backend: Backend) -> None:
    queue, job = Queue(), Job(lambda _: 3)
    ends: list[bool] = []
    snapshot = backend.snapshot

    @contextmanager
    def watched(connection: Connection) -> Iterator[None]:
        with snapshot(connection):
            yield
            ends.append(job.done.done())
        raise Met  # what is answered stays so

    backend.snapshot = watched  # type: ignore[method-assign]
    for each in (job, None):
        queue.put(each)
    Reader(backend, queue).run()
    assert ends == [True]
    assert job.done.result()[0] == 3


def started(backend: Backend, job: Job[Any], *others: Job[Any]) -> bool:
    """Start a job on this thread while the writer has nothing to do; then let it end."""
    queue = Queue()
    writer = Writer(backend, queue, alone=True, limit=8)
    thread = threading.Thread(target=writer.run)
    thread.start()
    first = Job(lambda _: "the connection is there")
    queue.put(first)
    first.done.result(5)
    while not (taken := writer.start(job)) and backend.free and not others:
        pass
    for each in (*others, None):
        queue.put(each)
    thread.join(60)
    assert not thread.is_alive()
    return taken


def test_what_is_started_here_is_committed_there(backend: Backend) -> None:
    job = Job(lambda _: threading.current_thread())
    assert started(backend, job)
    assert job.done.result()[0] is threading.main_thread()
    assert backend.committed == 2


def test_what_is_started_and_fails_is_told_at_once_and_undone(backend: Backend) -> None:
    for error, told in ((LookupError(), LookupError), (LostTransaction(), Unavailable)):
        job = Job(fail(error))
        assert started(backend, job)
        assert isinstance(job.done.exception(), told)
    assert (backend.undone, backend.committed) == (2, 2)


def test_a_commit_that_fails_is_also_of_what_was_started(backend: Backend) -> None:
    backend.commits = [None, OSError("full")]
    job = Job(lambda _: 1)
    assert started(backend, job)
    assert isinstance(job.done.exception(), Unavailable)


def test_nothing_is_started_where_it_would_wait(backend: Backend) -> None:
    backend.free = False
    job = Job(lambda _: 1)
    assert not started(backend, job)
    assert not job.done.done()


def test_that_nothing_can_be_written_is_known_and_logged_once(backend: Backend) -> None:
    health = Health()
    backend.commits = [OSError("the disk is full") for _ in range(20)]
    with capture_logs() as logs:
        for _ in range(20):
            queue = Queue()
            job = Job(lambda _: 1)
            queue.put(job)
            queue.put(None)
            Writer(backend, queue, alone=True, limit=8, health=health).run()
            assert isinstance(job.done.exception(), Unavailable)
            assert health.refusing
    assert [one["event"] for one in logs] == ["commit_failed"]
    assert "the disk is full" in logs[0]["error"]
    queue = Queue()
    queue.put(Job(lambda _: 1))
    queue.put(None)
    Writer(backend, queue, alone=True, limit=8, health=health).run()
    assert not health.refusing


def test_a_statement_that_finds_the_disk_full_is_known_too(backend: Backend) -> None:
    health, queue = Health(), Queue()
    queue.put(Job(fail(KeyError("what the engine calls it"))))
    queue.put(Job(fail(ValueError("the caller's own"))))
    queue.put(None)
    with capture_logs() as logs:
        Writer(backend, queue, alone=True, limit=8, health=health).run()
    assert health.refusing
    assert len(logs) == 1


def test_what_a_caller_did_wrong_says_nothing_of_the_database(backend: Backend) -> None:
    health, queue = Health(), Queue()
    queue.put(Job(fail(ValueError("the caller's own"))))
    queue.put(None)
    Writer(backend, queue, alone=True, limit=8, health=health).run()
    assert not health.refusing

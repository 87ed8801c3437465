import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intramuros.control.catalog import memories
from intramuros.control.catalog.memories import Query
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import ContentChanged, NotFound, PathTaken
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import verify
from intramuros.protocol.resources.memory import MemoryCreate, MemoryUpdate, Precondition
from tests.unit.control.catalog.memory import make_writer

NAMES = st.sampled_from(["a", "a.md", "a0", "a-", "b", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


@given(wanted=st.sets(PATHS, max_size=12), prefix=PATHS, limit=st.integers(1, 4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_R159_R160_pages_join_to_what_a_directory_would_show(
    tx: Tx, actor: Actor, wanted: set[str], prefix: str, limit: int
) -> None:
    writer = make_writer(tx, actor)
    for path in wanted:
        memories.create(tx, writer, MemoryCreate(path=path, content=""))
    below = f"{prefix}/"
    inside = {path for path in wanted if path.startswith(below)}
    children = {
        below + path[len(below) :].split("/")[0] + ("/" if "/" in path[len(below) :] else "")
        for path in inside
    }
    for shallow, expected in ((False, inside), (True, children)):
        seen: list[str] = []
        more = True
        while more:
            after = seen[-1] if seen else None
            query = Query(limit, below, shallow=shallow, after=after)
            found, more = memories.find(tx, writer.store.id, query)
            assert len(found) <= limit
            seen += [memories.place(item) for item in found]
        assert len(seen) == len(set(seen))
        assert set(seen) == expected


def test_R154_R161_no_change_adds_no_version(tx: Tx, actor: Actor) -> None:
    writer = make_writer(tx, actor)
    made = memories.create(tx, writer, MemoryCreate(path="/a", content="x"))
    stale = Precondition(type="content_sha256", content_sha256="0" * 64)
    same = MemoryUpdate(path="/a", content="x", precondition=stale)
    assert memories.change(tx, writer, made.id, same) == made
    with pytest.raises(ContentChanged):
        memories.change(tx, writer, made.id, MemoryUpdate(path="/b", precondition=stale))
    assert memories.get(tx, writer.store.id, made.id) == made


def test_changes_are_ordered_when_the_clock_steps_back(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    writer = make_writer(tx, actor)
    made = memories.create(tx, writer, MemoryCreate(path="/a", content="x"))
    clock.advance(-60)
    changed = memories.change(tx, writer, made.id, MemoryUpdate(content="y"))
    assert changed.updated_us == made.updated_us + 1


def test_a_taken_path_is_named_and_a_memory_may_come_back_to_it(tx: Tx, actor: Actor) -> None:
    writer = make_writer(tx, actor)
    made = memories.create(tx, writer, MemoryCreate(path="/a", content="x"))
    with pytest.raises(PathTaken) as caught:
        memories.create(tx, writer, MemoryCreate(path="/a", content="y"))
    assert caught.value.hints.details == {
        "conflicting_memory_id": made.id,
        "conflicting_path": "/a",
    }
    memories.remove(tx, writer, made.id, made.sha256)
    again = memories.create(tx, writer, MemoryCreate(path="/a", content="y"))
    assert again.id != made.id
    with pytest.raises(NotFound):
        memories.remove(tx, writer, made.id, None)


def test_the_record_says_which_but_neither_where_nor_what(tx: Tx, actor: Actor) -> None:
    writer = make_writer(tx, actor)
    made = memories.create(tx, writer, MemoryCreate(path="/a-path", content="a-text"))
    memories.change(tx, writer, made.id, MemoryUpdate(content="a-text-2"))
    memories.remove(tx, writer, made.id, None)
    lines = list(audit.read_lines(tx))
    verify(lines)
    acts = [json.loads(line) for line in lines][1:]
    assert [act["kind"] for act in acts] == ["memory.create", "memory.update", "memory.delete"]
    assert {act["fields"]["id"] for act in acts} == {made.id}
    assert acts[0]["fields"]["sha256"] == made.sha256
    assert not any("a-path" in line or "a-text" in line for line in lines)

from dataclasses import replace

import pytest

from intramuros.control.catalog import memories, memory_stores, memory_versions, service
from intramuros.control.catalog.kinds import MEMORY_STORE
from intramuros.control.dreams import output, rows
from intramuros.control.dreams.plan import Copy, Dream, Start
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.memory import MemoryCreate
from tests.fakes.dreams import Night


def started(night: Night, **more: object) -> Dream:
    dream = night.begin(night.store(a="A", b="B", c="C"), night.talk("hi"), **more)
    night.until(dream, Start)
    return night.now(dream)


def test_the_copy_goes_on_where_it_stopped(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_BATCH", 2)
    dream = started(night)
    assert night.held(dream.output_id) == {}
    night.step(dream)
    assert night.now(dream).progress.copied == "/b.md"
    assert sorted(night.held(dream.output_id)) == ["/a.md", "/b.md"]
    night.step(dream)
    assert night.now(dream).progress.copied is None
    assert night.held(dream.output_id) == night.held(dream.store_id)
    query = memory_versions.Query(100)
    versions, _ = memory_versions.find(night.tx, str(dream.output_id), query)
    assert [(v.operation, v.author_id) for v in versions] == [("created", dream.session_id)] * 3
    assert [known.path for known in rows.all_known(night.tx, dream)] == ["/a.md", "/b.md", "/c.md"]


def test_what_somebody_puts_into_the_copy_stays(night: Night) -> None:
    dream = started(night)
    writer = output.writer(night.tx, night.stage, dream)
    memories.create(night.tx, writer, MemoryCreate(path="/b.md", content="mine"))
    night.until(dream, Copy)
    assert night.held(dream.output_id) == {"/a.md": "A", "/b.md": "mine", "/c.md": "C"}


def test_D08_an_update_copies_nothing_and_knows_all(night: Night) -> None:
    store = night.store(a="A", b="B")
    behavior = {"type": "update_existing", "memory_store_id": store}
    dream = night.begin(store, night.talk("hi"), output_behavior=behavior)
    night.until(dream, Copy)
    assert night.now(dream).output_id == store
    versions, _ = memory_versions.find(night.tx, store, memory_versions.Query(10))
    assert len(versions) == 2
    assert [known.path for known in rows.all_known(night.tx, dream)] == ["/a.md", "/b.md"]


def test_the_new_store_is_named_after_the_old_one(night: Night) -> None:
    dream = started(night)
    made = service.get(night.tx, "wrkspc_test", MEMORY_STORE, str(dream.output_id))
    assert made.body == {
        "name": "Notes (dream)",
        "description": "",
        "metadata": {"dream_id": dream.id},
    }


def test_R247_an_organization_has_only_so_many_stores(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    dream = night.begin(night.store(), night.talk("hi"))
    monkeypatch.setattr(memory_stores, "MAX_IN_ORGANIZATION", 1)
    with pytest.raises(InvalidRequest) as refused:
        output.make(night.tx, night.stage, dream)
    assert refused.value.hints.code == "memory_store_org_limit_exceeded"
    assert output.make(night.tx, night.stage, replace(dream, updates=True)) == dream.store_id


def test_what_became_of_a_store(night: Night) -> None:
    store = night.store()
    assert output.condition(night.tx, "wrkspc_test", store) == "open"
    assert output.condition(night.tx, "wrkspc_other", store) == "gone"
    found = service.get(night.tx, "wrkspc_test", MEMORY_STORE, store)
    service.archive(night.tx, night.stage.actor(night.begin(store, night.talk())), found)
    assert output.condition(night.tx, "wrkspc_test", store) == "archived"

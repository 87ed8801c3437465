from dataclasses import replace

from intramuros.control.dreams import rows
from intramuros.control.dreams.rows import Known, Query
from tests.fakes.dreams import Night


def test_what_is_stored_comes_back(night: Night) -> None:
    dream = night.begin(night.store(), night.talk(), instructions="i")
    assert night.now(dream) == dream
    assert rows.of_session(night.tx, dream.session_id) == dream
    assert rows.get(night.tx, "wrkspc_other", dream.id) is None
    progress = replace(dream.progress, part=3, copied=None)
    rows.change(night.tx, dream, status="running", progress=progress, error={"type": "x"})
    changed = night.now(dream)
    assert (changed.status, changed.progress, changed.error) == ("running", progress, {"type": "x"})


def test_R246_pages_join_newest_first(night: Night) -> None:
    store, talk = night.store(), night.talk()
    made = []
    for _ in range(5):
        night.world.clock.advance(1)
        made.append(night.begin(store, talk))
    rows.change(night.tx, made[1], archived_us=1)
    rows.change(night.tx, made[3], status="failed")
    seen: list[str] = []
    after, more = None, True
    while more:
        found, more = rows.find(night.tx, "wrkspc_test", Query(2, after))
        seen += [dream.id for dream in found]
        after = (found[-1].created_us, found[-1].id)
    assert seen == [made[n].id for n in (4, 3, 2, 0)]

    def ids(**narrow: object) -> list[str]:
        query = Query(10, **narrow)  # type: ignore[arg-type]
        return [dream.id for dream in rows.find(night.tx, "wrkspc_test", query)[0]]

    assert ids(statuses=["failed"]) == [made[3].id]
    assert len(ids(include_archived=True)) == 5
    # Exclusive at both ends.
    bounds = {"created_gt_us": made[2].created_us, "created_lt_us": made[4].created_us}
    assert ids(**bounds) == [made[3].id]
    assert rows.find(night.tx, "wrkspc_other", Query(10)) == ([], False)


def test_what_it_knows_of_a_memory(night: Night) -> None:
    dream = night.begin(night.store(), night.talk())
    assert rows.known(night.tx, dream, "/a") is None
    for known in (Known("/a", "v1", None, 0), Known("/a", "v1", "v2", 3, "gone"),
                  Known("/A", None, "v3", 1)):  # fmt: skip
        rows.know(night.tx, dream, known)
        assert rows.known(night.tx, dream, known.path) == known
    assert [known.path for known in rows.all_known(night.tx, dream)] == ["/A", "/a"]


def test_who_is_busy(night: Night) -> None:
    store, talk = night.store(), night.talk()
    behavior = {"type": "update_existing", "memory_store_id": store}
    first = night.begin(store, talk, output_behavior=behavior)
    night.begin(store, talk)
    assert rows.busy(night.tx, "wrkspc_test") == 2
    assert rows.updating(night.tx, store) == first.id
    rows.change(night.tx, first, stopped_us=1)
    assert rows.busy(night.tx, "wrkspc_test") == 1
    assert rows.updating(night.tx, store) is None


def test_sessions_that_are_there(night: Night) -> None:
    talk = night.talk("hello")
    assert rows.existing(night.tx, [talk, "sesn_none"]) == {talk}
    assert rows.states(night.tx, [talk, "sesn_none"])[talk].turn == 1

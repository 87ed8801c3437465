from intramuros.control.store.records import Draft, Record


def record(**changes: object) -> Record:
    fields = {
        "session_id": "sesn_1",
        "seq": 1,
        "id": "sevt_1",
        "type": "user.message",
        "at_us": 1_767_225_600_000_001,
        "body": {"content": [{"type": "text", "text": "hello"}]},
        "private": {"tool_use_id": "toolu_1"},
    }
    return Record(**{**fields, **changes})


def test_a_processed_event_shows_its_time_and_nothing_private() -> None:
    assert record().public() == {
        "id": "sevt_1",
        "type": "user.message",
        "content": [{"type": "text", "text": "hello"}],
        "processed_at": "2026-01-01T00:00:00.000001Z",
    }


def test_a_queued_event_has_no_time_of_processing() -> None:
    assert record(queued=True).public()["processed_at"] is None


def test_marks_are_internal_and_events_are_not() -> None:
    assert Draft("internal.mcp_call_started").internal
    assert record(type="internal.retry").internal
    assert not Draft("agent.message").internal
    assert not record().internal

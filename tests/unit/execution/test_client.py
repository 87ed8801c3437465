import base64
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import pytest

from intramuros.execution import client
from intramuros.execution.client import (
    Attached,
    Away,
    Beat,
    ControlPlaneError,
    LeaseLost,
    Raced,
    Refused,
    Session,
    Skill,
    Work,
    read_beat,
    read_session,
    read_work,
    result_event,
)
from intramuros.execution.dispatch import ToolUse
from intramuros.execution.journal import Result


def secret(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def test_a_token_never_shows_in_a_repr() -> None:
    assert "hidden" not in repr(Work("w", "e", "session", "s", "hidden-token"))


def item(**members: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"id": "work_1", "data": None, "secret": None, **members})


def test_work_is_read() -> None:
    data = SimpleNamespace(type="session", id="sesn_1")
    work = read_work(item(data=data, secret=secret({"sessions_token": "t"})), "env_1")
    assert work == Work("work_1", "env_1", "session", "sesn_1", "t")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("yesterday", None),
        (7, None),
    ],
)
def test_an_items_age_is_known_if_it_says_so(text: object, at: datetime | None) -> None:
    assert read_work(item(created_at=text), "env_1").queued_at == at


@pytest.mark.parametrize("data", [None, 7, SimpleNamespace(type=7, id=[])])
def test_work_of_another_form_names_no_session(data: object) -> None:
    assert read_work(item(data=data), "env_1") == Work("work_1", "env_1", "", "")


@pytest.mark.parametrize("raw", ["", {}, item(id=None), item(id="")])
def test_work_without_an_id_is_no_work(raw: object) -> None:
    with pytest.raises(Away):
        read_work(raw, "env_1")


def test_a_beat_is_read() -> None:
    raw = SimpleNamespace(last_heartbeat="t", lease_extended=True, state="active", ttl_seconds=30)
    assert read_beat(raw) == Beat("t", True, "active", 30.0)


@pytest.mark.parametrize("raw", [None, "", SimpleNamespace(last_heartbeat="t")])
def test_a_beat_of_another_form_is_a_failure(raw: object) -> None:
    with pytest.raises(Away):
        read_beat(raw)


def test_results_answer_in_the_kind_of_the_call() -> None:
    result = Result([{"type": "text", "text": "x"}], is_error=False)
    assert result_event(ToolUse("a", "bash", {}), result) == {
        "type": "user.tool_result",
        "tool_use_id": "a",
        "is_error": False,
        "content": result.content,
    }
    custom = result_event(ToolUse("a", "x", {}, custom=True), result)
    assert (custom["type"], custom["custom_tool_use_id"]) == ("user.custom_tool_result", "a")


def status_error(status: int, **headers: str) -> anthropic.APIStatusError:
    request = httpx2.Request("GET", "http://test")
    response = httpx2.Response(status, headers=headers, request=request)
    return anthropic.APIStatusError("leaky body", response=response, body=None)


def mapped(error: Exception, *, heartbeat: bool = False) -> ControlPlaneError:
    with pytest.raises(ControlPlaneError) as caught, client.mapped(heartbeat=heartbeat):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Away),
        (400, Refused),
        (401, Refused),
        (404, Refused),
        (408, Away),
        (409, Raced),
        (412, Refused),
        (413, Refused),
        (429, Away),
        (500, Away),
        (529, Away),
    ],
)
def test_errors_are_told_by_status(status: int, kind: type[ControlPlaneError]) -> None:
    error = mapped(status_error(status))
    assert type(error) is kind
    assert "leaky" not in str(error)


def test_a_412_on_a_heartbeat_is_a_lost_lease() -> None:
    assert isinstance(mapped(status_error(412), heartbeat=True), LeaseLost)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("-1", None), ("soon", None), ("9999999", 300.0)]
)
def test_how_long_to_wait_is_heard_within_reason(header: str, seconds: float | None) -> None:
    error = mapped(status_error(429, **{"retry-after": header}))
    assert isinstance(error, Away)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ReadTimeout("x"),
        anthropic.APIConnectionError(request=httpx2.Request("GET", "http://test")),
        ConnectionResetError(),
        json.JSONDecodeError("x", "", 0),
    ],
)
def test_networks_and_garbage_are_transient(error: Exception) -> None:
    assert type(mapped(error)) is Away


def test_our_own_mistakes_are_not_renamed() -> None:
    with pytest.raises(KeyError), client.mapped():
        raise KeyError("bug")


def test_a_session_is_read_and_odd_skills_are_left_out() -> None:
    skills = [
        SimpleNamespace(skill_id="skill_1", version="skver_1"),
        SimpleNamespace(skill_id="skill_2", version=None),
        SimpleNamespace(skill_id=7, version="x"),
        "nonsense",
    ]
    raw = SimpleNamespace(status="idle", agent=SimpleNamespace(skills=skills))
    assert read_session(raw) == Session("idle", (Skill("skill_1", "skver_1"),))
    assert read_session(SimpleNamespace(status="idle", agent=None)) == Session("idle")
    other = SimpleNamespace(skill_id="skill_2", version="skver_2")
    roster = [SimpleNamespace(skills=[skills[0], other]), SimpleNamespace(type="advisor")]
    for team in (
        SimpleNamespace(agents=roster),
        SimpleNamespace(subagents=SimpleNamespace(predefined_agents=roster)),
    ):
        raw = SimpleNamespace(status="idle", agent=SimpleNamespace(skills=skills, multiagent=team))
        both = (Skill("skill_1", "skver_1"), Skill("skill_2", "skver_2"))
        assert read_session(raw) == Session("idle", both), "all agents share one sandbox"
    assert read_session(7) == Session("")


def store(**members: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "type": "memory_store",
            "memory_store_id": "memstore_1",
            "mount_path": "/mnt/memory/n",
            "access": "read_write",
            **members,
        }
    )


@pytest.mark.parametrize(
    ("access", "read_only"),
    [("read_only", True), ("read_write", False), (None, False), ("READ_ONLY", False)],
)
def test_c25_23_a_store_is_read_only_by_exactly_that_word(access: Any, read_only: bool) -> None:
    raw = SimpleNamespace(
        status="idle", resources=[SimpleNamespace(type="file"), store(access=access)]
    )
    attached = Attached("memstore_1", "/mnt/memory/n", read_only)
    assert read_session(raw) == Session("idle", stores=(attached,))


@pytest.mark.parametrize("members", [{"memory_store_id": None}, {"mount_path": 7}])
def test_a_malformed_store_is_no_store(members: dict[str, Any]) -> None:
    with pytest.raises(Away):
        read_session(SimpleNamespace(status="idle", resources=[store(**members)]))
    assert read_session(SimpleNamespace(status="idle", resources=None)) == Session("idle")

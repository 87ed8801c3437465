"""Usage and cost reports over HTTP; the official SDK has no method for them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from anyio.from_thread import start_blocking_portal

from tests.fakes.messages_server import FakeMessages
from tests.wire.host import Server, running
from tests.wire.site import until

pytestmark = pytest.mark.timeout(240)

HELLO: Any = {"max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}
USAGE, COST = "/v1/organizations/usage_report/messages", "/v1/organizations/cost_report"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    fake = FakeMessages.saying([{"type": "text", "text": "Good morning."}])
    folder = tmp_path_factory.mktemp("reports")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fake.running()) as base_url,
        running(folder / "data", model_base_url=base_url, model_api_key="sk-x") as started,
    ):
        yield started


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx2.Client]:
    headers = {"x-api-key": server.api_key}
    with httpx2.Client(base_url=server.base_url, headers=headers) as made:
        yield made


@pytest.fixture(scope="module")
def used(server: Server) -> Server:
    """Three messages and one turn of a session: four requests of 11 + 3 + 5 in and 7 out."""
    with Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api:
        for _ in range(2):
            api.messages.create(model="claude-opus-5", **HELLO)
        with api.messages.stream(model="claude-sonnet-5", **HELLO) as stream:
            stream.get_final_message()
        agent = api.beta.agents.create(name="a", model="claude-opus-5")
        place = api.beta.environments.create(name="p", config={"type": "self_hosted"})
        session = api.beta.sessions.create(agent=agent.id, environment_id=place.id)
        say: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
        api.beta.sessions.events.send(session.id, events=[say])
        until(
            lambda: (
                [
                    e
                    for e in api.beta.sessions.events.list(session.id)
                    if e.type == "session.status_idle"
                ]
                or None
            )
        )
    return server


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()  # noqa: TID251  the server's clock


def results(answer: httpx2.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [item for bucket in answer.json()["data"] for item in bucket["results"]]


def test_the_loop_and_messages_are_counted_alike(used: Server, http: httpx2.Client) -> None:
    for width in ("1m", "1h", "1d"):
        found = results(
            http.get(USAGE, params={"starting_at": ago(minutes=30), "bucket_width": width})
        )
        assert sum(r["uncached_input_tokens"] for r in found) == 44
        assert sum(r["output_tokens"] for r in found) == 28
        assert sum(r["cache_creation"]["ephemeral_5m_input_tokens"] for r in found) == 12
        assert sum(r["cache_read_input_tokens"] for r in found) == 20
    grouped = {"starting_at": ago(hours=1), "group_by[]": ["model", "api_key_id"]}
    found = results(http.get(USAGE, params=grouped))
    by_group = {(r["model"], r["api_key_id"] is None): r["output_tokens"] for r in found}
    assert by_group == {
        ("claude-opus-5", False): 14,
        ("claude-sonnet-5", False): 7,
        ("claude-opus-5", True): 7,  # the session's
    }
    only = {"starting_at": ago(hours=1), "models[]": ["claude-sonnet-5"]}
    assert [r["output_tokens"] for r in results(http.get(USAGE, params=only))] == [7]


def test_what_it_cost_agrees_with_the_prices(used: Server, http: httpx2.Client) -> None:
    (whole,) = results(http.get(COST, params={"starting_at": ago(hours=1)}))
    opus = 11 * 5 + 7 * 25 + 5 * 0.5 + 3 * 6.25
    sonnet = 11 * 2 + 7 * 10 + 5 * 0.2 + 3 * 2.5
    assert float(whole["amount"]) == pytest.approx((3 * opus + sonnet) / 10_000)
    parts = results(
        http.get(COST, params={"starting_at": ago(hours=1), "group_by[]": "description"})
    )
    assert sum(float(r["amount"]) for r in parts) == pytest.approx(float(whole["amount"]))
    assert "Claude Sonnet 5 Usage - Output Tokens" in {r["description"] for r in parts}


def test_reports_are_paged_by_bucket(used: Server, http: httpx2.Client) -> None:
    asked: dict[str, Any] = {"starting_at": ago(days=9), "bucket_width": "1d", "limit": 4}
    buckets, page = [], None
    while True:
        answer = http.get(USAGE, params={**asked, **({"page": page} if page else {})}).json()
        assert len(answer["data"]) <= 4
        assert answer["has_more"] == (answer["next_page"] is not None)
        buckets += answer["data"]
        page = answer["next_page"]
        if page is None:
            break
    assert len(buckets) == 10
    for one, other in pairwise(buckets):
        assert one["ending_at"] == other["starting_at"]
    assert [bool(bucket["results"]) for bucket in buckets] == [False] * 9 + [True]
    first = http.get(USAGE, params=asked).json()["next_page"]
    other_filters = {**asked, "page": first, "models[]": "x"}
    assert "other filters" in http.get(USAGE, params=other_filters).text
    past = {"starting_at": "2025-01-01T00:00:00Z", "ending_at": "2025-01-08T00:00:00Z"}
    answer = http.get(COST, params=past).json()
    assert len(answer["data"]) == 7
    assert answer["has_more"] is False
    assert answer["data"][0]["starting_at"] == "2025-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (USAGE, {}),
        (USAGE, {"starting_at": "yesterday"}),
        (USAGE, {"starting_at": "2026-01-02T00:00:00"}),
        (USAGE, {"starting_at": "2026-01-02T00:00:00Z", "ending_at": "2026-01-01T00:00:00Z"}),
        (USAGE, {"starting_at": "2026-01-01T00:00:00Z", "limit": "32"}),
        (USAGE, {"starting_at": "2026-01-01T00:00:00Z", "bucket_width": "1w"}),
        (USAGE, {"starting_at": "2026-01-01T00:00:00Z", "group_by[]": "planet"}),
        (USAGE, {"starting_at": "2026-01-01T00:00:00Z", "group_by[]": "speed"}),
        (USAGE, {"starting_at": "2026-01-01T00:00:00Z", "speeds[]": "fast"}),
        (USAGE, {"starting_at": "2026-01-01T00:00:00Z", "page": "page_x"}),
        (COST, {"starting_at": "2026-01-01T00:00:00Z", "bucket_width": "1h"}),
        (COST, {"starting_at": "2026-01-01T00:00:00Z", "group_by[]": "model"}),
    ],
)
def test_wrong_questions_are_refused(http: httpx2.Client, path: str, query: Any) -> None:
    answer = http.get(path, params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_speed_is_told_to_who_knows_of_it(used: Server, http: httpx2.Client) -> None:
    asked = {"starting_at": ago(hours=1), "group_by[]": "speed"}
    found = results(
        http.get(USAGE, params=asked, headers={"anthropic-beta": "fast-mode-2026-02-01"})
    )
    assert {r["speed"] for r in found} == {"standard"}
    assert results(http.get(USAGE, params={"starting_at": "2099-01-01T00:00:00Z"})) == []

"""Pages and an engine on loopback, by a worker's rules and in its record."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.egress.policy import OwnRules, parse_hosts
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.execution.record import Record
from intramuros.execution.web.ways import Outside, WorkerWays
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import SystemClock
from intramuros.web.base import Answer, Fetch, Search
from intramuros.web.engines import Tavily
from intramuros.web.fetch import Fetcher
from intramuros.web.reader import Reader
from intramuros.web.search import Searcher
from intramuros.web.terms import Terms
from tests.fakes.website import (
    Origin,
    dripping,
    endless,
    moved,
    page,
    raw,
    serving,
    silent,
    squeezed,
)
from tests.unit.web.doubles import CALLER, Notes

pytestmark = pytest.mark.anyio
READ = Reader()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving() as made:
        yield made


class Rig:
    """A worker that may reach ``site.test`` and its neighbours, which are this machine."""

    def __init__(self, origin: Origin, folder: Path, addresses: Sequence[str] = ()) -> None:
        async def names(name: str, _port: int) -> Sequence[str]:
            self.asked.append(name)
            return addresses or ["127.0.0.1"]

        self.asked: list[str] = []
        self.audit = folder / "audit.jsonl"
        self.record = Record(self.audit, SystemClock())
        own = OwnRules(
            allow=parse_hosts(["*.test"]),
            deny=parse_hosts(["denied.test"]),
            internal=parse_hosts(["site.test"]),
            ports=frozenset({origin.port}),
        )
        self.port = origin.port
        ca_file = getattr(origin, "ca_file", None)
        dialler = Dialler(client_context(ca_file), names)
        self.outside = Outside(own, dialler, self.record, SystemClock(), engine_inside=True)
        self.ways = WorkerWays(self.outside, "sesn_1")

    async def fetch(self, url: str, timeout_s: float = 5.0) -> Answer:
        terms = Terms(ports=(80, 443, self.port), timeout_s=timeout_s)
        fetcher = Fetcher(terms, READ, Notes(), SystemClock(), self.ways)
        return await fetcher.fetch(Fetch(CALLER, "sevt_1", url))

    def told(self) -> list[dict[str, Any]]:
        self.record.close()
        return [json.loads(line) for line in read_lines(self.audit)]


@pytest.fixture
def rig(origin: Origin, tmp_path: Path) -> Rig:
    return Rig(origin, tmp_path)


def said(answer: Answer) -> str:
    return str(answer.content[0])


async def test_a_page_is_recorded_before_and_after(rig: Rig, origin: Origin) -> None:
    origin.pages["/a"] = moved("/b")
    origin.pages["/b"] = squeezed(b"fine")
    assert "fine" in said(await rig.fetch(f"http://site.test:{rig.port}/a?q=hush"))
    asked, end, again, last = rig.told()
    assert [line["kind"] for line in (asked, end, again, last)] == [
        "egress.request",
        "egress.end",
    ] * 2
    assert asked["fields"]["verdict"] == "allow"
    assert (asked["fields"]["method"], asked["fields"]["path"]) == ("GET", "/a")
    assert asked["fields"]["session_id"] == "sesn_1"
    assert (end["fields"]["status"], last["fields"]["status"]) == (302, 200)
    assert last["fields"]["ended"] == "done"
    assert last["fields"]["response_bytes"] > 0
    assert "hush" not in json.dumps([asked, end, again, last])
    assert rig.asked == ["site.test", "site.test"], "resolved once for each connection"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://elsewhere.example:{port}/", "worker_does_not_allow"),
        ("http://denied.test:{port}/", "worker_denies"),
        ("http://site.test:8/", None),
        ("http://127.0.0.1:{port}/", None),
    ],
)
async def test_what_the_worker_does_not_allow_is_not_dialled(
    rig: Rig, origin: Origin, url: str, rule: str | None
) -> None:
    answer = await rig.fetch(url.format(port=rig.port))
    assert "url_not_allowed" in said(answer)
    assert (origin.asked, rig.asked) == ([], [])
    if rule:
        [line] = rig.told()
        assert (line["fields"]["verdict"], line["fields"]["rule"]) == ("deny", rule)


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("other.test", ["127.0.0.1"]),
        ("other.test", ["93.184.216.34", "10.0.0.1"]),
        ("site.test", ["169.254.169.254"]),
        ("site.test", ["::ffff:169.254.169.254"]),
    ],
)
async def test_names_that_lead_inside_are_refused_after_they_are_resolved(
    origin: Origin, tmp_path: Path, host: str, addresses: list[str]
) -> None:
    rig = Rig(origin, tmp_path, addresses)
    answer = await rig.fetch(f"http://{host}:{rig.port}/")
    assert "does not resolve to public addresses only" in said(answer)
    assert origin.asked == []
    assert rig.told()[-1]["fields"]["ended"] == "address_refused"


async def test_what_cannot_be_recorded_is_not_dialled(
    rig: Rig, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_lines: list[str]) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(rig.record, "_append", full)
    assert "cannot be recorded" in said(await rig.fetch(f"http://site.test:{rig.port}/a"))
    assert (origin.asked, rig.asked) == ([], [])


@pytest.mark.parametrize(
    "answer",
    [
        silent,
        dripping,
        raw(b"SSH-2.0-OpenSSH\r\n"),
        raw(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nshort"),
        raw(b"HTTP/1.1 200 X\r\n" + b"a: b\r\n" * 50_000),
        raw(b"HTTP/1.1 103 X\r\n\r\n" * 20),
        raw(b""),
    ],
    ids=["silence", "drops", "another protocol", "cut off", "headers", "interim", "nothing"],
)
async def test_servers_that_mean_harm(rig: Rig, origin: Origin, answer: Any) -> None:
    origin.pages["/a"] = answer
    made = await rig.fetch(f"http://site.test:{rig.port}/a", timeout_s=0.5)
    assert made.is_error
    assert rig.told()[-1]["kind"] == "egress.end"


async def test_a_page_without_end_is_read_to_the_limit(rig: Rig, origin: Origin) -> None:
    origin.pages["/a"] = endless
    assert "longer than the" in said(await rig.fetch(f"http://site.test:{rig.port}/a"))
    assert rig.told()[-1]["fields"]["ended"] == "aborted"


async def test_certificates_are_checked(tmp_path: Path) -> None:
    with serving(tmp_path) as origin:
        origin.pages["/a"] = page("fine", "text/plain")
        rig = Rig(origin, tmp_path)
        answer = await rig.fetch(f"https://site.test:{rig.port}/a")
        assert "url_not_accessible" in said(answer), "it is issued for another name"
        assert rig.told()[-1]["fields"]["ended"] == "bad_certificate"


async def test_the_engine_is_asked_with_the_key_wherever_it_is(rig: Rig, origin: Origin) -> None:
    origin.pages["/search"] = page(json.dumps({"results": []}), "application/json")
    engine = Tavily(f"http://127.0.0.1:{rig.port}", "hush-key")
    answer = await Searcher(Terms(), engine, rig.ways).search(Search(CALLER, "sevt_1", "q"))
    assert not answer.is_error
    assert origin.asked[0].headers["authorization"] == "Bearer hush-key"
    asked, end = rig.told()
    assert (asked["fields"]["rule"], asked["fields"]["method"]) == ("search_engine", "POST")
    assert asked["fields"]["secrets"] == ["search_engine"]
    assert end["fields"]["request_bytes"] > 0
    assert "hush" not in json.dumps([asked, end])

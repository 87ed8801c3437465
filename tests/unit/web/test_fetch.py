"""Pages over real connections; servers that mean harm included."""

import gzip
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from intramuros.control.web.policy import Policy
from intramuros.kernel.timing import SystemClock
from intramuros.web.base import Answer
from intramuros.web.domains import Rules, rules_of
from intramuros.web.fetch import MAX_BYTES, MAX_HOPS, Fetcher
from intramuros.web.reader import Reader
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
from tests.unit.web.doubles import Names, Notes, fetch, policy, ways
from tests.waiting import until

pytestmark = pytest.mark.anyio
READ = Reader()


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def forgotten(origin: Origin) -> None:
    origin.pages.clear()
    origin.asked.clear()


def fetcher(
    origin: Origin,
    names: Names | None = None,
    notes: Notes | None = None,
    allows: Policy | None = None,
    **more: Any,
) -> Fetcher:
    bound = allows or policy(origin.port, **more)
    return Fetcher(bound, READ, notes or Notes(), SystemClock(), ways(bound, names))


def site(origin: Origin, path: str, host: str = "site.example") -> str:
    return f"http://{host}:{origin.port}{path}"


def text(answer: Answer) -> str:
    [block] = answer.content
    source: Any = block.get("source")
    return str(source["data"] if source else block["text"])


def refused(answer: Answer) -> str:
    assert answer.is_error
    assert not answer.searches
    return text(answer)


async def test_a_page_is_read_with_where_and_when(origin: Origin) -> None:
    origin.pages["/a"] = page("<title>T</title><p>hi")
    answer = await fetcher(origin).fetch(fetch(site(origin, "/a?q=1")))
    [block] = answer.content
    assert not answer.is_error
    assert block["title"] == "T"
    assert str(block["context"]).startswith(f"Fetched from {site(origin, '/a?q=1')} at 20")
    assert answer.seen["hosts"] == ["site.example"]
    assert answer.seen["status"] == 200
    [asked] = origin.asked
    assert asked.target == "/a?q=1"
    assert asked.headers["host"] == f"site.example:{origin.port}"
    assert set(asked.headers) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}


async def test_c6_21_a_domain_outside_the_lists_is_not_asked(origin: Origin) -> None:
    names = Names()
    allow = rules_of(["other.example"], None)
    block = rules_of(None, ["example"])
    for rules in (allow, block):
        answer = await fetcher(origin, names).fetch(fetch(site(origin, "/"), rules))
        assert refused(answer).startswith("url_not_allowed: ")
    assert (origin.asked, names.asked) == ([], [])


async def test_the_operators_lists_win(origin: Origin) -> None:
    agents = rules_of(["site.example"], None)
    for operators in (rules_of(["other.example"], None), rules_of(None, ["site.example"])):
        makes = fetcher(origin, rules=operators)
        assert refused(await makes.fetch(fetch(site(origin, "/"), agents))).startswith(
            "url_not_all"
        )
    barren = await fetcher(origin, rules=rules_of(["other.example"], None)).fetch(
        fetch(site(origin, "/"), agents)
    )
    assert "no domain is permitted" in text(barren)
    assert origin.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1",
    ],
)
async def test_names_of_inner_addresses_are_not_reached(origin: Origin, address: str) -> None:
    names = Names([address], ["127.0.0.1"])
    makes = fetcher(origin, names, networks=())
    assert refused(await makes.fetch(fetch(site(origin, "/")))).startswith("url_not_allowed")
    mixed = fetcher(origin, Names(["93.184.216.34", address]), networks=())
    assert refused(await mixed.fetch(fetch(site(origin, "/")))).startswith("url_not_allowed")
    assert origin.asked == []


async def test_a_name_is_asked_once_and_what_was_checked_is_dialled(origin: Origin) -> None:
    """A second answer of the name service would lead inside (DNS rebinding)."""
    origin.pages["/"] = page("ok", "text/plain")
    names = Names(["127.0.0.1"], ["10.255.255.1"])
    assert text(await fetcher(origin, names).fetch(fetch(site(origin, "/")))) == "ok"
    assert names.asked == ["site.example"]


@pytest.mark.parametrize("host", ["93.184.216.34", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_addresses_are_no_domains(origin: Origin, host: str) -> None:
    answer = await fetcher(origin).fetch(fetch(site(origin, "/", host)))
    assert refused(answer).startswith("url_not_allowed: pages are named by domain")


async def test_an_address_in_the_operators_networks_is_reached(origin: Origin) -> None:
    origin.pages["/"] = page("ok", "text/plain")
    assert text(await fetcher(origin, Names(["127.0.0.1"])).fetch(fetch(origin.url + "/"))) == "ok"


async def test_other_ports_are_not_reached(origin: Origin) -> None:
    answer = await fetcher(origin).fetch(fetch("http://site.example:22/"))
    assert refused(answer).startswith("url_not_allowed: pages at this port")


async def test_redirects_are_followed_and_told_first(origin: Origin) -> None:
    origin.pages["/a"] = moved("/b?secret=1", 301)
    origin.pages["/b"] = moved(site(origin, "/c", "more.example"), 307)
    origin.pages["/c"] = page("end", "text/plain")
    notes = Notes()
    answer = await fetcher(origin, notes=notes).fetch(fetch(site(origin, "/a")))
    assert text(answer) == "end"
    assert notes.hops == ["site.example/b", "more.example/c"]
    assert answer.seen["hosts"] == ["site.example", "site.example", "more.example"]
    assert "more.example" in str(answer.content[0]["context"])


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://blocked.example/", "url_not_allowed"),
        ("http://10.0.0.1/", "url_not_allowed"),
        ("http://[::1]/", "url_not_allowed"),
        ("http://site.example:22/", "url_not_allowed"),
        ("file:///etc/passwd", "url_not_accessible"),
        ("gopher://x.com/", "url_not_accessible"),
        ("http://user:pw@site.example/", "url_not_accessible"),
        ("http://x.com/" + "a" * 3_000, "url_not_accessible"),
        ("", "url_not_accessible"),
    ],
)
async def test_redirects_are_judged_like_pages(origin: Origin, location: str, code: str) -> None:
    origin.pages["/a"] = moved(location)
    rules = rules_of(None, ["blocked.example"])
    answer = await fetcher(origin).fetch(fetch(site(origin, "/a"), rules))
    assert refused(answer).startswith(code), text(answer)
    assert set(origin.paths()) == {"/a"}


async def test_a_redirect_to_an_inner_address_is_refused_when_dialled(origin: Origin) -> None:
    origin.pages["/a"] = moved(site(origin, "/b", "inner.example"))
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    answer = await fetcher(origin, names).fetch(fetch(site(origin, "/a")))
    assert refused(answer).startswith("url_not_allowed: the host does not resolve")


async def test_a_redirect_that_cannot_be_recorded_is_not_taken(origin: Origin) -> None:
    origin.pages["/a"] = moved("/b")
    with pytest.raises(RuntimeError):
        await fetcher(origin, notes=Notes(broken=True)).fetch(fetch(site(origin, "/a")))
    assert origin.paths() == ["/a"]


async def test_redirects_end(origin: Origin) -> None:
    origin.pages["/a"] = moved("/a")
    answer = await fetcher(origin).fetch(fetch(site(origin, "/a")))
    assert refused(answer) == f"url_not_accessible: more than {MAX_HOPS} redirects"
    assert len(origin.asked) == MAX_HOPS + 1


async def test_encryption_is_not_given_up(tmp_path: Path) -> None:
    with serving(tmp_path) as safe:
        context = httpx2.create_ssl_context()
        context.load_verify_locations(cafile=safe.ca_file)
        url = f"https://site.example:{safe.port}/a"
        safe.pages["/a"] = page("safe", "text/plain")
        makes = fetcher(safe, context=context)
        assert text(await makes.fetch(fetch(url))) == "safe"
        safe.pages["/a"] = moved(f"http://site.example:{safe.port}/b")
        assert "without encryption" in refused(await makes.fetch(fetch(url)))
        other = url.replace("site.example", "other.example")
        assert refused(await makes.fetch(fetch(other))).startswith("url_not_accessible")
        untrusting = fetcher(safe)
        assert refused(await untrusting.fetch(fetch(url))).startswith("url_not_accessible")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (page("no", status=404), "url_not_accessible: the server answered 404"),
        (page("no", status=500), "url_not_accessible: the server answered 500"),
        (page(b"\x89PNG", "image/png"), "unsupported_content_type: the page is image/png"),
        (raw(b"nonsense\r\n\r\n"), "url_not_accessible"),
        (raw(b""), "url_not_accessible"),
        (raw(b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nshort"), "url_not_accessible"),
        (raw(b"HTTP/1.1 200 X\r\nx: " + b"a" * 300_000 + b"\r\n\r\n"), "url_not_accessible"),
        (raw(b"HTTP/1.1 200 X\r\n" + b"a: b\r\n" * 60_000 + b"\r\n"), "url_not_accessible"),
        (squeezed(b"x", "br"), "url_not_accessible: the answer is compressed in a way"),
        (squeezed(b"x", "gzip, gzip"), "url_not_accessible: the answer is compressed in a way"),
        (
            raw(b"HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\n\r\nplain"),
            "url_not_accessible: the answer is not compressed as it says",
        ),
        (
            raw(b"HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\n\r\n" + gzip.compress(b"x")[:-4]),
            "url_not_accessible: the compressed answer ends too early",
        ),
    ],
)
async def test_broken_answers_are_told(origin: Origin, answer: Any, code: str) -> None:
    origin.pages["/"] = answer
    assert refused(await fetcher(origin).fetch(fetch(site(origin, "/")))).startswith(code)


async def test_compressed_pages_are_inflated(origin: Origin) -> None:
    origin.pages["/"] = squeezed(b"hello")
    assert text(await fetcher(origin).fetch(fetch(site(origin, "/")))) == "hello"


async def test_a_bomb_is_inflated_no_further_than_the_limit(origin: Origin) -> None:
    origin.pages["/"] = squeezed(b"\x20" * (300 * 1024 * 1024))
    answer = await fetcher(origin).fetch(fetch(site(origin, "/")))
    assert answer.seen["received"] == MAX_BYTES
    assert f"longer than the {MAX_BYTES} bytes" in text(answer)


async def test_an_endless_page_is_left_at_the_limit(origin: Origin) -> None:
    origin.pages["/"] = endless
    before = origin.left
    answer = await fetcher(origin).fetch(fetch(site(origin, "/")))
    assert answer.seen["received"] == MAX_BYTES
    await until(lambda: origin.left > before)


@pytest.mark.parametrize("slow", [dripping, silent])
async def test_a_slow_server_gets_one_deadline(origin: Origin, slow: Any) -> None:
    origin.pages["/"] = slow
    answer = await fetcher(origin, timeout_s=0.4).fetch(fetch(site(origin, "/")))
    assert refused(answer) == "url_not_accessible: no answer within 0.4 s"


async def test_nobody_there(origin: Origin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    answer = await fetcher(origin, allows=policy(port)).fetch(fetch(f"http://site.example:{port}/"))
    assert refused(answer).startswith("url_not_accessible: the server cannot be reached")
    unknown = await fetcher(origin, Names([])).fetch(fetch(site(origin, "/")))
    assert refused(unknown).startswith("url_not_accessible")


async def test_an_interrupt_hangs_up(origin: Origin) -> None:
    origin.pages["/"] = silent
    before = origin.left
    async with anyio.create_task_group() as group:
        group.start_soon(fetcher(origin).fetch, fetch(site(origin, "/")))
        await until(lambda: origin.asked)
        group.cancel_scope.cancel()
    await until(lambda: origin.left > before)


async def test_a_url_that_is_none_is_told(origin: Origin) -> None:
    for url in ("ftp://x.com/", "x", "http://u@x.com/"):
        answer = await fetcher(origin).fetch(fetch(url, Rules()))
        assert refused(answer).startswith("invalid_tool_input")
        assert url not in text(answer) or len(url) == 1


async def test_c6_22_the_agents_limit_holds(origin: Origin) -> None:
    origin.pages["/"] = page("a" * 500, "text/plain")
    answer = await fetcher(origin).fetch(fetch(site(origin, "/"), max_tokens=5))
    assert text(answer).startswith("a" * 20 + "\n[cut: 480")

from collections.abc import Iterator

import anyio
import pytest

from intramuros.control.web.service import CALLS, WebTools
from intramuros.kernel.timing import SystemClock
from intramuros.web.engines import Searxng
from tests.fakes.website import Origin, moved, page, serving, silent
from tests.unit.web.doubles import Names, Notes, fetch, policy, search
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving() as made:
        yield made


def tools(origin: Origin, notes: Notes | None = None, **more: object) -> WebTools:
    bound = policy(origin.port, **{"engine": Searxng(origin.url), **more})
    return WebTools(bound, SystemClock(), notes or Notes(), Names())


def url(origin: Origin) -> str:
    return f"http://site.example:{origin.port}/a"


async def test_calls_are_made(origin: Origin) -> None:
    origin.pages["/a"] = page("hello", "text/plain")
    origin.pages["/search"] = page('{"results": []}', "application/json")
    assert not (await tools(origin).fetch(fetch(url(origin)))).is_error
    assert (await tools(origin).search(search("q"))).searches == 1


async def test_what_is_switched_off_stays_off(origin: Origin) -> None:
    off = tools(origin, tools=frozenset())
    assert "web_fetch is not switched on" in str(await off.fetch(fetch(url(origin))))
    assert "web_search is not switched on" in str(await off.search(search("q")))
    dumb = tools(origin, engine=None)
    assert "web_search is not switched on" in str(await dumb.search(search("q")))
    assert origin.asked == []


async def test_a_failure_of_ours_is_an_answer_and_tells_nothing(
    origin: Origin, capfd: pytest.CaptureFixture[str]
) -> None:
    origin.pages["/a"] = moved("/b?secret")
    answer = await tools(origin, Notes(broken=True)).fetch(fetch(url(origin)))
    assert answer.is_error
    assert "unavailable: the server could not make the call" in str(answer.content)
    assert "secret" not in "".join(capfd.readouterr())
    assert origin.paths() == ["/a"]


async def test_so_many_calls_are_made_at_once(origin: Origin) -> None:
    origin.pages["/a"] = silent
    makes = tools(origin)
    async with anyio.create_task_group() as group:
        for _ in range(CALLS + 3):
            group.start_soon(makes.fetch, fetch(url(origin)))
        await until(lambda: len(origin.asked) >= CALLS)
        await anyio.sleep(0.1)  # long enough for another one, were it let through
        assert len(origin.asked) == CALLS
        group.cancel_scope.cancel()

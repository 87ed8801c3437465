"""A real server over HTTP for the official SDK, started once for all wire tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from intramuros.protocol.envelope import MEMORY_BETA
from tests.wire import surface
from tests.wire.host import Server, running
from tests.wire.site import Site

# What the agents of these tests say and do.
SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("server") / "data"
    with running(data_dir, model_scripts=str(SCRIPTS)) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[AsyncAnthropic]:
    made = AsyncAnthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
    async with made:
        yield made


@pytest.fixture
def site(server: Server, client: Anthropic) -> Iterator[Site]:
    """An agent and a self-hosted environment of the test's own, and the key of its worker."""
    with Site(server, client) as made:
        yield made


@pytest.fixture
def store(client: Anthropic) -> str:
    """An empty memory store."""
    return client.beta.memory_stores.create(name="Notes").id


@pytest.fixture
def memory_http(server: Server) -> Iterator[httpx2.Client]:
    """A plain client with the API key, for what the SDK would not send."""
    headers = {"x-api-key": server.api_key, "anthropic-beta": MEMORY_BETA}
    with httpx2.Client(base_url=server.base_url, headers=headers, timeout=60) as made:
        yield made


def pytest_configure(config: pytest.Config) -> None:
    """Note from the first test on which methods of the SDK are called and answered."""
    surface.listen()
    config.stash[surface.NOTES] = surface.Notes(_beside(config))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Note what has run, skipped or not."""
    item.config.stash[surface.NOTES].ended(item.nodeid)


def _beside(config: pytest.Config) -> Path | None:
    """Where processes that run files of tests side by side keep their notes."""
    if not hasattr(config, "workerinput"):
        return None
    # Each has a directory of its own in that of the run.
    shared = Path(config.option.basetemp).parent / "called"
    shared.mkdir(exist_ok=True)
    return shared


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look at what was called when everything else has run."""
    items.sort(key=lambda item: item.path.name == "test_surface.py")

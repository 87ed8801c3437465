"""Which database engine each test runs on, and that none is held to a time."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests import engines

# Machines are noisy: how long an example takes says nothing about what it shows.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=(engines.SQLITE, engines.POSTGRES),
        help="run every test on this database; by default some run on both",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A logger that keeps the settings of its first use, in whatever test that was, cannot be heard
    # by a later one.
    structlog.configure = partial(_configure, structlog.configure)
    engines.ENGINES.current = config.getoption("--engine") or engines.SQLITE


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what tests share before the first of them, whose time it would take."""
    if engines.on_postgres() and session.items and not session.config.option.collectonly:
        engines.database_url(Path("/first"))


def pytest_unconfigure() -> None:
    engines.ENGINES.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is about the other engine."""
    if engines.on_postgres():
        for item in items:
            if item.get_closest_marker("sqlite"):
                item.add_marker(pytest.mark.skip(reason="about SQLite alone"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Let other tests have the databases that this one had, and logs as they were."""
    yield
    structlog.reset_defaults()
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    if isinstance(directory, Path):
        engines.ENGINES.release(directory)


def _configure(configure: Callable[..., None], **settings: object) -> None:
    configure(**{**settings, "cache_logger_on_first_use": False})

"""A PostgreSQL of these tests' own, whatever engine the others run on."""

from collections.abc import Iterator

import pytest

from tests import postgres


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Cluster]:
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed: nothing was tested on it")
    with postgres.running({"log_min_messages": "panic"}) as started:
        yield started
    assert not started.directory.exists()


@pytest.fixture
def url(cluster: postgres.Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with every table and no row."""
    key = f"/one/{request.node.nodeid}"
    yield cluster.database(key)
    cluster.drop(key)

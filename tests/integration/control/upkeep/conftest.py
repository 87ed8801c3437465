"""Installations to be backed up, restored and moved; both engines, whatever others run on."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from intramuros.control.upkeep.attached import Place
from tests import postgres
from tests.fakes.installation import invented, sound

Fresh = Callable[[str], Path]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invented(tmp_path_factory.mktemp("upkeep") / "data")


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Place:
    """An installation of this test's own, which no server uses."""
    shutil.copytree(template, tmp_path / "data")
    return Place(tmp_path / "data")


@pytest.fixture(scope="session")
def sound_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound(tmp_path_factory.mktemp("upkeep") / "sound")


@pytest.fixture
def good(sound_template: Path, tmp_path: Path) -> Place:
    """An installation in which everything fits."""
    shutil.copytree(sound_template, tmp_path / "good")
    return Place(tmp_path / "good")


@pytest.fixture
def fresh(place: Place, tmp_path: Path) -> Fresh:
    """Makes an empty data directory that has the master key of ``place``."""

    def make(name: str) -> Path:
        made = tmp_path / name
        made.mkdir(mode=0o700)
        shutil.copy(place.master_key, made)
        return made

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed: nothing was tested on it")
    with postgres.running({"log_min_messages": "panic"}) as started:
        yield started


@pytest.fixture
def empty_url(cluster: postgres.Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL database without a table."""
    yield cluster.bare(request.node.nodeid)
    cluster.drop_bare(request.node.nodeid)

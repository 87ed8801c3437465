"""What ``db check`` says of read replicas, which stream from a real primary."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner

from intramuros.cli.main import app
from intramuros.control.upkeep.check import Finding
from intramuros.control.upkeep.replicas import examine_replicas
from intramuros.kernel.errors import OperatorError
from tests import postgres
from tests.postgres import Cluster
from tests.wire.site import until

pytestmark = [pytest.mark.sqlite, pytest.mark.timeout(240)]


def test_each_replica_is_told_of_with_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    url = cluster.database("checked")
    name = str(make_url(url).database)
    try:
        with postgres.following(cluster) as replica, postgres.running() as stranger:
            there, foreign = replica.url(name), stranger.database("foreign")

            def look(*replicas: str) -> list[Finding]:
                return list(examine_replicas(url, replicas))

            until(lambda: "has everything" in look(there)[0].what or None)
            assert look(there)[0].fix == ""
            replica.run("SELECT pg_wal_replay_pause()")
            cluster.run("CREATE TABLE more (n int)", name)
            (behind,) = look(there)
            assert "bytes behind" in behind.what
            assert behind.fix == ""
            replica.run("SELECT pg_wal_replay_resume()")
            other, itself = look(foreign, url)
            assert "(promoted)" in other.what
            assert "(promoted)" in itself.what
            assert "name one that follows the primary" in other.fix
            with pytest.raises(OperatorError, match="is a replica itself"):
                list(examine_replicas(there, [url]))

            # As an operator asks, in the environment and with commas.
            data_dir = tmp_path / "data"
            data_dir.mkdir()
            env = {
                "INTRAMUROS_DATABASE_URL": url,
                "INTRAMUROS_DATABASE_REPLICA": f"{there},{foreign}",
            }
            said = CliRunner().invoke(app, ["db", "check", "--data-dir", str(data_dir)], env=env)
            assert said.exit_code != 0
            assert "promoted" in said.output
        away, *_ = look(there)
        assert "does not answer (away)" in away.what
        assert "start it" in away.fix
    finally:
        cluster.drop("checked")
        shutil.rmtree(tmp_path / "data", ignore_errors=True)


def test_sqlite_has_none() -> None:
    with pytest.raises(OperatorError, match="no replicas"):
        list(examine_replicas("sqlite:////nowhere.db", ["postgresql://host/name"]))

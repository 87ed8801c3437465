"""Without the master key: what it sealed is given up, everything else goes on."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import httpx2
import pytest
from anthropic import Anthropic

from intramuros.control.identity.installation import open_installation
from intramuros.control.identity.rotation import rotate_master_key
from intramuros.control.store.rekey import KeyFiles
from intramuros.control.upkeep import lost_key
from intramuros.control.upkeep.attached import Place, fingerprint, sealer_of
from intramuros.control.upkeep.lost_key import BY, REASON, replace_lost_key
from intramuros.kernel.errors import OperatorError
from tests.integration.control.upkeep.test_backup import killed
from tests.integration.control.upkeep.test_check import wrong_with
from tests.integration.control.upkeep.test_restore import lines_of
from tests.wire.host import running
from tests.wire.matrix import BETAS

pytestmark = pytest.mark.sqlite

GIVEN_UP = {
    "vault_credentials": 1,
    "webhook_endpoints": 1,
    "trace_destinations": 1,
    "repository_tokens": 1,
    "own_keys": 1,
}


def test_secrets_are_given_up_and_said(good: Place) -> None:
    good.master_key.unlink()
    before = len(lines_of(good))
    done = replace_lost_key(good)
    assert done.__dict__ == {**GIVEN_UP, "master_key": done.master_key}
    assert done.master_key == fingerprint(sealer_of(good.master_key))
    assert good.master_key.stat().st_mode & 0o777 == 0o600
    assert wrong_with(good, deep=True) == []
    told = [json.loads(line) for line in lines_of(good)[before:]]
    assert [(one["kind"], one["fields"]["by"]) for one in told[:2]] == [
        ("master_key.replace_lost", BY),
        ("vault_credential.archive", BY),
    ]
    # Nothing is sealed by the new key that was not made since.
    with pytest.raises(OperatorError, match="is not lost"):
        replace_lost_key(good)


def test_a_key_that_opens_something_is_not_lost(good: Place) -> None:
    with pytest.raises(OperatorError, match="is not lost"):
        replace_lost_key(good)
    server = KeyFiles(good.master_key)
    with pytest.raises(OperatorError, match="stop the server"):
        replace_lost_key(good)
    server.release()
    # The successor that a rotation left behind may be the key in force.
    old = good.master_key.read_text()
    anyio.run(rotate_master_key, good.data_dir)
    good.master_key.rename(good.data_dir / "master-key.next")
    good.master_key.write_text(old)
    good.master_key.chmod(0o600)
    with pytest.raises(OperatorError, match="is not lost"):
        replace_lost_key(good)
    assert wrong_with(good) == []
    with pytest.raises(OperatorError, match="there is no database"):
        replace_lost_key(Place(good.data_dir / "absent"))


def test_a_key_that_opens_nothing_becomes_the_new_one(good: Place) -> None:
    good.master_key.write_text("A" * 43 + "=")
    assert replace_lost_key(good).master_key == fingerprint(sealer_of(good.master_key))
    assert good.master_key.read_text() == "A" * 43 + "="


KILLED = """
import os, signal, sys
from pathlib import Path
from intramuros.control.upkeep import lost_key
from intramuros.control.upkeep.attached import Place
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
lost_key._forget_headers = die
lost_key.replace_lost_key(Place(Path(sys.argv[1])))
"""


@pytest.mark.timeout(240)
def test_kill_9_gives_up_nothing_and_it_is_run_again(good: Place) -> None:
    good.master_key.unlink()
    killed(KILLED, good.data_dir)
    with closing(sqlite3.connect(good.data_dir / "intramuros.db")) as rows:
        assert rows.execute("SELECT count(*) FROM vault_secrets").fetchone() == (1,)
    assert replace_lost_key(good).vault_credentials == 1
    assert wrong_with(good) == []


@pytest.mark.timeout(240)
def test_a_server_serves_again_and_everybody_sees_what_to_set_up(good: Place) -> None:
    good.master_key.unlink()
    with pytest.raises(OperatorError, match="restore the master key"):
        anyio.run(_open_everything, good.data_dir)
    assert lost_key.replace_lost_key(good).own_keys == 1
    with (
        running(good.data_dir) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
    ):
        (vault,) = api.beta.vaults.list()
        assert list(api.beta.vaults.credentials.list(vault.id)) == []
        (old,) = api.beta.vaults.credentials.list(vault.id, include_archived=True)
        assert old.archived_at is not None
        auth = {"type": "static_bearer", "token": "new", "mcp_server_url": "https://m.example"}
        made = api.beta.vaults.credentials.create(vault.id, auth=auth)
        assert made.archived_at is None
        headers = {"x-api-key": server.api_key, "anthropic-beta": BETAS}
        answer = httpx2.get(f"{server.base_url}/v1/webhooks", headers=headers).json()
        (endpoint,) = answer["data"]
        assert (endpoint["state"], endpoint["disabled_reason"]) == ("disabled", REASON)
        (destination,) = api.beta.organization.telemetry_destinations.list()
        assert (destination.state.type, destination.header_names) == ("disabled", [])
        assert len(list(api.beta.sessions.list())) == 2
        assert httpx2.get(f"{server.base_url}/readyz").status_code == 200


async def _open_everything(data_dir: Path) -> None:
    """Do what a server does first: it makes a key, and finds that it opens nothing."""
    opened = await open_installation(data_dir)
    try:
        await opened.db.read(
            lambda tx: lost_key.destinations.headers_of(
                lost_key.destinations.Rules(opened.sealer),
                tx.execute(lost_key.select(lost_key.telemetry_destinations)).one(),
            )
        )
    finally:
        opened.close()

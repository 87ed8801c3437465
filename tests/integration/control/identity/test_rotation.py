"""Rotations of the master key, whole and killed at every step of the way."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from intramuros.control.catalog import vaults
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.identity import audit
from intramuros.control.identity.installation import Installation, open_installation
from intramuros.control.identity.rotation import rotate_master_key
from intramuros.control.store.db import Tx
from intramuros.control.store.secrets import ensure_secret
from intramuros.control.store.strongbox import Strongbox
from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.audit import verify
from intramuros.protocol.resources.vaults import CredentialCreate, VaultCreate
from tests.integration.control.identity.victim import STAGES

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[4]
COUNT = 5


def box(opened: Installation) -> Credentials:
    return Credentials(Strongbox(opened.sealer, opened.ids.random))


async def fill(data_dir: Path) -> str:
    """Make an installation with secrets of both kinds and return the vault's id."""
    opened = await open_installation(data_dir)
    actor = opened.operator("test")

    def work(tx: Tx) -> str:
        ensure_secret(tx, opened.sealer, "own", lambda: b"own value", 1)
        vault = vaults.create(tx, actor, VaultCreate(display_name="V"))
        for number in range(COUNT):
            url = f"https://m{number}.example"
            auth = {"type": "static_bearer", "token": f"token-{number}", "mcp_server_url": url}
            request = CredentialCreate.model_validate({"auth": auth})
            box(opened).create(tx, actor, vault.id, request)
        return vault.id

    try:
        return await opened.db.write(work)
    finally:
        opened.close()


async def secrets_in(data_dir: Path, vault_id: str) -> set[str]:
    """Open the installation as a server does and return every secret that opens."""
    opened = await open_installation(data_dir)

    def never() -> bytes:
        raise AssertionError("the server's own key is gone")

    def work(tx: Tx) -> set[str]:
        own = ensure_secret(tx, opened.sealer, "own", never, 1).decode()
        held = vaults.service.find(
            tx,
            opened.workspace_id,
            vaults.VAULT_CREDENTIAL,
            vaults.Query(limit=50, parent_id=vault_id),
        )[0]
        verify(audit.read_lines(tx))
        return {own, *(box(opened).open(tx, one).secret["token"] for one in held)}

    try:
        return await opened.db.write(work)
    finally:
        opened.close()


ALL = {"own value", *(f"token-{number}" for number in range(COUNT))}


async def test_everything_opens_by_the_new_key_alone(tmp_path: Path) -> None:
    vault_id = await fill(tmp_path)
    old = (tmp_path / "master-key").read_text()
    done = await rotate_master_key(tmp_path)
    assert (done.resealed, done.finished) == (COUNT + 1, False)
    assert (tmp_path / "master-key").read_text() != old
    assert not (tmp_path / "master-key.next").exists()
    assert await secrets_in(tmp_path, vault_id) == ALL
    (tmp_path / "master-key").write_text(old)
    with pytest.raises(OperatorError, match="does not open"):
        await secrets_in(tmp_path, vault_id)


def kill(data_dir: Path, stage: str) -> None:
    """Run a rotation that kills itself at this stage."""
    module = "tests.integration.control.identity.victim"
    env = {**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    argv = [sys.executable, "-m", module, str(data_dir), stage]
    killed = subprocess.run(argv, cwd=ROOT, env=env, check=False)
    assert killed.returncode == -signal.SIGKILL


def copied(data_dir: Path) -> Path:
    copy = data_dir / "copy"
    copy.mkdir(mode=0o700)
    for file in data_dir.iterdir():
        if file.is_file():
            shutil.copy2(file, copy / file.name)
    return copy


@pytest.mark.parametrize("stage", STAGES)
async def test_a_rotation_killed_on_the_way(tmp_path: Path, stage: str) -> None:
    vault_id = await fill(tmp_path)
    old = (tmp_path / "master-key").read_text()
    kill(tmp_path, stage)
    # Whoever comes first finds all secrets, be it the server or the command.
    if stage == "after the commit":
        copy = copied(tmp_path)
        assert (await rotate_master_key(copy)).finished
        assert await secrets_in(copy, vault_id) == ALL
    assert await secrets_in(tmp_path, vault_id) == ALL
    await rotate_master_key(tmp_path)
    assert await secrets_in(tmp_path, vault_id) == ALL
    assert (tmp_path / "master-key").read_text() != old
    assert not (tmp_path / "master-key.next").exists()


async def test_a_running_server_keeps_its_key(tmp_path: Path) -> None:
    await fill(tmp_path)
    opened = await open_installation(tmp_path)
    with pytest.raises(OperatorError, match="stop the server"):
        await rotate_master_key(tmp_path)
    opened.close()
    assert (await rotate_master_key(tmp_path)).resealed == COUNT + 1


async def test_where_nothing_is_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no"):
        await rotate_master_key(tmp_path / "absent")
    assert not any(os.scandir(tmp_path))

import stat
from pathlib import Path

import pytest

from intramuros.control.identity import credentials
from intramuros.control.identity.installation import open_installation
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import to_micros

pytestmark = pytest.mark.anyio


async def works(data_dir: Path, secret: str, **more: str) -> bool:
    """Open the installation and tell whether the secret is a key of it."""
    opened = await open_installation(data_dir, **more)
    try:
        now_us = to_micros(opened.clock.now())
        who = await opened.db.read(lambda tx: credentials.authenticate(tx, secret, now_us))
        return who.workspace_id == opened.workspace_id
    finally:
        opened.close()


def everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


async def open_and_close(data_dir: Path) -> tuple[str, str]:
    opened = await open_installation(data_dir)
    opened.close()
    return opened.organization_id, opened.workspace_id


async def test_a_new_directory_gets_a_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    names = await open_and_close(data_dir)
    for name in ("api-key", "master-key", "intramuros.db"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    secret = (data_dir / "api-key").read_text().strip()
    assert secret.startswith("sk-intramuros-api01-")
    assert await works(data_dir, secret)
    assert await open_and_close(data_dir) == names
    assert (data_dir / "api-key").read_text().strip() == secret


async def test_the_operators_key_is_used_and_never_written(tmp_path: Path) -> None:
    secret = "an-operators-own-secret"
    assert await works(tmp_path, secret, bootstrap_api_key=secret)
    assert not (tmp_path / "api-key").exists()
    assert secret.encode() not in everything_in(tmp_path)
    # Once there is a key, a start without the setting makes no other.
    await open_and_close(tmp_path)
    assert not (tmp_path / "api-key").exists()


async def test_a_start_that_died_after_writing_the_file_is_made_good(tmp_path: Path) -> None:
    secret = "sk-intramuros-api01-" + "5" * 40
    (tmp_path / "api-key").write_text(secret + "\n")
    (tmp_path / "api-key").chmod(0o600)
    assert await works(tmp_path, secret)


async def test_unusable_directories_are_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="data directory"):
        await open_installation(tmp_path / "file" / "data")
    (tmp_path / "master-key").write_text("c2hvcnQ=\n")
    with pytest.raises(OperatorError, match="read by others"):
        (tmp_path / "master-key").chmod(0o644)
        await open_installation(tmp_path)
    (tmp_path / "master-key").chmod(0o600)
    with pytest.raises(OperatorError, match="no master key"):
        await open_installation(tmp_path)


async def test_a_bad_key_setting_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="unfit"):
        await open_installation(tmp_path, bootstrap_api_key="short")
    await open_and_close(tmp_path)

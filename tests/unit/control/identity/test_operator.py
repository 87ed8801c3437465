import json
from pathlib import Path

import pytest

from intramuros.control.identity import audit, operator
from intramuros.control.identity.installation import open_installation
from intramuros.kernel.errors import InvalidRequest, NotFound, OperatorError
from intramuros.protocol.audit import verify

pytestmark = pytest.mark.anyio


@pytest.fixture
async def data_dir(tmp_path: Path) -> Path:
    (await open_installation(tmp_path / "data")).close()
    return tmp_path / "data"


async def test_every_act_is_in_the_chain(data_dir: Path) -> None:
    boss = await operator.add_user(data_dir, "boss@x.test", " Boss ", "admin")
    assert boss["name"] == "Boss"
    await operator.add_user(data_dir, "ada@x.test", "Ada", "user")
    await operator.set_role(data_dir, "ADA@x.test", "admin")
    await operator.dismiss_user(data_dir, boss["id"])
    assert [user["role"] for user in await operator.list_users(data_dir)] == ["admin"]
    opened = await open_installation(data_dir)
    lines = await opened.db.read(lambda tx: list(audit.read_lines(tx)))
    opened.close()
    verify(lines)
    acts = [json.loads(line) for line in lines if '"kind":"user.' in line]
    assert [act["kind"] for act in acts] == ["user.add", "user.add", "user.role", "user.remove"]
    assert {act["fields"]["by"] for act in acts} == {operator.BY}


async def test_nothing_is_made_where_nothing_is(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no database"):
        await operator.list_users(tmp_path / "absent")
    with pytest.raises(OperatorError, match="no role"):
        await operator.add_user(data_dir, "a@x.test", "A", "emperor")
    with pytest.raises(InvalidRequest, match="name"):
        await operator.add_user(data_dir, "a@x.test", "", "user")
    with pytest.raises(NotFound):
        await operator.set_role(data_dir, "user_no", "user")
    assert await operator.list_users(data_dir) == []

"""The server over a real installation in a temporary directory."""

import socket
from pathlib import Path

import anyio
import httpx2
import pytest

from intramuros.control.app import serve
from intramuros.control.settings import ServerSettings
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from tests.waiting import until

pytestmark = pytest.mark.anyio

KEY = "an-operators-own-secret"


async def test_a_server_announces_itself_answers_and_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = Stop()
    settings = ServerSettings(data_dir=tmp_path, port=0, bootstrap_api_key=KEY)
    out = ""
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: serve(settings, stop=stop))

        def announced() -> bool:
            nonlocal out
            out += capsys.readouterr().out
            return "\n" in out

        await until(announced)
        async with httpx2.AsyncClient(base_url=out.split()[1]) as http:
            assert (await http.get("/readyz")).json() == {"status": "ready"}
            response = await http.get("/v1/agents", headers={"x-api-key": KEY})
            assert response.status_code == 400
        stop.request()
    assert out.startswith("ready http://127.0.0.1:")


async def test_nothing_is_made_when_the_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = ServerSettings(data_dir=tmp_path / "d", port=port)
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port}.*another --port"):
            await serve(settings)
    assert not (tmp_path / "d").exists()


async def test_other_wrong_settings_are_explained(tmp_path: Path) -> None:
    for settings, message in (
        (ServerSettings(data_dir=tmp_path, port=0, host="no such host"), "--host"),
        (ServerSettings(data_dir=tmp_path, port=0, database_url="mysql://x"), "sqlite:///"),
        (ServerSettings(data_dir=tmp_path, port=0, edge_ca_file=tmp_path / "none"), "none"),
        (ServerSettings(data_dir=tmp_path, port=0, edge=("nowhere",)), "nowhere"),
    ):
        with pytest.raises(OperatorError, match=message):
            await serve(settings)

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from intramuros.execution.client import Away, Refused, Work
from intramuros.execution.sandbox.base import SandboxGone, ToolOutcome
from intramuros.execution.server import Server
from intramuros.execution.spills import Spill, SpillClient, Spills
from intramuros.protocol.spills import MAX_FILE_BYTES, place

pytestmark = pytest.mark.anyio
WORK = Work("work_1", "env_1", "session", "sesn_1", "the-token")


def entry(use_id: str, text: str) -> dict[str, Any]:
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    return {"tool_use_id": use_id, "size_bytes": len(data), "sha256": digest}


class Remote:
    """A server that keeps these texts."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts
        self.listed: Any = {"data": [entry(use_id, text) for use_id, text in texts.items()]}
        self.status = 200
        self.asked: list[str] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == "Bearer the-token"
        self.asked.append(request.url.path.removeprefix("/x/sessions/sesn_1"))
        if self.status != 200:
            return httpx2.Response(self.status)
        if self.asked[-1] == "/spills":
            return httpx2.Response(200, json=self.listed)
        text = self.texts.get(self.asked[-1].removeprefix("/spills/"))
        return httpx2.Response(404) if text is None else httpx2.Response(200, content=text)


class Place:
    """A sandbox's hands, the worker's record, and what they were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.kinds: list[str] = []
        self.broken = False

    async def take(self, session_id: str) -> "Place":
        if self.broken:
            raise SandboxGone("gone")
        return self

    async def call(self, tool: str, arguments: Any) -> ToolOutcome:
        assert tool == "write"
        self.files[arguments["file_path"]] = arguments["content"]
        return ToolOutcome.text("ok")

    async def write(self, kind: str, **fields: object) -> None:
        self.kinds.append(kind)


@pytest.fixture
async def client() -> AsyncIterator[SpillClient]:
    made = SpillClient(Server("http://server.test/"), WORK)
    yield made
    await made.aclose()


def serve(client: SpillClient, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Remote:
    monkeypatch.setattr(client._http, "_transport", httpx2.MockTransport(remote))
    monkeypatch.setattr(client._http, "_mounts", {})
    return remote


async def test_each_text_is_laid_out_once(
    client: SpillClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, there = serve(client, Remote(sevt_a="one", sevt_b="two"), monkeypatch), Place()
    spills = Spills(client, there, there)  # type: ignore[arg-type]  # doubles
    await spills.lay_out()
    assert there.files == {place("sevt_a"): "one", place("sevt_b"): "two"}
    assert there.kinds == ["spill.fetch"] * 2
    await spills.lay_out()
    assert remote.asked.count("/spills/sevt_a") == 1
    remote.texts["sevt_c"] = "three"
    remote.listed["data"].append(entry("sevt_c", "three"))
    await spills.lay_out()
    assert there.files[place("sevt_c")] == "three"
    await spills.aclose()


async def test_a_server_without_such_things_is_asked_once(
    client: SpillClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, there = serve(client, Remote(), monkeypatch), Place()
    remote.status = 404
    spills = Spills(client, there, there)  # type: ignore[arg-type]  # doubles
    await spills.lay_out()
    await spills.lay_out()
    assert remote.asked == ["/spills"]


async def test_trouble_leaves_a_file_out_and_it_is_tried_again(
    client: SpillClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, there = serve(client, Remote(sevt_a="one"), monkeypatch), Place()
    spills = Spills(client, there, there)  # type: ignore[arg-type]  # doubles
    remote.status = 503
    await spills.lay_out()
    remote.status = 200
    remote.texts["sevt_a"] = "other"
    await spills.lay_out()
    assert there.files == {}, "damaged on its way"
    remote.texts["sevt_a"] = "one"
    there.broken = True
    await spills.lay_out()
    there.broken = False
    await spills.lay_out()
    assert there.files == {place("sevt_a"): "one"}
    remote.listed["data"].append(entry("sevt_gone", "x"))
    await spills.lay_out()
    assert list(there.files) == [place("sevt_a")]


@pytest.mark.parametrize("listed", [[], {"data": 1}, {"data": [{}]}, {"data": ["x"]}, {"no": 1}])
async def test_a_malformed_list_is_an_absence(
    client: SpillClient, monkeypatch: pytest.MonkeyPatch, listed: Any
) -> None:
    serve(client, Remote(), monkeypatch).listed = listed
    with pytest.raises(Away):
        await client.find()


async def test_only_ids_name_files_and_only_so_much_is_read(
    client: SpillClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = serve(client, Remote(), monkeypatch)
    remote.listed = {"data": [entry(name, "") for name in ("../x", "", "a/b", "ok", "x" * 99)]}
    assert [spill.use_id for spill in await client.find()] == ["ok"]
    remote.texts["big"] = "x" * (MAX_FILE_BYTES + 1)
    with pytest.raises(Refused):
        await client.read(Spill("big", 1, ""))

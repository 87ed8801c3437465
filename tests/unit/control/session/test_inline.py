import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from intramuros.control.catalog import files
from intramuros.control.identity.actor import Actor
from intramuros.control.model.base import ModelRequest
from intramuros.control.session import inline
from intramuros.control.session.inline import Inliner
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database
from intramuros.control.store.tables import metadata, workspaces
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from tests.engines import database_url

pytestmark = pytest.mark.anyio


class Rig:
    def __init__(self, folder: Path, db: Database, clock: ManualClock) -> None:
        self.db, self.clock = db, clock
        self.blobs = Blobs.open(None, folder)
        self.inliner = Inliner(db, self.blobs, clock)
        ids = IdFactory(clock, random.Random(7).randbytes)
        self.actor = Actor(clock, ids, "wrkspc_test", "apikey_test")

    async def upload(self, content: bytes, kind: str) -> str:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        blob = await self.blobs.put(f"k{random.random()}", chunks(), 1000)
        new = files.NewFile("f", kind)
        made = await self.db.write(lambda tx: files.add(tx, self.actor, new, blob, 10**9))
        return made.id

    async def ask(self, *blocks: dict[str, Any], workspace: str = "wrkspc_test") -> list[Any]:
        """Return the content of the one message, as the model gets it."""
        request = ModelRequest("m", [{"role": "user", "content": list(blocks)}])
        filled = await self.inliner.fill(workspace, request)
        return list(filled.messages[0]["content"])  # type: ignore[call-overload]  # as sent


@pytest.fixture
def rig(tmp_path: Path, clock: ManualClock) -> Iterator[Rig]:
    opened = Database.open(database_url(tmp_path / "x.db"))
    with opened.engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(workspaces).values(id="wrkspc_test", name="T", created_us=1))
    yield Rig(tmp_path, opened, clock)
    opened.close()


def block(kind: str, file_id: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "file", "file_id": file_id}, **more}


async def test_images_and_pdfs_go_as_base64_and_texts_as_text(rig: Rig) -> None:
    image = await rig.upload(b"\x89PNG", "image/png")
    text = await rig.upload(b"a,b\xff", "text/csv")
    assert await rig.ask(block("image", image), block("document", text, title="T")) == [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="},
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "a,b\ufffd"},
            "title": "T",
        },
    ]


async def test_files_within_results_are_filled_too(rig: Rig) -> None:
    image = await rig.upload(b"x", "image/png")
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block("image", image)]}
    (filled,) = await rig.ask(result)
    assert filled["content"][0]["source"]["data"] == "eA=="
    assert result["content"] == [block("image", image)]


async def test_a_request_without_files_is_the_same_one(rig: Rig) -> None:
    request = ModelRequest("m", [{"role": "user", "content": "text"}])
    assert await rig.inliner.fill("wrkspc_test", request) is request


async def test_who_knows_what_is_named_spares_the_search(rig: Rig) -> None:
    file_id = await rig.upload(b"a", "text/csv")
    messages = [{"role": "user", "content": [block("document", file_id)]}]
    known = ModelRequest("m", messages, files=[file_id])
    (filled,) = (await rig.inliner.fill("wrkspc_test", known)).messages
    assert filled["content"][0]["source"]["data"] == "a"  # type: ignore[index]  # as sent
    nothing = ModelRequest("m", messages, files=[])
    assert await rig.inliner.fill("wrkspc_test", nothing) is nothing


async def test_what_is_gone_or_foreign_leaves_a_note(rig: Rig) -> None:
    image = await rig.upload(b"x", "image/png")
    for workspace in ("wrkspc_test", "wrkspc_other"):
        (shown,) = await rig.ask(block("image", image), workspace=workspace)
        assert (shown["type"] == "image") is (workspace == "wrkspc_test")
    await rig.db.write(lambda tx: files.remove(tx, rig.actor, image))
    (shown,) = await rig.ask(block("image", image))
    assert shown == {"type": "text", "text": f"[The file {image} is no longer there.]"}


async def test_content_is_kept_for_the_next_request_but_not_without_bound(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "CACHE_CHARS", 10)
    first = await rig.upload(b"12345", "text/plain")
    await rig.ask(block("document", first))
    read: list[str] = []
    original = rig.blobs.read

    async def counted(blob: Any) -> Any:
        read.append(blob.key)
        return await original(blob)

    monkeypatch.setattr(rig.blobs, "read", counted)
    await rig.ask(block("document", first))
    assert read == []
    second = await rig.upload(b"1234567", "text/plain")
    await rig.ask(block("document", second))
    await rig.ask(block("document", first))
    assert len(read) == 2


async def test_a_store_that_is_away_is_not_a_file_that_is_gone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await rig.upload(b"x", "image/png")

    async def away(_blob: Any) -> Any:
        raise Unavailable("not now")

    monkeypatch.setattr(rig.blobs, "read", away)
    with pytest.raises(Unavailable):
        await rig.ask(block("image", image))

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import insert

from intramuros.control.catalog import files
from intramuros.control.catalog.files import NewFile
from intramuros.control.catalog.rubrics import Shelf
from intramuros.control.identity.actor import Actor
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database
from intramuros.control.store.migrate import upgrade
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.events import INBOUND, MAX_RUBRIC_CHARS, Inbound
from tests.engines import database_url

pytestmark = pytest.mark.anyio

WORKSPACE = "wrkspc_test"


async def bytes_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


def define(rubric: dict[str, object]) -> Inbound:
    body = {"type": "user.define_outcome", "description": "x", "rubric": rubric}
    return INBOUND.validate_python(body)


@dataclass
class Place:
    shelf: Shelf
    ids: IdFactory

    async def file(self, data: bytes, expires_in_s: int | None = None) -> Inbound:
        blob = await self.shelf.blobs.put(self.ids.new("b"), bytes_of(data), 10**7)
        actor = Actor(self.shelf.clock, self.ids, WORKSPACE, "test")
        new = NewFile("r.md", "", expires_in_s)
        made = await self.shelf.db.write(lambda tx: files.add(tx, actor, new, blob, 10**8))
        return define({"type": "file", "file_id": made.id})


@pytest.fixture
async def place(tmp_path: Path, ids: IdFactory, clock: ManualClock) -> AsyncIterator[Place]:
    db = Database.open(database_url(tmp_path / "test.db"))
    upgrade(db.engine)
    row = insert(workspaces).values(id=WORKSPACE, name="t", created_us=0)
    await db.write(lambda tx: tx.execute(row) and None)
    yield Place(Shelf(db, Blobs.open(None, tmp_path), clock), ids)
    db.close()


async def test_c14_1_files_become_their_text_and_the_rest_stays(place: Place) -> None:
    says = INBOUND.validate_python(
        {"type": "user.message", "content": [{"type": "text", "text": "x"}]}
    )
    inline = define({"type": "text", "content": "- inline"})
    filed = await place.file("- größer\n".encode())
    found = await place.shelf.resolve(WORKSPACE, [says, inline, filed])
    assert found == [says, inline, define({"type": "text", "content": "- größer\n"})]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\xff\xfe", "no UTF-8 text"),
        (b"  \n", "holds no text"),
        (b"- a\0b", "holds no text"),
        (b"x" * (MAX_RUBRIC_CHARS + 1), "longer than"),
        (b"x" * (4 * MAX_RUBRIC_CHARS + 1), "longer than"),
    ],
)
async def test_what_is_no_rubric_is_named(place: Place, data: bytes, match: str) -> None:
    filed = await place.file(data)
    with pytest.raises(InvalidRequest, match=rf"events\[1\].rubric.*{match}"):
        await place.shelf.resolve(WORKSPACE, [define({"type": "text", "content": "x"}), filed])


async def test_the_longest_rubric_fits_in_every_alphabet(place: Place) -> None:
    filed = await place.file(("\U0001d538" * MAX_RUBRIC_CHARS).encode())
    (found,) = await place.shelf.resolve(WORKSPACE, [filed])
    assert found.type == "user.define_outcome"
    assert len(getattr(found.rubric, "content", "")) == MAX_RUBRIC_CHARS


async def test_files_of_others_and_expired_ones_are_not_read(
    place: Place, clock: ManualClock
) -> None:
    filed = await place.file(b"- a", 3600)
    with pytest.raises(NotFound):
        await place.shelf.resolve("wrkspc_other", [filed])
    clock.advance(3600)
    with pytest.raises(NotFound, match="expired"):
        await place.shelf.resolve(WORKSPACE, [filed])

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.responses import StreamingResponse

from intramuros.control.api.downloads import download, parse_range
from intramuros.control.store.blobs import Blobs
from intramuros.kernel.errors import InvalidRequest

pytestmark = pytest.mark.anyio


async def taken(response: StreamingResponse) -> tuple[int, bytes]:
    return response.status_code, b"".join([bytes(c) async for c in response.body_iterator])


async def data() -> AsyncIterator[bytes]:
    yield b"0123456789"


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-", (0, 10)),
        ("bytes=2-4", (2, 5)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=5-99", (5, 10)),
        ("bytes=-", None),
        ("bytes=1-2,4-5", None),
        ("lines=1-2", None),
    ],
)
def test_one_range_of_bytes_is_understood(header: str, span: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=4-2", "bytes=-0"])
def test_a_range_outside_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest, match="10 bytes"):
        parse_range(header, 10)


async def test_content_is_saved_and_never_shown(tmp_path: Path) -> None:
    store = Blobs.open(None, tmp_path)
    blob = await store.put("a/b", data(), 10)
    answer = await download(store, blob, 'é"\r\n.html', "text/html", None)
    assert await taken(answer) == (200, b"0123456789")
    assert answer.headers["content-length"] == "10"
    assert answer.headers["content-disposition"] == (
        "attachment; filename*=utf-8''%C3%A9%22%0D%0A.html"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["etag"] == f'"{blob.sha256}"'
    part = await download(store, blob, "a", "text/html", "bytes=2-3")
    assert await taken(part) == (206, b"23")
    assert part.headers["content-range"] == "bytes 2-3/10"

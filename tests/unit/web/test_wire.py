"""Bodies of answers as they come; whole ways are tested with pages and engines."""

import gzip
from collections.abc import AsyncIterator

import httpx2
import pytest

from intramuros.web.wire import Broken, receive

pytestmark = pytest.mark.anyio
TEXT = b"all that there is " * 100


class Pieces(httpx2.AsyncByteStream):
    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size, self.given = data, size, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.data), self.size):
            self.given += 1
            yield self.data[at : at + self.size]


def answer(data: bytes, size: int, encoding: str | None = None) -> httpx2.Response:
    headers = {} if encoding is None else {"content-encoding": encoding}
    return httpx2.Response(200, headers=headers, stream=Pieces(data, size))


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_body_is_the_same_however_it_comes(size: int) -> None:
    for data, encoding in ((TEXT, None), (gzip.compress(TEXT), "gzip")):
        received = await receive(answer(data, size, encoding), 10_000)
        assert (received.data, received.whole) == (TEXT, True)


async def test_what_lies_behind_the_limit_is_never_read() -> None:
    stream = Pieces(b"x" * 1000, 10)
    received = await receive(httpx2.Response(200, stream=stream), 55)
    assert (received.data, received.whole) == (b"x" * 55, False)
    assert stream.given == 6
    bomb = await receive(answer(gzip.compress(b"x" * 10_000_000), 500, "gzip"), 1000)
    assert (len(bomb.data), bomb.whole) == (1000, False)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [(TEXT, "br"), (TEXT, "gzip"), (gzip.compress(TEXT)[:-9], "gzip")],
    ids=["not asked for", "none of it", "cut off"],
)
async def test_what_does_not_hold_is_broken(data: bytes, encoding: str) -> None:
    with pytest.raises(Broken):
        await receive(answer(data, 16, encoding), 10_000)

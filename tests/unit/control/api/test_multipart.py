from collections.abc import Iterable

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.api import multipart
from intramuros.control.api.multipart import Multipart, Part, read_head
from intramuros.kernel.errors import InvalidRequest

pytestmark = pytest.mark.anyio

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nhi\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="d/\xc3\xa9.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\nline\r\n--bline\r\n\r\n--b--\r\n"
)


def request(pieces: Iterable[bytes], kind: str = "multipart/form-data; boundary=b") -> Request:
    left = list(pieces)

    async def receive() -> dict[str, object]:
        piece = left.pop(0) if left else b""
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    return Request(scope, receive)


async def parts(body: Multipart) -> list[tuple[Part, bytes]]:
    found = []
    while (part := await body.next_part()) is not None:
        found.append((part, b"".join([chunk async for chunk in body.data()])))
    return found


EXPECTED = [
    (Part("note", None, ""), b"hi"),
    (Part("file", "d/é.txt", "text/plain"), b"line\r\n--bline\r\n"),
]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_parts_arrive_whatever_the_pieces(size: int) -> None:
    pieces = [FORM[start : start + size] for start in range(0, len(FORM), size)]
    assert await parts(Multipart(request(pieces))) == EXPECTED


async def test_a_part_may_be_skipped() -> None:
    body = Multipart(request([FORM]))
    assert [await body.next_part() for _ in range(3)] == [EXPECTED[0][0], EXPECTED[1][0], None]


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data", "", "multipart/mixed; boundary=b"]
)
async def test_other_bodies_are_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="multipart/form-data"):
        Multipart(request([FORM], kind))
    with pytest.raises(InvalidRequest, match="content-type"):
        Multipart(request([FORM], f"multipart/form-data; boundary={'x' * 300}"))


@pytest.mark.parametrize("cut", [5, 30, 60, 100, len(FORM) - 6])
async def test_a_body_that_ends_early_is_refused(cut: int) -> None:
    with pytest.raises(InvalidRequest, match="boundary is missing"):
        await parts(Multipart(request([FORM[:cut]])))


async def test_a_body_that_stalls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import anyio

    monkeypatch.setattr(multipart, "PAUSE_S", 0.05)

    async def receive() -> dict[str, object]:
        await anyio.sleep_forever()
        raise AssertionError

    stalled = request([])
    stalled._receive = receive
    with pytest.raises(InvalidRequest) as caught:
        await parts(Multipart(stalled))
    assert caught.value.hints.code == "request_body_timeout"


async def test_fields_are_short_text() -> None:
    body = Multipart(request([FORM]))
    part = await body.next_part()
    assert part is not None
    assert await body.text(part) == "hi"
    for value, message in ((b"\xff", "not UTF-8"), (b"x" * 20_000, "over 16384 bytes")):
        form = FORM.replace(b"\r\n\r\nhi", b"\r\n\r\n" + value)
        body = Multipart(request([form]))
        part = await body.next_part()
        assert part is not None
        with pytest.raises(InvalidRequest, match=message):
            await body.text(part)


def test_a_part_needs_a_name() -> None:
    for head in ({}, {b"content-disposition": b"form-data"}):
        with pytest.raises(InvalidRequest, match="has no name"):
            read_head(head)
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        read_head({b"content-disposition": b'form-data; name="\xff"'})


@given(st.binary(max_size=300), st.integers(1, 50))
async def test_noise_is_parts_or_a_refusal(noise: bytes, size: int) -> None:
    data = b"--b\r\n" + noise
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    try:
        await parts(Multipart(request(pieces)))
    except InvalidRequest:
        return

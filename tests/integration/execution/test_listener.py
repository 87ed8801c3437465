"""The worker's little server: what it answers, and what strangers cannot do to it."""

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

import anyio
import httpx2
import pytest
from anyio import to_thread

from intramuros.execution import listener
from intramuros.execution.listener import Asked, Told, listening
from intramuros.kernel.errors import OperatorError

pytestmark = pytest.mark.anyio
HERE = ("127.0.0.1", 0)


def echo(asked: Asked) -> Told:
    said = f"{asked.method} {asked.target} {asked.headers.get('x-a')} {len(asked.body)}"
    return Told(202, said.encode())


@pytest.fixture
async def at() -> AsyncIterator[tuple[str, int]]:
    async with listening(HERE, "--here", echo, 100) as bound:
        yield bound


def speak(at: tuple[str, int], said: bytes) -> bytes:
    """Return all that is answered until it hangs up."""
    with socket.create_connection(at, timeout=30) as raw:
        raw.sendall(said)
        answer = b""
        while got := raw.recv(4096):
            answer += got
        return answer


async def test_one_request_has_one_answer(at: tuple[str, int]) -> None:
    async with httpx2.AsyncClient(trust_env=False) as http:
        url = f"http://{at[0]}:{at[1]}/a?b"
        answer = await http.post(url, content="x" * 100, headers={"X-A": "c"})
        assert (answer.status_code, answer.text) == (202, "POST /a?b c 100")
        assert (await http.head(url)).headers["content-length"] == "16"
        assert (await http.post(url, content="x" * 101)).status_code == 413


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"no HTTP at all\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nff\r\n", b""),
    ],
    ids=["no HTTP", "two lengths", "long head", "too much, in part"],
)
async def test_strangers_are_answered_or_sent_away(
    at: tuple[str, int], said: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_ANSWER_S", 0.2)
    with anyio.fail_after(30):
        try:
            answer = await to_thread.run_sync(speak, at, said)
        except ConnectionError:
            return
    assert answer[9:12] in (status, b"400")


async def test_when_all_are_taken_others_are_sent_away_at_once(
    at: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_VISITS", 3)
    monkeypatch.setattr(listener, "_ANSWER_S", 60.0)
    hello = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"

    async def spoken() -> bytes:
        with suppress(ConnectionError):
            return await to_thread.run_sync(speak, at, hello)
        return b""

    with anyio.fail_after(50):
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(socket.create_connection(at)).sendall(b"GET / HT")
            while await spoken():
                pass
        while not await spoken():
            pass


async def test_a_taken_address_is_told(at: tuple[str, int]) -> None:
    with pytest.raises(OperatorError, match="cannot listen") as failure:
        await listening(at, "--here", echo).__aenter__()
    assert "--here" in failure.value.fix

"""What a failing server looks like; a real one is probed in tests/wire/test_vault_mcp.py."""

import httpx2
import pytest

from intramuros.control.mcp.probe import probe

pytestmark = pytest.mark.anyio


async def test_R088_the_failing_step_and_its_answer() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == "Bearer token"
        return httpx2.Response(401, stream=httpx2.ByteStream(b"who are you?"))

    failed = await probe(httpx2.MockTransport(refuse), "https://m.example/mcp", "token")
    assert failed is not None
    assert failed.answer is not None
    assert (failed.method, failed.answer.status) == ("initialize", 401)
    assert failed.answer.body == b"who are you?"


async def test_R089_a_server_out_of_reach_gave_no_answer() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    failed = await probe(httpx2.MockTransport(fail), "https://m.example/mcp", "token")
    assert failed is not None
    assert failed.answer is None


async def test_an_answer_that_is_no_mcp_is_a_failure() -> None:
    def hello(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=b"<html>", headers={"content-type": "text/html"})

    failed = await probe(httpx2.MockTransport(hello), "https://m.example/mcp", "token")
    assert failed is not None
    assert failed.answer is None

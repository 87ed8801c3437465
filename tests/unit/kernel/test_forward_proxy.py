import base64
import ssl
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.forward_proxy import (
    ForwardProxy,
    configured_proxy,
    connect_through,
    environments_proxy,
    is_exempt,
    read_credentials,
    read_proxy,
    read_status,
)
from intramuros.kernel.wire import ConnectFailed
from tests.integration.tunnel.middlebox import serving

KNOWN = "Basic " + base64.b64encode(b"ada:p:w").decode()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy.example", ForwardProxy("proxy.example", 3128)),
        ("proxy.example:8080", ForwardProxy("proxy.example", 8080)),
        ("https://proxy.example/", ForwardProxy("proxy.example", 443, tls=True)),
        ("http://[fd00::1]:3128", ForwardProxy("fd00::1", 3128)),
        ("http://ada:p%3Aw@h:1", ForwardProxy("h", 1, authorization=KNOWN)),
    ],
)
def test_a_proxy_is_read(url: str, expected: ForwardProxy) -> None:
    assert read_proxy(url, "it") == expected
    if expected.authorization is None:
        assert read_proxy(url, "it", "ada:p:w").authorization == KNOWN


@pytest.mark.parametrize(
    "url", ["socks5://h", "http://", "http://h/path", "http://h:x", "http://h?q=1", "http://[x"]
)
def test_what_is_no_proxy_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(OperatorError, match=r"^it is no address") as refused:
        read_proxy(url.replace("//", "//u:s3cret@"), "it")
    assert "s3cret" not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    proxy = read_proxy("http://ada:s3cret@h", "it")
    assert "YWRh" not in repr(proxy)
    assert str(proxy) == "h:3128"


def test_credentials_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text("ada:p w\n")
    assert read_credentials(file) == "ada:p w"
    for wrong in (b"", b"ada", b"a:b\nc:d", b"\xff:a", b"a:" + b"x" * 5000):
        file.write_bytes(wrong)
        with pytest.raises(OperatorError, match="holds no credentials"):
            read_credentials(file)
    with pytest.raises(OperatorError, match="cannot read"):
        read_credentials(tmp_path / "none")


@pytest.mark.parametrize(
    ("host", "exempt", "expected"),
    [
        ("edge.example", "", False),
        ("edge.example", "*", True),
        ("edge.example", "other, example", True),
        ("edge.example", ".example", True),
        ("edge.example", "*.EXAMPLE", True),
        ("edge.example.", "edge.example", True),
        ("edge.example", "ge.example", False),
        ("10.0.0.1", "10.0.0.1,localhost", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("fd00::1", "[fd00::]/8, fd00::/8", True),
        ("[fd00::1]", "fd00::1", True),
        ("example", "10.0.0.0/8", False),
    ],
)
def test_hosts_may_be_exempt(host: str, exempt: str, *, expected: bool) -> None:
    assert is_exempt(host, exempt) is expected


@given(st.binary(max_size=100))
def test_an_answer_is_a_status_or_refused(line: bytes) -> None:
    try:
        assert 0 <= read_status(line) <= 999
    except ConnectFailed as error:
        assert error.reason == "proxy_failed"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "proxy_failed"),
        (b"SSH-2.0-x\r\n", "proxy_failed"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, "proxy_failed"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 40_000, "proxy_failed"),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "proxy_failed"),
        (b"HTTP/1.1 407 No\r\n\r\n", "proxy_credentials"),
        (b"HTTP/1.1 401 No\r\n\r\n", "proxy_credentials"),
        (b"HTTP/1.1 502 No\r\n\r\n", "proxy_refused"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "reset"),
    ],
)
async def test_whatever_a_proxy_says_ends_in_one_clear_reason(answer: bytes, reason: str) -> None:
    async def say(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        await stream.send(answer or b"\r")
        if reason == "reset":
            await stream.receive()

    async with serving(say) as port:
        with pytest.raises(ConnectFailed) as failed:
            await connect_through(
                ForwardProxy("127.0.0.1", port),
                "edge.example",
                443,
                ssl.create_default_context(),
                proxy_context=ssl.create_default_context(),
                timeout_s=60,
            )
    assert failed.value.reason == reason


@pytest.mark.anyio
async def test_a_proxy_that_is_not_there_or_silent_is_said() -> None:
    async def wait(stream: anyio.abc.SocketStream) -> None:
        await anyio.sleep_forever()

    async with serving(wait) as port:
        for where, reason, within_s in ((1, "proxy_away", 5), (port, "timeout", 0.2)):
            with pytest.raises(ConnectFailed) as failed:
                await connect_through(
                    ForwardProxy("127.0.0.1", where),
                    "edge.example",
                    443,
                    ssl.create_default_context(),
                    proxy_context=ssl.create_default_context(),
                    timeout_s=within_s,
                )
            assert failed.value.reason == reason


def test_a_setting_holds_no_credentials_and_its_file_does(tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text("ada:p:w\n")
    proxy = configured_proxy("http://proxy.example:8080", "it", file)
    assert proxy == ForwardProxy("proxy.example", 8080, authorization=KNOWN)
    assert proxy.secrets() == (KNOWN.removeprefix("Basic "), "ada:p:w")
    assert configured_proxy("proxy.example", "it", None).secrets() == ()
    for url in ("http://ada:s3cret@proxy.example", "ada@proxy.example"):
        with pytest.raises(OperatorError, match="it holds credentials") as refused:
            configured_proxy(url, "it", None)
        assert "s3cret" not in str(refused.value)


def test_the_environment_names_a_proxy_and_who_goes_without() -> None:
    assert environments_proxy({})("server.example") is None
    assert environments_proxy({"HTTP_PROXY": "http://p"})("server.example") is None
    way = environments_proxy({"https_proxy": "http://p", "NO_PROXY": "inside.example,10.0.0.0/8"})
    assert way("server.example") == ForwardProxy("p", 3128)
    assert way("a.inside.example") is None
    assert way("10.9.9.9") is None
    with pytest.raises(OperatorError, match="HTTPS_PROXY"):
        environments_proxy({"HTTPS_PROXY": "socks5://p"})

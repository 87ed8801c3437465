from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from intramuros.execution.client import Away, Refused, Work
from intramuros.execution.hosted_client import HostedClient
from intramuros.execution.server import Server
from intramuros.kernel.errors import OperatorError

pytestmark = pytest.mark.anyio
WORK = Work("work_1", "env_1", "session", "sesn_1", "the-token", hosted=True)


class Remote:
    def __init__(self) -> None:
        self.answer = httpx2.Response(200, json={"data": []})
        self.asked: list[tuple[str, str, bytes]] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == "Bearer the-token"
        self.asked.append((request.method, str(request.url), await request.aread()))
        return self.answer


@pytest.fixture
async def remote(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Remote, HostedClient]]:
    made = Remote()
    client = HostedClient(Server("http://server.test/"), WORK)
    monkeypatch.setattr(client._http, "_transport", httpx2.MockTransport(made))
    monkeypatch.setattr(client._http, "_mounts", {})
    yield made, client
    await client.aclose()


async def test_a_file_is_saved_with_its_size_and_digest(
    remote: tuple[Remote, HostedClient], tmp_path: Path
) -> None:
    server, client = remote
    server.answer = httpx2.Response(200, content=b"abc")
    size, sha256 = await client.download("file_1", tmp_path / "f", 3)
    assert (size, sha256[:8], (tmp_path / "f").read_bytes()) == (3, "ba7816bf", b"abc")
    url = "http://server.test/x/sessions/sesn_1/files/file_1/content"
    assert server.asked == [("GET", url, b"")]
    with pytest.raises(Refused):
        await client.download("file_1", tmp_path / "f", 2)


async def test_outputs_are_listed_sent_and_removed(
    remote: tuple[Remote, HostedClient], tmp_path: Path
) -> None:
    server, client = remote
    server.answer = httpx2.Response(200, json={"data": [{"path": "a b", "sha256": "x"}]})
    assert await client.outputs() == {"a b": "x"}
    (tmp_path / "f").write_bytes(b"abc")
    await client.put("a b&c", tmp_path / "f", 3)
    await client.remove("a b&c")
    place = "http://server.test/x/sessions/sesn_1/outputs"
    assert server.asked[1:] == [
        ("PUT", f"{place}?path=a+b%26c", b"abc"),
        ("DELETE", f"{place}?path=a+b%26c", b""),
    ]


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Refused), (404, Refused), (413, Refused), (429, Away), (503, Away)]
)
async def test_errors_are_told_by_status(
    remote: tuple[Remote, HostedClient], status: int, kind: type[Exception]
) -> None:
    server, client = remote
    server.answer = httpx2.Response(status)
    with pytest.raises(kind):
        await client.outputs()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": [{}]}', b'{"data": 7}', b"\xff"])
async def test_a_malformed_list_is_a_failure(
    remote: tuple[Remote, HostedClient], body: bytes
) -> None:
    server, client = remote
    server.answer = httpx2.Response(200, content=body)
    with pytest.raises(Away):
        await client.outputs()


def test_without_a_token_there_is_no_client() -> None:
    with pytest.raises(OperatorError):
        HostedClient(Server("http://server.test"), Work("work_1", "env_1", "session", "sesn_1"))


async def test_the_rules_of_the_network_are_asked_for(
    remote: tuple[Remote, HostedClient],
) -> None:
    server, client = remote
    told = {"type": "session_egress", "networking": {"type": "unrestricted"}}
    server.answer = httpx2.Response(200, json={**told, "mcp_server_urls": [], "variables": []})
    rules = await client.egress()
    assert rules.networking.why("any.test") == "unrestricted"
    assert server.asked == [("POST", "http://server.test/x/sessions/sesn_1/egress", b"")]
    server.answer = httpx2.Response(200, json=told)
    with pytest.raises(Away):
        await client.egress()
    server.answer = httpx2.Response(404)
    with pytest.raises(Refused):
        await client.egress()


async def test_repositories_are_named_and_reported(remote: tuple[Remote, HostedClient]) -> None:
    server, client = remote
    item = {
        "id": "sesrsc_1",
        "url": "https://github.com/octo/repo",
        "mount_path": "/workspace/repo",
        "checkout": {"type": "commit", "sha": "A" * 40},
        "updated_at": "2026-01-01",
        "authorization_token": "ghp_secret",
    }
    server.answer = httpx2.Response(200, json={"data": [item, {**item, "checkout": None}]})
    first, second = await client.repositories()
    assert (first.commit, first.branch, second.commit) == ("a" * 40, None, None)
    assert "ghp_secret" not in repr(first)
    assert first.token == "ghp_secret"
    await client.report("sesrsc_1", {"attempt": "a"})
    place = "http://server.test/x/sessions/sesn_1/repositories"
    assert [asked[:2] for asked in server.asked] == [("POST", place), ("POST", f"{place}/sesrsc_1")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://evil.example/octo/repo"},
        {"mount_path": "/etc"},
        {"id": "../x"},
        {"checkout": {"type": "branch", "name": "--upload-pack=x"}},
        {"checkout": {"type": "commit", "sha": "HEAD"}},
        {"authorization_token": "a\r\nb"},
        {"authorization_token": 7},
    ],
)
async def test_a_server_cannot_name_what_no_client_could(
    remote: tuple[Remote, HostedClient], wrong: dict[str, object]
) -> None:
    server, client = remote
    item = {
        "id": "sesrsc_1",
        "url": "https://github.com/octo/repo",
        "mount_path": "/workspace/repo",
        "checkout": None,
        "updated_at": "2026-01-01",
        "authorization_token": None,
        **wrong,
    }
    server.answer = httpx2.Response(200, json={"data": [item]})
    with pytest.raises(Away):
        await client.repositories()

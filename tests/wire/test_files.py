"""Files through the official SDK."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.host import Server, running
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LARGE_MIB = int(os.environ.get("INTRAMUROS_TEST_LARGE_MIB", "150"))  # noqa: TID251  a test's own


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that gives uploads back, takes small files only and has little room."""
    data_dir = tmp_path_factory.mktemp("open") / "data"
    limits = {"max_file_bytes": 2 * MIB, "storage_quota_bytes": 3 * MIB}
    with running(data_dir, uploads_downloadable=True, **limits) as started:
        yield started


@pytest.fixture
def open_client(open_server: Server) -> Iterator[Anthropic]:
    with Anthropic(
        base_url=open_server.base_url, api_key=open_server.api_key, max_retries=0
    ) as made:
        yield made


def raw(server: Server, content: bytes, kind: str) -> httpx2.Response:
    headers = {"x-api-key": server.api_key, "content-type": kind}
    return httpx2.post(f"{server.base_url}/v1/files", headers=headers, content=content)


def test_R174_R175_R009_c1_10_an_upload_is_described_whole(client: Anthropic) -> None:
    made = client.beta.files.upload(
        file=("notes.txt", b"hello", "text/plain"), expires_in_seconds=3600
    )
    check(made)
    assert made.id.startswith("file_")
    assert (made.filename, made.mime_type, made.size_bytes) == ("notes.txt", "text/plain", 5)
    assert (made.downloadable, made.scope) == (False, None)
    assert made.expires_at is not None
    assert 3599 <= (made.expires_at - made.created_at).total_seconds() <= 3600
    assert client.beta.files.retrieve_metadata(made.id) == made
    plain = client.beta.files.upload(file=b"x")
    check(plain)
    assert plain.expires_at is None


@pytest.mark.parametrize("seconds", [3599, 7_776_001, 0, -1])
def test_R175_expiry_is_bounded(client: Anthropic, seconds: int) -> None:
    with pytest.raises(anthropic.BadRequestError, match="expires_in_seconds"):
        client.beta.files.upload(file=b"x", expires_in_seconds=seconds)


def test_R176_names_are_cut_to_the_last_component_or_made_up(client: Anthropic) -> None:
    made = client.beta.files.upload(file=("../../etc/passwd", b"x"))
    assert made.filename == "passwd"
    made = client.beta.files.upload(file=("dir/", b"x", "image/png"))
    assert made.filename == "unnamed.png"


def test_R177_bad_names_are_refused(client: Anthropic) -> None:
    for name in ("a<b.txt", "a|b", "x" * 256, "a\\b"):
        with pytest.raises(anthropic.BadRequestError, match="file name"):
            client.beta.files.upload(file=(name, b"x"))


def test_R178_c3_14_uploads_are_not_downloadable(client: Anthropic) -> None:
    made = client.beta.files.upload(file=b"x")
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.beta.files.download(made.id)
    assert type(caught.value).__name__ == "FileNotDownloadableError"


async def test_R170_lists_page_newest_first_with_both_clients(
    client: Anthropic, async_client: AsyncAnthropic
) -> None:
    made = [client.beta.files.upload(file=(f"n{i}", b"x")).id for i in range(5)]
    page = client.beta.files.list(limit=2)
    assert [file.id for file in page.data] == [made[4], made[3]]
    seen = []
    for file in client.beta.files.list(limit=2):
        check(file)
        seen.append(file.id)
        if len(seen) == 5:
            break
    assert seen == made[::-1]
    also = [file.id async for file in await async_client.beta.files.list(limit=1000)]
    assert also[:5] == seen
    for limit in (0, 1001):
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            client.beta.files.list(limit=limit)


def test_R172_R015_ids_select_and_exclude_paging(client: Anthropic) -> None:
    made = [client.beta.files.upload(file=b"x").id for _ in range(3)]
    page = client.beta.files.list(ids=[made[0], made[2], "file_none", made[0]])
    assert [file.id for file in page.data] == [made[2], made[0]]
    assert page.next_page is None
    with pytest.raises(anthropic.BadRequestError, match="ids:"):
        client.beta.files.list(ids=made, limit=2)
    with pytest.raises(anthropic.BadRequestError, match="at most 100"):
        client.beta.files.list(ids=[f"file_{n}" for n in range(101)])


def test_R173_the_scope_filter_needs_no_beta(client: Anthropic) -> None:
    client.beta.files.upload(file=b"x")
    assert client.beta.files.list(scope_id="sesn_none").data == []


async def test_R180_deletion_is_at_once(client: Anthropic, async_client: AsyncAnthropic) -> None:
    made = client.beta.files.upload(file=b"x")
    gone = await async_client.beta.files.delete(made.id)
    check(gone)
    assert (gone.id, gone.type) == (made.id, "file_deleted")
    for call in (client.beta.files.retrieve_metadata, client.beta.files.delete):
        with pytest.raises(anthropic.NotFoundError):
            call(made.id)


async def test_both_clients_upload_and_read_raw_answers(
    client: Anthropic, async_client: AsyncAnthropic, tmp_path: Path
) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"a,b\n")
    made = await async_client.beta.files.upload(file=path)
    assert (made.filename, made.size_bytes) == ("report.csv", 4)
    answer = client.beta.files.with_raw_response.retrieve_metadata(made.id)
    assert answer.headers["request-id"].startswith("req_")
    assert answer.parse() == made


def test_c1_16_content_comes_back_in_full_or_in_part(open_client: Anthropic) -> None:
    data = os.urandom(MIB + 7)
    made = open_client.beta.files.upload(file=("data.bin", data))
    assert made.downloadable
    assert open_client.beta.files.download(made.id).read() == data
    part = open_client.beta.files.with_raw_response.download(
        made.id, extra_headers={"Range": "bytes=10-19"}
    )
    assert (part.http_response.status_code, part.http_response.content) == (206, data[10:20])
    assert part.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    open_client.beta.files.delete(made.id)


def test_R181_R032_too_large_and_too_much_are_told_apart(open_client: Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        open_client.beta.files.upload(file=b"x" * (2 * MIB + 1))
    assert caught.value.status_code == 413
    assert caught.value.type == "request_too_large"
    first = open_client.beta.files.upload(file=b"x" * 2 * MIB)
    with pytest.raises(anthropic.BadRequestError) as full:
        open_client.beta.files.upload(file=b"x" * 2 * MIB)
    assert type(full.value).__name__ == "StorageQuotaExceededError"
    open_client.beta.files.delete(first.id)
    second = open_client.beta.files.upload(file=b"x" * 2 * MIB)
    open_client.beta.files.delete(second.id)


def test_refused_uploads_leave_no_bytes(open_server: Server, open_client: Anthropic) -> None:
    folder = open_server.data_dir / "blobs"
    before = {path for path in folder.rglob("*") if path.is_file()}
    form = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ndata\r\n'
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n1\r\n--b--\r\n'
    )
    kind = "multipart/form-data; boundary=b"
    for content, message in (
        (form % b"unknown", "unknown: unknown field"),
        (form % b"expires_in_seconds", "expires_in_seconds"),
        (form % b"file", "one file at a time"),
        ((form % b"expires_in_seconds")[:-10], "boundary is missing"),
        (b"--b--\r\n", "send the file"),
        (b"garbage", "request body"),
    ):
        answer = raw(open_server, content, kind)
        assert answer.status_code == 400, content
        assert message in answer.json()["error"]["message"]
    assert "multipart" in raw(open_server, b"{}", "application/json").json()["error"]["message"]
    assert {path for path in folder.rglob("*") if path.is_file()} == before


def test_self_hosted_sessions_take_no_files(site) -> None:
    made = site.api.beta.files.upload(file=b"x")
    with pytest.raises(anthropic.BadRequestError, match="self-hosted"):
        site.session(resources=[{"type": "file", "file_id": made.id}])


def test_files_are_the_workspaces_own_and_need_an_api_key(site) -> None:
    made = site.api.beta.files.upload(file=b"x")
    with pytest.raises(anthropic.PermissionDeniedError):
        site.worker.beta.files.retrieve_metadata(made.id)
    with pytest.raises(anthropic.PermissionDeniedError):
        site.worker.beta.files.upload(file=b"x")


def rss_mib(pid: int, what: str = "VmRSS") -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no such line")


class Pattern:
    """A large file that is never in memory."""

    def __init__(self, mib: int) -> None:
        self.left = mib * MIB
        self.block = os.urandom(MIB)
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.block[: min(self.left, MIB if size < 0 else size, MIB)]
        self.left -= len(data)
        self.digest.update(data)
        return data


@pytest.mark.timeout(240)
def test_a_large_file_does_not_grow_the_server(tmp_path: Path) -> None:
    with running(tmp_path / "data", uploads_downloadable=True) as server:
        with Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as client:
            small = client.beta.files.upload(file=b"x" * MIB)
            client.beta.files.download(small.id).read()
        pid = server.process.pid
        before = rss_mib(pid)
        # Reset the high-water mark, so that it tells of this upload alone.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        source = Pattern(LARGE_MIB)

        def body() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            while block := source.read():
                yield block
            yield b"\r\n--b--\r\n"

        headers = {"x-api-key": server.api_key, "content-type": "multipart/form-data; boundary=b"}
        url = f"{server.base_url}/v1/files"
        answer = httpx2.post(url, headers=headers, content=body(), timeout=100)
        assert answer.status_code == 200, answer.text
        assert answer.json()["size_bytes"] == LARGE_MIB * MIB
        after_upload = rss_mib(pid, "VmHWM")
        digest = hashlib.sha256()
        with httpx2.stream(
            "GET", f"{url}/{answer.json()['id']}/content", headers=headers, timeout=100
        ) as content:
            for chunk in content.iter_bytes():
                digest.update(chunk)
        after_download = rss_mib(pid, "VmHWM")
    assert digest.hexdigest() == source.digest.hexdigest()
    readings = f"{LARGE_MIB} MiB: {before:.1f}, {after_upload:.1f}, {after_download:.1f} MiB"
    assert after_upload - before < 50, readings
    assert after_download - before < 50, readings

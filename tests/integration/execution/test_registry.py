"""An image from a registry, over HTTP on loopback, fetched by the real skopeo."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.oci.images import Images
from intramuros.execution.sandbox.oci.layers import BadImage
from intramuros.execution.sandbox.oci.runtimes import SEARCH
from tests.fakes.oci_image import Builder, digest, entry, layer

pytestmark = pytest.mark.timeout(240)


class Registry:
    """One image, served as registries do; ``spoiled`` blobs come out changed."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.builder.image(layer([entry("bin/sh", b"#!"), entry("etc/a", b"pulled")]), tag="v1")
        self.asked: list[str] = []
        self.authorized: list[str | None] = []
        self.spoiled: set[str] = set()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.place = f"127.0.0.1:{self.server.server_address[1]}/team/app"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        self.authorized.append(request.headers.get("Authorization"))
        last = request.path.rpartition("/")[2]
        manifest = self.builder.manifests[0]
        wanted = manifest["digest"] if last == "v1" else last
        kind = manifest["mediaType"] if wanted == manifest["digest"] else "application/octet-stream"
        data = b"{}" if last in ("", "v2") else self.builder.blobs.get(wanted)
        if wanted in self.spoiled and data is not None:
            data = data[:-1] + bytes([data[-1] ^ 1])
        request.send_response(200 if data is not None else 404)
        data = data if data is not None else json.dumps({"errors": []}).encode()
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("Docker-Content-Digest", digest(data))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(60)


@pytest.fixture
def registry() -> Iterator[Registry]:
    if shutil.which("skopeo", path=SEARCH) is None:
        pytest.skip("no skopeo: images of registries cannot be fetched here")
    made = Registry()
    yield made
    made.close()


def test_an_image_is_fetched_once(registry: Registry, tmp_path: Path) -> None:
    images = Images(tmp_path / "images")
    wanted = registry.builder.manifests[0]["digest"]
    found = images.open(f"docker://{registry.place}:v1")
    assert found.digest == wanted
    assert (found.rootfs / "etc/a").read_bytes() == b"pulled"
    assert [path.name for path in (tmp_path / "images").iterdir()] == [wanted[7:]]
    before = len(registry.asked)
    assert images.open(f"docker://{registry.place}@{wanted}") == found
    assert len(registry.asked) == before  # what is named by digest and here is not asked for


def test_credentials_come_from_their_file_alone(registry: Registry, tmp_path: Path) -> None:
    host = registry.place.partition("/")[0]
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {host: {"auth": "bWU6c2VjcmV0"}}}))
    Images(tmp_path / "images", auth).open(f"docker://{registry.place}:v1")
    # This registry never asks for them, and they are not offered unasked.
    assert set(registry.authorized) == {None}


def test_what_is_not_there_is_said(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="cannot be fetched"):
        Images(tmp_path / "images").open(f"docker://{registry.place}:v2")
    assert list((tmp_path / "images").iterdir()) == []


def test_a_registry_that_lies_is_not_believed(registry: Registry, tmp_path: Path) -> None:
    manifest = json.loads(registry.builder.blobs[registry.builder.manifests[0]["digest"]])
    registry.spoiled = {manifest["layers"][0]["digest"]}
    with pytest.raises((SandboxUnavailable, BadImage)):
        Images(tmp_path / "images").open(f"docker://{registry.place}:v1")
    assert list((tmp_path / "images").iterdir()) == []

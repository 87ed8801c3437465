import base64
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel import kube
from intramuros.tunnel.kube import Cluster, Kept
from tests.integration.tunnel.rig import running_upstream

pytestmark = pytest.mark.anyio

TOKEN = "eyJ-the-service-accounts"
CA = trustme.CA()


class Api:
    """The routes of a cluster's API for Secrets, as Kubernetes answers them."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, Any]] = {}
        self.versions = 0
        self.asked: list[str] = []
        self.answer: Callable[[], Response] | None = None
        base = "/api/v1/namespaces/{namespace}/secrets"
        self.app = Starlette(
            routes=[
                Route(base, self.create, methods=["POST"]),
                Route(base + "/{name}", self.one, methods=["GET", "PATCH"]),
            ]
        )

    def refusal(self, request: Request) -> Response | None:
        self.asked.append(request.method)
        if self.answer is not None:
            return self.answer()
        right = request.headers["authorization"] == f"Bearer {TOKEN}"
        return None if right and request.path_params["namespace"] == "agents" else status(403)

    async def create(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused
        made = await request.json()
        assert (made["apiVersion"], made["kind"], made["type"]) == ("v1", "Secret", "Opaque")
        if made["metadata"]["name"] in self.secrets:
            return status(409)
        return self.keep(made)

    async def one(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused
        found = self.secrets.get(request.path_params["name"])
        if found is None:
            return status(404)
        if request.method == "GET":
            return JSONResponse(found)
        assert request.headers["content-type"] == "application/merge-patch+json"
        patch = await request.json()
        if patch["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            return status(409)
        return self.keep({**found, "data": {**found["data"], **patch["data"]}})

    def keep(self, secret: dict[str, Any]) -> Response:
        self.versions += 1
        meta = {**secret["metadata"], "resourceVersion": str(self.versions)}
        self.secrets[secret["metadata"]["name"]] = {**secret, "metadata": meta}
        return JSONResponse(self.secrets[secret["metadata"]["name"]], 200)

    def files(self, name: str) -> dict[str, bytes]:
        return {k: base64.b64decode(v) for k, v in self.secrets[name]["data"].items()}


def status(code: int) -> Response:
    return JSONResponse({"kind": "Status", "status": "Failure", "code": code}, code)


def mounted(directory: Path, ca: trustme.CA = CA) -> Path:
    """Lay out what a pod finds of its service account."""
    directory.mkdir()
    (directory / "token").write_text(TOKEN)
    (directory / "namespace").write_text("agents")
    ca.cert_pem.write_to_path(directory / "ca.crt")
    return directory


@asynccontextmanager
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[Api, Cluster]]:
    api, context = Api(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    async with running_upstream(api.app, context) as port:
        yield api, Cluster(f"https://127.0.0.1:{port}", mounted(tmp_path / "account"))


async def test_a_secret_is_made_then_changed_and_what_else_it_holds_stays(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (api, here):
        nothing = await here.read("mcp-tunnel")
        assert nothing == Kept({}, None)
        await here.write("mcp-tunnel", {"tls.key": b"\0one"}, nothing)
        first = await here.read("mcp-tunnel")
        assert first.files == {"tls.key": b"\0one"}
        api.keep({**api.secrets["mcp-tunnel"], "data": {"theirs": "eA==", "tls.key": "AA=="}})
        with pytest.raises(OperatorError, match="changed meanwhile"):
            await here.write("mcp-tunnel", {"tls.key": b"two"}, first)
        await here.write("mcp-tunnel", {"tls.key": b"two"}, await here.read("mcp-tunnel"))
        assert api.files("mcp-tunnel") == {"theirs": b"x", "tls.key": b"two"}
        with pytest.raises(OperatorError, match="changed meanwhile"):  # two that found none
            await here.write("mcp-tunnel", {"tls.key": b"three"}, nothing)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: status(403), "answered 403"),
        (lambda: status(500), "answered 500"),
        (lambda: PlainTextResponse("<html>", 200), "gave no Secret"),
        (lambda: JSONResponse({"kind": "Pod", "metadata": {"resourceVersion": "1"}}), "no Secret"),
        (lambda: PlainTextResponse("x" * 5_000_000, 200), "too much"),
        (
            lambda: JSONResponse(
                {"kind": "Secret", "metadata": {"resourceVersion": "1"}, "data": {"a": "?"}}
            ),
            "malformed",
        ),
    ],
)
async def test_odd_answers_are_told_and_name_no_token(
    answer: Callable[[], Response], said: str, tmp_path: Path
) -> None:
    async with cluster(tmp_path) as (api, here):
        api.answer = answer
        with pytest.raises(OperatorError, match=said) as caught:
            await here.read("mcp-tunnel")
        assert TOKEN not in repr(caught.value)


async def test_only_the_clusters_own_ca_is_believed(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (api, here):
        elsewhere = Cluster(here.url, mounted(tmp_path / "other", trustme.CA()))
        with pytest.raises(OperatorError, match="unreachable"):
            await elsewhere.read("mcp-tunnel")
        assert api.asked == []


async def test_the_account_must_be_mounted(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="namespace"):
        await Cluster("https://127.0.0.1:1", tmp_path).read("mcp-tunnel")


@pytest.mark.parametrize("name", ["", "../pods", "a/b", "A", "-a", "a" * 300])
async def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no Secret"):
        await Cluster("https://127.0.0.1:1", tmp_path).read(name)


@pytest.mark.parametrize(
    ("host", "url"),
    [(None, None), ("10.0.0.1", "https://10.0.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")],
)
def test_a_pod_is_told_where_its_cluster_is(
    host: str | None, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        "KUBERNETES_SERVICE_PORT": "6443",
        **({} if host is None else {"KUBERNETES_SERVICE_HOST": host}),
    }
    monkeypatch.setattr(kube, "environment", lambda: found)
    here = Cluster.here()
    assert (here and here.url) == url

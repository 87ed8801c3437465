import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from anthropic import AsyncAnthropic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.certs import check_issued_by, check_server_certificate, make_ca
from intramuros.tunnel.setup import InitOptions, init, renew
from tests.integration.tunnel.rig import running_upstream, signing_key

CONTROL_KEY = signing_key().public_pem().decode()
pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Api:
    """The tunnel routes of the API, over real HTTP, with a switch to fail one of them."""

    def __init__(self) -> None:
        self.tunnels: dict[str, dict[str, object]] = {}
        self.certificates: dict[str, dict[str, object]] = {}
        self.fail: str | None = None
        base = "/v1/tunnels"
        one = f"{base}/{{tunnel}}"
        self.app = Starlette(
            routes=[
                Route(base, self.create, methods=["POST"]),
                Route(one, self.retrieve),
                Route(f"{one}/archive", self.archive, methods=["POST"]),
                Route(f"{one}/reveal_token", self.reveal, methods=["POST"]),
                Route(f"{one}/certificates", self.certificate_list),
                Route(f"{one}/certificates", self.certificate_create, methods=["POST"]),
                Route(f"{one}/certificates/{{cert}}/archive", self.drop, methods=["POST"]),
            ]
        )

    def _failing(self, name: str) -> Response | None:
        if self.fail != name:
            return None
        error = {"type": "error", "error": {"type": "permission_error", "message": "not allowed"}}
        return JSONResponse(error, 403)

    async def create(self, _request: Request) -> Response:
        number = len(self.tunnels) + 1
        tunnel: dict[str, object] = {
            "id": f"tnl_{number}",
            "type": "tunnel",
            "domain": f"d{number}.tunnel.example",
            "display_name": None,
            "created_at": "2026-11-21T12:00:00Z",
            "archived_at": None,
        }
        self.tunnels[f"tnl_{number}"] = tunnel
        return self._failing("create") or JSONResponse(tunnel)

    async def retrieve(self, request: Request) -> Response:
        tunnel = self.tunnels.get(request.path_params["tunnel"])
        return JSONResponse(tunnel) if tunnel else JSONResponse({"error": {}}, 404)

    async def archive(self, request: Request) -> Response:
        tunnel = self.tunnels[request.path_params["tunnel"]]
        tunnel["archived_at"] = "2026-11-21T12:00:00Z"
        return JSONResponse(tunnel)

    async def reveal(self, request: Request) -> Response:
        name = request.path_params["tunnel"]
        token = {
            "id": "ttok_1",
            "type": "tunnel_token",
            "tunnel_token": f"token-of-{name}",
            "control_key": CONTROL_KEY,
        }
        return self._failing("reveal") or JSONResponse(token)

    async def certificate_list(self, request: Request) -> Response:
        name = request.path_params["tunnel"]
        data = [c for c in self.certificates.values() if c["tunnel_id"] == name]
        return JSONResponse({"data": data, "next_page": None})

    async def certificate_create(self, request: Request) -> Response:
        pem = (await request.json())["ca_certificate_pem"]
        name = f"tcrt_{len(self.certificates) + 1}"
        self.certificates[name] = {
            "id": name,
            "type": "tunnel_certificate",
            "tunnel_id": request.path_params["tunnel"],
            "fingerprint": hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest(),
            "created_at": "2026-11-21T12:00:00Z",
            "expires_at": None,
            "archived_at": None,
        }
        return self._failing("register") or JSONResponse(self.certificates[name])

    async def drop(self, request: Request) -> Response:
        return JSONResponse(self.certificates.pop(request.path_params["cert"]))


@asynccontextmanager
async def api() -> AsyncIterator[tuple[Api, AsyncAnthropic]]:
    fake = Api()
    async with running_upstream(fake.app) as port:
        url = f"http://127.0.0.1:{port}"
        async with AsyncAnthropic(base_url=url, auth_token="t", max_retries=0) as client:
            yield fake, client


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.mark.rule("R328", "R329")
async def test_init_makes_everything_once_and_again_changes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    async with api() as (fake, client):
        made = await init(client, InitOptions(output), NOW)
        assert (made.tunnel_id, made.domain) == ("tnl_1", "d1.tunnel.example")
        assert made.created_tunnel
        assert made.created_ca
        files = contents(output)
        assert sorted(files) == [
            "ca.crt",
            "ca.key",
            "control.pub",
            "tls.crt",
            "tls.key",
            "tunnel-domain",
            "tunnel-id",
            "tunnel-token",
        ]
        assert {p.stat().st_mode & 0o777 for p in output.iterdir()} == {0o600}
        assert files["tunnel-token"] == b"token-of-tnl_1"
        assert files["control.pub"] == CONTROL_KEY.encode()
        check_server_certificate(files["tls.crt"], ["docs.d1.tunnel.example"], NOW)
        der = ssl.PEM_cert_to_DER_cert(files["tls.crt"].decode())
        check_issued_by(der, [files["ca.crt"]])
        again = await init(client, InitOptions(output), NOW)
        assert not (again.created_tunnel or again.created_ca or again.issued_certificate)
        assert contents(output) == files
        assert len(fake.tunnels) == len(fake.certificates) == 1


@pytest.mark.parametrize("step", ["create", "register", "reveal"])
async def test_a_failed_step_leaves_nothing_behind(tmp_path: Path, step: str) -> None:
    output = tmp_path / "out"
    async with api() as (fake, client):
        fake.fail = step
        with pytest.raises(OperatorError, match=r"403.*not allowed"):
            await init(client, InitOptions(output), NOW)
        assert contents(output) == {}
        if step != "create":
            assert fake.tunnels["tnl_1"]["archived_at"] is not None
        if step == "reveal":
            assert fake.certificates == {}
        fake.fail = None
        assert (await init(client, InitOptions(output), NOW)).tunnel_id == "tnl_2"


@pytest.mark.rule("R330")
async def test_a_failure_on_a_second_run_restores_the_first(tmp_path: Path) -> None:
    output = tmp_path / "out"
    async with api() as (fake, client):
        await init(client, InitOptions(output), NOW)
        files = contents(output)
        other = await client.beta.tunnels.create()
        fake.fail = "reveal"
        with pytest.raises(OperatorError):
            await init(client, InitOptions(output, tunnel_id=other.id), NOW)
        assert contents(output) == files
        assert fake.tunnels[other.id]["archived_at"] is None
        fake.fail = None
        moved = await init(client, InitOptions(output, tunnel_id=other.id), NOW)
        assert moved.created_ca
        assert contents(output)["ca.crt"] != files["ca.crt"]


@pytest.mark.rule("R329")
async def test_a_crash_in_the_middle_is_continued(tmp_path: Path) -> None:
    async with api() as (fake, client):
        tunnel = await client.beta.tunnels.create()
        ca = make_ca("left over", NOW)
        for name, data in (
            ("tunnel-id", tunnel.id.encode()),
            ("ca.crt", ca.cert_pem),
            ("ca.key", ca.key_pem),
        ):
            (tmp_path / name).write_bytes(data)
        made = await init(client, InitOptions(tmp_path), NOW)
        assert not made.created_tunnel
        assert not made.created_ca
        assert len(fake.certificates) == 1


async def test_archived_tunnels_and_dead_apis_are_named(tmp_path: Path) -> None:
    async with api() as (_, client):
        tunnel = await client.beta.tunnels.create()
        await client.beta.tunnels.archive(tunnel.id)
        with pytest.raises(OperatorError, match="tnl_1 is archived"):
            await init(client, InitOptions(tmp_path, tunnel_id=tunnel.id), NOW)
        with pytest.raises(OperatorError, match=r"find tunnel tnl_9.*404"):
            await init(client, InitOptions(tmp_path, tunnel_id="tnl_9"), NOW)
    async with AsyncAnthropic(base_url="http://127.0.0.1:1", auth_token="t", max_retries=0) as dead:
        with pytest.raises(OperatorError, match="unreachable"):
            await init(dead, InitOptions(tmp_path), NOW)
    assert contents(tmp_path) == {}


@pytest.mark.rule("R334", "R335")
async def test_renew_needs_no_api_and_waits_for_its_time(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="init"):
        renew(tmp_path / "empty", NOW)
    async with api() as (_, client):
        await init(client, InitOptions(tmp_path), NOW)
    before = contents(tmp_path)
    month = timedelta(days=30)
    assert not renew(tmp_path, NOW, renew_before=month)
    later = NOW + timedelta(days=61)
    assert renew(tmp_path, later, renew_before=month)
    after = contents(tmp_path)
    assert after["ca.crt"] == before["ca.crt"]
    check_server_certificate(after["tls.crt"], ["docs.d1.tunnel.example"], later + month)
    assert renew(tmp_path, later)


async def test_an_output_that_cannot_be_written_is_found_before_anything_is_made(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    async with api() as (fake, client):
        with pytest.raises(OperatorError, match="cannot write"):
            await init(client, InitOptions(tmp_path / "file" / "below"), NOW)
        assert fake.tunnels == {}

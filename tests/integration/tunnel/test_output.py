from pathlib import Path

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel import kube
from intramuros.tunnel.kube import Cluster
from intramuros.tunnel.output import Target, opened, target
from intramuros.tunnel.setup import InitOptions, Prepared, init, renew
from tests.integration.tunnel.test_kube import cluster
from tests.integration.tunnel.test_setup import NOW, api

pytestmark = pytest.mark.anyio
NAMES = {
    *("tunnel-id", "tunnel-domain", "tunnel-token", "control.pub"),
    *("ca.crt", "ca.key", "tls.crt", "tls.key"),
}


def in_a_cluster(monkeypatch: pytest.MonkeyPatch, *, yes: bool) -> None:
    found = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"} if yes else {}
    monkeypatch.setattr(kube, "environment", lambda: found)


def test_R327_a_directory_or_a_secret_which_pods_take_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_a_cluster(monkeypatch, yes=True)
    here = Cluster("https://10.0.0.1:443")
    assert target(None, None) == Target(secret="mcp-tunnel", cluster=here)
    assert target("k8s-secret:other", None) == Target(secret="other", cluster=here)
    assert target("dir:/data", None) == Target(Path("/data"))
    assert target(None, Path("gw")) == Target(Path("gw"))
    in_a_cluster(monkeypatch, yes=False)
    assert target(None, None) == Target(Path("gateway"))
    assert target("dir:/data", None).shown == "/data"
    for wrong in ("k8s-secret:mcp-tunnel", "/data", "dir:", "k8s-secret:"):
        with pytest.raises(OperatorError):
            target(wrong, None)
    with pytest.raises(OperatorError, match="one of them"):
        target("dir:/data", Path("gw"))


@pytest.mark.timeout(60)
async def test_R327_a_secret_is_set_up_once_renewed_and_left_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (kubernetes, here), api() as (fake, client):
        where = Target(secret="mcp-tunnel", cluster=here)

        async def set_up() -> Prepared:
            async with opened(where) as (place, save):

                async def keep(_: Prepared) -> None:
                    await save()

                made = await init(client, InitOptions(place, save=keep), NOW)
            assert not place.exists(), "keys are in the Secret only"
            return made

        made = await set_up()
        assert (made.created_tunnel, made.created_ca) == (True, True)
        first = kubernetes.files("mcp-tunnel")
        assert set(first) == NAMES
        again = await set_up()
        assert (again.created_tunnel, again.created_ca) == (False, False)
        assert (kubernetes.files("mcp-tunnel"), kubernetes.versions) == (first, 1)
        async with opened(where) as (place, save):
            renew(place, NOW)
            await save()
        renewed = kubernetes.files("mcp-tunnel")
        assert {name for name in NAMES if renewed[name] != first[name]} == {"tls.crt", "tls.key"}
        assert len(fake.tunnels) == len(fake.certificates) == 1


@pytest.mark.timeout(60)
async def test_what_cannot_be_kept_is_taken_back(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (kubernetes, here), api() as (fake, client):

        async def meanwhile(_: Prepared) -> None:
            body = {"metadata": {"name": "mcp-tunnel"}, "kind": "Secret", "data": {}}
            kubernetes.keep(body)
            await save()

        with pytest.raises(OperatorError, match="changed meanwhile"):
            async with opened(Target(secret="mcp-tunnel", cluster=here)) as (place, save):
                await init(client, InitOptions(place, save=meanwhile), NOW)
        assert fake.certificates == {}
        assert all(tunnel["archived_at"] for tunnel in fake.tunnels.values())

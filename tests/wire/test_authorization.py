"""Every route of the API document for every kind of credential, against one table."""

import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic

from tests.wire.host import Server, running
from tests.wire.matrix import SCOPES, Callers, World, world
from tests.wire.provider import AUDIENCE, running_provider
from tests.wire.trust import Trust

# One case makes one of everything, and asks as everybody.
pytestmark = pytest.mark.timeout(240)
TABLE: dict[str, Any] = tomllib.loads(
    (Path(__file__).parent / "authorization.toml").read_text(encoding="utf-8")
)
KINDS = (
    "none",
    "unknown",
    "revoked",
    "api_key_lacking",
    "api_key_elsewhere",
    "environment_key_other",
    "token_other",
    "environment_key",
    "token",
    "api_key",
)
# A token of a workload is let in where an API key with its one scope is, and nowhere else.
SAME_AS = {"federated": "api_key", "federated_lacking": "api_key_lacking"}
DENIED = {401, 403, 404, 405}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(
        tmp_path_factory.mktemp("matrix") / "data",
        issuer_networks=["127.0.0.0/8", "::1/128"],
        audience=[AUDIENCE],
    ) as started:
        yield started


@pytest.fixture(scope="module")
def callers(server: Server) -> Iterator[Callers]:
    with (
        closing(Callers(server)) as made,
        running_provider() as provider,
        Anthropic(base_url=server.base_url, api_key=server.api_key) as api,
    ):
        for scope in SCOPES:
            # Longer than this table takes; the provider's own lifetime is no limit.
            rule = {"oauth_scope": scope, "token_lifetime_seconds": 3600}
            settings = {"rule": rule, "account": {"organization_role": "admin"}}
            trust = Trust(api, server, provider, settings)
            answer = trust.post(provider.assertion())
            assert answer.status_code == 200, answer.text
            made.federated[scope] = answer.json()["access_token"]
        yield made


@pytest.fixture(scope="module")
def shared(callers: Callers) -> Iterator[World]:
    """One of everything, for the routes that only read."""
    with world(callers, "".join(r for r in TABLE["routes"] if r.startswith("GET "))) as made:
        yield made


def test_the_table_and_the_document_name_the_same_routes(server: Server) -> None:
    document = httpx2.get(f"{server.base_url}/x/openapi.json").json()
    served = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    missing = sorted(served - set(TABLE["routes"]))
    assert not missing, f"say in tests/wire/authorization.toml who may call {missing}"
    gone = sorted(set(TABLE["routes"]) - served)
    assert not gone, f"take these out of tests/wire/authorization.toml: {gone}"


def test_every_class_decides_about_every_kind() -> None:
    for name, row in TABLE["classes"].items():
        assert set(row) - {"scope"} == set(KINDS), name
        if name != "exchange":
            assert {row["none"], row["unknown"], row["revoked"]} == {401}, name


@pytest.mark.rule("c2_3", "c2_8", "c2_9", "c2_12", "c2_13", "c2_14", "c3_5", "R297", "R298")
@pytest.mark.parametrize("route", TABLE["routes"])
def test_who_may_call(callers: Callers, shared: World, route: str) -> None:
    row, body = TABLE["classes"][TABLE["routes"][route]], TABLE["bodies"].get(route, {})
    if route.startswith("GET "):
        assert wrong_answers(shared, route, row, body) == {}
        return
    # What one route destroys must be missed by no other.
    with world(callers, route) as made:
        assert wrong_answers(made, route, row, body) == {}


def wrong_answers(made: World, route: str, row: Any, body: object) -> dict[str, tuple[int, Any]]:
    """Return (got, wanted) by kind, the harmless kinds tried first."""
    wrong, deleted = {}, False
    row = {**row, **{kind: row[same] for kind, same in SAME_AS.items()}}
    for kind in sorted((*KINDS, *SAME_AS), key=lambda kind: row[kind] == "in"):
        status, wanted = made.ask(route, kind, row["scope"], body), row[kind]
        if wanted != "in":
            fits = status == wanted
        else:
            fits = (status not in DENIED and status < 500) or (deleted and status == 404)
            deleted = deleted or route.startswith("DELETE ")
        if not fits:
            wrong[kind] = (status, wanted)
    return wrong

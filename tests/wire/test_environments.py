"""Environments and their keys through the official SDK."""

from contextlib import ExitStack

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.host import Server
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

LIMITED = {"type": "limited", "allowed_hosts": ["*.example.com"], "allow_package_managers": True}


@pytest.mark.rule("c8_1", "c8_3", "c8_10")
def test_a_name_is_enough(client: Anthropic) -> None:
    environment = client.beta.environments.create(name="plain")
    check(environment)
    assert environment.id.startswith("env_")
    assert environment.config.to_dict() == {
        "type": "cloud",
        "networking": {"type": "unrestricted"},
        "packages": {
            "type": "packages",
            "apt": [],
            "cargo": [],
            "gem": [],
            "go": [],
            "npm": [],
            "pip": [],
        },
    }
    assert environment.scope == "organization"
    assert client.beta.environments.retrieve(environment.id) == environment


@pytest.mark.rule("c8_2")
def test_self_hosted_has_no_other_field(client: Anthropic) -> None:
    environment = client.beta.environments.create(name="own", config={"type": "self_hosted"})
    check(environment)
    assert environment.config.to_dict() == {"type": "self_hosted"}
    with pytest.raises(anthropic.BadRequestError, match="networking: unknown field"):
        client.beta.environments.create(
            name="own", config={"type": "self_hosted", "networking": {"type": "unrestricted"}}
        )


@pytest.mark.rule("c4_8", "c8_7", "c8_9")
def test_update_keeps_what_was_not_sent(client: Anthropic) -> None:
    made = client.beta.environments.create(
        name="e",
        description="d",
        metadata={"a": "1", "b": "2"},
        config={"type": "cloud", "networking": LIMITED, "packages": {"pip": ["numpy==2.1"]}},
    )
    check(made)
    changed = client.beta.environments.update(
        made.id,
        config={"type": "cloud", "networking": {"type": "limited", "allow_mcp_servers": True}},
        metadata={"a": "", "b": None, "c": "3"},
    )
    check(changed)
    assert changed.config.type == "cloud"
    assert changed.config.networking.to_dict() == {**LIMITED, "allow_mcp_servers": True}
    assert changed.config.packages.pip == ["numpy==2.1"]
    assert (changed.description, changed.metadata) == ("d", {"c": "3"})
    assert client.beta.environments.update(made.id, description="").description == ""
    assert client.beta.environments.update(made.id, description=None).description is None


@pytest.mark.rule("c3_2", "c3_8", "c3_9", "c8_6", "c8_8", "c8_10", "R387")
def test_refusals_carry_the_documented_codes(client: Anthropic) -> None:
    environment = client.beta.environments.create(name="e", config={"type": "self_hosted"})
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.beta.environments.update(environment.id, config={"type": "cloud"})
    assert code_of(caught.value) == "invalid_config_type_change"
    client.beta.environments.archive(environment.id)
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.beta.environments.update(environment.id, name="f")
    assert code_of(caught.value) == "environment_archived"
    with pytest.raises(anthropic.BadRequestError, match="allow_package_managers"):
        client.beta.environments.create(
            name="e",
            config={
                "type": "cloud",
                "networking": {"type": "limited"},
                "packages": {"apt": ["jq"]},
            },
        )
    with pytest.raises(anthropic.BadRequestError, match="scope"):
        client.beta.environments.create(name="e", scope="account")


@pytest.mark.rule("c8_11", "c8_12")
def test_delete_works_once_and_on_archived_ones(client: Anthropic) -> None:
    environment = client.beta.environments.create(name="gone")
    archived = client.beta.environments.archive(environment.id)
    check(archived)
    assert client.beta.environments.archive(environment.id) == archived
    deleted = client.beta.environments.delete(environment.id)
    check(deleted)
    assert (deleted.id, deleted.type) == (environment.id, "environment_deleted")
    with pytest.raises(anthropic.NotFoundError):
        client.beta.environments.retrieve(environment.id)
    with pytest.raises(anthropic.NotFoundError):
        client.beta.environments.delete(environment.id)


@pytest.mark.rule("c4_10", "c4_20", "c4_21")
async def test_lists_page_and_hide_archived_ones(async_client: AsyncAnthropic) -> None:
    made = [await async_client.beta.environments.create(name=f"l{i}") for i in range(3)]
    await async_client.beta.environments.archive(made[1].id)
    pages = async_client.beta.environments.list(limit=1)
    seen = [environment.id async for environment in pages]
    assert seen[:2] == [made[2].id, made[0].id]
    everything = [e.id async for e in async_client.beta.environments.list(include_archived=True)]
    assert everything[:3] == [made[2].id, made[1].id, made[0].id]


@pytest.mark.rule("c2_1", "c2_2", "c2_3")
def test_a_workers_key_is_shown_once_and_revocable_at_once(
    server: Server, client: Anthropic
) -> None:
    environment = client.beta.environments.create(name="own", config={"type": "self_hosted"})
    url = f"/x/environments/{environment.id}/keys"
    with (
        httpx2.Client(base_url=server.base_url, headers={"x-api-key": server.api_key}) as http,
        ExitStack() as opened,
    ):
        made = http.post(url, json={"name": "rack 1"}).json()
        assert made["key"].startswith("sk-ant-oat01-")
        assert made["environment_id"] == environment.id
        listed = http.get(url).json()["data"]
        assert [key["id"] for key in listed] == [made["id"]]
        assert "key" not in listed[0]
        worker = opened.enter_context(as_worker(server, made["key"]))
        # The wrong kind is refused as such; once revoked it is as unknown as any other.
        with pytest.raises(anthropic.PermissionDeniedError, match="environment key"):
            worker.beta.agents.list()
        assert http.delete(f"{url}/{made['id']}").json()["revoked_at"] is not None
        with pytest.raises(anthropic.AuthenticationError):
            worker.beta.agents.list()
        assert http.delete(f"{url}/envkey_none").status_code == 404
        cloud = client.beta.environments.create(name="cloud")
        assert http.post(f"/x/environments/{cloud.id}/keys").status_code == 400


def as_worker(server: Server, key: str) -> Anthropic:
    return Anthropic(base_url=server.base_url, auth_token=key, api_key=None, max_retries=0)


def code_of(error: anthropic.APIStatusError) -> str:
    assert isinstance(error.body, dict)
    code = error.body["error"]["details"]["error_code"]
    assert isinstance(code, str)
    return code

"""Workloads without keys: a real identity provider, the SDK's own exchange, tokens in use."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.lib.credentials import WorkloadIdentityError
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from intramuros.kernel.config import environment
from tests.engines import opened
from tests.wire.host import ROOT, Server, running
from tests.wire.provider import AUDIENCE, Provider, running_provider
from tests.wire.structure import check
from tests.wire.trust import SUBJECT, Trust, default_workspace

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(
        tmp_path_factory.mktemp("federation") / "data",
        issuer_networks=["127.0.0.0/8", "::1/128"],
        audience=[AUDIENCE],
    ) as started:
        yield started


@pytest.fixture
def trust(client: Anthropic, server: Server, provider: Provider) -> Trust:
    return Trust(client, server, provider)


def test_R337_R338_R339_R011_the_sdk_exchanges_and_works(trust: Trust) -> None:
    with trust.as_workload(trust.provider.assertion()) as workload:
        made = workload.beta.agents.create(name="keyless", model="m")
        assert workload.beta.agents.retrieve(made.id) == made
    assert trust.client.beta.agents.retrieve(made.id) == made
    answer = trust.post(trust.provider.assertion())
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()
    assert token["access_token"].startswith("sk-ant-oat01-")
    assert (token["token_type"], token["scope"]) == ("Bearer", "workspace:developer")
    assert token["expires_in"] == pytest.approx(1200, abs=5)
    assert token["access_token"] not in trust.server.log


async def test_the_async_sdk_exchanges_too(trust: Trust) -> None:
    made = AsyncAnthropic(
        base_url=trust.server.base_url,
        credentials=trust.credentials(trust.provider.assertion("ec", "ES256")),
        max_retries=0,
    )
    async with made:
        assert (await made.beta.agents.list()).data is not None


def test_R345_every_family_of_signature(trust: Trust) -> None:
    for kid, algorithm in (("rsa", "PS384"), ("rsa", "RS512"), ("ec", "ES256")):
        assert trust.post(trust.provider.assertion(kid, algorithm)).status_code == 200


def test_R341_R342_R346_R347_R348_refusals_look_alike_and_are_recorded(
    provider: Provider, tmp_path: Path
) -> None:
    # A server of its own, since whoever fails that often is soon throttled.
    with (
        running(
            tmp_path / "data", issuer_networks=["127.0.0.0/8", "::1/128"], audience=[AUDIENCE]
        ) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key) as client,
    ):
        _refuse_each(Trust(client, server, provider))


def _refuse_each(trust: Trust) -> None:
    now = int(time.time())
    good = trust.provider.assertion()
    forged = trust.provider.keys["rsa"].as_dict(private=False)["n"].encode()
    claims = {
        "iss": trust.provider.url,
        "sub": SUBJECT,
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 9,
    }
    bad = {
        "signature": jwt.encode({"alg": "RS256", "kid": "rsa"}, claims, RSAKey.generate_key(2048)),
        "algorithm": jwt.encode({"alg": "HS256", "kid": "rsa"}, claims, OctKey.import_key(forged)),
        "malformed": "no.assertion",
        "issuer": trust.provider.assertion(iss=trust.provider.url + "/"),
        "expired": trust.provider.assertion(iat=now - 200, exp=now - 60),
        "lifetime": trust.provider.assertion(exp=now + 4000),
        "missing_times": trust.provider.assertion(iat=None),
        "not_yet_valid": trust.provider.assertion(nbf=now + 100),
        "match_subject_prefix": trust.provider.assertion(sub=SUBJECT + "x"),
        "match_audience": trust.provider.assertion(aud="https://elsewhere.test"),
    }
    answers = [trust.post(assertion) for assertion in bad.values()]
    answers.append(trust.post(good, organization_id="00000000-0000-0000-0000-000000000000"))
    answers.append(trust.post(good, federation_rule_id="fdrl_none"))
    for answer in answers:
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert error == {"type": "authentication_error", "message": "Authentication failed"}
    with pytest.raises(WorkloadIdentityError) as caught:
        trust.as_workload(bad["match_audience"]).beta.agents.list()
    assert caught.value.status_code == 401
    while (throttled := trust.post(bad["malformed"])).status_code != 429:
        answers.append(throttled)
        assert len(answers) < 100
    assert "retry-after" in throttled.headers
    recorded = recorded_reasons(trust.server, trust.rule.id)
    assert recorded[:11] == [*bad, "organization"]
    assert recorded[11] == "match_audience"
    assert 11 < len(recorded) <= 20


def recorded_reasons(server: Server, rule_id: str) -> list[str]:
    """Return why exchanges of a rule were refused, from the server's audit log."""
    with opened(server.data_dir) as db:
        lines = db.execute("SELECT line FROM audit WHERE kind = 'federation.exchange' ORDER BY seq")
        records = [json.loads(line)["fields"] for (line,) in lines]
    return [r["refused"] for r in records if r["rule"] == rule_id and "refused" in r]


def test_R341_malformed_requests_are_told_so(trust: Trust) -> None:
    good = trust.provider.assertion()
    for wrong in (
        {"federation_rule_id": "rule"},
        {"workspace_id": "elsewhere"},
        {"grant_type": "refresh_token"},
        {"assertion": ""},
        {"assertion": "x" * 16_385},
    ):
        answer = trust.post(good, **wrong)
        assert answer.status_code == 400
        assert next(iter(wrong)) in answer.json()["error"]["message"]


def test_R349_an_assertion_with_an_id_is_good_once(
    client: Anthropic, server: Server, provider: Provider, trust: Trust
) -> None:
    once, plain = provider.assertion(jti="only"), provider.assertion()
    assert [trust.post(once).status_code for _ in range(2)] == [200, 401]
    assert [trust.post(plain).status_code for _ in range(2)] == [200, 200]
    lax = Trust(client, server, provider, {"issuer": {"check_jti": False}})
    assert [lax.post(once).status_code for _ in range(2)] == [200, 200]


def test_R354_tokens_live_no_longer_than_the_rule_and_the_assertion_allow(
    client: Anthropic, server: Server, provider: Provider
) -> None:
    trust = Trust(client, server, provider, {"rule": {"token_lifetime_seconds": 90}})
    assert trust.post(provider.assertion()).json()["expires_in"] == 90
    soon = provider.assertion(exp=int(time.time()) + 10)
    assert trust.post(soon).json()["expires_in"] == 60


def test_R337_R355_R024_the_workspace_is_fixed_at_exchange(trust: Trust) -> None:
    org = trust.client.beta.organization
    other = org.workspaces.create(name="other")
    check(org.federation.rules.workspaces.add(trust.rule.id, workspace_id=other.id))
    good = trust.provider.assertion()
    assert trust.post(good, workspace_id=other.id).status_code == 401  # no member of it
    check(
        org.service_accounts.workspaces.add(
            trust.account.id, workspace_id=other.id, workspace_role="workspace_developer"
        )
    )
    with trust.as_workload(good, workspace_id=other.id) as inside:
        raw = inside.beta.agents.with_raw_response.list()
        assert raw.headers["anthropic-workspace-id"] == other.id
        with pytest.raises(anthropic.PermissionDeniedError):
            inside.beta.agents.list(
                extra_headers={"anthropic-workspace-id": default_workspace(trust.client)}
            )
    with trust.as_workload(good) as home:
        assert (
            home.beta.agents.with_raw_response.list().headers["anthropic-workspace-id"] != other.id
        )
    org.federation.rules.workspaces.remove(other.id, federation_rule_id=trust.rule.id)
    assert trust.post(good, workspace_id=other.id).status_code == 401
    assert trust.post(good, workspace_id="default").status_code == 200


def test_R362_R297_scopes_bound_what_a_token_does(
    client: Anthropic, server: Server, provider: Provider, trust: Trust
) -> None:
    scope = {"rule": {"oauth_scope": "workspace:manage_tunnels"}}
    tunnels = Trust(client, server, provider, scope)
    with tunnels.as_workload(provider.assertion()) as manager:
        made = manager.beta.tunnels.create(display_name="keyless")
        assert manager.beta.tunnels.retrieve(made.id) == made
        with pytest.raises(anthropic.PermissionDeniedError, match="workspace:developer"):
            manager.beta.agents.list()
    with trust.as_workload(provider.assertion()) as developer:
        with pytest.raises(anthropic.PermissionDeniedError, match="manage_tunnels"):
            developer.beta.tunnels.list()
        with pytest.raises(anthropic.PermissionDeniedError, match="org:admin"):
            developer.beta.organization.workspaces.list()


def test_R357_a_federated_administrator_manages_plain_rules_only(
    client: Anthropic, server: Server, provider: Provider, trust: Trust
) -> None:
    rule = {"oauth_scope": "org:admin"}
    admin = Trust(
        client, server, provider, {"account": {"organization_role": "admin"}, "rule": rule}
    )
    with admin.as_workload(provider.assertion()) as inside:
        org = inside.beta.organization
        made = org.service_accounts.create(name=f"made-{admin.number}")
        check(made)
        assert made.created_by_actor_id == admin.account.id
        target: Any = {"type": "service_account", "service_account_id": made.id}
        plain: Any = {
            "issuer_id": trust.issuer.id,
            "match": {"subject_prefix": "x"},
            "target": target,
            "applies_to_all_workspaces": True,
        }
        check(
            org.federation.rules.create(
                name=f"plain-{admin.number}", oauth_scope="workspace:inference", **plain
            )
        )
        with pytest.raises(anthropic.PermissionDeniedError, match="API key"):
            org.federation.rules.create(
                name=f"wide-{admin.number}", oauth_scope="workspace:manage_tunnels", **plain
            )
        inside.post("/x/keys", cast_to=object, body={"scopes": ["workspace:developer"]})
        with pytest.raises(anthropic.PermissionDeniedError, match="API key"):
            inside.post("/x/keys", cast_to=object, body={"scopes": ["org:admin"]})
        with pytest.raises(anthropic.PermissionDeniedError, match="API key"):
            org.federation.issuers.update(admin.issuer.id, check_jti=False)
        with pytest.raises(anthropic.PermissionDeniedError, match="API key"):
            org.federation.rules.archive(admin.rule.id)
    client.beta.organization.service_accounts.update(
        admin.account.id, organization_role="developer"
    )
    assert admin.post(provider.assertion()).status_code == 401
    with pytest.raises(anthropic.BadRequestError, match="role admin"):
        Trust(client, server, provider, {"rule": rule})


def test_R350_R351_R353_rules_that_let_in_too_much_are_refused(trust: Trust) -> None:
    org = trust.client.beta.organization
    shared = org.federation.issuers.create(
        name=f"shared-{trust.number}",
        issuer_url="https://token.actions.githubusercontent.com",
        jwks={"type": "inline", "keys": trust.provider.jwks()},
    )
    check(shared)
    rest: Any = {
        "oauth_scope": "workspace:developer",
        "target": {"type": "service_account", "service_account_id": trust.account.id},
        "applies_to_all_workspaces": True,
    }
    for issuer_id, match in (
        (trust.issuer.id, {"audience": "a"}),
        (trust.issuer.id, {"subject_prefix": "*"}),
        (trust.issuer.id, {"subject_prefix": "a", "condition": "true"}),
        (shared.id, {"subject_prefix": "repo:*"}),
    ):
        sent: Any = match
        with pytest.raises(anthropic.BadRequestError, match="match"):
            org.federation.rules.create(name="loose", issuer_id=issuer_id, match=sent, **rest)
    with pytest.raises(anthropic.BadRequestError, match="attributes"):
        org.federation.rules.update(trust.rule.id, attributes={"a": "claims.b"})
    tight = org.federation.rules.create(
        name=f"tight-{trust.number}",
        issuer_id=shared.id,
        match={"subject_prefix": "repo:acme/*", "claims": {"ref": "refs/heads/main"}},
        **rest,
    )
    check(tight)
    assert [r.id for r in org.federation.rules.list(issuer_id=shared.id)] == [tight.id]
    with pytest.raises(anthropic.BadRequestError, match="tenant"):
        org.federation.rules.update(tight.id, match={"subject_prefix": "*x*"})


def test_R356_keys_are_found_inline_or_through_the_address_and_kept(
    client: Anthropic, server: Server, provider: Provider, trust: Trust
) -> None:
    issuers = client.beta.organization.federation.issuers
    before = len(provider.asked)
    assert [trust.post(provider.assertion()).status_code for _ in range(3)] == [200] * 3
    assert provider.asked[before:] == ["/.well-known/openid-configuration", "/keys"]
    status = issuers.retrieve(trust.issuer.id).poll_status
    assert status is not None
    assert (status.consecutive_failures, status.last_fetched_at is not None) == (0, True)
    changed = issuers.update(trust.issuer.id, jwks={"type": "inline", "keys": provider.jwks()})
    check(changed)
    assert changed.jwks.type == "inline"
    assert trust.post(provider.assertion()).status_code == 200

    def retarget(jwks: Any) -> None:
        issuers.update(trust.issuer.id, jwks=jwks)

    explicit: dict[str, Any] = {"type": "explicit_url", "url": f"{provider.url}/keys"}
    retarget(explicit)
    assert trust.post(provider.assertion()).status_code == 401  # nobody vouches for its certificate
    retarget({**explicit, "ca_cert_pem": provider.ca_pem})
    assert trust.post(provider.assertion()).status_code == 200
    for wrong in (
        {"type": "explicit_url", "url": "http://localhost/keys"},
        {"type": "inline", "keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]},
        {"type": "inline", "keys": [provider.keys["rsa"].as_dict(private=True) | {"kid": "a"}]},
        {"type": "discovery", "ca_cert_pem": "no certificate"},
    ):
        sent: Any = wrong
        with pytest.raises(anthropic.BadRequestError, match="jwks"):
            issuers.update(trust.issuer.id, jwks=sent)
    with pytest.raises(anthropic.BadRequestError, match="jwks_polling_disabled"):
        issuers.update(trust.issuer.id, jwks_polling_disabled=True)


def test_R359_names_are_slugs_and_taken_once(trust: Trust) -> None:
    org = trust.client.beta.organization
    with pytest.raises(anthropic.ConflictError) as caught:
        org.service_accounts.create(name=trust.account.name)
    assert caught.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(anthropic.ConflictError):
        org.federation.issuers.create(name=trust.issuer.name, issuer_url=trust.provider.url)
    for name in ("Upper", "with space", ""):
        with pytest.raises(anthropic.BadRequestError, match="name"):
            org.service_accounts.create(name=name)


def test_R360_what_a_live_rule_needs_stays(trust: Trust) -> None:
    org = trust.client.beta.organization
    with trust.as_workload(trust.provider.assertion()) as workload:
        workload.beta.agents.list()
        with pytest.raises(anthropic.BadRequestError, match="archive the rule"):
            org.federation.issuers.archive(trust.issuer.id)
        with pytest.raises(anthropic.BadRequestError, match="archive the rule"):
            org.service_accounts.archive(trust.account.id)
        archived = org.federation.rules.archive(trust.rule.id)
        check(archived)
        assert org.federation.rules.archive(trust.rule.id) == archived
        assert trust.post(trust.provider.assertion()).status_code == 401
        workload.beta.agents.list()  # what was given lives on
        check(org.federation.issuers.archive(trust.issuer.id))
        check(org.service_accounts.archive(trust.account.id))
        with pytest.raises((anthropic.AuthenticationError, WorkloadIdentityError)):
            workload.beta.agents.list()  # unless the account itself is gone
    assert trust.rule.id not in [r.id for r in org.federation.rules.list()]
    assert trust.rule.id in [r.id for r in org.federation.rules.list(include_archived=True)]
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        org.service_accounts.update(trust.account.id, description="x")


def test_R361_the_implicit_membership_stays(trust: Trust) -> None:
    org = trust.client.beta.organization
    home = default_workspace(trust.client)
    of_account, of_workspace = org.service_accounts.workspaces, org.workspaces.service_accounts
    found = list(of_account.list(trust.account.id))
    check(found[0])
    assert [(m.workspace_id, m.workspace_role, m.implicit) for m in found] == [
        (home, "workspace_user", True)
    ]
    check(of_workspace.remove(trust.account.id, workspace_id=home))
    check(of_account.remove(home, service_account_id=trust.account.id))
    assert list(of_account.list(trust.account.id)) == found
    role = of_workspace.update(
        trust.account.id, workspace_id=home, workspace_role="workspace_admin"
    )
    check(role)
    assert (role.workspace_role, role.implicit) == ("workspace_admin", False)
    of_workspace.remove(trust.account.id, workspace_id=home)
    assert list(of_account.list(trust.account.id)) == found
    gone = org.workspaces.create(name="gone")
    org.workspaces.archive(gone.id)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        of_workspace.add(
            gone.id, service_account_id=trust.account.id, workspace_role="workspace_user"
        )


async def test_lists_of_accounts_members_and_issuers_walk(
    async_client: AsyncAnthropic, trust: Trust
) -> None:
    org = async_client.beta.organization
    workspace = await org.workspaces.create(name="crowd")
    made = []
    for i in range(3):
        account = await org.service_accounts.create(name=f"crowd-{trust.number}-{i}")
        member = await org.workspaces.service_accounts.add(
            workspace.id, service_account_id=account.id, workspace_role="workspace_user"
        )
        check(member)
        made.append(account)
    walked = [a async for a in org.service_accounts.list(limit=1)]
    assert walked[:3] == made[::-1]
    members = [
        m.service_account_id
        async for m in org.workspaces.service_accounts.list(workspace.id, limit=2)
    ]
    assert members == [account.id for account in made]
    shown = await org.workspaces.service_accounts.retrieve(made[0].id, workspace_id=workspace.id)
    check(shown)
    changed = await org.service_accounts.update(made[0].id, description="d")
    check(changed)
    assert await org.service_accounts.retrieve(made[0].id) == changed
    assert trust.issuer.id in [i.id async for i in org.federation.issuers.list(limit=1)]
    rule_id = trust.rule.id
    places = [w async for w in org.federation.rules.workspaces.list(rule_id, limit=1)]
    check(places[0])
    assert [w.workspace_id for w in places] == (
        await org.federation.rules.retrieve(rule_id)
    ).workspace_ids
    with pytest.raises(anthropic.BadRequestError, match="one workspace at least"):
        await org.federation.rules.workspaces.remove(
            places[0].workspace_id, federation_rule_id=rule_id
        )
    renamed = await org.federation.rules.update(
        rule_id, name=f"renamed-{trust.number}", description=None, workspace_id=workspace.id
    )
    check(renamed)
    assert (renamed.description, renamed.workspace_ids) == ("", [workspace.id])


@pytest.mark.rule("R376", "R342")
def test_R376_workloads_are_told_apart_in_the_feed(trust: Trust) -> None:
    client, federated = trust.client, "platform_federated_authentication"
    client.beta.organization.compliance_settings.update(state={"type": "enabled"})
    with trust.as_workload(trust.provider.assertion()) as workload:
        workload.beta.agents.create(name="theirs", model="m")
    assert trust.post(trust.provider.assertion(sub="somebody else")).status_code == 401
    answer: Any = client.get("/v1/compliance/activities", cast_to=object)
    refused, made, accepted = answer["data"][:3]
    assert made["type"] == "platform_agent_created"
    account = trust.rule.target.service_account_id
    assert made["actor"]["type"] == "service_account_actor"
    assert made["actor"]["service_account_id"] == account
    assert accepted["type"] == refused["type"] == federated
    assert accepted["actor"]["type"] == "federated_identity_actor"
    assert accepted["actor"]["issuer"] == trust.provider.url
    assert accepted["actor"]["subject"] == SUBJECT
    assert accepted["actor"]["audience"] == [AUDIENCE]
    assert accepted["status"]["outcome"] == "succeeded"
    assert {"type": "service_account", "id": account} in accepted["resources"]
    assert accepted["request_id"].startswith("req_")
    assert refused["actor"]["type"] == "federated_actor"
    assert refused["actor"]["provider"] == {"type": "oidc", "issuer": None}
    assert (refused["status"]["outcome"], refused["status"]["reason"]) == (
        "denied",
        "match_subject_prefix",
    )
    client.beta.organization.compliance_settings.update(state={"type": "disabled"})


@pytest.mark.timeout(240)
def test_R333_a_gateway_is_set_up_without_a_key(trust: Trust, tmp_path: Path) -> None:
    rule = {"rule": {"oauth_scope": "workspace:manage_tunnels"}}
    keyless = Trust(trust.client, trust.server, trust.provider, rule)
    (tmp_path / "token").write_text(trust.provider.assertion())
    command = [
        *("gateway", "init", "--dir", str(tmp_path / "gw"), "--url", trust.server.base_url),
        *("--edge", "127.0.0.1:7844", "--route", "bank=http://127.0.0.1:8080"),
        *("--federation-rule-id", keyless.rule.id),
        *("--organization-id", keyless.organization_id, "--workspace-id", "default"),
        *("--identity-token-file", str(tmp_path / "token")),
    ]
    done = subprocess.run(
        [sys.executable, "-c", "from intramuros.cli.entry import main; main()", *command],
        env={"PATH": environment()["PATH"], "PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tunnel_id = (tmp_path / "gw" / "tunnel-id").read_text()
    assert trust.client.beta.tunnels.retrieve(tunnel_id).archived_at is None
    (certificate,) = trust.client.beta.tunnels.certificates.list(tunnel_id)
    assert certificate.tunnel_id == tunnel_id
    trust.client.beta.tunnels.archive(tunnel_id)

"""One of everything, and a credential of every kind, for the authorization table."""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Final

import httpx2
from anthropic import Anthropic
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from intramuros.protocol.ssh import public_line
from tests.authorities import authority
from tests.wire.host import Server
from tests.wire.site import MESSAGE, Site
from tests.wire.test_work import token_of

SCOPES: Final = (
    "workspace:developer",
    "workspace:inference",
    "workspace:manage_tunnels",
    "org:admin",
)
BETAS = (
    "managed-agents-2026-04-01,mcp-tunnels-2026-06-22,admin-user-sign-out-2026-10-08,"
    "spend-limit-reads-2026-09-26,telemetry-destinations-2026-08-11,webhooks-2026-10-07,"
    "dreaming-2026-04-21"
)
WEBHOOKS = "webhooks-2026-10-07"
_numbers = count(1)
SKILL = b"---\nname: calc\ndescription: Adds.\n---\nAdd.\n"


class Callers:
    """The secrets of every kind of caller, made once for a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._opened = ExitStack()
        headers = {"x-api-key": server.api_key}
        self.http = self._opened.enter_context(
            httpx2.Client(base_url=server.base_url, headers=headers)
        )
        self._anonymous, self._addresses = self.http, 0
        self.federated: dict[
            str, str
        ] = {}  # a workload's token for each scope, where there are any
        self._asked = 0
        # The feed of activities answers nobody while it is off.
        self.post("/v1/organizations/compliance_settings", {"state": "enabled"})
        other = self.post("/v1/organizations/workspaces", {"name": "Elsewhere"})["id"]
        self.elsewhere = self.key(SCOPES, {"anthropic-workspace-id": other})["key"]
        self.lacking = {
            scope: self.key([s for s in SCOPES if s != scope])["key"] for scope in SCOPES
        }
        revoked = self.key(SCOPES)
        self.http.delete(f"/x/keys/{revoked['id']}").raise_for_status()
        self.revoked = revoked["key"]

    def close(self) -> None:
        self._opened.close()

    def anonymous(self) -> httpx2.Client:
        """Return a client without a credential, now and then from another address.

        Bad credentials are slowed down by address, and the table sends many.
        """
        self._asked += 1
        if self._asked % 40 == 1:
            self._addresses += 1
            made = self._client(f"127.0.1.{self._addresses + 1}")
            self._anonymous = self._opened.enter_context(made)
        return self._anonymous

    def _client(self, address: str) -> httpx2.Client:
        transport = httpx2.HTTPTransport(local_address=address, verify=False)
        return httpx2.Client(base_url=self.server.base_url, transport=transport, timeout=60)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        answer = self.http.post(path, json=body, headers=headers or {})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def key(self, scopes: Any, headers: dict[str, str] | None = None) -> Any:
        return self.post("/x/keys", {"name": "matrix", "scopes": list(scopes)}, headers)


class World:
    """What routes are tried on: a thing for each placeholder in ``path``."""

    def __init__(self, callers: Callers, site: Site, path: str) -> None:
        self.callers, self.site, self.api = callers, site, site.api
        self.store: Any = None
        if "{memory_store_id}" in path:
            self.store = self.api.beta.memory_stores.create(name="s")
        self.skill: Any = None
        if "{skill_id}" in path:
            self.skill = self.api.beta.skills.create(
                files=[("calc/SKILL.md", io.BytesIO(SKILL), "text/markdown")]
            )
        self.session, self.other = self._session(bound=True), self._session(bound=False)
        poll = site.worker.beta.environments.work.poll
        first, second = poll(site.environment_id), poll(site.environment_id)
        assert first is not None
        assert second is not None
        self.work_id = first.id
        self.token, self.token_other = token_of(first.secret or ""), token_of(second.secret or "")
        self.key_other = site.environment_key(site.environment())
        self.path = path
        self.made = dict(self._ids())

    def _session(self, *, bound: bool) -> Any:
        more: dict[str, Any] = {}
        if bound and self.store is not None:
            more["resources"] = [{"type": "memory_store", "memory_store_id": self.store.id}]
        agent: Any = {"name": "A", "model": "scripted/answer"}
        if bound and self.skill is not None:
            agent["skills"] = [{"type": "custom", "skill_id": self.skill.id}]
            agent["tools"] = [{"type": "agent_toolset_20260401"}]
        made = self.api.beta.agents.create(**agent)
        return self.site.session(agent=made.id, **more)

    def _ids(self) -> Iterator[tuple[str, str]]:
        """Yield an id for each placeholder of the path that we know how to make."""
        beta, path = self.api.beta, self.path
        yield "agent_id", self.session.agent.id
        yield "environment_id", self.site.environment_id
        yield "session_id", self.session.id
        yield "work_id", self.work_id
        yield "tool_use_id", "none"
        yield "call_id", "none"
        yield "model_id", next(iter(beta.models.list())).id
        yield from self._deployment()
        if "{thread_id}" in path:
            yield "thread_id", next(iter(beta.sessions.threads.list(self.session.id))).id
        if "{tunnel_id}" in path:
            tunnel = beta.tunnels.create()
            yield "tunnel_id", tunnel.id
            pem = authority()
            made = beta.tunnels.certificates.create(tunnel.id, ca_certificate_pem=pem)
            yield "certificate_id", made.id
        if self.store is not None:
            yield "memory_store_id", self.store.id
            memory = beta.memory_stores.memories.create(self.store.id, path="/a", content="x")
            yield "memory_id", memory.id
            versions = beta.memory_stores.memory_versions.list(self.store.id)
            yield "version_id", next(iter(versions)).id
        if self.skill is not None:
            yield "skill_id", self.skill.id
            yield "version", self.skill.latest_version_id
        if "{vault_id}" in path:
            vault = beta.vaults.create(display_name="v")
            yield "vault_id", vault.id
            auth: Any = {"type": "static_bearer", "token": "t", "mcp_server_url": "https://x.test"}
            yield "credential_id", beta.vaults.credentials.create(vault.id, auth=auth).id
        if "{file_id}" in path:
            yield "file_id", beta.files.upload(file=("a.txt", b"a")).id
        yield from self._of_session()
        if "{user_profile_id}" in path:
            made = self.callers.post("/v1/user_profiles", {"access_type": "passthrough"})
            yield "user_profile_id", made["id"]
        yield from self._webhook_endpoint()
        if "{dream_id}" in path:
            yield "dream_id", self._dream_id()
        yield from self._administered(path)

    def _administered(self, path: str) -> Iterator[tuple[str, str]]:
        """Yield an id for each placeholder of the organization's paths."""
        owned = "/organizations/" in path or "/workspaces/" in path
        made = dict(self._organization()) if owned else {}
        yield from made.items()
        if "{user_id}" in path or "{invite_id}" in path or "{rbac_group_id}" in path:
            yield from self._people(made or dict(self._organization()))
        if "{rbac_role_id}" in path:
            yield "rbac_role_id", next(iter(self.api.beta.organization.rbac_roles.list())).id
        if "{key_id}" in path:
            yield "key_id", self._key_id()

    def _deployment(self) -> Iterator[tuple[str, str]]:
        if "{deployment_id}" not in self.path and "{run_id}" not in self.path:
            return
        deployments = self.api.beta.deployments
        made = deployments.create(
            name="d",
            agent=self.session.agent.id,
            environment_id=self.site.environment_id,
            initial_events=[MESSAGE],
        )
        yield "deployment_id", made.id
        yield "run_id", deployments.run(made.id).id

    def _mounted(self) -> Iterator[tuple[str, str]]:
        """Yield a session of a cloud environment, and a file that it has mounted."""
        file_id = self.api.beta.files.upload(file=("a.txt", b"a")).id
        made = self.site.session(
            environment_id=self.site.environment("cloud"),
            resources=[
                {"type": "file", "file_id": file_id},
                {
                    "type": "github_repository",
                    "url": "https://github.com/octo/repo",
                    "authorization_token": "t",
                },
            ],
        )
        yield "cloud_session_id", made.id
        rotated = self.path.startswith("POST /v1/")
        yield "resource_id", made.resources[1 if rotated else 0].id

    def _of_session(self) -> Iterator[tuple[str, str]]:
        if "/ssh_certificates" in self.path:
            self._certified()
        if "{release_id}" in self.path:
            yield "release_id", self._release()
        if "{resource_id}" in self.path:
            yield from self._mounted()

    def _certified(self) -> None:
        """Have somebody hold a certificate of the session."""
        key = Ed25519PrivateKey.generate().public_key()
        body = {"public_key": public_line(key)}
        self.callers.post(f"/x/sessions/{self.session.id}/ssh_certificates", body)

    def _release(self) -> str:
        """Return what the session's worker asks about."""
        asked = {
            "id": "sevt_asked",
            "subject": "tool_result",
            "rules": {"jwt": 1},
            "size_bytes": 1,
            "digest": "0" * 32,
            "wait_s": 3600,
        }
        bearer = {"authorization": f"Bearer {self.token}", "x-api-key": ""}
        base = self.callers.server.base_url
        answer = httpx2.post(
            f"{base}/x/sessions/{self.session.id}/releases", json=asked, headers=bearer
        )
        assert answer.status_code == 200, answer.text
        return "sevt_asked"

    def _organization(self) -> Iterator[tuple[str, str]]:
        """Yield a workspace, and an account and a rule that reach it."""
        org, number = self.api.beta.organization, next(_numbers)
        workspace = org.workspaces.create(name="W").id
        yield "workspace_id", workspace
        yield "rate_limit_id", next(iter(org.rate_limits.list())).id
        if "{destination_id}" in self.path:
            cover: Any = {"type": "include", "workspace_ids": [workspace]}
            yield (
                "destination_id",
                org.telemetry_destinations.create(
                    endpoint_url="https://collector.invalid", workspaces=cover
                ).id,
            )
        if "{spend_limit_id}" in self.path:
            scope: Any = {"type": "workspace", "workspace_id": workspace}
            yield "spend_limit_id", org.spend_limits.set(amount="1", scope=scope).id
        account = org.service_accounts.create(name=f"account-{number}").id
        yield "account_id", account
        member = {"service_account_id": account, "workspace_role": "workspace_developer"}
        self.callers.post(f"/v1/organizations/workspaces/{workspace}/service_accounts", member)
        issuer = org.federation.issuers.create(
            name=f"some-issuer-{number}", issuer_url=f"https://issuer-{number}.test"
        ).id
        yield "issuer_id", issuer
        rule = org.federation.rules.create(
            name=f"some-rule-{number}",
            issuer_id=issuer,
            match={"subject_prefix": "repo:x"},
            oauth_scope="workspace:developer",
            target={"type": "service_account", "service_account_id": account},
            workspace_id=workspace,
        )
        yield "rule_id", rule.id

    def _people(self, made: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Yield a pending invite, a user, and a workspace and a group that the user is in."""
        org, number = self.api.beta.organization, next(_numbers)
        yield "invite_id", org.invites.create(email=f"i{number}@x.test", role="user").id
        coming = org.invites.create(email=f"u{number}@x.test", role="user").id
        user_id = self.callers.post(f"/x/invites/{coming}/accept", {"name": "U"})["id"]
        yield "user_id", user_id
        org.workspaces.members.add(
            made["workspace_id"], user_id=user_id, workspace_role="workspace_user"
        )
        group = org.rbac_groups.create(name="G").id
        org.rbac_groups.members.add(group, user_id=user_id)
        yield "rbac_group_id", group

    def _webhook_endpoint(self) -> Iterator[tuple[str, str]]:
        """Yield an endpoint of the workspace and one of the organization, where they are needed."""
        for name, path, kind in (
            ("webhook_id", "/v1/webhooks", "deployment.deleted"),
            ("webhook_endpoint_id", "/v1/organizations/webhooks", "external_key.failed"),
        ):
            if "{" + name + "}" in self.path:
                body = {"url": "https://hooks.test/", "enabled_events": [kind]}
                yield name, self.callers.post(path, body, {"anthropic-beta": WEBHOOKS})["id"]

    def _dream_id(self) -> str:
        inputs: Any = [
            {
                "type": "memory_store",
                "memory_store_id": self.api.beta.memory_stores.create(name="s").id,
            },
            {"type": "sessions", "session_ids": [self.session.id]},
        ]
        return self.api.beta.dreams.create(inputs=inputs, model="scripted/answer").id

    def _key_id(self) -> str:
        if self.path.startswith("DELETE /x/environments"):
            path = f"/x/environments/{self.site.environment_id}/keys"
            found: str = self.callers.post(path, {})["id"]
        elif self.path.startswith("DELETE /x/pool"):
            found = self.callers.post("/x/pool/keys", {})["id"]
        else:
            found = self.callers.key(SCOPES)["id"]
        return found

    def secret(self, kind: str, scope: str) -> str | None:
        """Return the secret of a kind of caller."""
        return {
            "none": None,
            "unknown": "sk-nobody-has-this",
            "revoked": self.callers.revoked,
            "api_key": self.callers.server.api_key,
            "api_key_lacking": self.callers.lacking.get(scope, self.callers.server.api_key),
            "api_key_elsewhere": self.callers.elsewhere,
            "federated": self.callers.federated.get(scope or SCOPES[0]),
            "federated_lacking": self.callers.federated.get(
                next(other for other in SCOPES if other != scope)
            ),
            "environment_key": self.site.key,
            "environment_key_other": self.key_other,
            "token": self.token,
            "token_other": self.token_other,
        }[kind]

    def ask(self, route: str, kind: str, scope: str, body: object) -> int:
        """Return the status of the route for a kind of caller."""
        secret = self.secret(kind, scope)
        headers = {"anthropic-beta": BETAS, "content-type": "application/json"}
        if secret is not None:
            headers["authorization"] = f"Bearer {secret}"
        method, path = route.split(" ")
        if "{resource_id}" in path and path.startswith("/v1/"):
            path = path.replace("{session_id}", "{cloud_session_id}")
        if path.endswith("/outputs"):
            path += "?path=a"
        for name, value in self.made.items():
            path = path.replace("{" + name + "}", value)
        assert "{" not in path, f"say in tests/wire/matrix.py how to make one for {path}"
        content = json.dumps(body) if method in {"POST", "PUT"} else None
        with self.callers.anonymous().stream(
            method, path, headers=headers, content=content
        ) as answer:
            return answer.status_code

    def close(self) -> None:
        """Leave no tunnel and no destination behind: an organization has only ten of each."""
        if "destination_id" in self.made:
            path = f"/v1/organizations/telemetry_destinations/{self.made['destination_id']}"
            self.callers.http.delete(path, headers={"anthropic-beta": BETAS})
        if "tunnel_id" in self.made:
            self.api.beta.tunnels.archive(self.made["tunnel_id"])


@contextmanager
def world(callers: Callers, path: str) -> Iterator[World]:
    """Make what a route needs, and put away what is counted."""
    server = callers.server
    with (
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
        Site(server, api) as site,
    ):
        made = World(callers, site, path)
        try:
            yield made
        finally:
            made.close()

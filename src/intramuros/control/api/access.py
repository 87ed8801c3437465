"""Who may call an endpoint: credentials, scopes, versions, betas and workspaces."""

import re
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request

from intramuros.control.api.boundary import context_of
from intramuros.control.api.services import Services
from intramuros.control.identity import origin
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.credentials import authenticate
from intramuros.control.identity.principal import CredentialKind, Principal, Scope
from intramuros.control.metering.calls import Call, sort_of
from intramuros.kernel.errors import (
    AuthenticationFailed,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
)
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import to_micros
from intramuros.protocol.envelope import (
    BETA_HEADER,
    DREAMING_BETA,
    MANAGED_AGENTS_BETA,
    MEMORY_BETA,
    SIGN_OUT_BETA,
    TUNNELS_BETA,
    VERSION_HEADER,
    WEBHOOKS_BETA,
    WORKSPACE_HEADER,
    parse_betas,
)

log = logger("api")

_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
# Betas that change nothing here but that official clients send (contract-2 R004 to R011).
_KNOWN_BETAS: Final = frozenset(
    {
        MANAGED_AGENTS_BETA,
        TUNNELS_BETA,
        MEMORY_BETA,
        SIGN_OUT_BETA,
        WEBHOOKS_BETA,
        DREAMING_BETA,
        "files-api-2025-04-14",
        "oauth-2025-04-20",
        "skills-2025-10-02",
        "user-profiles-2026-08-18",
        "oidc-federation-2026-04-01",
        "spend-limit-reads-2026-09-26",
        "telemetry-destinations-2026-08-11",
    }
)


async def services(request: Request) -> Services:
    """Return the application's collaborators; a FastAPI dependency."""
    found: Services = request.app.state.services
    return found


@dataclass(frozen=True)
class Gate:
    """A FastAPI dependency that lets the right callers in and gives their :class:`Principal`.

    Args:
        kinds: the credential kinds that work here (contract-1 section 2).
        scope: what an API key or federated token must be allowed to do, or None for nothing in
            particular; other kinds are narrower by nature.
        beta: the beta the request must name, or None.
        instead: another beta that does as well; naming both is refused.
        also: another beta that does as well, named alone or with the first.
        hidden: whether there seems to be no such endpoint for who does not name the beta.
        organization: whether this is about the organization, in no workspace (contract-2 R025).
    """

    kinds: tuple[CredentialKind, ...] = (CredentialKind.API_KEY,)
    scope: Scope | None = Scope.DEVELOPER
    beta: str | None = MANAGED_AGENTS_BETA
    instead: str | None = None
    also: str | None = None
    hidden: bool = False
    organization: bool = False

    async def __call__(self, request: Request) -> Principal:
        """Return the caller.

        Raises:
            AuthenticationFailed: no credential, or a bad one.
            PermissionDenied: a good one of the wrong kind, scope or workspace.
            InvalidRequest: a malformed version, or the beta is not named.
            RateLimited: too many bad credentials from this address, or too many calls.
            NotFound: the beta is not named, and that is all there is to say.
        """
        if self.hidden and self.beta not in _betas(request):
            raise NotFound(f"no endpoint {request.method} {request.url.path}")
        caller = await identify(request)
        caller.require_kind(*self.kinds)
        if caller.scoped and self.scope is not None:
            caller.require_scope(self.scope)
        _check_headers(request)
        self._check_beta(_betas(request))
        if self.organization:
            context_of(request.scope).organization = True
        else:
            _check_workspace(request, caller)
        if caller.scoped:
            await self._meter(request, caller)
        return caller

    async def _meter(self, request: Request, caller: Principal) -> None:
        """Count the call. Workers' credentials are not counted: nobody may starve workers."""
        managed = self.beta in (MANAGED_AGENTS_BETA, MEMORY_BETA)
        sort = sort_of(request.method, request.scope["route"].path, managed=managed)
        if sort is not None:
            told = (await services(request)).calls.admit(Call(sort, caller.workspace_id))
            context_of(request.scope).headers.update(told)

    def _check_beta(self, betas: frozenset[str]) -> None:
        if self.beta is None or self.also in betas:
            return
        if (self.beta in betas) != (self.instead in betas):
            return
        if self.beta in betas:
            raise InvalidRequest(f"send `{BETA_HEADER}: {self.beta}` or {self.instead}, not both")
        raise InvalidRequest(f"this endpoint is in beta: send `{BETA_HEADER}: {self.beta}`")


async def identify(request: Request) -> Principal:
    """Return whose credential the request carries, whatever its kind.

    Raises:
        AuthenticationFailed: none, or a bad one.
        RateLimited: too many bad ones from this address.
    """
    svc = await services(request)
    token = _token(request)
    if token is None:
        raise AuthenticationFailed(
            "no credential: send `Authorization: Bearer KEY` or `x-api-key: KEY`"
        )
    now_us = to_micros(svc.clock.now())
    try:
        caller = await svc.db.glance(lambda tx: authenticate(tx, token, now_us))
    except AuthenticationFailed:
        wait_s = svc.throttle.fail(request.client.host if request.client else "")
        if wait_s is not None:
            raise RateLimited(
                "too many bad credentials from this address", retry_after_s=wait_s
            ) from None
        raise
    context_of(request.scope).workspace_id = caller.workspace_id
    origin.identify(caller)
    return caller


def actor_of(svc: Services, caller: Principal) -> Actor:
    """Return the caller as the one who acts on configured resources."""
    return Actor(
        svc.clock,
        svc.ids,
        caller.workspace_id,
        caller.credential_id,
        service_account_id=caller.service_account_id,
        user_id=caller.user_id,
    )


def _token(request: Request) -> str | None:
    """Return the secret from either header; what it is for is decided by look-up."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get("x-api-key") or None


def _betas(request: Request) -> frozenset[str]:
    return parse_betas(",".join(request.headers.getlist(BETA_HEADER)))


def _check_workspace(request: Request, caller: Principal) -> None:
    workspace = request.headers.get(WORKSPACE_HEADER)
    if workspace is not None and workspace != caller.workspace_id:
        raise PermissionDenied(f"{WORKSPACE_HEADER}: this credential belongs to another workspace")


def _check_headers(request: Request) -> None:
    version = request.headers.get(VERSION_HEADER)
    if version is not None and not _VERSION.match(version):
        raise InvalidRequest(f"{VERSION_HEADER}: expected a date such as 2026-10-21")
    unknown = _betas(request) - _KNOWN_BETAS
    if unknown:
        log.info("unknown_betas_ignored", betas=sorted(unknown)[:10])


ServicesDep = Annotated[Services, Depends(services)]
Developer = Annotated[Principal, Depends(Gate())]
TunnelManager = Annotated[Principal, Depends(Gate(scope=Scope.MANAGE_TUNNELS, beta=TUNNELS_BETA))]
# Our own extensions under /x/ need no beta.
Operator = Annotated[Principal, Depends(Gate(beta=None))]
OrgAdmin = Annotated[Principal, Depends(Gate(scope=Scope.ORG_ADMIN, beta=None, organization=True))]

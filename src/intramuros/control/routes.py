"""Every route of the API on one application, behind one boundary."""

import re

from fastapi import FastAPI
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

from intramuros.control.api import (
    agents,
    allowances,
    checkouts,
    compliance,
    deployment_runs,
    deployments,
    document,
    dreams,
    environments,
    errors,
    events,
    federation,
    files,
    groups,
    keys,
    limits,
    memories,
    memory_stores,
    messages,
    models,
    oauth,
    organization,
    people,
    pool,
    profiles,
    releases,
    reports,
    resources,
    sandbox_egress,
    sandbox_files,
    sessions,
    skills,
    spills,
    ssh,
    telemetry,
    threads,
    tunnels,
    vaults,
    web_calls,
    webhooks,
    work,
)
from intramuros.control.api.boundary import Boundary
from intramuros.control.api.families import Families
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.protocol.resources.skills import MAX_SKILL_BYTES


def create_app(services: Services) -> FastAPI:
    """Return the API as an ASGI application."""
    app = FastAPI(
        title="Intramuros",
        docs_url=None,
        redoc_url=None,
        openapi_url="/x/openapi.json",
        redirect_slashes=False,
    )
    app.state.services = services
    app.state.leaving = False
    # Within a family routes are tried one after the other: what every turn calls comes first.
    routers = (
        events.router,
        sessions.router,
        work.router,
        agents.router,
        environments.router,
        environments.keys_router,
        deployments.router,
        deployment_runs.router,
        tunnels.router,
        vaults.router,
        keys.router,
        organization.router,
        compliance.router,
        people.router,
        people.own_router,
        groups.router,
        groups.own_router,
        limits.router,
        allowances.router,
        reports.router,
        telemetry.router,
        profiles.router,
        models.router,
        federation.router,
        oauth.router,
        messages.router,
        threads.router,
        resources.router,
        memory_stores.router,
        memories.router,
        memories.versions_router,
        dreams.router,
        files.router,
        skills.router,
        pool.router,
        web_calls.router,
        webhooks.router,
        webhooks.organization_router,
        sandbox_files.router,
        sandbox_egress.router,
        spills.router,
        releases.router,
        checkouts.router,
        ssh.router,
    )
    app.router = Families(routers, app.router.routes)
    app.add_api_route("/healthz", _healthz, include_in_schema=False)
    app.add_api_route("/readyz", _readyz, include_in_schema=False)
    errors.install(app)
    document.install(app, routers)
    app.add_middleware(
        Boundary,
        ids=services.ids,
        organization_id=services.organization_id,
        uploads=(
            (re.compile(r"/v1/files"), services.storage.max_file_bytes + files.ENVELOPE_BYTES),
            (re.compile(r"/x/sessions/[^/]+/outputs"), services.storage.max_file_bytes),
            (re.compile(r"/v1/skills(/[^/]+/versions)?"), MAX_SKILL_BYTES + skills.ENVELOPE_BYTES),
        ),
    )
    return app


async def _healthz() -> Response:
    """Answer that the process lives."""
    return reply({"status": "ok"})


async def _readyz(request: Request) -> Response:
    """Answer whether requests are to be sent here: the database answers, and nobody stops us."""
    if request.app.state.leaving:
        return reply({"status": "leaving"}, 503)
    services: Services = request.app.state.services
    await services.db.read(lambda tx: tx.scalar(text("SELECT 1")))
    told: dict[str, object] = {"status": "ready"}
    if services.db.refusing:
        # Others share the database, and what is only read is still served.
        told["writes"] = "refused"
    standbys = services.db.standbys
    if standbys is not None:
        told["replicas"] = {
            "serving": sum(one.usable for one in standbys.all),
            "of": len(standbys.all),
        }
    return reply(told)

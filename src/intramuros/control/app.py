"""The control plane put together: settings → database → services → routes → tasks."""

import errno
import random
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fastapi import FastAPI
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

from intramuros.control.api import (
    agents,
    document,
    environments,
    errors,
    events,
    federation,
    files,
    keys,
    memories,
    memory_stores,
    messages,
    models,
    oauth,
    organization,
    profiles,
    resources,
    sessions,
    skills,
    threads,
    tunnels,
    vaults,
    work,
)
from intramuros.control.api.boundary import Boundary
from intramuros.control.api.connection import BoundedHttp
from intramuros.control.api.pages import Cursors
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services, Storage
from intramuros.control.brain import Body, edges_from, networks_from, think
from intramuros.control.catalog.exchange import Exchange
from intramuros.control.catalog.issuer_keys import IssuerKeys
from intramuros.control.catalog.reach import Reach
from intramuros.control.catalog.sweep import Sweeper
from intramuros.control.catalog.tunnels import Issuer
from intramuros.control.catalog.validation import Validator
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.catalog.wallet import Wallet
from intramuros.control.identity.installation import Installation, open_installation
from intramuros.control.identity.throttle import FailureThrottle
from intramuros.control.inference.service import Inference
from intramuros.control.jobs import Reaper
from intramuros.control.model.anthropic import DEFAULT_BASE_URL
from intramuros.control.model.catalogue import load_catalogue
from intramuros.control.model.registry import Models
from intramuros.control.model.scripted import ScriptedModel
from intramuros.control.model.upstream import Upstream
from intramuros.control.session.journal import Journal
from intramuros.control.session.sessions import Sessions
from intramuros.control.session.work import WorkQueue
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Tx
from intramuros.control.store.notify import Hub
from intramuros.control.store.secrets import (
    ensure_secret,
)
from intramuros.control.store.strongbox import Strongbox
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop, Task, run_service, settle
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.skills import MAX_SKILL_BYTES
from intramuros.protocol.tickets import SigningKey

log = logger("server")

# Open streams have this long to end by themselves after the first stop.
DRAIN_S: Final = 10.0
_HTTP_DRAIN_S: Final = 5
_KEEP_ALIVE_S: Final = 75
# The public half of the key that signs tickets and tunnel tokens; edges need a copy.
TICKET_KEY_FILE: Final = "ticket-key.pem"


@dataclass(frozen=True)
class ServerSettings:
    """Settings of ``intramuros server``."""

    data_dir: Path = Path("intramuros-data")
    """Directory of everything the server keeps; it alone restores the server."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 7700
    """Port to listen on; 0 takes a free one."""
    database_url: str | None = None
    """Database, as sqlite:///PATH; a file in the data directory by default."""
    bootstrap_api_key: str | None = field(default=None, repr=False)
    """The first API key; generated into DATA_DIR/api-key by default."""
    base_domain: str = "intramuros.internal"
    """Tunnels get domains under tunnel.BASE_DOMAIN."""
    edge: tuple[str, ...] = ()
    """Edges to dial, as HOST:PORT."""
    edge_ca_file: Path | None = None
    """PEM of the CA that signs the edges' certificates; the system's CAs by default."""
    model_base_url: str | None = field(
        default=None,
        metadata={"env": ("INTRAMUROS_MODEL_BASE_URL", "ANTHROPIC_UPSTREAM_BASE_URL")},
    )
    """Base URL of a Messages-compatible model provider."""
    model_api_key: str | None = field(
        default=None,
        repr=False,
        metadata={"env": ("INTRAMUROS_MODEL_API_KEY", "ANTHROPIC_UPSTREAM_API_KEY")},
    )
    """The model provider's key."""
    model_scripts: Path | None = None
    """Directory of scripts for models named scripted/NAME."""
    models_file: Path | None = None
    """YAML file of models that adds to the list of known ones, and wins over it."""
    mcp_networks: tuple[str, ...] = ()
    """Private networks whose MCP servers may be reached directly, as 10.1.0.0/16."""
    issuer_networks: tuple[str, ...] = ()
    """Private networks whose identity providers may be asked for their keys, as 10.1.0.0/16."""
    audience: tuple[str, ...] = ()
    """What identity tokens may be made out for (aud): the server's public URL, say."""
    dormancy_s: float = 300.0
    """Seconds without an event after which an idle session lets go of its worker; 0 for never."""
    blob_url: str | None = None
    """Where files and skills are kept, as s3://BUCKET/PREFIX, gs://, az:// or file:///PATH; a
    directory in the data directory by default."""
    max_file_bytes: int = 500 * 1024 * 1024
    """The largest file that may be uploaded."""
    storage_quota_bytes: int = 10**12
    """What all files and skills may take together."""
    uploads_downloadable: bool = False
    """Let files that clients upload be downloaded again; the official service refuses that."""
    lenient: bool = False
    """Ignore unknown body fields, with a log line, instead of refusing them."""


async def build_services(opened: Installation, settings: ServerSettings) -> Services:
    """Build the API's collaborators over an open installation.

    Raises:
        OperatorError: one of the server's own keys does not open.
    """
    db, clock, ids = opened.db, opened.clock, opened.ids
    now_us = to_micros(clock.now())

    def own_keys(tx: Tx) -> tuple[bytes, bytes]:
        return (
            ensure_secret(tx, opened.sealer, "ticket-signing", _new_signing_key, now_us),
            ensure_secret(tx, opened.sealer, "cursors", lambda: ids.random(32), now_us),
        )

    signing_pem, cursor_key = await db.write(own_keys)
    signing_key = SigningKey(signing_pem)
    _publish(settings.data_dir / TICKET_KEY_FILE, signing_key.public_pem())
    hub = Hub()
    queue = WorkQueue(db, hub, clock, ids)
    journal = Journal(clock, ids, hub, queue)
    issuer = Issuer(signing_key, settings.base_domain)
    edges = edges_from(settings.edge, _read_pem(settings.edge_ca_file))
    reach = Reach(db, clock, issuer, edges, networks_from(settings.mcp_networks))
    credentials = Credentials(Strongbox(opened.sealer, ids.random))
    wallet = Wallet(db, clock, ids, credentials, reach)
    known = load_catalogue(settings.models_file, settings.model_scripts)
    scripts = ScriptedModel(settings.model_scripts)
    return Services(
        db=db,
        blobs=Blobs.open(settings.blob_url, settings.data_dir),
        storage=Storage(
            settings.max_file_bytes, settings.storage_quota_bytes, settings.uploads_downloadable
        ),
        clock=clock,
        ids=ids,
        hub=hub,
        work=queue,
        journal=journal,
        sessions=Sessions(clock, ids, hub, journal, queue, known),
        cursors=Cursors(cursor_key, clock),
        throttle=FailureThrottle(clock),
        issuer=issuer,
        reach=reach,
        models=known,
        credentials=credentials,
        wallet=wallet,
        validator=Validator(db, clock, reach, wallet),
        upstream=Upstream(_provider(settings), settings.model_api_key),
        inference=Inference(db, clock, ids, reach, scripts),
        organization_id=opened.organization_id,
        exchange=Exchange(
            db,
            clock,
            ids,
            IssuerKeys(clock, networks_from(settings.issuer_networks)),
            opened.organization_id,
            settings.audience,
        ),
        lenient=settings.lenient,
    )


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
    # Matching tries one router after the other: what every turn calls comes first.
    routers = (
        events.router,
        sessions.router,
        work.router,
        agents.router,
        environments.router,
        environments.keys_router,
        tunnels.router,
        vaults.router,
        keys.router,
        organization.router,
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
        files.router,
        skills.router,
    )
    for router in routers:
        app.include_router(router)
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
            (re.compile(r"/v1/skills(/[^/]+/versions)?"), MAX_SKILL_BYTES + skills.ENVELOPE_BYTES),
        ),
    )
    return app


async def serve(settings: ServerSettings, *, stop: Stop | None = None) -> None:
    """Run the server until a signal or ``stop`` ends it.

    Prints one line, ``ready http://HOST:PORT``, once it serves.

    Raises:
        OperatorError: the data directory, the database or the address is unusable.
    """
    listener = _listen(settings.host, settings.port)
    with listener:
        opened = await open_installation(
            settings.data_dir, settings.database_url, settings.bootstrap_api_key
        )
        try:
            services = await build_services(opened, settings)
            server = _Server(_uvicorn_config(create_app(services)))
            tasks: dict[str, Task] = {
                "api": server.task(listener),
                **background(services, settings),
            }
            settle()
            await run_service(tasks, drain_s=DRAIN_S, stop=stop)
        finally:
            opened.close()


def background(services: Services, settings: ServerSettings) -> Mapping[str, Task]:
    """Return the tasks that run beside the API: the agent loop and the reaper."""
    reaper = Reaper(
        services.db,
        services.hub,
        services.clock,
        services.work,
        dormancy_s=settings.dormancy_s,
        rand=random.random,
    )
    body = Body(services.db, services.clock, services.ids, services.hub, services.journal)
    brains = Models(
        base_url=settings.model_base_url,
        api_key=settings.model_api_key,
        scripts=settings.model_scripts,
        known=services.models,
    )

    async def close(stop: Stop) -> None:
        """End streams and held polls as soon as the server is to stop."""
        await stop.wait()
        services.hub.close()

    async def relay(stop: Stop) -> None:
        """Serve the Messages API's tunnelled servers; let go of the provider at the end."""
        try:
            await services.inference.run(stop)
        finally:
            await services.upstream.aclose()

    sweeper = Sweeper(services.db, services.blobs, services.clock, services.ids)
    return {
        "hub": close,
        "messages": relay,
        "reaper": reaper.run,
        "sweeper": sweeper.run,
        **think(body, brains, services.wallet.transport_for),
    }


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling, stopped by our :class:`Stop`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._serving = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell who waits to announce it."""
        await super().startup(sockets)
        self._serving.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``kernel.service``."""
        yield

    def task(self, listener: socket.socket) -> Task:
        """Return the task that serves on a bound socket."""

        async def run(stop: Stop) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(self._announce, listener)
                group.start_soon(self._stop_when, stop)
                await self.serve(sockets=[listener])
                group.cancel_scope.cancel()
            if not stop.requested:
                raise RuntimeError("the HTTP server ended by itself")

        return run

    async def _announce(self, listener: socket.socket) -> None:
        await self._serving.wait()
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"ready http://{shown}:{port}\n")
        sys.stdout.flush()
        log.info("serving", host=host, port=port)

    async def _stop_when(self, stop: Stop) -> None:
        await stop.wait()
        self.should_exit = True


def _uvicorn_config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="none",
        http=BoundedHttp,
        # Longer than clients keep idle connections, so that it is they who close them: a request
        # sent into a connection that the server is just closing would be lost.
        timeout_keep_alive=_KEEP_ALIVE_S,
        # Peers' addresses are taken from the connection: a forwarded header could be anybody's.
        proxy_headers=False,
        timeout_graceful_shutdown=_HTTP_DRAIN_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {host!r} ({error.strerror})", "check --host"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise OperatorError(
            f"cannot listen on {host}:{port} ({error.strerror})",
            "stop what uses it or choose another --port" if taken else "check --host and --port",
        ) from error
    return listener


def _provider(settings: ServerSettings) -> str | None:
    """Return the provider's address: Anthropic's own when only a key is given."""
    return settings.model_base_url or (DEFAULT_BASE_URL if settings.model_api_key else None)


def _read_pem(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"cannot read {path} ({error})", "check --edge-ca-file") from error


def _publish(path: Path, pem: bytes) -> None:
    try:
        path.write_bytes(pem)
    except OSError as error:
        raise OperatorError(
            f"cannot write {path} ({error.strerror})", "check the data directory and free space"
        ) from error


def _new_signing_key() -> bytes:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def _healthz() -> Response:
    """Answer that the process lives."""
    return reply({"status": "ok"})


async def _readyz(request: Request) -> Response:
    """Answer whether requests can be served: the database answers."""
    services: Services = request.app.state.services
    await services.db.read(lambda tx: tx.scalar(text("SELECT 1")))
    return reply({"status": "ready"})

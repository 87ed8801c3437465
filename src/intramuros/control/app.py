"""The control plane put together: settings → database → services → routes → tasks."""

import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import text

from intramuros.control.api.pages import Cursors
from intramuros.control.api.services import Services, Storage
from intramuros.control.brain import Body, edges_from, networks_from, process_name, think
from intramuros.control.catalog.exchange import Exchange
from intramuros.control.catalog.issuer_keys import IssuerKeys
from intramuros.control.catalog.reach import Reach
from intramuros.control.catalog.rubrics import Shelf
from intramuros.control.catalog.sweep import Sweeper
from intramuros.control.catalog.tunnels import Issuer
from intramuros.control.catalog.validation import Validator
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.catalog.wallet import Wallet
from intramuros.control.deployment.deployments import Deployments
from intramuros.control.deployment.runs import Runs
from intramuros.control.deployment.scheduler import Scheduler
from intramuros.control.dreams.acts import Acts
from intramuros.control.dreams.closing import Closing
from intramuros.control.dreams.plan import Limits
from intramuros.control.dreams.service import Dreams
from intramuros.control.dreams.stage import Stage
from intramuros.control.dreams.worker import Worker
from intramuros.control.http import HttpServer, listen
from intramuros.control.identity.installation import Installation, open_installation
from intramuros.control.identity.throttle import FailureThrottle
from intramuros.control.inference.service import Inference, Voices
from intramuros.control.jobs import Reaper
from intramuros.control.messenger import deliver, endpoints_from
from intramuros.control.metering.calls import Calls
from intramuros.control.metering.groups import load_groups
from intramuros.control.metering.loop import count
from intramuros.control.metering.meter import Meter
from intramuros.control.metering.rates import Rates
from intramuros.control.model.anthropic import DEFAULT_BASE_URL
from intramuros.control.model.catalogue import load_catalogue
from intramuros.control.model.registry import Models
from intramuros.control.model.scripted import ScriptedModel
from intramuros.control.model.upstream import Upstream
from intramuros.control.retention import Retention
from intramuros.control.routes import create_app
from intramuros.control.session.checkouts import Checkouts
from intramuros.control.session.egress import Egress
from intramuros.control.session.intake import Intake
from intramuros.control.session.journal import Journal
from intramuros.control.session.judging import Bench
from intramuros.control.session.releases import Releases
from intramuros.control.session.sessions import Sessions, Stock
from intramuros.control.session.spills import Spills
from intramuros.control.session.visit_upkeep import VisitUpkeep
from intramuros.control.session.visits import Visits
from intramuros.control.session.web_queue import WebQueue
from intramuros.control.session.work import WorkQueue
from intramuros.control.settings import ServerSettings
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Tx
from intramuros.control.store.notify import Hub
from intramuros.control.store.repository_tokens import Tokens
from intramuros.control.store.secrets import (
    ensure_secret,
)
from intramuros.control.store.strongbox import Strongbox
from intramuros.control.tracing import exporter as tracing
from intramuros.control.tracing.deliver import Courier
from intramuros.control.tracing.destinations import Rules
from intramuros.control.tracing.exporter import Exporter
from intramuros.control.tracing.recorder import Recorder
from intramuros.control.web.policy import policy_from
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Leave, Stop, Task, run_service, settle
from intramuros.kernel.timing import to_micros
from intramuros.protocol.tickets import SigningKey

# Open streams have this long to end by themselves after the first stop.
DRAIN_S: Final = 10.0
# The public half of the key that signs tickets and tunnel tokens; edges need a copy.
TICKET_KEY_FILE: Final = "ticket-key.pem"


async def build_services(opened: Installation, settings: ServerSettings) -> Services:
    """Build the API's collaborators over an open installation.

    Raises:
        OperatorError: one of the server's own keys does not open.
    """
    db, clock, ids = opened.db, opened.clock, opened.ids
    now_us = to_micros(clock.now())

    def own_keys(tx: Tx) -> tuple[bytes, bytes, bytes, bytes]:
        return (
            ensure_secret(tx, opened.sealer, "ticket-signing", _new_signing_key, now_us),
            ensure_secret(tx, opened.sealer, "cursors", lambda: ids.random(32), now_us),
            ensure_secret(tx, opened.sealer, "ssh-authority", _new_ssh_authority, now_us),
            ensure_secret(tx, opened.sealer, "voices", lambda: ids.random(32), now_us),
        )

    signing_pem, cursor_key, ssh_authority, voices_key = await db.write(own_keys)
    signing_key = SigningKey(signing_pem)
    _publish(settings.data_dir / TICKET_KEY_FILE, signing_key.public_pem())
    hub = Hub()
    queue = WorkQueue(db, hub, clock, ids)
    recorder = Recorder(clock)
    await recorder.refresh(db)
    known = load_catalogue(settings.models_file, settings.model_scripts)
    journal = Journal(clock, ids, hub, queue, recorder.watch, known)
    issuer = Issuer(signing_key, settings.base_domain)
    edges = edges_from(settings.edge, _read_pem(settings.edge_ca_file))
    reach = Reach(db, clock, issuer, edges, networks_from(settings.mcp_networks))
    credentials = Credentials(Strongbox(opened.sealer, ids.random))
    wallet = Wallet(db, clock, ids, credentials, reach)
    scripts = ScriptedModel(settings.model_scripts)
    brains = Models(
        base_url=settings.model_base_url,
        api_key=settings.model_api_key,
        scripts=settings.model_scripts,
        known=known,
    )
    rates = Rates(clock, load_groups(known, opened.organization_id, settings.limits_file))
    meter = Meter(db, clock, rates, known, settings.monthly_cap_cents)
    await meter.refresh()
    blobs = Blobs.open(settings.blob_url, settings.data_dir)
    tokens = Tokens(opened.sealer, ids.random)
    sessions = Sessions(clock, ids, hub, journal, queue, Stock(tokens, known))
    return Services(
        db=db,
        blobs=blobs,
        storage=Storage(
            settings.max_file_bytes, settings.storage_quota_bytes, settings.uploads_downloadable
        ),
        clock=clock,
        ids=ids,
        hub=hub,
        work=queue,
        journal=journal,
        intake=Intake(db, journal),
        dreams=Dreams(Stage(clock, ids, hub, journal, known), known),
        sessions=sessions,
        egress=Egress(clock, sessions, credentials),
        checkouts=Checkouts(clock, journal, sessions),
        releases=Releases(clock, sessions),
        visits=Visits(clock, ids, sessions, ssh_authority),
        deployments=Deployments(tokens, known),
        runs=Runs(clock, ids, sessions, journal, Shelf(db, blobs, clock).resolve),
        cursors=Cursors(cursor_key, clock),
        voices_key=voices_key,
        throttle=FailureThrottle(clock),
        issuer=issuer,
        reach=reach,
        models=known,
        brains=brains,
        credentials=credentials,
        wallet=wallet,
        validator=Validator(db, clock, reach, wallet),
        upstream=Upstream(_provider(settings), settings.model_api_key),
        inference=Inference(db, clock, ids, reach, Voices(scripts, meter, recorder, brains)),
        endpoints=endpoints_from(settings, opened.sealer, ids.random),
        organization_id=opened.organization_id,
        exchange=Exchange(
            db,
            clock,
            ids,
            IssuerKeys(clock, networks_from(settings.issuer_networks, "issuer_networks")),
            opened.organization_id,
            settings.audience,
        ),
        web_queue=WebQueue(db, hub, clock, journal, partial(count, meter)),
        meter=meter,
        recorder=recorder,
        exporter=Exporter(
            tracing.Desk(db, clock, ids, opened.organization_id, random.random),
            Rules(opened.sealer, any_port=bool(settings.trace_networks)),
            Courier(
                networks_from(settings.trace_networks, "trace_networks"),
                _read_pem(settings.trace_ca_file, "--trace-ca-file"),
            ),
            recorder,
        ),
        calls=Calls(clock, rates, settings.creates_per_minute, settings.reads_per_minute),
        lenient=settings.lenient,
    )


async def serve(settings: ServerSettings, *, stop: Stop | None = None) -> None:
    """Run the server until a signal or ``stop`` ends it.

    Prints one line, ``ready http://HOST:PORT``, once it serves.

    Raises:
        OperatorError: the data directory, the database or the address is unusable.
    """
    listener = listen(settings.host, settings.port)
    with listener:
        opened = await open_installation(
            settings.data_dir,
            settings.database_url,
            settings.bootstrap_api_key,
            wait_s=settings.database_wait_s,
            statement_s=settings.database_statement_timeout_s,
            replicas=settings.database_replica,
        )
        try:
            _check_direct(opened, settings)
            services = await build_services(opened, settings)
            server = HttpServer(create_app(services))
            tasks: dict[str, Task] = {
                "api": server.task(listener),
                **background(services, settings),
            }
            settle()
            leave = Leave(settings.leave_s, server.leave) if settings.leave_s > 0 else None
            await run_service(tasks, drain_s=DRAIN_S, stop=stop, leave=leave)
        finally:
            opened.close()


def background(services: Services, settings: ServerSettings) -> Mapping[str, Task]:
    """Return the tasks that run beside the API: the loop, schedules, deliveries, the reapers."""
    web = policy_from(settings, networks_from(settings.web_networks, "web_networks"))
    reaper = Reaper(
        services.db,
        services.hub,
        services.clock,
        services.work,
        dormancy_s=settings.dormancy_s,
        rand=random.random,
    )
    retention = Retention(
        services.db,
        services.clock,
        services.sessions.removal,
        days=settings.session_retention_days,
        rand=random.random,
    )
    body = Body(
        services.db,
        services.blobs,
        services.clock,
        services.ids,
        services.hub,
        services.journal,
        services.meter,
        services.web_queue,
        services.intake,
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

    shared_url = services.db.backend.shared_url
    acts = Acts(services.dreams.stage, Limits(budget_s=settings.dream_budget_s))
    dreamer = Worker(
        services.db,
        acts,
        Closing(services.db, services.blobs, acts, services.storage.quota_bytes),
        holder=process_name(),
    )
    scheduler = Scheduler(services.db, services.runs, holder=process_name())
    sweeper = Sweeper(services.db, services.blobs, services.clock, services.ids)
    return {
        "hub": close,
        **({} if shared_url is None else {"replicas": _relay(shared_url, services, settings)}),
        "messages": relay,
        "dreams": dreamer.run,
        "reaper": reaper.run,
        "retention": retention.run,
        "schedules": scheduler.run,
        "sweeper": sweeper.run,
        "visits": VisitUpkeep(services.db, services.clock, random.random).run,
        "limits": services.meter.run,
        "traces": services.exporter.run,
        **deliver(services, settings),
        **think(
            body,
            services.brains,
            services.wallet.transport_for,
            _bench(services, settings),
            Spills(services.blobs, settings.max_spill_bytes),
            web,
        ),
    }


def _relay(shared_url: str, services: Services, settings: ServerSettings) -> Task:
    # Not at the top: a server on SQLite needs nothing of it.
    from intramuros.control.store.correspondence import Correspondence
    from intramuros.control.store.postgres import plain_url
    from intramuros.control.store.previews import Previews
    from intramuros.control.store.replicas import IDENTITY, Relay, Voice

    direct = settings.database_direct_url

    async def home() -> str:
        return str(await services.db.read(lambda tx: tx.scalar(text(IDENTITY))))

    from intramuros.control.store.tallies import Book, Tally

    books: dict[str, Book] = {
        "rates": services.meter.rates,
        "calls": services.calls,
        "failures": services.throttle,
    }
    voices: list[Voice] = [Previews(services.hub, services.clock), Tally(services.clock, books)]
    post = Correspondence(services.voices_key, services.ids.random(16).hex(), services.clock)
    if direct is None:
        return Relay(shared_url, services.hub, post, voices).run
    return Relay(plain_url(direct), services.hub, post, voices, home=home).run


def _check_direct(opened: Installation, settings: ServerSettings) -> None:
    if settings.database_direct_url is not None and opened.db.backend.shared_url is None:
        raise OperatorError("a SQLite database has no pooler", "leave --database-direct-url away")


def _bench(services: Services, settings: ServerSettings) -> Bench:
    model = settings.judge_model
    return Bench(model, priced=model is None or services.models.price(model) is not None)


def _provider(settings: ServerSettings) -> str | None:
    """Return the provider's address: Anthropic's own when only a key is given."""
    return settings.model_base_url or (DEFAULT_BASE_URL if settings.model_api_key else None)


def _read_pem(path: Path | None, flag: str = "--edge-ca-file") -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"cannot read {path} ({error})", f"check {flag}") from error


def _publish(path: Path, pem: bytes) -> None:
    try:
        path.write_bytes(pem)
    except OSError as error:
        raise OperatorError(
            f"cannot write {path} ({error.strerror})", "check the data directory and free space"
        ) from error


def _new_ssh_authority() -> bytes:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _new_signing_key() -> bytes:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
